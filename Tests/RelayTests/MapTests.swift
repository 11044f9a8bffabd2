import Bitcoin
import Ground
import Relay
import Testing
import Wire

/// The overlay's map as relays draw it from what they tell each other: PROTOCOL.md, sections 2 (MAP) and 4.
@Suite struct MapTests {
  /// 0 – 1 – 3 – 5 and 0 – 2 – 4 – 5, the second way shorter. Relay 3 must know the link 2 – 4, neither end of which is its
  /// neighbour, to see that 5 gets what 0 makes by the other way.
  private func twoWays(_ block: TestBlock) -> TestNet {
    let net = TestNet([[1, 2], [0, 3], [0, 4], [1, 5], [2, 5], [3, 4]], block: block.bytes, height: block.height)
    for (a, b) in [(0, 2), (2, 4), (4, 5)] {
      net.delay[a][b] = .milliseconds(5 as Int64)
      net.delay[b][a] = .milliseconds(5 as Int64)
    }
    return net
  }

  private func role(_ net: TestNet, _ node: Int, maker: Int, to peer: Int) -> SenderRole {
    net.with(node) { core, _, _ in core.role(for: net.key(maker), to: LinkID(UInt16(peer))) }
  }

  @Test func linksBeyondTheNeighboursAreKnownAndStayKnown() throws {
    let block = try TestBlock("413567")
    let net = twoWays(block)
    net.start()
    for node in 0..<6 { net.fill(node, block.parsed, block.bytes, missing: 0.02) }
    net.run(.seconds(10))
    #expect(role(net, 3, maker: 0, to: 5) == .spare)
    #expect(role(net, 4, maker: 0, to: 5) == .primary)
    // Nothing changes for longer than rows are believed.
    net.run(.seconds(40))
    #expect(role(net, 3, maker: 0, to: 5) == .spare)
    let before = net.datagrams
    try net.submit(block)
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    for node in 1..<6 { #expect(net.report(node, block).requests == 0) }
    #expect(net.datagrams[4][5] - before[4][5] > 2 * (net.datagrams[3][5] - before[3][5]))
  }

  @Test func aRelayThatIsGoneIsForgotten() throws {
    let block = try TestBlock("482683")
    let net = twoWays(block)
    net.start()
    net.run(.seconds(10))
    #expect(role(net, 3, maker: 0, to: 5) == .spare)
    // 2 falls silent: 0 and 4 soon say that their links to it are down.
    net.filter = { _, from, to, bytes in from == 2 || to == 2 ? nil : bytes }
    net.run(.seconds(60))
    #expect(role(net, 3, maker: 0, to: 5) == .primary)
  }

  /// What a neighbour says of others counts only where it can't be known better.
  @Test func whoMayClaimWhat() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1, 2], [0, 2], [0, 1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(5))
    #expect(role(net, 1, maker: 0, to: 2) == .spare)
    func say(_ origin: UInt32, _ rows: [StatusRow]) {
      let bytes = encoded { MapMessage.write(origin: origin, sequence: .max / 2, rows: rows.span, into: &$0) }
      net.hear(1, from: 0, bytes)
      net.run(.milliseconds(20 as Int64))
    }
    let before = net.datagrams[1][2]
    let severed = [StatusRow(neighbour: net.key(0), delay: 1_000, flags: [.trusted])]
    // Of a relay that is heard itself, of the listener, of a stranger.
    say(net.key(2), severed)
    #expect(role(net, 1, maker: 0, to: 2) == .spare)
    say(net.key(1), [StatusRow(neighbour: net.key(2), delay: 1, flags: [])])
    #expect(role(net, 1, maker: 0, to: 2) == .spare)
    say(0xBAD, severed)
    #expect(net.datagrams[1][2] - before <= 2, "nothing of it is passed on")
    // Of itself it may say what it likes: more is sent than need be, no less.
    let head = StatusHead(
      flags: [], readiness: .inStep, height: 0, tip: .zero, work: .zero, mempoolTransactions: 0, mempoolBytes: 0,
      loss: 0, burst: 256, observed: 0)
    let rows = [StatusRow(neighbour: net.key(2), delay: 1_000, flags: [])]
    net.hear(1, from: 0, encoded { StatusMessage.write(head, rows: rows.span, into: &$0) })
    net.run(.milliseconds(20 as Int64))
    #expect(role(net, 1, maker: 0, to: 2) == .primary)
  }

  /// Clocks that are set back by three hours: what is told of relays further away still counts as newer.
  @Test func aClockSetBackIsNoOlderNews() throws {
    let block = try TestBlock("482683")
    let net = twoWays(block)
    net.start()
    net.run(.seconds(10))
    #expect(role(net, 3, maker: 0, to: 5) == .spare)
    let header = try BlockHeader(parsing: block.bytes.span.bytes)
    for node in 0..<6 {
      net.with(node) { core, _, _ in core.setWallClock((Int64(header.time) - 10_800) * 1_000_000_000) }
    }
    // 2 says no more but that its links have become slow, which 3 hears by way of 4 and 5.
    net.filter = { _, from, _, bytes in from == 2 ? nil : bytes }
    let head = StatusHead(
      flags: [], readiness: .inStep, height: 0, tip: .zero, work: .zero, mempoolTransactions: 0, mempoolBytes: 0,
      loss: 0, burst: 256, observed: 0)
    let rows = [0, 4].map { StatusRow(neighbour: net.key($0), delay: 9_000, flags: [.up, .trusted]) }
    for _ in 0..<3 {
      net.run(.seconds(1))
      net.hear(4, from: 2, encoded { StatusMessage.write(head, rows: rows.span, into: &$0) })
    }
    net.run(.milliseconds(500 as Int64))
    #expect(role(net, 3, maker: 0, to: 5) == .primary)
  }

  /// However often links are said to change, other relays hear of it once a second.
  @Test(arguments: [false, true]) func claimsArePassedOnOnceASecond(_ isMap: Bool) throws {
    let block = try TestBlock("482683")
    // 3 is a relay of the overlay that is linked with none of these.
    let net = TestNet([[1], [0, 2], [1], []], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(5))
    var heard = 0
    net.filter = { _, from, to, bytes in
      // A MAP of two rows.
      if from == 1 && to == 2 && bytes.count == MapMessage.headBytes + 18 + 32 { heard += 1 }
      return bytes
    }
    for step in 0..<3_000 as Range<UInt32> {
      let rows = [
        StatusRow(neighbour: net.key(1), delay: 1_000 + 500 * (step % 9), flags: [.up]),
        StatusRow(neighbour: net.key(2), delay: 1_000 + 700 * (step % 7), flags: []),
      ]
      if isMap {
        net.hear(
          1, from: 0,
          encoded { MapMessage.write(origin: net.key(3), sequence: step &+ 7, rows: rows.span, into: &$0) })
      } else {
        let head = StatusHead(
          flags: [], readiness: .inStep, height: 0, tip: .zero, work: .zero, mempoolTransactions: 0, mempoolBytes: 0,
          loss: 0, burst: 256, observed: 0)
        net.hear(1, from: 0, encoded { StatusMessage.write(head, rows: rows.span, into: &$0) })
      }
      if step % 10 == 0 { net.run(.milliseconds(10 as Int64)) }
    }
    #expect((2...5).contains(heard), "three seconds of noise: \(heard)")
  }

  /// Where everybody hears everybody there is nothing to pass on.
  @Test func aFullMeshNeedsNoMaps() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]], block: block.bytes, height: block.height)
    var maps = 0
    net.filter = { _, _, _, bytes in
      if bytes.count == MapMessage.headBytes + 27 + 32 { maps += 1 }
      return bytes
    }
    net.start()
    net.run(.seconds(5))
    maps = 0
    net.run(.seconds(30))
    #expect(maps == 0)
    #expect(role(net, 1, maker: 0, to: 2) == .spare)
  }
}
