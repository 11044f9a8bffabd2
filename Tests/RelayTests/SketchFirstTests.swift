import Bitcoin
import Ground
import Relay
import Testing

/// A block's sketch goes out before the block is put together and its Merkle root is known.
@Suite struct SketchFirstTests {
  private func coinbase(of block: TestBlock) -> [UInt8] {
    let layout = block.parsed.transactions[0]
    return Array(block.bytes[layout.offset..<layout.end])
  }

  private func submitSketch(_ net: TestNet, _ block: TestBlock, _ parsed: ParsedBlock? = nil) -> Bool {
    let coinbase = coinbase(of: block)
    return net.with(0) { core, sink, now in
      core.submitSketch(of: parsed ?? block.parsed, coinbase: coinbase.span.bytes, arrival: now, now: now, into: &sink)
    }
  }

  /// The block follows after 2 ms, or when the sketch is there.
  @Test(arguments: [2 as Int64, 20]) func theSketchGoesAheadAndOnce(gap: Int64) throws {
    let block = try TestBlock("702861")
    let net = TestNet(
      [[1, 2], [0], [0]], block: block.bytes, height: block.height, trust: { a, b in (a, b) != (0, 2) })
    var sketches = [0, 0, 0]
    net.filter = { _, from, to, bytes in
      if from == 0 && bytes.count == 1_176 { sketches[to] += 1 }
      return bytes
    }
    net.start()
    for node in 0..<3 { net.fill(node, block.parsed, block.bytes, missing: 0.01) }
    net.run(.seconds(4))
    #expect(submitSketch(net, block))
    #expect(!submitSketch(net, block), "it is in hand")
    net.run(.milliseconds(gap))
    // Verified-only neighbours wait for the checks; nobody is told that it is whole, or sent spare chunks.
    let source = (net.report(0, block).sketchBytes + 1_023) / 1_024
    #expect(sketches == [0, source, 0])
    #expect(net.events(0, .verified).isEmpty)
    #expect(net.events(1, .sketchComplete).count == (gap > 10 ? 1 : 0))
    try net.submit(block)
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    #expect(net.holds(1, block) && net.holds(2, block))
    #expect(net.events(0, .gatePassed).count == 1 && net.events(0, .verified).count == 1)
    if gap < 10 { #expect(net.events(1, .asked).isEmpty) }
    let submitted = net.with(0) { core, _, _ in core.counters.blocksSubmitted }
    #expect(submitted == 1)
  }

  /// Two short ids were taken for each other's transactions. Who matches them finds out, and whatever that does to the
  /// origin's good name, the block comes all the same.
  @Test func aWrongSketchIsTakenBack() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    for node in 0..<3 { net.fill(node, block.parsed, block.bytes, missing: 0) }
    net.run(.seconds(4))
    let layouts = block.parsed.transactions
    let (first, second) = try #require(
      (1..<layouts.count - 1).lazy.compactMap { a in
        (a + 1..<layouts.count).first { layouts[a].byteCount == layouts[$0].byteCount }.map { (a, $0) }
      }.first)
    var (txids, wtxids) = (block.parsed.txids, block.parsed.wtxids)
    txids.swapAt(first, second)
    wtxids.swapAt(first, second)
    let wrong = ParsedBlock(
      header: block.parsed.header, transactions: layouts, byteCount: block.bytes.count, txids: txids, wtxids: wtxids,
      unhashed: [])
    #expect(submitSketch(net, block, wrong))
    net.with(0) { core, _, now in core.withdrawSketch(of: block.hash, now: now) }
    #expect(net.events(0, .abandoned).map(\.a) == [4])
    // The bridge asks its node for the whole block.
    net.run(.milliseconds(5 as Int64))
    try net.submit(block)
    #expect(net.run(.seconds(20)) { net.allComplete(block) })
    for node in 1..<3 {
      #expect(net.holds(node, block))
      #expect(!net.events(node, .verified).isEmpty && net.events(node, .gateRefused).isEmpty)
    }
  }

  /// Two relays, and the sketch of a block of the first on its way to the second.
  private func sketched() throws -> (TestNet, TestBlock) {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    for node in 0..<2 { net.fill(node, block.parsed, block.bytes, missing: 0.01) }
    net.run(.seconds(4))
    #expect(submitSketch(net, block))
    return (net, block)
  }

  /// The site's node dies before the block is together: it may come from elsewhere.
  @Test func aSketchWithoutItsBlockIsForgotten() throws {
    let (net, block) = try sketched()
    net.run(.milliseconds(1_500 as Int64))
    #expect(net.events(0, .abandoned).map(\.a) == [4])
    try net.submit(block, at: 1)
    #expect(net.run(.seconds(20)) { net.allComplete(block) })
    #expect(net.holds(0, block))
  }

  /// Of another size than its sketch said, or raw bytes to be checked: the usual way.
  @Test func whatFollowsMustBeWhatWasSaid() throws {
    let (net, block) = try sketched()
    try net.with(0) { core, sink, now in
      _ = try core.submit(block.bytes, arrival: now, now: now, into: &sink)
    }
    #expect(net.run(.seconds(20)) { net.allComplete(block) })
    #expect(net.holds(1, block))
    #expect(!submitSketch(net, block), "it is done")
  }
}
