import Bitcoin
import Ground
import RealBlocks
import Relay
import Testing
import Wire

/// What neighbours say beyond what a relay has room for: it is bounded, and an honest neighbour still has its place.
@Suite struct BoundsTests {
  private func sketch(_ block: TestBlock, bodyBytes: Int, sketchID: UInt32, index: UInt32 = 0) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: SketchMessage.encodedBytes)
    let chunk = [UInt8](repeating: 7, count: RelayLimits.sketchChunkBytes)
    bytes.withUnsafeMutableBytes { buffer in
      var out = MutableRawSpan(_unsafeBytes: buffer)
      _ = SketchMessage(
        SketchHead(
          flags: [], header: HeaderBytes(block.bytes.span.bytes), bodyBytes: UInt32(bodyBytes), sketchBytes: 5_000,
          sketchID: sketchID, transactionCount: UInt32(block.parsed.transactions.count), bodyChunkBytes: 1_152,
          epoch: 1, maker: sketchID, more: 0, moreBody: 0, age: 0, index: index),
        chunk: chunk.span.bytes
      ).write(into: &out)
    }
    return bytes
  }

  private func hear(_ net: TestNet, _ node: Int, from link: Int, _ bytes: [UInt8]) {
    net.with(node) { core, sink, now in
      core.receivePlaintext(bytes.span.bytes, from: LinkID(UInt16(link)), now: now, into: &sink)
      core.batchEnded(now: now, into: &sink)
    }
  }

  /// More liars than places, each with other sizes, all before the true announcement.
  @Test func liesAboutSizesDontKeepTheTrueAnnouncementOut() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1, 2, 3, 4, 5, 6], [0], [0], [0], [0], [0], [0]], block: block.bytes, height: block.height)
    net.start()
    net.fill(0, block.parsed, block.bytes, missing: 0.01)
    net.run(.seconds(3))
    for liar in 1...5 {
      hear(net, 0, from: liar, sketch(block, bodyBytes: block.bytes.count + liar, sketchID: UInt32(liar)))
    }
    try net.submit(block, at: 6)
    #expect(net.run(.seconds(15)) { net.isComplete(0, block.hash) })
    #expect(net.holds(0, block))
  }

  /// A wrong first chunk that came before the sketch: header and count lie in it, and no transaction's hash covers them.
  @Test(arguments: [40, 81])
  func aWrongHeaderInTheBodyIsFound(_ at: Int) throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.fill(1, block.parsed, block.bytes, missing: 0)
    net.run(.seconds(3))
    hear(net, 1, from: 0, sketch(block, bodyBytes: block.bytes.count, sketchID: 9))
    var wrong = Array(block.bytes.prefix(RelayLimits.chunkBytes))
    wrong[at] ^= 4
    var bytes = [UInt8](repeating: 0, count: ChunkMessage.headBytes + wrong.count)
    bytes.withUnsafeMutableBytes { buffer in
      var out = MutableRawSpan(_unsafeBytes: buffer)
      _ = ChunkMessage(
        kind: .body, flags: [], block: block.hash.w0, maker: 9, more: 0, index: 0, chunk: wrong.span.bytes
      ).write(into: &out)
    }
    hear(net, 1, from: 0, bytes)
    try net.submit(block, at: 2)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    #expect(net.holds(1, block))
    net.run(.seconds(1))
    #expect(net.events(1, .demoted).map(\.link.index) == [0])
  }

  @Test func packetsOfUnknownBlocksAreHeldWithinBounds() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(2))
    let chunk = [UInt8](repeating: 1, count: RelayLimits.chunkBytes)
    for index in 0..<300 {
      var bytes = [UInt8](repeating: 0, count: ChunkMessage.headBytes + chunk.count)
      bytes.withUnsafeMutableBytes { buffer in
        var out = MutableRawSpan(_unsafeBytes: buffer)
        _ = ChunkMessage(
          kind: .body, flags: [], block: 4_711, maker: 9, more: 0, index: UInt32(index), chunk: chunk.span.bytes
        ).write(into: &out)
      }
      hear(net, 1, from: 0, bytes)
    }
    net.run(.milliseconds(300 as Int64))
    // 256 a neighbour: the oldest went.
    let first = net.with(1) { core, _, _ in core.counters }
    #expect(first.penned == 300)
    #expect(first.penDropped == 44)
    // And after two seconds the others.
    net.run(.seconds(3))
    #expect(net.with(1) { core, _, _ in core.counters.penDropped } == 300)
  }

  @Test func anAbsurdRequestIsServedWithinBounds() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.fill(1, block.parsed, block.bytes, missing: 0)
    net.run(.seconds(3))
    try net.submit(block)
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    let chunks = (block.bytes.count + RelayLimits.chunkBytes - 1) / RelayLimits.chunkBytes
    func ask() {
      var bytes = [UInt8](repeating: 0, count: NeedMessage.encodedBytes)
      bytes.withUnsafeMutableBytes { buffer in
        var out = MutableRawSpan(_unsafeBytes: buffer)
        _ = NeedMessage(block: block.hash.w0, kind: .body, flags: [], count: .max, newestCounter: 0).write(into: &out)
      }
      hear(net, 0, from: 1, bytes)
    }
    // What goes out is lost, so that no HAVE ends it.
    net.filter = { _, _, _, _ in nil }
    let before = net.datagrams[0][1]
    ask()
    net.run(.milliseconds(900 as Int64))
    let once = net.datagrams[0][1] - before
    #expect(once >= chunks)
    #expect(once <= 2 * chunks + 64 + 40, "and STATUS and pings")
    for _ in 0..<40 {
      ask()
      net.run(.milliseconds(100 as Int64))
    }
    #expect(net.datagrams[0][1] - before <= 16 * chunks + 1_024 + 200)
  }
}
