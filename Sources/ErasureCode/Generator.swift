import CKernels

/// Entries of the generator matrix: repair row at point x (an integer from K up), source column j.
struct Generator {
  let bits: Int
  let field = Field.shared

  /// s_k(x) / (x + j). Never zero: x is outside the K points of the source.
  @inline(__always) func entry(_ x: Int, _ j: Int) -> UInt16 {
    UInt16(field.product(x >> bits, Int(field.inverse[x ^ j])))
  }
}

/// Byte ranges that were told after the transform was made and are added to each row by hand.
struct LateRanges: ~Copyable {
  struct Entry: BitwiseCopyable {
    var chunk: UInt16
    /// Bytes within the chunk.
    var from: UInt16
    var to: UInt16
  }

  static let capacity = 4_096
  private let entries = UnsafeMutablePointer<Entry>.allocate(capacity: LateRanges.capacity)
  private let scratch = AlignedBytes(ObjectShape.chunkSizes.upperBound)
  private(set) var count = 0
  /// Blocks that adding all of them to one row multiplies.
  private(set) var blocks = 0

  deinit { entries.deallocate() }

  mutating func clear() {
    count = 0
    blocks = 0
  }

  /// False when the list is full; the range is then not in it.
  mutating func append(chunk: Int, from: Int, to: Int) -> Bool {
    if count == Self.capacity { return false }
    entries[count] = Entry(chunk: UInt16(chunk), from: UInt16(from), to: UInt16(to))
    count += 1
    blocks += (to + 63) / 64 - from / 64
    return true
  }

  /// Adds the contribution of ranges `first...` to the row at point `x`, until `limit` blocks are multiplied. Returns the
  /// first range not added and the number of blocks.
  func add(
    from first: Int, _ source: UnsafePointer<UInt8>, _ shape: ObjectShape, _ kernel: Kernel, x: Int,
    to row: UnsafeMutablePointer<UInt8>, limit: Int = .max
  ) -> (next: Int, blocks: Int) {
    let generator = Generator(bits: shape.bits)
    var done = 0
    for index in first..<max(first, count) {
      if done >= limit { return (index, done) }
      let entry = entries[index]
      let (chunk, from, to) = (Int(entry.chunk), Int(entry.from), Int(entry.to))
      let begin = from / 64 * 64
      let end = (to + 63) / 64 * 64
      let bytes = scratch.base
      let part = source + chunk * shape.chunkSize
      (bytes + begin).update(repeating: 0, count: from - begin)
      (bytes + from).update(from: part + from, count: to - from)
      (bytes + to).update(repeating: 0, count: end - to)
      let blocks = (end - begin) / 64
      kernel.ops.pointee.split(bytes + begin, 64, bytes + begin, 64, blocks)
      kernel.ops.pointee.muladd(row + begin, bytes + begin, blocks, generator.entry(x, chunk))
      done += blocks
    }
    return (max(first, count), done)
  }
}
