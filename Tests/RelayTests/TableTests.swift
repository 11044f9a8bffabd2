import Bitcoin
import Ground
import Relay
import Testing
import Wire

/// The tables of section 7 of PROTOCOL.md when they are full: what goes, and what stays.
@Suite struct TableTests {
  /// 4,096 packets in all: the oldest of anybody's goes.
  @Test func thePenIsBoundedInAll() throws {
    let block = try TestBlock("413567")
    let others = Array(1...17)
    let net = TestNet([others] + others.map { _ in [0] }, block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(1))
    let chunk = [UInt8](repeating: 1, count: RelayLimits.chunkBytes)
    // The first neighbour's are of the block that will come, the others' of one that won't.
    for neighbour in others {
      for index in 0..<256 {
        let id8 = neighbour <= 2 ? block.hash.w0 : 4_711
        net.hear(0, from: neighbour, chunkPacket(of: id8, index: UInt32(256 * neighbour + index), chunk))
      }
    }
    net.with(0) { core, sink, now in #expect(core.counters.penned == 17 * 256) }
    net.run(.milliseconds(100 as Int64))
    #expect(net.with(0) { core, _, _ in core.counters.penDropped } == 256)
    // The first neighbour's went, the second's are there.
    net.hear(0, from: 17, block.sketchPacket(sketchID: 5))
    #expect(net.report(0, block).packetsIn == 256 + 1)
    net.run(.seconds(3))
    #expect(net.with(0) { core, _, _ in core.counters.penDropped } == UInt64(16 * 256))
  }

  /// What had to be kept again does not stay longer for it.
  @Test func thePenForgetsInTime() throws {
    let chain = try Regtest(blocks: 4)
    let net = TestNet([[1], [0]], on: chain)
    net.start()
    net.run(.seconds(1))
    net.filter = { _, _, _, bytes in nil }
    // An orphan of unknown ancestors, and headers that come in one by one and never explain it.
    net.hear(0, from: 1, chain.blocks[3].sketchPacket(sketchID: 5))
    for step in 0..<2 {
      net.run(.milliseconds(900 as Int64))
      try net.with(0) { core, sink, now in
        _ = try core.submitHeaders([chain.blocks[step].parsed.header], vouched: true, now: now, into: &sink)
      }
      net.hear(0, from: 1, chunkPacket(of: 4_711, index: UInt32(step), [UInt8](repeating: 1, count: 1_152)))
      // Into the pen again, behind the chunk.
      try net.with(0) { core, sink, now in
        _ = try core.submitHeaders([chain.blocks[step].parsed.header], vouched: true, now: now, into: &sink)
      }
    }
    net.run(.milliseconds(350 as Int64))
    #expect(net.with(0) { core, _, _ in core.counters.penDropped } == 1)
  }

  /// Eight incomplete blocks: of those with least work the oldest makes room, and one with less work than all has none.
  @Test func blocksInHandAreBounded() throws {
    let chain = try Regtest(blocks: 1)
    let siblings = try (1...10 as ClosedRange<UInt64>).map { try chain.block(on: nil, transactions: 1..<3, extra: $0) }
    let net = TestNet([[1], [0]], on: chain)
    net.start()
    net.run(.seconds(1))
    func announce(_ block: TestBlock) { net.hear(0, from: 1, block.sketchPacket(sketchID: 5)) }
    func abandoned() -> [Hash256] { net.events(0, .abandoned).map(\.block) }
    for block in siblings[..<8] { announce(block) }
    #expect(net.events(0, .gatePassed).count == 8)
    #expect(abandoned().isEmpty)
    announce(siblings[8])
    #expect(abandoned() == [siblings[0].hash])
    // Children of one of them: more work, so the siblings go first, in order.
    let children = try (1...9 as ClosedRange<UInt64>).map {
      try chain.block(on: siblings[4], transactions: 3..<5, extra: $0)
    }
    for block in children[..<8] { announce(block) }
    #expect(abandoned() == siblings[..<9].map(\.hash))
    // Nothing here is worth less than another sibling.
    announce(siblings[9])
    #expect(net.with(0) { core, _, _ in core.report(of: siblings[9].hash) } == nil)
    #expect(abandoned().count == 9)
    #expect(throws: SubmitError.noRoom) { try net.submit(siblings[9]) }
    announce(children[8])
    #expect(abandoned().last == children[0].hash)
    #expect(net.with(0) { core, _, _ in core.heldBytes } < 64 << 20)
  }

  /// The newest sixteen complete blocks are kept for others, as far as their bytes are.
  @Test(arguments: [16, 6]) func completeBlocksAreKeptWithinBounds(_ most: Int) throws {
    let chain = try Regtest(blocks: 21, transactions: 40)
    let size = chain.blocks.suffix(6).reduce(0) { $0 + $1.bytes.count }
    let net = TestNet(
      [[1], [0]], on: chain,
      configure: { if most < 16 { $1.limits.blockBytesKept = size } })
    net.start()
    for block in chain.blocks { net.fill(1, block.parsed, block.bytes, missing: 0) }
    net.run(.seconds(2))
    for block in chain.blocks {
      try net.submit(block)
      #expect(net.run(.seconds(3)) { net.isComplete(1, block.hash) })
      net.run(.milliseconds(200 as Int64))
    }
    for node in 0..<2 {
      let kept = net.with(node) { core, _, _ in chain.blocks.map { core.hasBlock($0.hash) } }
      let first = 21 - most
      #expect(kept == (0..<21).map { $0 >= first }, "the newest are kept")
      #expect(net.with(node) { core, _, _ in core.counters.blocksEvicted } == UInt64(first))
    }
    // One long gone that the node tells of is not sent anew.
    let submitted = net.with(1) { core, _, _ in core.counters.blocksSubmitted }
    try net.with(1) { core, sink, now in
      _ = try core.submit(
        chain.blocks[0].bytes, parsed: chain.blocks[0].parsed, isChecked: true, arrival: now, now: now, into: &sink)
      #expect(!core.hasBlock(chain.blocks[0].hash) && core.hadBlock(chain.blocks[0].hash))
    }
    #expect(net.with(1) { core, _, _ in core.counters.blocksSubmitted } == submitted)
    // A late packet of one long gone starts nothing and is answered.
    let haves = net.with(1) { core, _, _ in core.counters.havesSent }
    let opened = net.with(1) { core, _, _ in core.counters.blocksOpened }
    net.hear(1, from: 0, chain.blocks[0].sketchPacket(sketchID: 5))
    #expect(net.with(1) { core, _, _ in core.counters.havesSent } == haves + 1)
    #expect(net.with(1) { core, _, _ in core.counters.blocksOpened } == opened)
    // Who asks for it is told that it isn't here.
    var answers = 0
    net.filter = { _, from, _, bytes in
      if from == 1 && bytes.count == NoBlockMessage.encodedBytes + 32 { answers += 1 }
      return bytes
    }
    let request = GetBlockMessage(hash: Bytes32(chain.blocks[0].hash), flags: [])
    net.hear(1, from: 0, encoded { request.write(into: &$0) })
    #expect(answers == 1)
  }

  /// A block that was begun before all that are kept, and comes last, is not the one to go.
  @Test func aBlockThatTookLongIsKept() throws {
    let chain = try Regtest(blocks: 18, transactions: 20)
    let late = try chain.block(on: nil, transactions: 1..<21, extra: 77)
    let net = TestNet([[1], [0]], on: chain)
    net.start()
    for block in chain.blocks + [late] { net.fill(1, block.parsed, block.bytes, missing: 0) }
    net.run(.seconds(2))
    net.hear(1, from: 0, late.sketchPacket(sketchID: 5))
    for block in chain.blocks[..<17] {
      try net.submit(block)
      #expect(net.run(.seconds(3)) { net.isComplete(1, block.hash) })
    }
    #expect(net.with(1) { core, _, _ in core.report(of: late.hash)?.isComplete } == false)
    try net.submit(late)
    #expect(net.run(.seconds(10)) { net.isComplete(1, late.hash) })
    // Nor when the next one comes.
    try net.submit(chain.blocks[17])
    #expect(net.run(.seconds(3)) { net.isComplete(1, chain.blocks[17].hash) })
    // The owner has it first; what is kept is counted in the next slice.
    net.run(.milliseconds(1 as Int64))
    #expect(net.holds(1, late))
    let kept = net.with(1) { core, _, _ in chain.blocks.map { core.hasBlock($0.hash) } }
    #expect(kept == (0..<18).map { $0 >= 3 })
  }
}
