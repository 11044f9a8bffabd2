import Bitcoin
import Ground
import RealBlocks
import Relay
import Testing
import Wire

/// What neighbours say beyond what a relay has room for: it is bounded, and an honest neighbour still has its place.
@Suite struct BoundsTests {
  /// More liars than places, each with other sizes, all before the true announcement.
  @Test func liesAboutSizesDontKeepTheTrueAnnouncementOut() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1, 2, 3, 4, 5, 6], [0], [0], [0], [0], [0], [0]], block: block.bytes, height: block.height)
    net.start()
    net.fill(0, block.parsed, block.bytes, missing: 0.01)
    net.run(.seconds(3))
    for liar in 1...5 {
      net.hear(0, from: liar, block.sketchPacket(bodyBytes: block.bytes.count + liar, sketchID: UInt32(liar)))
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
    net.hear(1, from: 0, block.sketchPacket(sketchID: 9))
    var wrong = Array(block.bytes.prefix(RelayLimits.chunkBytes))
    wrong[at] ^= 4
    net.hear(1, from: 0, chunkPacket(of: block.hash.w0, index: 0, wrong))
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
    for index in 0..<300 { net.hear(1, from: 0, chunkPacket(of: 4_711, index: UInt32(index), chunk)) }
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
    let need = NeedMessage(block: block.hash.w0, kind: .body, flags: [], count: .max)
    func ask() { net.hear(0, from: 1, encoded { need.write(into: &$0) }) }
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
