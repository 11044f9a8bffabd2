/// Buffers of the datagrams that are queued or under way. Slots are reused; nothing is allocated per datagram once the
/// pool has grown to what a run needs. A datagram is written by its sender and read by its receiver in the same place.
struct DatagramPool: ~Copyable {
  struct Slot {
    /// Next in whatever list holds it; -1 ends the list.
    var next: Int32 = -1
    var length: Int32 = 0
    var flow: UInt64 = 0
    /// Node it goes to, or -1 for nowhere.
    var destination: Int32 = -1
    /// Index into the network's table of source addresses.
    var source: UInt32 = 0
    /// The sender's run that made it: not on the wire before that run has ended.
    var run: UInt32 = 0
    /// True time of arrival.
    var arrival: UInt64 = 0
  }

  static let slabSlots = 1_024
  let slotBytes: Int
  private var slabs: [UnsafeMutableRawPointer] = []
  private(set) var slots: UnsafeMutablePointer<Slot>
  private(set) var capacity = 0
  private(set) var inUse = 0
  private(set) var mostInUse = 0
  private var free: Int32 = -1

  init(slotBytes: Int) {
    self.slotBytes = slotBytes
    slots = .allocate(capacity: 0)
  }

  deinit {
    for slab in slabs { slab.deallocate() }
    slots.deallocate()
  }

  mutating func take() -> Int {
    if free < 0 { grow() }
    let slot = Int(free)
    free = slots[slot].next
    slots[slot] = Slot()
    inUse += 1
    if inUse > mostInUse { mostInUse = inUse }
    return slot
  }

  mutating func give(_ slot: Int) {
    slots[slot].next = free
    free = Int32(slot)
    inUse -= 1
  }

  func bytes(_ slot: Int) -> UnsafeMutableRawPointer {
    slabs[slot / Self.slabSlots] + (slot % Self.slabSlots) * slotBytes
  }

  private mutating func grow() {
    let larger = UnsafeMutablePointer<Slot>.allocate(capacity: capacity + Self.slabSlots)
    larger.moveInitialize(from: slots, count: capacity)
    slots.deallocate()
    slots = larger
    let slab = UnsafeMutableRawPointer.allocate(byteCount: Self.slabSlots * slotBytes, alignment: 64)
    // Senders may leave bytes unwritten; what is in them must not differ from run to run.
    slab.initializeMemory(as: UInt8.self, repeating: 0, count: Self.slabSlots * slotBytes)
    slabs.append(slab)
    for slot in (capacity..<capacity + Self.slabSlots).reversed() {
      (larger + slot).initialize(to: Slot(next: free))
      free = Int32(slot)
    }
    capacity += Self.slabSlots
  }
}

/// A queue of slots, linked through `Slot.next`.
struct SlotList {
  private(set) var first: Int32 = -1
  private(set) var last: Int32 = -1
  private(set) var count = 0

  var isEmpty: Bool { first < 0 }

  mutating func append(_ slot: Int, _ slots: UnsafeMutablePointer<DatagramPool.Slot>) {
    slots[slot].next = -1
    if last >= 0 { slots[Int(last)].next = Int32(slot) } else { first = Int32(slot) }
    last = Int32(slot)
    count += 1
  }

  mutating func popFirst(_ slots: UnsafeMutablePointer<DatagramPool.Slot>) -> Int? {
    guard first >= 0 else { return nil }
    let slot = Int(first)
    first = slots[slot].next
    if first < 0 { last = -1 }
    count -= 1
    return slot
  }

  /// Takes out every slot that `isUnwanted`, hands it to `found`.
  mutating func removeAll(
    _ slots: UnsafeMutablePointer<DatagramPool.Slot>, where isUnwanted: (Int) -> Bool, _ found: (Int) -> Void
  ) {
    var kept = SlotList()
    while let slot = popFirst(slots) {
      if isUnwanted(slot) { found(slot) } else { kept.append(slot, slots) }
    }
    self = kept
  }
}
