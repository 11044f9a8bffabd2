import Bitcoin
import Ground
import MemorySink
import Relay
import Testing

@Suite struct PathTests {
  @Test(arguments: ["702861", "413567", "mainnet-0021868c2c"])
  func aBlockCrossesThreeRelaysWithoutARequest(_ name: String) throws {
    let block = try TestBlock(name)
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    try net.begin(block)
    let begin = net.now
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    #expect((net.now - begin).milliseconds < 30)
    for node in 1..<3 {
      #expect(net.holds(node, block))
      #expect(net.events(node, .verified).count == 1)
      #expect(net.events(node, .asked).isEmpty)
      #expect(net.report(node, block).missingTransactions > 0)
    }
    // The one in the middle forwarded before it had the whole.
    let middle = net.report(1, block)
    #expect(middle.firstForwarded < middle.sketchComplete)
  }

  @Test(arguments: [0.01, 0.05, 0.2])
  func lossIsMadeUpForAndNeverStopsABlock(_ loss: Double) throws {
    let block = try TestBlock("702861")
    let links = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    for seed in 1...3 as ClosedRange<UInt64> {
      let net = TestNet(links, block: block.bytes, height: block.height, seed: seed)
      for a in 0..<4 { for b in 0..<4 { net.loss[a][b] = loss } }
      try net.begin(block)
      #expect(net.run(.seconds(30)) { net.allComplete(block) }, "seed \(seed)")
      for node in 1..<4 { #expect(net.holds(node, block)) }
    }
  }

  @Test func noChunkTravelsALinkTwice() throws {
    let block = try TestBlock("702861")
    let links = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    let net = TestNet(links, block: block.bytes, height: block.height)
    try net.begin(block)
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    net.run(.seconds(1))
    // A repeated chunk would be dropped as one that the log has from the same link: count useless ones of the origin's.
    for node in 1..<4 {
      let report = net.report(node, block)
      #expect(report.packetsIn < 2 * report.bodyBytes / 1_152)
      #expect(report.requests == 0)
    }
  }

  @Test func aColdRelayCompletesWithoutARequest() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1, 2], [0, 2], [0, 1]], block: block.bytes, height: block.height)
    try net.begin(block, cold: [2])
    let begin = net.now
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    #expect((net.now - begin).milliseconds < 40)
    #expect(net.holds(2, block))
    #expect(net.events(2, .asked).isEmpty)
  }

  @Test func haveDrainsWhatIsLeft() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.fill(1, block.parsed, block.bytes, missing: 0)
    net.run(.seconds(4))
    // A narrow link: twenty packets of room at a time, refilled every millisecond.
    net.with(0) { _, sink, _ in sink.room = 24_000 }
    net.drainsRoom = true
    try net.submit(block)
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    net.run(.milliseconds(30 as Int64))
    let after = net.datagrams[0][1]
    for _ in 0..<50 {
      net.with(0) { _, sink, _ in sink.room = 24_000 }
      net.with(0) { core, sink, now in core.roomAvailable(on: LinkID(1), now: now, into: &sink) }
    }
    #expect(net.datagrams[0][1] == after)
    #expect(net.events(0, .peerHas).count == 1)
  }

  /// The node beside a relay reads the block first; what the relay does for the next one comes after.
  @Test func workForTheNextBlockWaitsForThisOne() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    try net.begin(block)
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    net.run(.milliseconds(60 as Int64))
    let count = UInt64(block.parsed.transactions.count)
    for node in 0..<2 {
      let learned = net.with(node) { core, _, _ in core.counters.transactionsLearned }
      #expect(learned == 0)
    }
    net.run(.milliseconds(100 as Int64))
    for node in 0..<2 {
      let learned = net.with(node) { core, _, _ in core.counters.transactionsLearned }
      #expect(learned == count)
    }
  }

  /// What covers long bursts in the sketch doesn't stand in front of the body.
  @Test func theSketchsSparesGoBetweenTheBody() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    var isSketch: [Bool] = []
    net.filter = { _, from, _, bytes in
      if from == 0 && (bytes.count == 1_176 || bytes.count == 1_204) { isSketch.append(bytes.count == 1_176) }
      return bytes
    }
    net.start()
    for node in 0..<2 { net.fill(node, block.parsed, block.bytes, missing: 0.01) }
    net.run(.seconds(4))
    try net.submit(block)
    net.run(.milliseconds(15 as Int64))
    let source = (net.report(0, block).sketchBytes + 1_023) / 1_024
    #expect(isSketch.prefix(source).allSatisfy { $0 })
    let firstWave = isSketch.dropFirst(source).prefix { !$0 }.count
    #expect(firstWave >= 8)
    let rest = Array(isSketch.dropFirst(source + firstWave))
    #expect(rest.prefix(8).allSatisfy { $0 })
    var between = 0
    var spares = 0
    for (place, sketch) in rest.enumerated().dropFirst(8) {
      between = sketch ? between : between + 1
      guard sketch, rest[place...].contains(false) else { continue }
      #expect(between >= 16)
      between = 0
      spares += 1
    }
    #expect(spares > 2)
  }

  /// Nor at who passes on a body that isn't whole there yet: one long burst would take all of the sketch with it.
  @Test func aForwardersSpareSketchIsSpreadToo() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    var isSketch: [Bool] = []
    var isWhole = false
    net.filter = { net, from, to, bytes in
      isWhole = isWhole || net.isComplete(1, block.hash)
      if from == 1 && to == 2 && !isWhole && (bytes.count == 1_176 || bytes.count == 1_204) {
        isSketch.append(bytes.count == 1_176)
      }
      return bytes
    }
    net.start()
    for node in 0..<3 { net.fill(node, block.parsed, block.bytes, missing: node == 1 ? 0.05 : 0.01) }
    net.run(.seconds(4))
    try net.submit(block)
    net.run(.milliseconds(40 as Int64))
    let source = (net.report(1, block).sketchBytes + 1_023) / 1_024
    #expect(isSketch.count { !$0 } > 32 && isSketch.count { $0 } > source, "\(source) \(isSketch)")
    var (run, longest) = (0, 0)
    for (place, isSketchChunk) in isSketch.enumerated() {
      if !isSketch[place...].contains(false) { break }
      run = isSketchChunk ? run + 1 : 0
      longest = max(longest, run)
    }
    #expect(longest <= source + 8, "\(source) \(isSketch)")
  }

  @Test func verifiedOnlyNeighboursGetItAfterTheChecks() throws {
    let block = try TestBlock("413567")
    let net = TestNet(
      [[1], [0, 2], [1]], block: block.bytes, height: block.height,
      trust: { a, b in !(a == 1 && b == 2) })
    try net.begin(block)
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    let middle = net.report(1, block)
    #expect(middle.firstForwarded >= middle.verified)
  }

  @Test func bodyChunksThatComeFirstAreUsed() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    var held: [[UInt8]] = []
    var holds = false
    net.filter = { _, from, _, bytes in
      if holds && from == 0 && bytes.count == 1_176 {
        held.append(bytes)
        return nil
      }
      return bytes
    }
    net.start()
    for node in 0..<2 { net.fill(node, block.parsed, block.bytes, missing: 0.01) }
    net.run(.seconds(4))
    holds = true
    try net.submit(block)
    net.run(.milliseconds(15 as Int64))
    #expect(!net.isComplete(1, block.hash))
    let penned = net.with(1) { core, _, _ in core.counters.penned }
    #expect(penned > 0)
    holds = false
    let requests = net.with(0) { core, _, _ in core.counters.needsReceived }
    for bytes in held { net.inject(bytes, from: 0, to: 1) }
    #expect(net.run(.seconds(1)) { net.isComplete(1, block.hash) })
    let after = net.with(0) { core, _, _ in core.counters.needsReceived }
    #expect(after == requests)
    #expect(net.holds(1, block))
  }

  @Test func aShortfallIsAskedForAtOnce() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    var dropped = 0
    net.filter = { net, from, _, bytes in
      // All CHUNK packets but the last few of the first flight are lost.
      if from == 0 && bytes.count == 1_204 && net.events(1, .asked).isEmpty {
        dropped += 1
        return nil
      }
      return bytes
    }
    try net.begin(block)
    let begin = net.now
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    #expect(dropped > 0)
    #expect(!net.events(1, .asked).isEmpty)
    // One way, the patience with a promise, a round trip.
    #expect((net.now - begin).milliseconds < 60)
  }

  @Test func aSiteSubmitsWhatIsOnItsWayAlready() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    try net.begin(block)
    net.run(.milliseconds(10 as Int64))
    try net.submit(block, at: 1)
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    #expect(net.events(1, .verified).count == 1)
    #expect(net.holds(1, block))
  }
}
