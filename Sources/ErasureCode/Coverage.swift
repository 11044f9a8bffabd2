/// Which bytes of an object were told, one bit a byte, and how many symbols that leaves unknown in every column.
///
/// A symbol is two bytes and known when both are; padding counts as told. One word of the bitmap is one 64-byte block,
/// that is 32 columns of one chunk.
struct Coverage: ~Copyable {
  private(set) var shape: ObjectShape
  private var bitmap = AlignedBytes()
  private var columnCounts = AlignedBytes()
  private var chunkCounts = AlignedBytes()
  private(set) var unknownSymbols = 0
  private var maximum = 0
  private var maximumIsStale = false

  init(_ shape: ObjectShape) {
    self.shape = shape
    reset(shape)
  }

  mutating func reset(_ shape: ObjectShape) {
    self.shape = shape
    let blocks = shape.sourceCount * shape.strips
    bitmap.reserve(blocks * 8)
    bitmap.zero(0..<blocks * 8)
    columnCounts.reserve(shape.columns * 2)
    chunkCounts.reserve(shape.sourceCount * 2)
    columns.update(repeating: UInt16(shape.sourceCount), count: shape.columns)
    chunks.update(repeating: UInt16(shape.columns), count: shape.sourceCount)
    unknownSymbols = shape.sourceCount * shape.columns
    maximumIsStale = true
    if shape.byteCount < shape.paddedByteCount { insert(shape.byteCount..<shape.paddedByteCount) }
  }

  private var columns: UnsafeMutablePointer<UInt16> { columnCounts.bound(to: UInt16.self) }
  private var chunks: UnsafeMutablePointer<UInt16> { chunkCounts.bound(to: UInt16.self) }

  /// Bit k: byte k of the block was told.
  @inline(__always) func told(block: Int) -> UInt64 { bitmap.bound(to: UInt64.self)[block] }

  /// Bit 2s: symbol s of the block is unknown.
  @inline(__always) func unknown(block: Int) -> UInt64 { ~Self.known(told(block: block)) & 0x5555_5555_5555_5555 }

  @inline(__always) private static func known(_ told: UInt64) -> UInt64 { told & told >> 1 & 0x5555_5555_5555_5555 }

  /// Unknown symbols of a chunk.
  @inline(__always) func unknown(inChunk chunk: Int) -> Int { Int(chunks[chunk]) }

  /// The most unknown symbols in any column.
  mutating func mostUnknown() -> Int {
    if maximumIsStale {
      var most = SIMD16<UInt16>(repeating: 0)
      let vectors = UnsafeRawPointer(columns).assumingMemoryBound(to: SIMD16<UInt16>.self)
      for i in 0..<shape.columns / 16 { most = pointwiseMax(most, vectors[i]) }
      maximum = Int(most.max())
      maximumIsStale = false
    }
    return maximum
  }

  /// The bits of `block` that bytes `range` of the object cover.
  @inline(__always) static func mask(_ range: Range<Int>, block: Int) -> UInt64 {
    let from = max(range.lowerBound - block * 64, 0)
    let to = min(range.upperBound - block * 64, 64)
    return (~0 << UInt64(from)) & (~0 >> UInt64(64 - to))
  }

  @inline(__always) static func blocks(_ range: Range<Int>) -> Range<Int> {
    range.lowerBound / 64..<(range.upperBound + 63) / 64
  }

  /// Is any byte of the range told?
  func overlaps(_ range: Range<Int>) -> Bool {
    for block in Self.blocks(range) where told(block: block) & Self.mask(range, block: block) != 0 { return true }
    return false
  }

  func contains(_ range: Range<Int>) -> Bool {
    for block in Self.blocks(range) {
      let mask = Self.mask(range, block: block)
      if told(block: block) & mask != mask { return false }
    }
    return true
  }

  /// The run of bytes from `start` below `limit` that are all told or all not told.
  func run(from start: Int, limit: Int) -> (range: Range<Int>, told: Bool) {
    let isTold = told(block: start / 64) >> UInt64(start % 64) & 1 == 1
    var end = start
    while end < limit {
      let bits = told(block: end / 64) >> UInt64(end % 64)
      let same = (isTold ? ~bits : bits).trailingZeroBitCount
      let left = 64 - end % 64
      end += min(same, left)
      if same < left { break }
    }
    return (start..<min(end, limit), isTold)
  }

  mutating func insert(_ range: Range<Int>) {
    change(range) { old, mask in old | mask }
  }

  mutating func remove(_ range: Range<Int>) {
    change(range) { old, mask in old & ~mask }
  }

  @inline(__always) private mutating func change(_ range: Range<Int>, _ with: (UInt64, UInt64) -> UInt64) {
    let words = bitmap.bound(to: UInt64.self)
    for block in Self.blocks(range) {
      let old = words[block]
      let new = with(old, Self.mask(range, block: block))
      words[block] = new
      let (was, now) = (Self.known(old), Self.known(new))
      if was == now { continue }
      maximumIsStale = true
      let (chunk, strip) = block.quotientAndRemainder(dividingBy: shape.strips)
      let difference = now.nonzeroBitCount - was.nonzeroBitCount
      chunks[chunk] = UInt16(Int(chunks[chunk]) - difference)
      unknownSymbols -= difference
      let counts = columns + strip * 32
      if difference == 32 {
        let halves = UnsafeMutableRawPointer(counts).assumingMemoryBound(to: SIMD16<UInt16>.self)
        halves[0] &-= SIMD16(repeating: 1)
        halves[1] &-= SIMD16(repeating: 1)
        continue
      }
      var changed = was ^ now
      while changed != 0 {
        let bit = changed.trailingZeroBitCount
        counts[bit / 2] &+= now >> UInt64(bit) & 1 == 1 ? UInt16.max : 1
        changed &= changed - 1
      }
    }
  }
}
