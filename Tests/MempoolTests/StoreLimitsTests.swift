import Bitcoin
import Ground
import Mempool
import RealBlocks
import Testing

@Suite struct StoreLimitsTests {
  /// Random insertions and removals of every size: contents stay right while records move, and memory stays near what
  /// is alive.
  @Test(arguments: [1, 2] as [UInt64])
  func churnKeepsContentsAndBoundsMemory(_ seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let limit = 6 << 20
    var store = TransactionStore(
      limits: StoreLimits(
        nodeCount: 20_000, nodeBytes: limit, nodeInputs: 40_000, sideCount: 10, sideBytes: 200_000, orphanCount: 10),
      seed: seed)
    let idle = store.heldBytes
    var kept: [Hash256: [UInt8]] = [:]
    var order: [Hash256] = []
    for step in 0..<30_000 {
      if random.chance(0.35), !order.isEmpty {
        let at = random.below(order.count)
        let wtxid = order.remove(at: at)
        if let slot = store.slot(wtxid: wtxid) { store.remove(slot) }
        kept[wtxid] = nil
        continue
      }
      let padding = random.chance(0.002) ? random.below(300_000) : random.below(random.chance(0.1) ? 4_000 : 400)
      let outpoint = TestTransaction.Outpoint(txid: Hash256(w0: UInt64(step), w1: 0, w2: 0, w3: 0), output: 0)
      let transaction = TestTransaction(spending: [outpoint], outputs: 1, padding: padding, witness: 0, random: &random)
      let result = try store.insert(transaction.bytes.span.bytes, as: .node)
      #expect(result.outcome == .added)
      kept[transaction.wtxid] = transaction.bytes
      order.append(transaction.wtxid)
      // The oldest goes first when it is full.
      while kept.count > store.count {
        let oldest = order.removeFirst()
        let evicted = store.slot(wtxid: oldest)
        #expect(evicted == nil)
        kept[oldest] = nil
      }
    }
    let count = store.count
    #expect(kept.count == count)
    for (wtxid, bytes) in kept {
      guard let slot = store.slot(wtxid: wtxid) else {
        Issue.record("lost a transaction")
        return
      }
      let same = store.bytes(slot).withUnsafeBytes { $0.elementsEqual(bytes) }
      #expect(same)
    }
    let arenaBytes = store.arenaBytes
    #expect(arenaBytes <= limit * 8 / 7 + 5 << 18)
    #expect(idle < 4 << 20)
  }

  /// A record with a segment of its own that is as large as the shared ones is counted as its own.
  @Test(arguments: [262_128, 262_129, 262_136, 262_137]) func aTransactionAsLargeAsASegment(_ length: Int) throws {
    var random = SeededRandom(seed: 5)
    var store = TransactionStore(limits: StoreLimits(nodeCount: 10, sideCount: 10, orphanCount: 2), seed: 1)
    let idle = store.arenaBytes
    let outpoint = TestTransaction.Outpoint(txid: Hash256(w0: 1, w1: 0, w2: 0, w3: 0), output: 0)
    let transaction = TestTransaction(
      spending: [outpoint], outputs: 1, padding: length - 64, witness: 0, random: &random)
    try #require(transaction.bytes.count == length)
    for _ in 0..<1_000 {
      let inserted = try store.insert(transaction.bytes.span.bytes, as: .node)
      store.remove(try #require(inserted.handle).slot)
    }
    let (closed, held) = (store.arenaClosedBytes, store.arenaBytes - idle)
    #expect(closed.used == 0 && closed.alive == 0)
    // What is kept for the next one.
    #expect(held <= 2 << 18)
  }

  @Test func anUndescribedTransactionIsRefusedWithItsReason() throws {
    var store = TransactionStore(
      limits: StoreLimits(nodeCount: 10, nodeBytes: 400, nodeInputs: 2, orphanCount: 2), seed: 1)
    var random = SeededRandom(seed: 1)
    func outpoint(_ number: Int) -> TestTransaction.Outpoint {
      .init(txid: Hash256(w0: UInt64(number), w1: 9, w2: 9, w3: 9), output: 0)
    }
    let fine = TestTransaction(spending: [outpoint(1)], outputs: 1, padding: 5, witness: 3, random: &random)
    for length in 0..<fine.bytes.count {
      #expect(throws: StoreError.self) { try store.insert(fine.bytes.span.bytes.extracting(0..<length), as: .node) }
    }
    let longer = fine.bytes + [0]
    #expect(throws: StoreError.malformed(DecodeError("tx", at: fine.bytes.count, .trailing(1)))) {
      try store.insert(longer.span.bytes, as: .node)
    }
    let coinbase = TestTransaction(
      spending: [.init(txid: .zero, output: .max)], outputs: 1, padding: 5, witness: 0, random: &random)
    #expect(throws: StoreError.coinbase) { try store.insert(coinbase.bytes.span.bytes, as: .side) }
    let large = TestTransaction(spending: [outpoint(2)], outputs: 1, padding: 400, witness: 0, random: &random)
    #expect(throws: StoreError.tooLarge(bytes: large.bytes.count, limit: 400)) {
      try store.insert(large.bytes.span.bytes, as: .node)
    }
    let greedy = TestTransaction(
      spending: (3..<6).map(outpoint), outputs: 1, padding: 0, witness: 0, random: &random)
    #expect(throws: StoreError.tooLarge(bytes: greedy.bytes.count, limit: 400)) {
      try store.insert(greedy.bytes.span.bytes, as: .node)
    }
    for count in [0, 5] {
      let parents = (0..<count).map { outpoint($0).txid }
      #expect(throws: StoreError.missingParents(count: count)) {
        try store.insert(fine.bytes.span.bytes, as: .orphan, missingParents: parents)
      }
    }
    let count = store.count
    #expect(count == 0)
  }

  @Test func randomBytesNeverCrashTheStore() throws {
    var random = SeededRandom(seed: 3)
    var store = TransactionStore(
      limits: StoreLimits(nodeCount: 50, sideCount: 50, orphanCount: 5), seed: 3, shortIDBits: 6)
    let bytes = try RealBlocks.bytes("482683")
    let block = try ParsedBlock(parsing: bytes.span.bytes)
    for _ in 0..<5_000 {
      let layout = block.transactions[random.below(block.transactions.count)]
      var hostile = Array(bytes[layout.offset..<layout.end])
      for _ in 0...random.below(4) { hostile[random.below(hostile.count)] = UInt8(truncatingIfNeeded: random.next()) }
      if random.chance(0.3) { hostile.removeLast(random.below(hostile.count)) }
      let kind = TransactionClass.allCases[random.below(3)]
      let parents = [Hash256(w0: random.next() % 8, w1: 0, w2: 0, w3: 0)]
      if let result = try? store.insert(hostile.span.bytes, as: kind, missingParents: parents) {
        if let handle = result.handle {
          guard let slot = store.slot(handle) else {
            Issue.record("a handle without an entry")
            return
          }
          let length = store.byteCount(slot)
          #expect(length == hostile.count)
        }
      }
    }
    let count = store.count
    #expect(count > 0 && count <= 105)
  }

  /// Real blocks connect and leave again.
  @Test(arguments: ["702861", "426884"])
  func aRealBlockConnectsAndDisconnects(_ name: String) throws {
    let bytes = try RealBlocks.bytes(name)
    var block = try ParsedBlock(parsing: bytes.span.bytes)
    block.hashAll(in: bytes.span.bytes)
    let all = block.transactions.count
    var store = TransactionStore(limits: StoreLimits(nodeCount: 5_000, sideCount: 5_000), seed: 1)
    for index in 1..<all where index % 10 != 0 {
      let result = try store.insert(block.transactions[index].bytes(in: bytes.span.bytes), as: .node)
      #expect(result.outcome == .added && result.conflicts.isEmpty)
    }
    // What the node lacks, and each transaction's parts at another place, without parsing.
    let lacking = store.lackingAtNode(block.wtxids, from: 1)
    #expect(lacking == (1..<all).filter { $0 % 10 == 0 })
    for index in 1..<all where index % 10 != 0 {
      let layout = store.slot(wtxid: block.wtxids[index]).map { store.layout($0, at: 1_000 + index) }
      #expect(layout == block.transactions[index].moved(to: 1_000 + index))
    }
    // A rival spends what the block's last transaction spends.
    let last = block.transactions[all - 1]
    var rival = Array(bytes[last.offset..<last.end])
    rival[rival.count - 1] ^= 1
    let outcome = try store.insert(rival.span.bytes, as: .node)
    #expect(outcome.outcome == .added && outcome.conflicts.count >= ((all - 1) % 10 == 0 ? 0 : 1))
    for begin in stride(from: 0, to: all, by: 100) {
      store.confirm(begin..<min(begin + 100, all), of: block, in: bytes.span.bytes)
    }
    var (node, side) = (store.counts(.node).transactions, store.counts(.side).transactions)
    #expect(node == 0 && side == all)
    store.disconnect(0..<all, of: block, in: bytes.span.bytes)
    (node, side) = (store.counts(.node).transactions, store.counts(.side).transactions)
    #expect(node == all - 1 && side == 1)
  }

  @Test func aHandleOutlivesItsEntryWithoutNamingAnother() throws {
    var store = TransactionStore(limits: StoreLimits(nodeCount: 10, sideCount: 10, orphanCount: 2), seed: 1)
    var random = SeededRandom(seed: 4)
    func fresh(_ number: UInt64) -> TestTransaction {
      TestTransaction(
        spending: [.init(txid: Hash256(w0: number, w1: 0, w2: 0, w3: 0), output: 0)], outputs: 1, padding: 1,
        witness: 0, random: &random)
    }
    let one = fresh(1)
    let two = fresh(2)
    let inserted = try store.insert(one.bytes.span.bytes, as: .node)
    let first = inserted.handle!
    store.remove(first.slot)
    let again = try store.insert(two.bytes.span.bytes, as: .node)
    let second = again.handle!
    #expect(first.slot == second.slot && first != second)
    let (stale, current) = (store.slot(first), store.slot(second))
    #expect(stale == nil && current == second.slot)
  }

  /// As long as the class allows: displaced, and orphans set free, without recursion.
  @Test func longChainsOfDescendants() throws {
    let length = 4_000
    var store = TransactionStore(
      limits: StoreLimits(nodeCount: 5_000, sideCount: 5_000, orphanCount: 5_000), seed: 1)
    var random = SeededRandom(seed: 6)
    var chain: [TestTransaction] = []
    var spent = TestTransaction.Outpoint(txid: Hash256(w0: 1, w1: 1, w2: 1, w3: 1), output: 0)
    let root = spent
    for _ in 0..<length {
      chain.append(TestTransaction(spending: [spent], outputs: 1, padding: 1, witness: 0, random: &random))
      spent = .init(txid: chain.last!.txid, output: 0)
    }
    for transaction in chain.dropFirst().reversed() {
      let result = try store.insert(
        transaction.bytes.span.bytes, as: .orphan, missingParents: [transaction.inputs[0].txid])
      #expect(result.outcome == .added)
    }
    let head = chain[0]
    _ = try store.insert(head.bytes.span.bytes, as: .node)
    var (orphans, side) = (store.counts(.orphan).transactions, store.counts(.side).transactions)
    #expect(orphans == 0 && side == length - 1)
    for transaction in chain { _ = try store.insert(transaction.bytes.span.bytes, as: .node) }
    let rival = TestTransaction(spending: [root], outputs: 1, padding: 2, witness: 0, random: &random)
    let result = try store.insert(rival.bytes.span.bytes, as: .node)
    #expect(result.conflicts.count == length)
    (orphans, side) = (store.counts(.orphan).transactions, store.counts(.side).transactions)
    #expect(orphans == 0 && side == length)
  }
}
