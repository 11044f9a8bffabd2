import Ground
import Relay
import Testing
import Wire

/// Requests for more: one a round trip, for as much as is lacking.
@Suite struct NeedTests {
  /// A receiver that lacks far more than it says it should: what is promised unasked still comes, and is not asked for
  /// again while it does.
  @Test(arguments: [nil, 1_250] as [Int?]) func aShortfallIsAskedForOnce(_ rate: Int?) throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.fill(0, block.parsed, block.bytes, missing: 0)
    net.fill(1, block.parsed, block.bytes, missing: 0.4)
    net.run(.seconds(4))
    net.bytesPerMillisecond = rate
    let before = net.datagrams[0][1]
    var needs = 0
    net.filter = { _, from, _, bytes in
      if from == 1 && bytes.count == NeedMessage.encodedBytes + 32 { needs += 1 }
      return bytes
    }
    try net.submit(block)
    #expect(net.run(.seconds(10)) { net.isComplete(1, block.hash) })
    let report = net.report(1, block)
    #expect(report.missingTransactions > 500)
    #expect(report.requests == 1)
    // Perhaps one more to stop the sketch.
    #expect(needs <= 2)
    net.run(.milliseconds(100 as Int64))
    let sent = net.datagrams[0][1] - before
    let least = report.neededChunks + (report.sketchBytes + 1_023) / 1_024
    #expect(sent < least + least / 5 + 60, "\(sent) sent for \(least) needed")
  }

  /// On a narrow link the sketch takes longer than a promise is believed: the body's, made in its packets, is believed all
  /// the same.
  @Test func aNarrowLinkNeedsNoRequest() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    for node in 0..<2 { net.fill(node, block.parsed, block.bytes, missing: 0.01) }
    net.run(.seconds(4))
    net.bytesPerMillisecond = 1_250
    try net.submit(block)
    #expect(net.run(.seconds(10)) { net.isComplete(1, block.hash) })
    let report = net.report(1, block)
    #expect((report.sketchComplete - report.firstPacket).milliseconds > 10)
    #expect(report.requests == 0)
  }

  /// A block that takes its time on a narrow link is coming in: catch-up doesn't fetch it anew, which would send all twice.
  @Test func whatComesInSlowlyIsNotFetchedAnew() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.bytesPerMillisecond = 4_000
    try net.begin(block, cold: [1])
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    let report = net.report(1, block)
    #expect((report.verified - report.firstPacket).milliseconds > 300, "longer than catch-up waits")
    #expect(report.requests == 0)
    #expect(report.packetsIn < 1_300, "\(report.packetsIn)")
  }

  /// Two neighbours send on narrow links what they promised: neither is asked for it again.
  @Test func narrowLinksAreNotAskedTwice() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[2], [2], [0, 1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    net.bytesPerMillisecond = 500
    var sent = 0
    net.filter = { _, _, to, bytes in
      if to == 2 && bytes.count > 1_000 { sent += 1 }
      return bytes
    }
    for node in 0..<2 { try net.submit(block, at: node) }
    #expect(net.run(.seconds(20)) { net.isComplete(2, block.hash) })
    let report = net.report(2, block)
    #expect((report.verified - report.firstPacket).milliseconds > 1_000, "slower than promises are believed")
    #expect(report.requests == 0)
    #expect(sent < 2 * (block.bytes.count / 1_152) + 100, "\(sent)")
  }

  /// A promise that is not kept is not counted on: the request takes its place.
  @Test func aBrokenPromiseIsReplaced() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    for node in 0..<2 { net.fill(node, block.parsed, block.bytes, missing: node == 0 ? 0 : 0.1) }
    net.run(.seconds(4))
    // The body's packets are lost until it is asked for.
    net.filter = { net, from, _, bytes in
      from == 0 && bytes.count == 1_204 && net.events(1, .asked).isEmpty ? nil : bytes
    }
    let begin = net.now
    try net.submit(block)
    #expect(net.run(.seconds(10)) { net.isComplete(1, block.hash) })
    // One way, the patience with a promise, a round trip.
    #expect((net.now - begin).milliseconds < 60)
    #expect(net.report(1, block).requests <= 2)
  }

  /// A relay that lacks far more than it is sent asks as soon as it knows, but for a moment in which a neighbour that has
  /// sent nothing yet may begin.
  @Test(arguments: [false, true]) func theFirstRequestHearsEveryoneOut(hasSilentNeighbour: Bool) throws {
    let block = try TestBlock("413567")
    let links = hasSilentNeighbour ? [[1], [0, 2], [1]] : [[1], [0]]
    let net = TestNet(links, block: block.bytes, height: block.height)
    if hasSilentNeighbour {
      let far = Interval.milliseconds(40 as Int64)
      (net.delay[1][2], net.delay[2][1]) = (far, far)
    }
    net.start()
    net.fill(0, block.parsed, block.bytes, missing: 0)
    net.fill(1, block.parsed, block.bytes, missing: 0.5)
    net.run(.seconds(4))
    try net.submit(block)
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    let asked = try #require(net.events(1, .asked).first)
    let waited = asked.at - net.report(1, block).matched
    if hasSilentNeighbour {
      #expect(waited >= .microseconds(900) && waited < .milliseconds(2 as Int64), "\(waited)")
    } else {
      #expect(waited < .microseconds(500), "\(waited)")
    }
  }
}
