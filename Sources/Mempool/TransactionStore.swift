import Bitcoin
import CKernels
import Glibc
import Ground

/// Transactions with their bytes, found by txid, wtxid, spent outpoint and overlay short id: the memory that lets a
/// relay rebuild a block from short ids. See README.md.
///
/// Owned by one thread. No entry is a heap object: ids, lengths and facts lie in flat arrays indexed by *slot*, bytes in
/// a segmented arena, and tables hold slot numbers. Lookups neither allocate nor touch a reference count.
/// A slot number is good until the next mutating call; keep an `EntryHandle` for longer.
public struct TransactionStore: ~Copyable {
  /// Where a match leaves a slot: nothing in the store is, beyond doubt, this transaction.
  public static let missing = UInt32.max
  public static let missingParentsMax = 4

  public let limits: StoreLimits
  let capacity: Int
  let key: TableKey

  struct Entry: BitwiseCopyable {
    var location: ArenaLocation
    var weight: UInt32
    var inputCount: UInt32
    var outputCount: UInt32
    var generation: UInt32
    /// In its queue; the next free slot's number when free.
    var position: UInt32
    /// The reconciliation in which the node was last seen to have it; an orphan's record.
    var mark: UInt32
    var kind: UInt8
    var queue: UInt8
    /// Ancestors above it when it became the node's, the longest line of them, up to `Reconciliation.depthMax`.
    var depth: UInt8
    /// In satoshi; `.max` when not known.
    var fee: UInt64
  }
  // By slot. The ids lie apart from the rest so that a scan streams through nothing else.
  let wtxids: UnsafeMutablePointer<Hash256>
  let txids: UnsafeMutablePointer<Hash256>
  /// 0 marks a free slot.
  let lengths: UnsafeMutablePointer<UInt32>
  let entries: UnsafeMutablePointer<Entry>
  /// Slots at and above were never used.
  var highWater = 0
  var firstFree = UInt32.max

  var arena = ByteArena()
  /// Cells are slot + 1.
  var byWtxid: CellTable<UInt32>
  var byTxid: CellTable<UInt32>
  /// Outpoints that transactions of class `node` spend. Cells: (slot + 1) << 32 | the outpoint's offset in the bytes.
  var spends: CellTable<UInt64>
  /// Inputs of all of class `node`.
  var inputs = 0
  var counts: [StoreCounts] = [StoreCounts(), StoreCounts(), StoreCounts()]
  /// Feerate bands of class `node`, then one each for side and orphan.
  var queues: [AgeQueue] = Array(repeating: AgeQueue(), count: FeerateBand.count + 2)
  var orphans: OrphanRecords
  public internal(set) var shortIDs: ShortIDIndex
  var reconciliation = Reconciliation()

  /// `seed` keys the tables' hash functions: random in a daemon, from the seed in a simulation.
  public init(limits: StoreLimits = StoreLimits(), seed: UInt64, shortIDBits: Int = ShortIDIndex.defaultBits) {
    self.limits = limits
    // One more than the classes can hold together: an insertion comes before its evictions.
    capacity = limits.nodeCount + limits.sideCount + limits.orphanCount + 1
    var random = SeededRandom(seed: seed)
    key = TableKey(a: random.next(), b: random.next())
    wtxids = allocateZeroed(Hash256.self, capacity)
    txids = allocateZeroed(Hash256.self, capacity)
    lengths = allocateZeroed(UInt32.self, capacity)
    entries = allocateZeroed(Entry.self, capacity)
    byWtxid = CellTable(most: capacity)
    byTxid = CellTable(most: capacity)
    spends = CellTable(most: limits.nodeInputs)
    orphans = OrphanRecords(most: limits.orphanCount + 1)
    shortIDs = ShortIDIndex(capacity: capacity, bits: shortIDBits, multiplier: random.next() | 1)
  }

  deinit {
    free(wtxids)
    free(txids)
    free(lengths)
    free(entries)
  }

  // MARK: Looking up

  /// All entries, all classes.
  public var count: Int { byWtxid.count }

  public func counts(_ kind: TransactionClass) -> StoreCounts { counts[Int(kind.rawValue)] }

  public func slot(wtxid: Hash256) -> UInt32? {
    var found: UInt32?
    byWtxid.probe(key.hash(wtxid)) { cell in
      if wtxids[Int(cell - 1)] == wtxid { found = cell - 1 }
      return found == nil
    }
    return found
  }

  /// Of several with the same txid and different witnesses, the node's, else one of the side.
  public func slot(txid: Hash256) -> UInt32? {
    var found: UInt32?
    byTxid.probe(key.hash(txid)) { cell in
      if txids[Int(cell - 1)] == txid {
        if let other = found, entries[Int(other)].kind <= entries[Int(cell - 1)].kind { return true }
        found = cell - 1
      }
      return true
    }
    return found
  }

  /// Which of `wtxids` are not of class `node`, ascending; those before `first` are not looked at. As many calls of
  /// `slot(wtxid:)`, but memory is fetched ahead: 2,500 take 60 µs instead of 500 when the cache is cold.
  public func lackingAtNode(_ wtxids: [Hash256], from first: Int = 0) -> [Int] {
    var lacking: [Int] = []
    let (far, near) = (24, 12)
    for index in first..<Swift.max(first, wtxids.count) {
      if index + far < wtxids.count { lp_prefetch(byWtxid.cells + byWtxid.home(key.hash(wtxids[index + far]))) }
      if index + near < wtxids.count {
        let cell = byWtxid.cells[byWtxid.home(key.hash(wtxids[index + near]))]
        if cell != 0 {
          lp_prefetch(self.wtxids + Int(cell - 1))
          lp_prefetch(entries + Int(cell - 1))
        }
      }
      guard let slot = slot(wtxid: wtxids[index]), entries[Int(slot)].kind == TransactionClass.node.rawValue else {
        lacking.append(index)
        continue
      }
    }
    return lacking
  }

  /// The transaction of class `node` that spends an output.
  public func spender(of txid: Hash256, output: UInt32) -> UInt32? {
    var found: UInt32?
    spends.probe(key.hash(txid, output: output)) { cell in
      let outpoint = self.outpoint(cell)
      if outpoint.txid == txid && outpoint.output == output { found = UInt32(cell >> 32) - 1 }
      return found == nil
    }
    return found
  }

  public func handle(_ slot: UInt32) -> EntryHandle {
    EntryHandle(slot: slot, generation: entries[Int(slot)].generation)
  }

  /// The slot, if the entry is still there.
  public func slot(_ handle: EntryHandle) -> UInt32? {
    isLive(handle.slot) && entries[Int(handle.slot)].generation == handle.generation ? handle.slot : nil
  }

  public func isLive(_ slot: UInt32) -> Bool {
    slot < UInt32(highWater) && lengths[Int(slot)] != 0
  }

  // The following take slots of live entries.

  public func wtxid(_ slot: UInt32) -> Hash256 { wtxids[checked(slot)] }
  public func txid(_ slot: UInt32) -> Hash256 { txids[checked(slot)] }
  /// Serialised bytes, witnesses included.
  public func byteCount(_ slot: UInt32) -> Int { Int(lengths[checked(slot)]) }
  public func weight(_ slot: UInt32) -> Int { Int(entries[checked(slot)].weight) }
  public func kind(_ slot: UInt32) -> TransactionClass { TransactionClass(rawValue: entries[checked(slot)].kind)! }
  /// In satoshi, where it was stated.
  public func fee(_ slot: UInt32) -> UInt64? {
    let fee = entries[checked(slot)].fee
    return fee == .max ? nil : fee
  }

  /// Where its parts will lie once its bytes are copied to `offset` of some message; nothing is parsed again.
  public func layout(_ slot: UInt32, at offset: Int) -> TransactionLayout {
    let index = checked(slot)
    let entry = entries[index]
    let length = Int(lengths[index])
    // The weight is three times the stripped size plus the full size.
    return TransactionLayout(
      offset: offset, byteCount: length, strippedByteCount: (Int(entry.weight) - length) / 3,
      inputCount: Int(entry.inputCount), outputCount: Int(entry.outputCount))
  }

  /// The serialised transaction, borrowed from the store.
  @_lifetime(borrow self)
  public func bytes(_ slot: UInt32) -> RawSpan {
    let index = checked(slot)
    let start = UnsafeRawPointer(arena.pointer(entries[index].location))
    let span = unsafe RawSpan(_unsafeStart: start, byteCount: Int(lengths[index]))
    return unsafe _overrideLifetime(span, borrowing: self)
  }

  /// Fetches a transaction's bytes and ids into the caches, ahead of their use.
  @inline(__always) public func prefetch(_ handle: EntryHandle) {
    guard let slot = slot(handle) else { return }
    let start = UnsafeRawPointer(arena.pointer(entries[Int(slot)].location))
    // Of a large one the first lines; the processor sees by itself how it goes on.
    for line in stride(from: 0, to: min(Int(lengths[Int(slot)]), 1_024), by: 64) { lp_prefetch(start + line) }
    lp_prefetch(txids + Int(slot))
    lp_prefetch(wtxids + Int(slot))
  }

  /// Copies the serialised transaction; `destination` must hold `byteCount(slot)` bytes at `offset`.
  public func copy(_ slot: UInt32, to destination: inout MutableRawSpan, at offset: Int) {
    let index = checked(slot)
    let length = Int(lengths[index])
    precondition(offset >= 0 && length <= destination.byteCount - offset)
    unsafe destination.withUnsafeMutableBytes { buffer in
      unsafe (buffer.baseAddress! + offset)
        .copyMemory(from: arena.pointer(entries[index].location), byteCount: length)
    }
  }

  /// Starts fetching what `layout`, `txid`, `wtxid` and `copy` will read of a live entry, for callers that go through
  /// many: the facts some twenty entries ahead, and then, when those are there, the first 512 bytes some ten ahead.
  @inline(__always) package func prefetchFacts(_ slot: UInt32) {
    lp_prefetch(entries + Int(slot))
    lp_prefetch(lengths + Int(slot))
    lp_prefetch(txids + Int(slot))
    lp_prefetch(wtxids + Int(slot))
  }
  @inline(__always) package func prefetchBytes(_ slot: UInt32) {
    let index = checked(slot)
    let start = arena.pointer(entries[index].location)
    for line in 0..<Swift.min(8, (Int(lengths[index]) + 63) / 64) { lp_prefetch(start + 64 * line) }
  }

  @inline(__always) func checked(_ slot: UInt32) -> Int {
    precondition(isLive(slot))
    return Int(slot)
  }

  /// Calls `body` with the slots of a class, the most likely to be in the next block first (feerate band by band, the
  /// newest of a band first), until it returns false.
  public func forEachLikely(_ kind: TransactionClass, _ body: (UInt32) -> Bool) {
    for queue in TransactionStore.queueOrder(kind) {
      for slot in queues[queue].slots.reversed() where slot != AgeQueue.hole {
        if !body(slot) { return }
      }
    }
  }

  static func queueOrder(_ kind: TransactionClass) -> [Int] {
    switch kind {
    case .node: Array((0..<FeerateBand.count).reversed())
    case .side: [FeerateBand.count]
    case .orphan: [FeerateBand.count + 1]
    }
  }

  /// Of the segments that transactions' bytes lie in.
  package var arenaBytes: Int { arena.heldBytes }
  /// Of them, in full segments: used, and alive still.
  package var arenaClosedBytes: (used: Int, alive: Int) { (arena.closedUsed, arena.closedAlive) }

  /// Bytes that the store has asked the system for and has touched or may touch: tables, arrays and arena.
  public var heldBytes: Int {
    let bySlot = highWater * (2 * MemoryLayout<Hash256>.stride + 4 + MemoryLayout<Entry>.stride)
    return bySlot + arena.heldBytes + (byWtxid.mask + byTxid.mask + 2) * 4 + (spends.mask + 1) * 8
      + queues.reduce(0) { $0 + $1.slots.capacity * 4 } + shortIDs.heldBytes
  }
}

/// Feerates in bands of a factor of √2 from 0.1 sat/vB up. Fees aren't announced between peers; an entry whose fee is
/// unknown goes to the middle, at about 10 sat/vB, while it is new, and then to one of the bands below by its place in
/// the node's list.
enum FeerateBand {
  static let count = 48
  static let unknown = 14

  /// The band of an entry of unknown fee that so many of its depth were listed before: 1,024 in the first, and each
  /// further one as many as all before it.
  static func band(rank: Int) -> Int { Swift.max(1, unknown - 1 - (Int.bitWidth - (rank >> 10).leadingZeroBitCount)) }

  static func band(fee: UInt64, weight: UInt32) -> Int {
    if fee == .max { return unknown }
    // Units of 0.1 sat/vB: fee · 10 / (weight / 4).
    let (product, overflow) = fee.multipliedReportingOverflow(by: 40)
    let rate = overflow ? .max : product / UInt64(Swift.max(weight, 1))
    if rate == 0 { return 0 }
    let octave = 63 - rate.leadingZeroBitCount
    // The upper half of an octave begins at √2: compare squares, without the rounding of a square root.
    let upper = octave < 31 && rate * rate >= 2 << UInt64(2 * octave)
    return Swift.min(1 + 2 * octave + (upper ? 1 : 0), count - 1)
  }
}
