import Bitcoin
import Ground
import NodeBridge
import Relay
import Session
import Site
import Testing

/// A node that was away while blocks came.
@Suite struct ReturningNodeTests {
  /// Blocks in a row, of a few transactions each.
  private func chain(_ count: Int) throws -> [[UInt8]] {
    let material = try Material(most: 20)
    var chain = HeaderChain(network: .regtest)
    var blocks: [[UInt8]] = []
    for index in 0..<count {
      let block = try material.mined(on: chain.tip, material.transactions, extraNonce: UInt64(index))
      blocks.append(block)
      try chain.accept(BlockHeader(parsing: block.span.bytes), now: .max, vouched: true)
    }
    return blocks
  }

  private func hash(_ block: [UInt8]) throws -> Hash256 { try BlockHeader(parsing: block.span.bytes).hash }

  private func delivered(_ sites: TestSites, _ site: Int) -> [Hash256] {
    sites.events[site].compactMap { if case .delivered(let block) = $0 { block.report.hash } else { nil } }
  }

  /// One site finds them, one after the other, and the other gets them.
  private func come(_ blocks: [[UInt8]], _ sites: TestSites) throws {
    for block in blocks {
      #expect(blockHash(sites.ask(0, .submit(block))) != nil)
      let hash = try hash(block)
      #expect(sites.run(.seconds(10)) { delivered(sites, 1).contains(hash) })
    }
  }

  /// It gets all of them, in order, and those that come meanwhile.
  @Test func getsWhatCameMeanwhile() throws {
    let node = FakeNode()
    let sites = TestSites(nodes: [[], [node]])
    let blocks = try chain(12)
    let hashes = try blocks.map(hash)
    let first = blocks[0]
    node.headers = [try BlockHeader(parsing: first.span.bytes)]
    node.isUp = false
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    try come(blocks.dropLast(), sites)
    #expect(node.delivered.isEmpty)
    node.isUp = true
    #expect(sites.run(.seconds(20)) { !node.delivered.isEmpty })
    #expect(blockHash(sites.ask(0, .submit(blocks[11]))) != nil)
    #expect(sites.run(.seconds(20)) { node.delivered.count == 11 })
    #expect(node.delivered == Array(hashes[1...]))
    // Once, and that is the end of it.
    sites.run(.seconds(5))
    #expect(node.delivered.count == 11 && delivered(sites, 1).count == 12)
    let tips = sites.events[1].count { if case .node(.tipUpdated) = $0 { true } else { false } }
    #expect(tips == 11)
  }

  /// The connection goes while a block is on its way: that is told, and the next connection gets it.
  @Test func getsTheBlockThatWasOnItsWay() throws {
    let node = FakeNode()
    let sites = TestSites(nodes: [[], [node]])
    let block = try chain(1)[0]
    #expect(sites.run(.seconds(5)) { sites.areLinked() && sites.snapshot(1).nodes[0].mempoolListed })
    node.isStuck = true
    let hash = try #require(blockHash(sites.ask(0, .submit(block))))
    func happened(_ matches: (SiteEvent) -> Bool) -> Bool { sites.events[1].contains(where: matches) }
    #expect(sites.run(.seconds(5)) { happened { if case .node(.written) = $0 { true } else { false } } })
    #expect(!happened { if case .wantsSubmit = $0 { true } else { false } })
    node.isUp = false
    #expect(
      sites.run(.seconds(5)) { happened { if case .wantsSubmit(0, hash, block) = $0 { true } else { false } } })
    node.isStuck = false
    node.isUp = true
    #expect(sites.run(.seconds(20)) { node.delivered == [hash] })
  }

  /// While it catches up from elsewhere it tells of blocks that had to make room here: they are not found anew.
  @Test func whatMadeRoomIsNotFoundAnew() throws {
    let node = FakeNode()
    let sites = TestSites(nodes: [[], [node]]) { _, configuration in configuration.relay.limits.blocksKept = 2 }
    let blocks = try chain(5)
    node.isUp = false
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    try come(blocks, sites)
    sites.run(.seconds(1))
    node.isUp = true
    #expect(sites.run(.seconds(20)) { sites.snapshot(1).nodes[0].mempoolListed })
    // Its parents are not here any more, so it gets none of the two that are.
    #expect(node.delivered.isEmpty)
    let first = blocks[0]
    var parsed = try ParsedBlock(parsing: first.span.bytes)
    parsed.hashAll(in: first.span.bytes)
    var compact = ByteWriter()
    CompactBlock.encode(
      parsed, in: first.span.bytes, nonce: 7, prefill: Array(parsed.transactions.indices), to: &compact)
    node.say(framed: Framing.frame(.cmpctblock, payload: compact.bytes.span.bytes, on: .regtest))
    sites.run(.seconds(2))
    #expect(sites.events[1].contains { if case .node(.announced) = $0 { true } else { false } })
    #expect(sites.snapshot(1).counters.blocksSubmitted == 0 && delivered(sites, 1).count == 5)
  }
}
