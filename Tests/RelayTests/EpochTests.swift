import Bitcoin
import Ground
import Mempool
import Relay
import Session
import Testing
import Wire

/// Overlay secrets rotate while blocks come.
@Suite struct EpochTests {
  private let first = OverlaySecret(generatedFrom: .predictable(seed: 31))

  /// `first` and further epochs; the oldest fall out when there are more than may be held.
  private func rotated(_ times: Int) -> OverlaySecret {
    var secret = first
    for step in 0..<times { secret = secret.rotated(from: .predictable(seed: 32 + UInt64(step))) }
    return secret
  }

  private func set(_ net: TestNet, _ node: Int, _ secret: OverlaySecret) {
    net.with(node) { core, sink, now in core.setOverlay(secret, now: now, into: &sink) }
  }

  /// Three relays take a new epoch one after another, then give up the old one; blocks come at every step and are matched
  /// as ever.
  @Test func blocksAreMatchedAllThroughARotation() throws {
    let chain = try Regtest(blocks: 7, transactions: 150)
    let net = TestNet([[1, 2], [0, 2], [0, 1]], on: chain, configure: { $1.overlay = first })
    net.start()
    for block in chain.blocks {
      for node in 1..<3 { net.fill(node, block.parsed, block.bytes, missing: 0.01) }
    }
    net.run(.seconds(3))
    var next = 0
    func cross(_ what: String) throws {
      net.run(.seconds(4))
      let block = chain.blocks[next]
      next += 1
      try net.submit(block)
      #expect(net.run(.seconds(5)) { net.allComplete(block) }, "\(what)")
      for node in 1..<3 {
        let report = net.report(node, block)
        #expect(report.requests == 0, "\(what), relay \(node)")
        #expect(report.missingTransactions < 15, "\(what), relay \(node)")
      }
    }
    try cross("before")
    let both = rotated(1)
    for node in 0..<3 {
      set(net, node, both)
      try cross("relay \(node) has both")
    }
    let new = rotated(OverlaySecret.maxEpochs)
    #expect(!new.epochs.contains(1) && new.epochs.contains(2))
    for node in 0..<3 {
      set(net, node, new)
      try cross("relay \(node) has the new alone")
    }
  }

  /// Two sites whose newest common epochs with their neighbour differ submit the same block. Of the sketch that is
  /// announced first only a packet arrives: the other one is matched with its own key.
  @Test func twoSketchesOfOneBlockMayDifferInTheirEpoch() throws {
    let block = try TestBlock("413567")
    let old = first
    let both = rotated(1)
    let new = rotated(OverlaySecret.maxEpochs)
    let net = TestNet(
      [[1], [0, 2], [1]], block: block.bytes, height: block.height, configure: { $1.overlay = [old, both, new][$0] })
    net.start()
    net.fill(1, block.parsed, block.bytes, missing: 0.01)
    net.run(.seconds(4))
    var passed = 0
    net.filter = { _, from, _, bytes in
      if from != 0 || bytes.count < 1_000 { return bytes }
      passed += 1
      return passed == 1 ? bytes : nil
    }
    try net.submit(block)
    net.run(.milliseconds(2 as Int64))
    try net.submit(block, at: 2)
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    #expect(passed > 1)
    #expect(net.report(1, block).missingTransactions < 40)
  }

  /// The very sketch that is to come, announced with another epoch: a lie that costs a packet.
  @Test func aLieAboutTheEpochDoesNotSpoilTheMatch() throws {
    let block = try TestBlock("413567")
    let net = TestNet(
      [[1], [0, 2], [1]], block: block.bytes, height: block.height, configure: { $1.overlay = first })
    net.start()
    net.fill(1, block.parsed, block.bytes, missing: 0.01)
    net.run(.seconds(4))
    let key = shortIDKey(first, epoch: 1, parent: block.parsed.header.previous)
    let sketch = Sketch.encode(block.parsed, in: block.bytes.span.bytes, key: key)
    let id = UInt32(truncatingIfNeeded: SHA256.hash(sketch.span.bytes).w0)
    net.hear(1, from: 0, block.sketchPacket(sketchBytes: sketch.count, sketchID: id, epoch: 9))
    try net.submit(block, at: 2)
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    #expect(net.report(1, block).missingTransactions < 40)
  }

  /// Transactions between blocks: announced by ids of the epoch that both ends agreed on.
  @Test func transactionsGoOnAfterARotation() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height, configure: { $1.overlay = first })
    net.start()
    net.run(.seconds(3))
    try net.learn(0, 1, of: block)
    #expect(net.run(.seconds(3)) { net.kind(1, block.parsed.wtxids[1]) == .side })
    // One end alone: the old ids still serve.
    set(net, 0, rotated(1))
    net.run(.seconds(3))
    try net.learn(0, 2, of: block)
    #expect(net.run(.seconds(3)) { net.kind(1, block.parsed.wtxids[2]) == .side })
    // Both: the new ones. An announcement by an old id is no more than noise then.
    set(net, 1, rotated(1))
    net.run(.seconds(3))
    try net.learn(0, 3, of: block)
    #expect(net.run(.seconds(3)) { net.kind(1, block.parsed.wtxids[3]) == .side })
    func asked(epoch: UInt32, id: UInt64) -> Int {
      var requests = 0
      net.filter = { _, from, _, bytes in
        // A TXGET of one id.
        if from == 1 && bytes.count == TransactionIDsMessage.headBytes + 6 + 32 { requests += 1 }
        return bytes
      }
      let ids = [id]
      net.hear(
        1, from: 0,
        encoded { TransactionIDsMessage.write(as: .transactionInventory, epoch: epoch, ids: ids.span, into: &$0) })
      net.run(.milliseconds(100 as Int64))
      return requests
    }
    #expect(asked(epoch: 1, id: 4_711) == 0)
    #expect(asked(epoch: 2, id: 4_712) == 1)
  }
}
