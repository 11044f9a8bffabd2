import Bitcoin
import Ground
import Mempool
import Testing

/// The store against the naive one, over seeds: the same operations, the same answers.
@Suite struct StoreModelTests {
  struct World {
    var random: SeededRandom
    var universe: [TestTransaction] = []
    var outpoints: [TestTransaction.Outpoint] = []

    init(seed: UInt64, count: Int) {
      random = SeededRandom(seed: seed)
      for number in 0..<30 {
        outpoints.append(.init(txid: Hash256(w0: UInt64(number), w1: 1, w2: 2, w3: seed), output: UInt32(number % 3)))
      }
      for _ in 0..<count {
        if random.chance(0.1), let original = universe.last, original.txid != original.wtxid {
          universe.append(original.twin(random: &random))
          continue
        }
        // Few outpoints, so that conflicts and chains are common; lengths from a few values, so that they agree often.
        var inputs: [TestTransaction.Outpoint] = []
        for _ in 0...random.below(3) {
          let input = outpoints[random.below(outpoints.count)]
          if !inputs.contains(input) { inputs.append(input) }
        }
        let transaction = TestTransaction(
          spending: inputs, outputs: 1 + random.below(3), padding: 10 * random.below(3),
          witness: random.chance(0.5) ? 1 + 10 * random.below(3) : 0, random: &random)
        universe.append(transaction)
        for output in 0..<transaction.outputCount where random.chance(0.5) {
          outpoints.append(.init(txid: transaction.txid, output: UInt32(output)))
        }
      }
    }
  }

  static let seeds: [UInt64] = Array(1...24)

  @Test(arguments: seeds)
  func agreesWithTheNaiveStore(_ seed: UInt64) throws {
    var world = World(seed: seed, count: 160)
    let limits =
      seed % 3 == 0
      ? StoreLimits(nodeCount: 200, nodeInputs: 60, sideCount: 200, orphanCount: 20)
      : seed % 3 == 1
        ? StoreLimits(
          nodeCount: 25, nodeBytes: 5_000, sideCount: 12, sideBytes: 2_000, orphanCount: 4, orphanBytes: 900)
        : StoreLimits(nodeCount: 60, sideCount: 1_000, orphanCount: 8)
    let bits = [4, 7, 10][Int(seed % 3)]
    var store = TransactionStore(limits: limits, seed: seed, shortIDBits: bits)
    var naive = NaiveStore(limits: limits)
    let keys = (0..<4).map { OverlayIDKey(k0: seed, k1: UInt64($0)) }

    for step in 0..<600 {
      let transaction = world.universe[world.random.below(world.universe.count)]
      switch world.random.below(20) {
      case 0..<9:
        let kind: TransactionClass = world.random.chance(0.7) ? .node : .side
        let fee = world.random.chance(0.7) ? UInt64(world.random.below(40_000)) : nil
        let result = try store.insert(transaction.bytes.span.bytes, as: kind, fee: fee)
        naive.insert(transaction, kind, fee: fee)
        #expect((result.handle == nil) == (result.outcome == .dropped))
        #expect((result.handle == nil) == (naive.entries[transaction.wtxid] == nil))
      case 9..<11:
        var missing: [Hash256] = []
        for _ in 0...world.random.below(3) {
          let parent = world.universe[world.random.below(world.universe.count)].txid
          if !missing.contains(parent) && parent != transaction.txid { missing.append(parent) }
        }
        if missing.isEmpty { continue }
        _ = try store.insert(transaction.bytes.span.bytes, as: .orphan, missingParents: missing)
        naive.insert(transaction, .orphan, fee: nil, missing: missing)
      case 11:
        if let slot = store.slot(wtxid: transaction.wtxid) { store.remove(slot) }
        naive.entries[transaction.wtxid] = nil
      case 12:
        if let slot = store.slot(wtxid: transaction.wtxid) { store.demote(slot) }
        naive.demote(transaction.wtxid)
      case 13:
        let keep = world.random.chance(0.5)
        let layout = try TransactionLayout(parsing: transaction.bytes.span.bytes)
        store.confirm(
          layout, in: transaction.bytes.span.bytes, txid: transaction.txid, wtxid: transaction.wtxid, keep: keep)
        naive.confirm(transaction, keep: keep)
      case 14:
        // A reorganisation: a few transactions confirmed, then taken back.
        let some = (0..<4).map { _ in world.universe[world.random.below(world.universe.count)] }
        for transaction in some {
          let layout = try TransactionLayout(parsing: transaction.bytes.span.bytes)
          store.confirm(layout, in: transaction.bytes.span.bytes, txid: transaction.txid, wtxid: transaction.wtxid)
          naive.confirm(transaction, keep: true)
        }
        for transaction in some {
          _ = try store.insert(transaction.bytes.span.bytes, as: .node)
          naive.insert(transaction, .node, fee: nil)
        }
      case 15 where step % 5 == 0:
        store.beginReconciliation()
        for wtxid in naive.entries.keys { naive.entries[wtxid]!.isListed = false }
        for transaction in world.universe where world.random.chance(0.5) {
          let isThere = store.listed(wtxid: transaction.wtxid)
          #expect(isThere == (naive.entries[transaction.wtxid] != nil))
          naive.list(transaction.wtxid)
        }
        while !store.sweep(budget: 7).isDone {}
        // The sweep goes by slots, which the naive store doesn't have: what it may do is checked, and what it did adopted.
        for (wtxid, entry) in naive.entries where entry.kind == .node {
          let slot = store.slot(wtxid: wtxid)
          let isNode = slot.map { store.kind($0) == .node } ?? false
          #expect(isNode == entry.isListed)
        }
        adoptSide(store, &naive)
      case 16:
        let key = keys[world.random.below(keys.count)]
        if world.random.chance(0.2) { store.pinShortIDs(key) } else { store.prepareShortIDs(key) }
      default:
        _ = store.advanceShortIDs(budget: 1 + world.random.below(40))
      }
      let whole = step % 10 == 0
      try agree(&store, &naive, world, keys, bits, orders: whole)
      if world.random.chance(0.3) { matching(store, naive, &world.random, keys, bits) }
    }
  }

  private func adoptSide(_ store: borrowing TransactionStore, _ naive: inout NaiveStore) {
    var side: [Hash256] = []
    store.forEachLikely(.side) { slot in
      side.append(store.wtxid(slot))
      return true
    }
    let before = naive.entries.values.filter { $0.kind == .side || $0.kind == .node && !$0.isListed }
    for entry in before where !side.contains(entry.transaction.wtxid) {
      naive.entries[entry.transaction.wtxid] = nil
    }
    for wtxid in side.reversed() { naive.enter(wtxid, .side) }
    // Only what was over the bounds is gone.
    let gone = before.count - side.count
    let bytes = before.reduce(0) { $0 + $1.transaction.bytes.count }
    #expect(gone == 0 || before.count > naive.limits.sideCount || bytes > naive.limits.sideBytes)
  }

  private func agree(
    _ store: inout TransactionStore, _ naive: inout NaiveStore, _ world: World, _ keys: [OverlayIDKey], _ bits: Int,
    orders: Bool
  ) throws {
    let count = store.count
    for kind in TransactionClass.allCases {
      let counts = store.counts(kind)
      let (count, bytes) = (store.limits.count(kind), store.limits.bytes(kind))
      #expect(counts.transactions <= count && counts.bytes <= bytes)
    }
    #expect(count == naive.entries.count)
    if !orders { return }
    for transaction in world.universe {
      let entry = naive.entries[transaction.wtxid]
      let slot = store.slot(wtxid: transaction.wtxid)
      #expect((slot == nil) == (entry == nil))
      guard let slot, let entry else { continue }
      let (kind, txid, fee) = (store.kind(slot), store.txid(slot), store.fee(slot))
      #expect(kind == entry.kind && txid == transaction.txid && fee == entry.fee)
      let same = store.bytes(slot).withUnsafeBytes { $0.elementsEqual(transaction.bytes) }
      #expect(same)
      let byTxid = store.slot(txid: transaction.txid)!
      let (found, foundKind) = (store.txid(byTxid), store.kind(byTxid))
      #expect(found == transaction.txid)
      let hasNode = naive.entries.values.contains { $0.transaction.txid == transaction.txid && $0.kind == .node }
      #expect(hasNode == (foundKind == .node))
      let handle = store.handle(slot)
      let again = store.slot(handle)
      #expect(again == slot)
    }
    for outpoint in world.outpoints {
      let spender = store.spender(of: outpoint.txid, output: outpoint.output).map { store.wtxid($0) }
      #expect(spender == naive.spender(outpoint))
    }
    for kind in [TransactionClass.node, .side] {
      var order: [Hash256] = []
      store.forEachLikely(kind) { slot in
        order.append(store.wtxid(slot))
        return true
      }
      // Bands downwards, in each the newest first.
      let expected = naive.sorted(kind).reversed().map(\.transaction.wtxid)
      if kind == .node { #expect(order == expected) } else { #expect(Set(order) == Set(expected)) }
    }
  }

  /// Some ids that are there, some that aren't, under every key: prepared, half built, and never heard of.
  private func matching(
    _ store: borrowing TransactionStore, _ naive: NaiveStore, _ random: inout SeededRandom, _ keys: [OverlayIDKey],
    _ bits: Int
  ) {
    let all = naive.entries.values.map(\.transaction).sorted { $0.wtxid.w0 < $1.wtxid.w0 }
    for key in keys {
      var ids: [UInt64] = []
      var lengths: [UInt32] = []
      for transaction in all where random.chance(0.1) {
        ids.append(random.chance(0.1) ? TransactionStore.noID : store.shortID(transaction.wtxid, key))
        lengths.append(UInt32(transaction.bytes.count) + (random.chance(0.1) ? 1 : 0))
      }
      for _ in 0..<3 {
        ids.append(random.next() >> UInt64(64 - bits))
        lengths.append(51 + 10 * UInt32(random.below(10)))
      }
      // At most `samePositionsMax` equal ids are found without an index; stay below.
      for id in Set(ids) where ids.count(where: { $0 == id }) > 8 { return }
      var slots: [UInt32] = []
      store.match(ids: ids.span, byteCounts: lengths.span, key: key, into: &slots)
      let mask: UInt64 = 1 << UInt64(bits) - 1
      let sip = SipHash(k0: key.k0, k1: key.k1)
      var found = ids.indices.map { index -> Hash256? in
        let fitting = all.filter { sip.hash($0.wtxid) & mask == ids[index] && $0.bytes.count == Int(lengths[index]) }
        return fitting.count == 1 ? fitting[0].wtxid : nil
      }
      for wtxid in Set(found.compactMap { $0 }) where found.count(where: { $0 == wtxid }) > 1 {
        for index in found.indices where found[index] == wtxid { found[index] = nil }
      }
      let got = slots.map { $0 == TransactionStore.missing ? nil : store.wtxid($0) }
      #expect(got == found)
      compact(store, all, ids, key, bits)
      // Between blocks: six bytes of the same hash, so that shorter ones in the index meet.
      let inventory = all.filter { _ in random.chance(0.2) }
      let wanted = inventory.map { sip.hash($0.wtxid) & 0xFFFF_FFFF_FFFF } + [random.next() >> 16]
      store.match(inventoryIDs: wanted.span, key: key, into: &slots)
      let listed = slots.map { $0 == TransactionStore.missing ? nil : store.wtxid($0) }
      #expect(listed == inventory.map(\.wtxid) + [nil])
    }
  }

  private func compact(
    _ store: borrowing TransactionStore, _ all: [TestTransaction], _ ids: [UInt64], _ key: OverlayIDKey, _ bits: Int
  ) {
    // The block's key comes from a header; any other serves as well.
    let header = BlockHeader(
      version: 1, previous: .zero, merkleRoot: .zero, time: UInt32(truncatingIfNeeded: key.k1), bits: 1, nonce: 1)
    let blockKey = ShortIDKey(header: header, nonce: key.k0)
    let mask: UInt64 = 1 << UInt64(bits) - 1
    for overTxids in [false, true] {
      var slots: [UInt32] = []
      store.match(compactIDs: ids.span, bits: bits, key: blockKey, overTxids: overTxids, into: &slots)
      var fitting = [[Hash256]](repeating: [], count: ids.count)
      for index in ids.indices where ids[index] != TransactionStore.noID {
        for transaction in all
        where blockKey.shortID(overTxids ? transaction.txid : transaction.wtxid) & mask == ids[index] {
          fitting[index].append(transaction.wtxid)
        }
      }
      for index in ids.indices {
        let got = slots[index] == TransactionStore.missing ? nil : store.wtxid(slots[index])
        if let got { #expect(fitting[index].contains(got)) }
        let isLonely = fitting[index].count == 1
        let isShared = isLonely && ids.count(where: { $0 == ids[index] }) > 1
        if isLonely && !isShared { #expect(got == fitting[index][0]) }
        if fitting[index].isEmpty || isShared { #expect(got == nil) }
      }
    }
  }
}
