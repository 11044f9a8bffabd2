import Bitcoin
import Ground
import RealBlocks
import Relay
import Testing

@Suite struct GateTests {
  @Test func aHeaderWithoutWorkIsRefused() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(2))
    var bad = block.bytes
    bad[76] ^= 1  // the nonce
    _ = net.with(0) { core, sink, now in
      #expect(throws: SubmitError.self) {
        try core.submit(bad.span.bytes, arrival: now, now: now, into: &sink)
      }
    }
    #expect(net.events(0, .verified).isEmpty)
  }

  @Test func aMutatedBodyIsNotSentAndTheHashStaysWanted() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(2))
    var bad = block.bytes
    bad[bad.count - 20] ^= 1
    net.with(0) { core, sink, now in
      _ = try? core.submit(bad.span.bytes, arrival: now, now: now, into: &sink)
    }
    net.run(.seconds(1))
    #expect(net.events(0, .verified).isEmpty)
    #expect(net.events(1, .gatePassed).isEmpty)
    // The true body is taken afterwards.
    net.with(0) { core, sink, now in
      _ = try? core.submit(block.bytes.span.bytes, arrival: now, now: now, into: &sink)
    }
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    #expect(net.holds(1, block))
  }

  @Test func aBlockWhoseParentIsUnknownWaitsForItsHeaders() throws {
    // Relay 1 begins two blocks lower: relay 0 knows the headers in between.
    let chain = try Regtest(blocks: 3)
    let net = TestNet([[1], [0]], on: chain)
    net.start()
    net.run(.seconds(2))
    // Both blocks' headers are known to 0 only.
    try net.with(0) { core, sink, now in
      _ = try core.submitHeaders(chain.blocks.prefix(2).map(\.parsed.header), vouched: true, now: now, into: &sink)
    }
    try net.submit(chain.blocks[2])
    #expect(net.run(.seconds(5)) { net.isComplete(1, chain.blocks[2].hash) })
    let tip = net.with(1) { core, _, _ in core.chain.tip.height }
    #expect(tip == 3)
  }

  @Test func aRelayThatReturnsFetchesWhatItMissed() throws {
    let chain = try Regtest(blocks: 4)
    var isCut = true
    let net = TestNet([[1], [0]], on: chain)
    net.filter = { _, _, _, bytes in isCut ? nil : bytes }
    net.start()
    for block in chain.blocks { try net.submit(block) }
    net.run(.seconds(1))
    isCut = false
    #expect(net.run(.seconds(20)) { chain.blocks.allSatisfy { net.isComplete(1, $0.hash) } })
    for block in chain.blocks { #expect(net.holds(1, block)) }
  }

  @Test func whatIsCaughtUpOnIsNotSentToThoseThatHaveIt() throws {
    let chain = try Regtest(blocks: 3)
    let net = TestNet([[1, 2], [0, 2], [0, 1, 3], [2]], on: chain)
    var isCut = true
    var chunks = [Int](repeating: 0, count: 4)
    net.filter = { _, from, to, bytes in
      if from == 2 && bytes.count > 1_000 { chunks[to] += 1 }
      return isCut && (from >= 2 || to >= 2) ? nil : bytes
    }
    net.start()
    for block in chain.blocks {
      try net.submit(block)
      net.run(.seconds(1))
    }
    isCut = false
    #expect(
      net.run(.seconds(30)) { chain.blocks.allSatisfy { net.isComplete(2, $0.hash) && net.isComplete(3, $0.hash) } })
    #expect(chunks[0] == 0 && chunks[1] == 0)
    #expect(chunks[3] > 0, "3 has no other neighbour")
  }

  /// A liar with one proof of work announced a block on top of the best and never sends it: that made the honest rival of a
  /// race still open too old for the gate, in the receiver's eyes alone.
  @Test func aHeaderWhoseBodyIsKeptBackShutsNobodyOut() throws {
    let chain = try Regtest(blocks: 3)
    let net = TestNet([[1], [0]], on: chain)
    net.start()
    net.run(.seconds(2))
    for block in chain.blocks {
      try net.submit(block)
      #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    }
    let kept = try chain.block(on: chain.blocks[2], transactions: 1..<4)
    net.hear(1, from: 0, kept.sketchPacket(sketchID: 9))
    #expect(net.with(1) { core, _, _ in core.chain.tip.hash } == kept.hash)
    let rival = try chain.block(on: chain.blocks[0], transactions: 4..<9, extra: 1)
    try net.submit(rival)
    #expect(net.run(.seconds(1)) { net.isComplete(1, rival.hash) })
    // One block lower it would be too old all the same.
    let older = try chain.block(on: nil, transactions: 4..<9, extra: 2)
    try net.submit(older)
    net.run(.seconds(1))
    #expect(net.with(1) { core, _, _ in core.report(of: older.hash) == nil })
    #expect(net.events(1, .gateRefused).contains { $0.a == UInt64(GateRefusal.tooOld.rawValue) })
  }

  /// An announcement that goes on waiting for its parent was taken out of the pen and put back until all rounds were gone:
  /// others' were not looked at when their parent came.
  @Test func aWaitingAnnouncementKeepsNoOtherWaiting() throws {
    let chain = try Regtest(blocks: 4)
    let net = TestNet([[1], [0, 2], [1]], on: chain)
    net.start()
    net.run(.seconds(2))
    net.filter = { _, _, _, _ in nil }
    net.hear(1, from: 0, chain.blocks[3].sketchPacket(sketchID: 9))
    net.hear(1, from: 2, chain.blocks[1].sketchPacket(sketchID: 9))
    #expect(net.events(1, .gatePassed).isEmpty)
    try net.with(1) { core, sink, now in
      _ = try core.submitHeaders([chain.blocks[0].parsed.header], vouched: true, now: now, into: &sink)
    }
    #expect(net.events(1, .gatePassed).map(\.block) == [chain.blocks[1].hash])
  }

  @Test func tooOldBlocksAreNotTaken() throws {
    let chain = try Regtest(blocks: 6)
    let net = TestNet([[1], [0]], on: chain)
    net.start()
    net.run(.seconds(2))
    try net.with(1) { core, sink, now in
      _ = try core.submitHeaders(chain.blocks.map(\.parsed.header), vouched: true, now: now, into: &sink)
      for block in chain.blocks { core.noteNodeHas(block.hash) }
    }
    try net.submit(chain.blocks[0])
    net.run(.seconds(1))
    #expect(net.events(1, .gatePassed).isEmpty)
    #expect(net.events(1, .gateRefused).contains { $0.a == UInt64(GateRefusal.tooOld.rawValue) })
  }
}
