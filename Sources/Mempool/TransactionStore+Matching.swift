import Bitcoin
import CKernels
import Glibc

extension TransactionStore {
  /// In place of a short id: this position is not looked for.
  public static let noID = UInt64.max
  /// While matching: two entries fit.
  private static let ambiguous = UInt32.max - 1

  /// Another SipHash kernel than this CPU's best, so that benches see what lesser machines need.
  package mutating func use(_ kernel: lp_siphash_kernel) { shortIDs.kernel = kernel }

  // MARK: Overlay short ids

  /// The index is wanted for this key: call it when the tip changes. It replaces the key asked for longest ago; at once
  /// ready when it is one of the two held.
  public mutating func prepareShortIDs(_ key: OverlayIDKey) { shortIDs.prepare(key) }

  /// The index is wanted for this key, too, until another is pinned: an epoch's, for `match(inventoryIDs:key:into:)`.
  public mutating func pinShortIDs(_ key: OverlayIDKey) { shortIDs.pin(key) }

  /// Goes on building the index; true when it is complete. `budget` counts slots: 1,500 take less than 100 µs.
  @discardableResult
  public mutating func advanceShortIDs(budget: Int = 1_500) -> Bool {
    shortIDs.advance(budget: budget, wtxids: wtxids, lengths: lengths, highWater: highWater)
  }

  /// Whether a match for this key costs the ids looked for, and not the store.
  public func isIndexed(_ key: OverlayIDKey) -> Bool { shortIDs.generation(key)?.cursor == .max }

  public func shortID(_ wtxid: Hash256, _ key: OverlayIDKey) -> UInt64 {
    shortIDs.id(SipHash(k0: key.k0, k1: key.k1).hash(wtxid))
  }

  /// Finds the entries that a sketch's transactions are. `slots[i]` becomes the slot of the one entry whose short id is
  /// `ids[i]` and whose serialised length is `byteCounts[i]`, or `missing`: also when two entries fit, or when one
  /// entry fits two positions. Right for any key at any time; fast when `isIndexed(key)`.
  public func match(
    ids: Span<UInt64>, byteCounts: Span<UInt32>, key: OverlayIDKey, into slots: inout [UInt32]
  ) {
    precondition(ids.count == byteCounts.count)
    slots.removeAll(keepingCapacity: true)
    slots.append(contentsOf: repeatElement(TransactionStore.missing, count: ids.count))
    var slotSpan = slots.mutableSpan
    let generation = shortIDs.generation(key)
    var indexed = 0
    if let generation, generation.cursor > 0 {
      indexed = Swift.min(generation.cursor, highWater)
      // Cells are fetched well ahead of their use; the probes themselves depend on nothing before them.
      let ahead = 12
      for index in ids.indices {
        if index + ahead < ids.count {
          lp_prefetch(generation.cells + shortIDs.home(ids[index + ahead] & shortIDs.idMask))
        }
        if ids[index] == TransactionStore.noID { continue }
        let length = byteCounts[index]
        var found = TransactionStore.missing
        shortIDs.probe(ids[index] & shortIDs.idMask, generation) { slot in
          if lengths[Int(slot)] != length { return }
          found = found == TransactionStore.missing ? slot : TransactionStore.ambiguous
        }
        slotSpan[index] = found
      }
    }
    if indexed < highWater {
      let wanted = WantedIDs(ids, mask: shortIDs.idMask, multiplier: shortIDs.multiplier)
      var scan = IDScan(SipHash(k0: key.k0, k1: key.k1), kernel: shortIDs.kernel)
      scan.run(indexed..<highWater, wtxids, wanted) { index, slot in
        if lengths[Int(slot)] == byteCounts[index] {
          slotSpan[index] = slotSpan[index] == TransactionStore.missing ? slot : TransactionStore.ambiguous
        }
      }
    }
    settle(&slotSpan)
  }

  /// Of matches that were made in several calls: positions that share an entry become nil, as they do in one call.
  /// Returns how many.
  public func withdrawShared(_ matches: inout [EntryHandle?]) -> Int {
    var slots = matches.map { $0?.slot ?? TransactionStore.missing }
    var span = slots.mutableSpan
    settle(&span)
    var count = 0
    for index in matches.indices where matches[index] != nil && slots[index] == TransactionStore.missing {
      matches[index] = nil
      count += 1
    }
    return count
  }

  // MARK: BIP152

  /// Finds the entries that a compact block's short ids (6 bytes, SipHash keyed by the block) name: `slots[i]` becomes a
  /// slot or `missing`, the latter also when two entries share an id. Class `node` is looked through first, likely
  /// transactions before others, then the side and the orphans; the search ends when all ids are found. `overTxids` is
  /// for compact blocks version 1.
  public func match(
    compactIDs ids: Span<UInt64>, key: ShortIDKey, overTxids: Bool = false, into slots: inout [UInt32]
  ) {
    match(compactIDs: ids, bits: 48, key: key, overTxids: overTxids, into: &slots)
  }

  /// With shorter ids, so that tests see collisions.
  package func match(
    compactIDs ids: Span<UInt64>, bits: Int, key: ShortIDKey, overTxids: Bool, into slots: inout [UInt32]
  ) {
    search(ids, bits: bits, SipHash(k0: key.k0, k1: key.k1), overTxids ? txids : wtxids, into: &slots)
  }

  /// Finds the entries that 6-byte ids (SipHash of the wtxid under an overlay key that no block changes) name, as above.
  /// Costs the ids when the key is pinned and its index complete, else a search through the store.
  public func match(inventoryIDs ids: Span<UInt64>, key: OverlayIDKey, into slots: inout [UInt32]) {
    let sip = SipHash(k0: key.k0, k1: key.k1)
    guard let generation = shortIDs.generation(key), generation.cursor == .max else {
      return search(ids, bits: 48, sip, wtxids, into: &slots)
    }
    slots.removeAll(keepingCapacity: true)
    slots.append(contentsOf: repeatElement(TransactionStore.missing, count: ids.count))
    var slotSpan = slots.mutableSpan
    for index in ids.indices where ids[index] != TransactionStore.noID {
      var found = TransactionStore.missing
      shortIDs.probe(ids[index] & shortIDs.idMask, generation) { slot in
        // The index holds fewer bits.
        if sip.hash(wtxids[Int(slot)]) & (1 << 48 - 1) != ids[index] { return }
        found = found == TransactionStore.missing ? slot : TransactionStore.ambiguous
      }
      slotSpan[index] = found
    }
    settle(&slotSpan)
  }

  /// Through the classes, likely transactions first, until all ids are found.
  private func search(
    _ ids: Span<UInt64>, bits: Int, _ key: SipHash, _ hashed: UnsafeMutablePointer<Hash256>,
    into slots: inout [UInt32]
  ) {
    slots.removeAll(keepingCapacity: true)
    slots.append(contentsOf: repeatElement(TransactionStore.missing, count: ids.count))
    var slotSpan = slots.mutableSpan
    var left = 0
    for index in ids.indices where ids[index] != TransactionStore.noID { left += 1 }
    if left == 0 { return }
    let wanted = WantedIDs(ids, mask: 1 << UInt64(bits) - 1, multiplier: shortIDs.multiplier)
    var scan = IDScan(key, kernel: shortIDs.kernel)
    for kind in TransactionClass.allCases {
      for queue in TransactionStore.queueOrder(kind) {
        scan.run(queues[queue].slots, hashed, wanted) { index, slot in
          if slotSpan[index] == TransactionStore.missing {
            slotSpan[index] = slot
            left -= 1
          } else {
            slotSpan[index] = TransactionStore.ambiguous
          }
        } isDone: {
          left == 0
        }
        if left == 0 { break }
      }
      if left == 0 { break }
    }
    settle(&slotSpan)
  }

  /// Ambiguous positions, and positions that share an entry, become missing: a block holds no transaction twice.
  private func settle(_ slots: inout MutableSpan<UInt32>) {
    let words = highWater / 64 + 1
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 2 * words) { bits in
      bits.initialize(repeating: 0)
      var shared = false
      for index in slots.indices where slots[index] < TransactionStore.ambiguous {
        let (word, bit): (Int, UInt64) = (Int(slots[index] >> 6), 1 << UInt64(slots[index] & 63))
        if bits[word] & bit != 0 {
          bits[words + word] |= bit
          shared = true
        }
        bits[word] |= bit
      }
      for index in slots.indices {
        let slot = slots[index]
        if slot >= TransactionStore.ambiguous
          || shared && bits[words + Int(slot >> 6)] & 1 << UInt64(slot & 63) != 0
        {
          slots[index] = TransactionStore.missing
        }
      }
    }
  }
}

/// The ids looked for, as a bitmap of their low bits, which dismisses nearly all hashes that are not wanted, and a table.
struct WantedIDs: ~Copyable {
  /// Positions that may have the same id; further ones are not found. An honest block has no two, and without a limit
  /// a hostile one would cost the square of its count.
  static let samePositionsMax = 8

  let mask: UInt64
  let multiplier: UInt64
  let bits: Int
  let filter: UnsafeMutablePointer<UInt64>
  /// Cells: id << 16 | position + 1.
  var table: CellTable<UInt64>

  init(_ ids: Span<UInt64>, mask: UInt64, multiplier: UInt64) {
    precondition(ids.count < 1 << 16)
    self.mask = mask
    self.multiplier = multiplier
    // 32 to 64 bits for each id: 2–3% of other hashes pass, and the bitmap stays within the first-level cache.
    bits = Swift.min(Swift.max(ids.count.ceilingLog2 + 5, 10), 18, (~mask).trailingZeroBitCount)
    filter = allocateZeroed(UInt64.self, Swift.max(1 << bits / 64, 1))
    table = CellTable(most: ids.count)
    for index in ids.indices where ids[index] != TransactionStore.noID {
      let id = ids[index] & mask
      let bit = id & (1 << UInt64(bits) - 1)
      filter[Int(bit >> 6)] |= 1 << (bit & 63)
      var same = 0
      table.probe(hash(id)) { cell in
        if cell >> 16 == id { same += 1 }
        return same < WantedIDs.samePositionsMax
      }
      if same < WantedIDs.samePositionsMax { table.insert(id << 16 | UInt64(index + 1), hash: hash(id)) }
    }
  }

  /// Privately scattered: whoever chose the ids must not choose their cells.
  @inline(__always) private func hash(_ id: UInt64) -> UInt64 { (id &* multiplier) >> 40 }

  deinit { free(filter) }

  @inline(__always) func forEach(_ hash: UInt64, _ body: (Int) -> Void) {
    let id = hash & mask
    table.probe(self.hash(id)) { cell in
      if cell >> 16 == id { body(Int(cell & 0xFFFF) - 1) }
      return true
    }
  }
}

/// Hashes ids in bulk and keeps those that are wanted.
struct IDScan: ~Copyable {
  /// Ids between two looks at whether all are found: some 10 µs.
  static let batch = 2_048
  let key: SipHash
  let kernel: lp_siphash_kernel
  let slots = UnsafeMutablePointer<UInt32>.allocate(capacity: 2 * IDScan.batch)
  let hashes = UnsafeMutablePointer<UInt64>.allocate(capacity: IDScan.batch)

  init(_ key: SipHash, kernel: lp_siphash_kernel) {
    self.key = key
    self.kernel = kernel
  }

  deinit {
    slots.deallocate()
    hashes.deallocate()
  }

  /// Through a queue from its end, the newest first.
  mutating func run(
    _ queue: [UInt32], _ ids: UnsafeMutablePointer<Hash256>, _ wanted: borrowing WantedIDs,
    _ found: (_ index: Int, _ slot: UInt32) -> Void, isDone: () -> Bool
  ) {
    queue.withUnsafeBufferPointer { queue in
      var end = queue.count
      while end > 0 && !isDone() {
        let begin = Swift.max(end - IDScan.batch, 0)
        run(queue.baseAddress! + begin, end - begin, ids, wanted, found)
        end = begin
      }
    }
  }

  /// Through a range of slots; free ones among them may be reported.
  mutating func run(
    _ range: Range<Int>, _ ids: UnsafeMutablePointer<Hash256>, _ wanted: borrowing WantedIDs,
    _ found: (_ index: Int, _ slot: UInt32) -> Void
  ) {
    var begin = range.lowerBound
    while begin < range.upperBound {
      let count = Swift.min(IDScan.batch, range.upperBound - begin)
      let numbers = slots + IDScan.batch
      for offset in 0..<count { numbers[offset] = UInt32(begin + offset) }
      run(numbers, count, ids, wanted, found)
      begin += count
    }
  }

  @inline(__always) private func run(
    _ numbers: UnsafePointer<UInt32>, _ count: Int, _ ids: UnsafeMutablePointer<Hash256>,
    _ wanted: borrowing WantedIDs, _ found: (_ index: Int, _ slot: UInt32) -> Void
  ) {
    let hits = lp_siphash24_32_filter(
      kernel, key.k0, key.k1, UnsafeRawPointer(ids).assumingMemoryBound(to: UInt8.self), numbers, count, wanted.filter,
      UInt32(wanted.bits), slots, hashes)
    for hit in 0..<hits {
      wanted.forEach(hashes[hit]) { found($0, slots[hit]) }
    }
  }
}
