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
    net.with(0) { core, sink, now in
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
    let block = try TestBlock("482683")
    let chain = try Regtest(blocks: 3)
    let net = TestNet(
      [[1], [0]], block: chain.blocks[0].bytes, height: 1,
      configure: { _, configuration in
        configuration.network = .regtest
        configuration.anchor = nil
        configuration.unixNanosecondsAtZero = Int64(chain.time) * 1_000_000_000
      })
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
    _ = block
  }

  @Test func aRelayThatReturnsFetchesWhatItMissed() throws {
    let chain = try Regtest(blocks: 4)
    var isCut = true
    let net = TestNet(
      [[1], [0]], block: chain.blocks[0].bytes, height: 1,
      configure: { _, configuration in
        configuration.network = .regtest
        configuration.anchor = nil
        configuration.unixNanosecondsAtZero = Int64(chain.time) * 1_000_000_000
      })
    net.filter = { _, _, _, bytes in isCut ? nil : bytes }
    net.start()
    for block in chain.blocks { try net.submit(block) }
    net.run(.seconds(1))
    isCut = false
    #expect(net.run(.seconds(20)) { chain.blocks.allSatisfy { net.isComplete(1, $0.hash) } })
    for block in chain.blocks { #expect(net.holds(1, block)) }
  }

  @Test func tooOldBlocksAreNotTaken() throws {
    let chain = try Regtest(blocks: 6)
    let net = TestNet(
      [[1], [0]], block: chain.blocks[0].bytes, height: 1,
      configure: { _, configuration in
        configuration.network = .regtest
        configuration.anchor = nil
        configuration.unixNanosecondsAtZero = Int64(chain.time) * 1_000_000_000
      })
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

/// A few re-mined blocks of real transactions on regtest's genesis.
struct Regtest {
  var blocks: [TestBlock] = []
  var time: UInt32

  init(blocks count: Int) throws {
    let source = try TestBlock("413567")
    var previous = Network.regtest.genesis.hash
    time = Network.regtest.genesis.time
    var next = 1
    for height in 1...count {
      time += 600
      var builder = BlockBuilder(height: height, previous: previous, time: time)
      for _ in 0..<100 {
        builder.append(source.parsed.transactions[next], in: source.bytes.span.bytes)
        next += 1
      }
      let block = try TestBlock(builder.build())
      previous = block.hash
      blocks.append(block)
    }
    time += 600
  }
}

extension TestBlock {
  init(_ raw: [UInt8]) throws {
    var block = try ParsedBlock(parsing: raw.span.bytes)
    block.hashAll(in: raw.span.bytes)
    self.init(bytes: raw, parsed: block, height: BIP34.height(of: block.transactions[0], in: raw.span.bytes)!)
  }

  init(bytes: [UInt8], parsed: ParsedBlock, height: Int) {
    (self.bytes, self.parsed, self.height) = (bytes, parsed, height)
  }
}
