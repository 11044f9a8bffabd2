import Bitcoin
import CKernels
import Glibc

/// The key of overlay short ids: derived from the overlay's secret and the hash of the block before the one described,
/// so that every relay can prepare its index before the block exists.
public struct OverlayIDKey: Hashable, Sendable, BitwiseCopyable {
  public var k0, k1: UInt64
  @inlinable public init(k0: UInt64, k1: UInt64) {
    self.k0 = k0
    self.k1 = k1
  }
}

/// From overlay short id to slots, for two keys at a time: the best tip's and that of the tip before or competing,
/// because blocks race; and for one pinned key, an epoch's, under which relays tell each other what they have between
/// blocks. A *generation* is one key's table; its cells hold the whole id and the slot in 64 bits, so a
/// lookup touches one cache line, and removing or moving cells needs nothing but the cells.
///
/// A new key's generation is filled in slices: it covers the slots below its cursor, and a match looks through the
/// others one by one, so matching is right at every moment and only slower while a generation is young.
public struct ShortIDIndex: ~Copyable {
  /// An id is the low 40 bits of SipHash-2-4 of the wtxid: README.md has the probability of false matches.
  public static let defaultBits = 40
  static let slotBits: UInt64 = 24
  /// The generation that no new tip replaces.
  static let pinned = 2

  struct Generation {
    var key: OverlayIDKey?
    let cells: UnsafeMutablePointer<UInt64>
    /// Cells from here on may hold ids of the key before: zeroed in slices, too.
    var cleared = 0
    /// Slots from here on are not in the table; `.max` when all are, and those to come will be.
    var cursor = 0
    /// When this key was last asked for.
    var used: UInt64 = 0
  }

  public let bits: Int
  let idMask: UInt64
  let multiplier: UInt64
  let shift: UInt64
  let cellMask: Int
  var generations: [Generation] = []
  private var uses: UInt64 = 0
  var kernel = lp_siphash_best()

  /// `bits` below 40 make collisions for tests. `multiplier`, odd and private, scatters ids: a member of the overlay
  /// knows the key and could grind ids that meet in one run of cells.
  init(capacity: Int, bits: Int, multiplier: UInt64) {
    precondition(1...40 ~= bits && capacity < 1 << 24 - 1)
    self.bits = bits
    idMask = 1 << UInt64(bits) - 1
    self.multiplier = multiplier
    let log = (2 * capacity).ceilingLog2
    shift = UInt64(64 - log)
    cellMask = 1 << log - 1
    for _ in 0..<3 {
      generations.append(
        Generation(key: nil, cells: allocateZeroed(UInt64.self, cellMask + 1), cleared: cellMask + 1))
    }
  }

  deinit { for generation in generations { free(generation.cells) } }

  var heldBytes: Int { generations.count * (cellMask + 1) * 8 }

  @inline(__always) func id(_ hash: UInt64) -> UInt64 { hash & idMask }
  @inline(__always) func home(_ id: UInt64) -> Int { Int(truncatingIfNeeded: (id &* multiplier) >> shift) }

  /// The key's generation, if it is one of those held.
  func generation(_ key: OverlayIDKey) -> Generation? { generations.first { $0.key == key } }

  /// Starts the key's generation in place of the one asked for longest ago, unless it is there.
  mutating func prepare(_ key: OverlayIDKey) {
    uses += 1
    if let present = generations[..<ShortIDIndex.pinned].firstIndex(where: { $0.key == key }) {
      generations[present].used = uses
      return
    }
    let oldest = generations[0].used <= generations[1].used ? 0 : 1
    if generations[oldest].key != nil { generations[oldest].cleared = 0 }
    generations[oldest].key = key
    generations[oldest].cursor = 0
    generations[oldest].used = uses
  }

  /// Starts the pinned generation over, unless it has this key.
  mutating func pin(_ key: OverlayIDKey) {
    if generations[ShortIDIndex.pinned].key == key { return }
    if generations[ShortIDIndex.pinned].key != nil { generations[ShortIDIndex.pinned].cleared = 0 }
    generations[ShortIDIndex.pinned].key = key
    generations[ShortIDIndex.pinned].cursor = 0
  }

  /// Fills young generations, the last asked for first and the pinned one last. A slot costs 1 of the budget, 32 zeroed cells as well.
  /// True when nothing is left to do.
  mutating func advance(
    budget: Int, wtxids: UnsafeMutablePointer<Hash256>, lengths: UnsafeMutablePointer<UInt32>, highWater: Int
  ) -> Bool {
    let first = generations[0].used > generations[1].used ? 0 : 1
    var left = budget
    for index in [first, 1 - first, ShortIDIndex.pinned]
    where generations[index].key != nil && generations[index].cursor != .max {
      let room = cellMask + 1 - generations[index].cleared
      if room > 0 {
        let count = Swift.min(room, left < room / 32 ? left * 32 : room)
        (generations[index].cells + generations[index].cleared).update(repeating: 0, count: count)
        generations[index].cleared += count
        left -= (count + 31) / 32
        if generations[index].cleared <= cellMask { return false }
      }
      let begin = generations[index].cursor
      let end = left < highWater - begin ? begin + Swift.max(left, 0) : highWater
      fill(begin..<end, generations[index], wtxids, lengths)
      left -= end - begin
      generations[index].cursor = end == highWater ? .max : end
      if end < highWater { return false }
    }
    return true
  }

  private func fill(
    _ slots: Range<Int>, _ generation: Generation, _ wtxids: UnsafeMutablePointer<Hash256>,
    _ lengths: UnsafeMutablePointer<UInt32>
  ) {
    let batch = 64
    let key = generation.key!
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: batch) { hashes in
      var begin = slots.lowerBound
      while begin < slots.upperBound {
        let count = Swift.min(batch, slots.upperBound - begin)
        lp_siphash24_32(
          kernel, key.k0, key.k1, UnsafeRawPointer(wtxids + begin).assumingMemoryBound(to: UInt8.self), count,
          hashes.baseAddress!)
        for offset in 0..<count where lengths[begin + offset] != 0 {
          insert(id(hashes[offset]), UInt32(begin + offset), generation.cells)
        }
        begin += count
      }
    }
  }

  @inline(__always) private func insert(_ id: UInt64, _ slot: UInt32, _ cells: UnsafeMutablePointer<UInt64>) {
    var at = home(id)
    while cells[at] != 0 { at = (at + 1) & cellMask }
    cells[at] = id << ShortIDIndex.slotBits | UInt64(slot + 1)
  }

  /// An entry has come. Generations that have not reached its slot will find it there.
  mutating func insert(_ slot: UInt32, wtxid: Hash256) {
    for index in generations.indices where Int(slot) < generations[index].cursor {
      guard let key = generations[index].key else { continue }
      insert(id(SipHash(k0: key.k0, k1: key.k1).hash(wtxid)), slot, generations[index].cells)
    }
  }

  mutating func remove(_ slot: UInt32, wtxid: Hash256) {
    for index in generations.indices where Int(slot) < generations[index].cursor {
      guard let key = generations[index].key else { continue }
      let id = id(SipHash(k0: key.k0, k1: key.k1).hash(wtxid))
      remove(id << ShortIDIndex.slotBits | UInt64(slot + 1), home(id), generations[index].cells)
    }
  }

  private func remove(_ cell: UInt64, _ start: Int, _ cells: UnsafeMutablePointer<UInt64>) {
    var hole = start
    while cells[hole] != cell {
      if cells[hole] == 0 { return }
      hole = (hole + 1) & cellMask
    }
    var at = hole
    while true {
      at = (at + 1) & cellMask
      let moving = cells[at]
      if moving == 0 { break }
      if (at &- home(moving >> ShortIDIndex.slotBits)) & cellMask >= (at &- hole) & cellMask {
        cells[hole] = moving
        hole = at
      }
    }
    cells[hole] = 0
  }

  /// Calls `visit` with each slot of the generation that has this id.
  @inline(__always) func probe(_ id: UInt64, _ generation: Generation, _ visit: (UInt32) -> Void) {
    var at = home(id)
    while generation.cells[at] != 0 {
      let cell = generation.cells[at]
      if cell >> ShortIDIndex.slotBits == id { visit(UInt32(truncatingIfNeeded: cell & 0xFF_FFFF) - 1) }
      at = (at + 1) & cellMask
    }
  }
}
