/// Memory for chunks in fixed-size cells, taken in slabs, bounded, and reused: nothing is allocated per packet once the
/// slabs are there, and a flood of announcements can't grow the process beyond `maxSlabs`.
struct ChunkPool: ~Copyable {
  /// Bytes of a cell: no chunk is longer.
  static let cellBytes = 1_408
  static let cellsPerSlab = 64

  private let maxSlabs: Int
  private var slabs: [UnsafeMutableRawPointer] = []
  /// Cells not in use, as a linked list through their first eight bytes.
  private var free: UnsafeMutableRawPointer?
  private(set) var cellsInUse = 0

  init(maxSlabs: Int) {
    precondition(maxSlabs > 0)
    self.maxSlabs = maxSlabs
    slabs.reserveCapacity(maxSlabs)
  }

  deinit { for slab in slabs { slab.deallocate() } }

  var bytesHeld: Int { slabs.count * ChunkPool.cellsPerSlab * ChunkPool.cellBytes }

  /// A cell, or nil when the bound is reached.
  mutating func take() -> UnsafeMutableRawPointer? {
    if free == nil && !grow() { return nil }
    guard let cell = free else { return nil }
    free = cell.load(as: UnsafeMutableRawPointer?.self)
    cellsInUse += 1
    return cell
  }

  mutating func give(_ cell: UnsafeMutableRawPointer) {
    cell.storeBytes(of: free, as: UnsafeMutableRawPointer?.self)
    free = cell
    cellsInUse -= 1
  }

  private mutating func grow() -> Bool {
    if slabs.count == maxSlabs { return false }
    let slab = UnsafeMutableRawPointer.allocate(
      byteCount: ChunkPool.cellsPerSlab * ChunkPool.cellBytes, alignment: 64)
    slabs.append(slab)
    for cell in (0..<ChunkPool.cellsPerSlab).reversed() {
      let pointer = slab + cell * ChunkPool.cellBytes
      pointer.storeBytes(of: free, as: UnsafeMutableRawPointer?.self)
      free = pointer
    }
    return true
  }
}
