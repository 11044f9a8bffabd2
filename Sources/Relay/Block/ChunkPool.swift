import CKernels
import Wire

/// Memory for chunks in fixed-size cells, taken in slabs, bounded, and reused: nothing is allocated per packet once the
/// slabs are there, and a flood of announcements can't grow the process beyond `maxSlabs`.
struct ChunkPool: ~Copyable {
  /// Bytes of a cell: no chunk is longer.
  static let cellBytes = 1_408
  static let cellsPerSlab = 64
  /// Cells that `prepare` keeps at hand, 1.4 MB: the chunks that a block takes as a rule.
  static let preparedCells = 1_024

  private let maxSlabs: Int
  private var slabs: [UnsafeMutableRawPointer] = []
  /// Cells not in use, the one given back last on top. Not a list through the cells: reading the next cell's address out of
  /// a cell that nothing has touched for minutes would stop a packet for as long as main memory takes.
  private let free: UnsafeMutablePointer<UnsafeMutableRawPointer>
  private var freeCount = 0

  init(maxSlabs: Int) {
    precondition(maxSlabs > 0)
    self.maxSlabs = maxSlabs
    slabs.reserveCapacity(maxSlabs)
    free = .allocate(capacity: maxSlabs * ChunkPool.cellsPerSlab)
  }

  deinit {
    for slab in slabs { slab.deallocate() }
    free.deallocate()
  }

  var bytesHeld: Int { slabs.count * ChunkPool.cellsPerSlab * ChunkPool.cellBytes }
  var cellsInUse: Int { slabs.count * ChunkPool.cellsPerSlab - freeCount }

  /// A cell, or nil when the bound is reached.
  mutating func take() -> UnsafeMutableRawPointer? {
    if freeCount == 0 && !grow() { return nil }
    freeCount -= 1
    if freeCount > 0 { warm(free[freeCount - 1]) }
    return free[freeCount]
  }

  mutating func give(_ cell: UnsafeMutableRawPointer) {
    free[freeCount] = cell
    freeCount += 1
  }

  /// Whether fewer cells are at hand than `prepare` keeps.
  var needsCells: Bool { freeCount < ChunkPool.preparedCells && slabs.count < maxSlabs }

  /// Makes cells before a block needs them, a slab a call: no page fault between a packet and its forwarding. True when
  /// it made some.
  mutating func prepare() -> Bool { needsCells && grow() }

  /// The next packet's cell comes into the cache while this packet is sealed.
  @inline(__always) private func warm(_ cell: UnsafeMutableRawPointer) {
    for line in stride(from: 0, to: RelayLimits.chunkBytes, by: 64) { lp_prefetch_write(cell + line) }
  }

  private mutating func grow() -> Bool {
    if slabs.count == maxSlabs { return false }
    let slab = UnsafeMutableRawPointer.allocate(
      byteCount: ChunkPool.cellsPerSlab * ChunkPool.cellBytes, alignment: 64)
    slabs.append(slab)
    for cell in (0..<ChunkPool.cellsPerSlab).reversed() {
      let pointer = slab + cell * ChunkPool.cellBytes
      // So that the page is there.
      pointer.storeBytes(of: 0, as: UInt8.self)
      give(pointer)
    }
    return true
  }
}
