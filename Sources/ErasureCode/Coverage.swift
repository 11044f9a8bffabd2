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
      // As plain as this it is turned into vectors; `pointwiseMax` is a call each.
      var most: UInt16 = 0
      for column in 0..<shape.columns { most = max(most, columns[column]) }
      maximum = Int(most)
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
    let (blocks, words) = (Self.blocks(range), bitmap.bound(to: UInt64.self))
    if blocks.isEmpty { return false }
    let last = blocks.upperBound - 1
    var told = words[blocks.lowerBound] & Self.mask(range, block: blocks.lowerBound)
    for block in blocks.dropFirst().dropLast() { told |= words[block] }
    return told | words[last] & Self.mask(range, block: last) != 0
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
    let size = shape.chunkSize
    let first = (range.lowerBound + size - 1) / size
    let last = range.upperBound / size
    if first >= last {
      change(range, isInsert: true)
      return
    }
    if range.lowerBound < first * size { change(range.lowerBound..<first * size, isInsert: true) }
    for chunk in first..<last where !insertChunk(chunk) {
      change(chunk * size..<(chunk + 1) * size, isInsert: true)
    }
    if last * size < range.upperBound { change(last * size..<range.upperBound, isInsert: true) }
  }

  /// A whole chunk of which nothing was told becomes known: what a packet brings, or many transactions side by side.
  private mutating func insertChunk(_ chunk: Int) -> Bool {
    let words = bitmap.bound(to: UInt64.self) + chunk * shape.strips
    var told: UInt64 = 0
    for strip in 0..<shape.strips { told |= words[strip] }
    if told != 0 { return false }
    for strip in 0..<shape.strips { words[strip] = ~0 }
    let counts = UnsafeMutableRawPointer(columns).assumingMemoryBound(to: SIMD16<UInt16>.self)
    for group in 0..<shape.strips * 2 { counts[group] &-= SIMD16(repeating: 1) }
    chunks[chunk] = 0
    unknownSymbols -= shape.columns
    maximumIsStale = true
    return true
  }

  mutating func remove(_ range: Range<Int>) { change(range, isInsert: false) }

  /// Every transaction of a block that the mempool has comes through here: whole blocks, which are most of it, cost a
  /// few instructions, and chunk and strip are counted on instead of divided out.
  @inline(__always) private mutating func change(_ range: Range<Int>, isInsert: Bool) {
    let words = bitmap.bound(to: UInt64.self)
    let blocks = Self.blocks(range)
    let last = blocks.upperBound - 1
    var (chunk, strip) = blocks.lowerBound.quotientAndRemainder(dividingBy: shape.strips)
    strip -= 1
    for block in blocks {
      strip += 1
      if strip == shape.strips { (chunk, strip) = (chunk + 1, 0) }
      let isEdge = block == blocks.lowerBound || block == last
      let mask = isEdge ? Self.mask(range, block: block) : ~0
      let old = words[block]
      let new = isInsert ? old | mask : old & ~mask
      if old == new { continue }
      words[block] = new
      let changed = old == 0 && new == ~0 ? 0x5555_5555_5555_5555 : Self.known(old) ^ Self.known(new)
      if changed == 0 { continue }
      maximumIsStale = true
      let count = changed.nonzeroBitCount
      let step = isInsert ? 0 &- UInt16(1) : 1
      chunks[chunk] &+= step &* UInt16(count)
      unknownSymbols += isInsert ? -count : count
      let halves = UnsafeMutableRawPointer(columns + strip * 32).assumingMemoryBound(to: SIMD16<UInt16>.self)
      if count == 32 {
        halves[0] &+= SIMD16(repeating: step)
        halves[1] &+= SIMD16(repeating: step)
      } else {
        let bits = Self.even(changed)
        halves[0] &+= Self.spread(UInt16(truncatingIfNeeded: bits)) &* SIMD16(repeating: step)
        halves[1] &+= Self.spread(UInt16(truncatingIfNeeded: bits >> 16)) &* SIMD16(repeating: step)
      }
    }
  }

  /// Every second bit, from bit 0 on, close together.
  @inline(__always) private static func even(_ bits: UInt64) -> UInt64 {
    var b = bits & 0x5555_5555_5555_5555
    b = (b | b >> 1) & 0x3333_3333_3333_3333
    b = (b | b >> 2) & 0x0F0F_0F0F_0F0F_0F0F
    b = (b | b >> 4) & 0x00FF_00FF_00FF_00FF
    b = (b | b >> 8) & 0x0000_FFFF_0000_FFFF
    return (b | b >> 16) & 0xFFFF_FFFF
  }

  /// Bit k as 0 or 1 in lane k.
  @inline(__always) private static func spread(_ bits: UInt16) -> SIMD16<UInt16> {
    let powers = SIMD16<UInt16>(
      1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
    // Nothing is left of a power that is there, and only then does subtracting borrow into the highest bit.
    return (((SIMD16(repeating: bits) & powers) ^ powers) &- SIMD16(repeating: 1)) &>> SIMD16(repeating: 15)
  }
}
