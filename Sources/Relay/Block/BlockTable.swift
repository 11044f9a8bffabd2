import Bitcoin
import Ground
import Wire

/// The blocks in hand and kept, in numbered slots; at most 64. Found by the first eight bytes of the hash: a scan of one
/// or two cache lines, cheaper than hashing at this size.
struct BlockTable: ~Copyable {
  let capacity: Int
  private let blocks: UnsafeMutablePointer<BlockState>
  private let ids: UnsafeMutablePointer<UInt64>
  private let state: UnsafeMutablePointer<State>

  private struct State {
    /// One bit for each slot in use.
    var present: UInt64 = 0
    /// Slots, newest block first.
    var sequence: InlineArray<64, UInt8> = .init(repeating: 0)
    var count = 0
  }

  init(capacity: Int) {
    precondition(capacity > 0 && capacity <= 64)
    self.capacity = capacity
    blocks = .allocate(capacity: capacity)
    ids = .allocate(capacity: capacity)
    ids.initialize(repeating: 0, count: capacity)
    state = .allocate(capacity: 1)
    state.initialize(to: State())
  }

  deinit {
    for slot in 0..<capacity where state.pointee.present & (1 << UInt64(slot)) != 0 {
      (blocks + slot).deinitialize(count: 1)
    }
    blocks.deallocate()
    ids.deallocate()
    state.deallocate()
  }

  var count: Int { state.pointee.count }
  var present: UInt64 { state.pointee.present }

  /// The block in a slot that is in use.
  @inline(__always)
  subscript(_ slot: Int) -> UnsafeMutablePointer<BlockState> {
    precondition(slot >= 0 && slot < capacity && state.pointee.present & (1 << UInt64(slot)) != 0)
    return blocks + slot
  }

  @inline(__always)
  func isPresent(_ slot: Int) -> Bool {
    slot >= 0 && slot < capacity && state.pointee.present & (1 << UInt64(slot)) != 0
  }

  /// Slots in order, newest block first: `for i in 0..<count { slot(at: i) }`.
  @inline(__always)
  func slot(at position: Int) -> Int { Int(state.pointee.sequence[position]) }

  /// The first slot from `start` on whose block's hash begins with `id8`; -1 for none.
  @inline(__always)
  func find(id8: UInt64, from start: Int = 0) -> Int {
    var slot = start
    while slot < capacity {
      if ids[slot] == id8 && state.pointee.present & (1 << UInt64(slot)) != 0 { return slot }
      slot += 1
    }
    return -1
  }

  /// The slot of a block by its whole hash, a complete one before others.
  func find(_ hash: Hash256) -> Int? {
    var found: Int?
    var slot = find(id8: hash.w0)
    while slot >= 0 {
      if blocks[slot].hash == hash && (found == nil || blocks[slot].isComplete) { found = slot }
      slot = find(id8: hash.w0, from: slot + 1)
    }
    return found
  }

  /// The slot of a block with this very header, the newest first; -1 for none. Saves hashing the header of every packet.
  @inline(__always)
  func find(header: HeaderBytes) -> Int {
    var position = 0
    while position < state.pointee.count {
      let slot = Int(state.pointee.sequence[position])
      if blocks[slot].headerBytes == header { return slot }
      position += 1
    }
    return -1
  }

  /// A free slot; nil when all are in use.
  var freeSlot: Int? { (0..<capacity).first { state.pointee.present & (1 << UInt64($0)) == 0 } }

  /// Puts a block into a free slot, as the newest.
  func insert(_ block: consuming BlockState, at slot: Int) {
    precondition(slot < capacity && state.pointee.present & (1 << UInt64(slot)) == 0)
    ids[slot] = block.id8
    (blocks + slot).initialize(to: block)
    state.pointee.present |= 1 << UInt64(slot)
    var position = state.pointee.count
    while position > 0 {
      state.pointee.sequence[position] = state.pointee.sequence[position - 1]
      position -= 1
    }
    state.pointee.sequence[0] = UInt8(slot)
    state.pointee.count += 1
  }

  /// Frees a slot; the block's logs must have been given back.
  func remove(_ slot: Int) {
    precondition(isPresent(slot))
    (blocks + slot).deinitialize(count: 1)
    state.pointee.present &= ~(1 << UInt64(slot))
    ids[slot] = 0
    var to = 0
    for from in 0..<state.pointee.count where state.pointee.sequence[from] != UInt8(slot) {
      state.pointee.sequence[to] = state.pointee.sequence[from]
      to += 1
    }
    state.pointee.count = to
  }

  var heldBytes: Int {
    var sum = 0
    for position in 0..<count {
      let block = blocks + slot(at: position)
      sum += block.pointee.isSettled ? block.pointee.kept.count : 8 * block.pointee.bodyBytes
    }
    return sum
  }
}
