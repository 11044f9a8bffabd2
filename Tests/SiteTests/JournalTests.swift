import Bitcoin
import Ground
import Measurement
import NodeBridge
import Relay
import Session
import Site
import Testing

@Suite struct JournalTests {
  static func at(_ milliseconds: Int64) -> Instant {
    Instant(nanoseconds: 10_000_000_000) + .milliseconds(milliseconds)
  }
  static let alice = Identity(generatedFrom: .predictable(seed: 1))
  static let block = Hash256("00000000000000000000000000000000000000000000000000000000000000ab")!

  static func delivery(origin: Bool = false, _ hash: Hash256 = block) -> BlockDelivery {
    var report = BlockReport()
    report.hash = hash
    report.height = 7
    report.isSubmitted = origin
    report.isComplete = true
    report.firstPacket = at(0)
    report.gatePassed = at(1)
    report.sketchComplete = at(2)
    report.matched = at(3)
    report.lastNeeded = at(4)
    report.decoded = at(5)
    report.verified = at(6)
    report.bodyBytes = 1_000
    report.knownBytes = 990
    report.transactionCount = 10
    return BlockDelivery(report: report, from: origin ? nil : "bob", delivered: at(7))
  }

  static func journal(nodes: Bool = true, pool: Bool = false, leastDelay: Interval = .zero) -> SiteJournal {
    var journal = SiteJournal(
      home: "alice", identity: alice, makers: [SiteJournal.Maker(key: alice.publicKey, name: "alice")],
      unixNanosecondsAtZero: TestSites.unixAtZero,
      sources: (nodes ? [SiteJournal.Source(name: "core", isWatched: false)] : [])
        + [SiteJournal.Source(name: "far", isWatched: true)], hasPool: pool)
    journal.setNeighbours([SiteJournal.Neighbour(link: LinkID(1), name: "bob", leastDelay: leastDelay)])
    return journal
  }

  @Test func aJourneyEndsWhenItsLastStationIsReached() throws {
    var journal = JournalTests.journal(pool: true)
    journal.hear(
      .node(.written(node: 0, hash: Self.block, method: .compactBlock, bytes: 9, prefilled: 1, at: Self.at(8))))
    journal.hear(.delivered(Self.delivery()))
    #expect(journal.due(now: Self.at(2_000)).isEmpty, "neither the node's tip nor the pool's job")
    journal.hear(.node(.tipUpdated(node: 0, hash: Self.block, method: .compactBlock, took: .zero, at: Self.at(50))))
    #expect(journal.due(now: Self.at(2_000)).isEmpty)
    journal.job(on: BlockID(Self.block), at: Self.at(80))
    #expect(journal.due(now: Self.at(300)).isEmpty, "after the block, never with it")
    #expect(journal.due(now: Self.at(600)) == [Self.block])
    // The report as it stands then, with packets that came late.
    var late = Self.delivery().report
    late.packetsUseless = 5
    journal.close([late], now: Self.at(600))
    let records = journal.takeRecords()
    let stored = try #require(records.journeys.first)
    #expect(stored.site == "alice" && stored.uncertainty == .zero && !stored.journey.isOrigin)
    let expected: [Journey.Stage: Int64] = [
      .gatePassed: 1, .sketchComplete: 2, .matched: 3, .lastNeeded: 4, .decoded: 5, .verified: 6, .written: 8,
      .tipUpdated: 50, .minerJob: 80,
    ]
    for stage in Journey.Stage.allCases {
      #expect(stored.journey[stage] == expected[stage].map { .milliseconds($0) }, "\(stage)")
    }
    #expect(stored.journey.packetsUseless == 5 && stored.journey.block.description == "\(Self.block)")
    let (first, second) = (journal.takeMessage(now: Self.at(600)), journal.takeMessage(now: Self.at(700)))
    let message = try #require(first)
    #expect(message.passed == nil && second == nil)
    let decoded = try JourneyCodec.decode(message.bytes.span.bytes)
    #expect(decoded.map(\.journey) == [stored.journey] && decoded[0].passage == nil)
    #expect(decoded[0].maker == key4(of: Self.alice.publicKey))
    // Nobody asks for what was lost: it is told once more.
    #expect(journal.nextDeadline == Self.at(1_600))
    #expect(journal.takeMessage(now: Self.at(1_600)) == message)
    #expect(journal.takeMessage(now: Self.at(9_999)) == nil && journal.nextDeadline == .never)
  }

  @Test func aStationThatNeverComesHoldsNothingUp() {
    var journal = JournalTests.journal(pool: true)
    journal.hear(.delivered(Self.delivery()))
    #expect(journal.due(now: Self.at(9_000)).isEmpty)
    #expect(journal.due(now: Self.at(10_100)) == [Self.block])
    journal.close([], now: Self.at(10_100))
    let stored = journal.takeRecords().journeys
    #expect(stored.count == 1 && stored[0].journey[.tipUpdated] == nil && stored[0].journey[.minerJob] == nil)
    // A block of which only a node told is forgotten.
    journal.hear(.node(.announced(node: 0, hash: .zero, form: .headers, at: Self.at(11_000))))
    #expect(journal.due(now: Self.at(72_000)) == [.zero])
    journal.close([], now: Self.at(72_000))
    let rest = journal.takeRecords()
    #expect(rest.isEmpty)
  }

  /// A form that the node didn't take is no hand-over: the later one counts. Of several nodes, the first to be handed it.
  @Test func theFormThatWasTakenCounts() throws {
    func written(_ node: Int, _ method: DeliveryMethod, at: Int64) -> SiteEvent {
      .node(.written(node: node, hash: Self.block, method: method, bytes: 9, prefilled: 0, at: Self.at(at)))
    }
    func journey(_ events: [SiteEvent]) throws -> Journey {
      var journal = JournalTests.journal()
      for event in events + [.delivered(Self.delivery())] { journal.hear(event) }
      journal.close([], now: Self.at(20_000))
      let stored = journal.takeRecords().journeys
      return try #require(stored.first).journey
    }
    let refused = try journey([written(0, .compactBlock, at: 8), written(0, .block, at: 30)])
    #expect(refused[.written] == .milliseconds(30 as Int64))
    let two = try journey([
      written(0, .compactBlock, at: 8), written(1, .compactBlock, at: 9), written(0, .block, at: 30),
    ])
    #expect(two[.written] == .milliseconds(9 as Int64))
    let wrong = try journey([
      written(0, .compactBlock, at: 8), .node(.mistaken(node: 0, hash: Self.block)), written(1, .block, at: 12),
      written(0, .block, at: 13),
    ])
    #expect(wrong[.written] == .milliseconds(12 as Int64))
  }

  @Test func theLeadCountsAgainstWhoeverWasFirst() throws {
    var journal = JournalTests.journal()
    journal.hear(.node(.written(node: 0, hash: Self.block, method: .block, bytes: 9, prefilled: 0, at: Self.at(8))))
    journal.hear(.delivered(Self.delivery()))
    journal.hear(.node(.tipUpdated(node: 0, hash: Self.block, method: .block, took: .zero, at: Self.at(20))))
    journal.hear(.node(.announced(node: 0, hash: Self.block, form: .headers, at: Self.at(21))))
    journal.hear(.node(.announced(node: 1, hash: Self.block, form: .inventory, at: Self.at(106))))
    journal.close([], now: Self.at(1_000))
    // Its own node's echo is no public announcement.
    let news = journal.takeRecords().news
    #expect(news.map(\.source) == ["far"])
    #expect(journal.recorder.leads.standing.wins == 1)
    #expect(journal.recorder.leads.standing.distribution.percentile(50).map { abs($0 - 100) < 0.2 } == true)
    // The node had it from elsewhere, before the overlay: a loss.
    let other = Hash256("00000000000000000000000000000000000000000000000000000000000000cd")!
    journal.hear(.node(.announced(node: 0, hash: other, form: .compactBlock, at: Self.at(2))))
    journal.hear(.delivered(Self.delivery(other)))
    journal.close([], now: Self.at(20_000))
    #expect(journal.recorder.leads.standing.blocks == 2 && journal.recorder.leads.standing.wins == 1)
    // A block found here leads by being found here: not counted.
    let own = Hash256("00000000000000000000000000000000000000000000000000000000000000ef")!
    journal.hear(.delivered(Self.delivery(origin: true, own)))
    journal.hear(.node(.announced(node: 1, hash: own, form: .inventory, at: Self.at(500))))
    journal.close([], now: Self.at(40_000))
    #expect(journal.recorder.leads.standing.blocks == 2)
    // Somebody else's, that its node had from plain P2P while the overlay was at it: submitted here, but a loss.
    let theirs = Hash256("0000000000000000000000000000000000000000000000000000000000000012")!
    journal.hear(.node(.announced(node: 1, hash: theirs, form: .inventory, at: Self.at(-30))))
    journal.hear(.delivered(Self.delivery(origin: true, theirs)))
    journal.close([], now: Self.at(60_000))
    #expect(journal.recorder.leads.standing.blocks == 3 && journal.recorder.leads.standing.wins == 1)
    #expect(journal.recorder.leads.standing.distribution.percentile(0).map { abs($0 + 30) < 0.1 } == true)
  }

  @Test func positionsThatCannotBeProveNothing() {
    var journal = JournalTests.journal(leastDelay: .milliseconds(20 as Int64))
    let sample = ClockSample(
      sent: Self.at(0), peerReceived: Self.at(1), peerSent: Self.at(1), received: Self.at(2), peerOpened: 1,
      peerHighestCounter: 1, generation: 1)
    journal.hear(.clock(ClockNotice(link: LinkID(1), sample: sample, generation: 1, opened: 1, highestCounter: 1)))
    let (first, second) = (journal.takeImpossible(), journal.takeImpossible())
    #expect(first == ["bob"] && second.isEmpty)
    let clock = journal.recorder.clock(of: LinkID(1), at: Self.at(2))
    #expect(clock?.uncertainty == .milliseconds(1 as Int64))
  }

  @Test func lossIsCountedBetweenPings() throws {
    var journal = JournalTests.journal()
    func ping(_ index: Int64, peerOpened: UInt64, peerHighest: UInt64, opened: UInt64, highest: UInt64) {
      let start = Self.at(index * 500)
      journal.hear(
        .clock(
          ClockNotice(
            link: LinkID(1),
            sample: ClockSample(
              sent: start, peerReceived: start + .milliseconds(1 as Int64), peerSent: start + .milliseconds(1 as Int64),
              received: start + .milliseconds(2 as Int64), peerOpened: peerOpened, peerHighestCounter: peerHighest,
              generation: 3), generation: 3, opened: opened, highestCounter: highest)))
    }
    journal.endInterval(now: Self.at(0), kernel: nil)
    ping(1, peerOpened: 100, peerHighest: 100, opened: 50, highest: 50)
    ping(2, peerOpened: 190, peerHighest: 200, opened: 150, highest: 150)
    journal.endInterval(now: Self.at(60_000), kernel: nil)
    let links = journal.takeRecords().links
    let outward = try #require(links.first { $0.from == "alice" })
    let inward = try #require(links.first { $0.from == "bob" })
    #expect(outward.summary.expected == 100 && outward.summary.received == 90)
    #expect(inward.summary.expected == 100 && inward.summary.received == 100)
  }

  /// A node that leaves the compact block lying, whether before or after the relay's own check of it, is sent the whole, and
  /// that is when it was handed over.
  @Test func aRefusedFormIsNoHandOver() throws {
    let material = try Material(most: 100)
    let (nodeA, nodeB) = (FakeNode(mempool: material.transactions), FakeNode(mempool: material.transactions))
    nodeB.takesCompact = true
    nodeB.dropsCompact = true
    let sites = TestSites(nodes: [[nodeA], [nodeB]])
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    sites.run(.seconds(3))
    let block = try material.mined(on: HeaderChain(network: .regtest).tip, material.transactions)
    let hash = try #require(blockHash(sites.ask(0, .submit(block))))
    #expect(sites.run(.seconds(10)) { nodeB.delivered.contains(hash) })
    sites.run(.seconds(1))
    var journal = JournalTests.journal()
    for event in sites.events[1] { journal.hear(event) }
    journal.close([], now: sites.now + .seconds(20))
    let written = sites.events[1].compactMap { event -> (DeliveryMethod, Instant)? in
      if case .node(.written(_, hash, let method, _, _, let at)) = event { (method, at) } else { nil }
    }
    #expect(written.map(\.0) == [.compactBlock, .block] && nodeB.delivered.count { $0 == hash } == 1)
    let delivery = try #require(
      sites.events[1].compactMap { if case .delivered(let block) = $0 { block } else { nil } }.last)
    let stored = try #require(journal.takeRecords().journeys.last)
    #expect(stored.journey[.written] == written[1].1 - delivery.report.firstPacket)
    #expect(written[0].1 < written[1].1)
  }

  /// Two sites in memory: what each says of its block reaches the other's records, under the session's name.
  @Test(arguments: [false, true]) func journeysTravelAfterTheBlock(checkedOnly: Bool) throws {
    let material = try Material(most: 100)
    let (nodeA, nodeB) = (FakeNode(mempool: material.transactions), FakeNode(mempool: material.transactions))
    nodeB.takesCompact = true
    let sites = TestSites(nodes: [[nodeA], [nodeB]]) { _, configuration in
      configuration.bridge.nodes[0].takesUnchecked = !checkedOnly
    }
    var journals = (0..<2).map { site in
      var journal = SiteJournal(
        home: TestSites.name(site), identity: sites.identities[site], makers: sites.makers,
        unixNanosecondsAtZero: TestSites.unixAtZero,
        sources: [SiteJournal.Source(name: "node0", isWatched: false)], hasPool: false)
      journal.setNeighbours([
        SiteJournal.Neighbour(link: LinkID(UInt16(1 - site)), name: TestSites.name(1 - site), leastDelay: .zero)
      ])
      return journal
    }
    var read = [0, 0]
    func pump() {
      for site in 0..<2 {
        for event in sites.events[site].dropFirst(read[site]) { journals[site].hear(event) }
        read[site] = sites.events[site].count
        let due = journals[site].due(now: sites.now)
        if case .reports(let reports) = sites.ask(site, .reports(due)) {
          journals[site].close(reports, now: sites.now)
        }
        while let message = journals[site].takeMessage(now: sites.now) { sites.ask(site, message.request) }
      }
    }
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    sites.run(.seconds(3))
    let block = try material.mined(on: HeaderChain(network: .regtest).tip, material.transactions)
    let hash = try #require(blockHash(sites.ask(0, .submit(block))))
    var records = [Recorder.Output(), Recorder.Output()]
    for _ in 0..<40 {
      sites.run(.milliseconds(500 as Int64))
      pump()
      for site in 0..<2 {
        let output = journals[site].takeRecords()
        records[site].journeys += output.journeys
      }
    }
    #expect(nodeB.delivered.contains(hash))
    // It went to the node before its Merkle root was worked out here, where it may.
    let order = sites.events[1].compactMap { event -> String? in
      switch event {
      case .node(.written(_, hash, let method, _, _, _)): "\(method)"
      case .relay(let event) where event.kind == .verified && event.block == hash: "verified"
      default: nil
      }
    }
    #expect(order == (checkedOnly ? ["verified", "compactBlock"] : ["compactBlock", "verified"]))
    for site in 0..<2 {
      let told = records[site].journeys.filter { $0.journey.block == BlockID(hash) }
      #expect(Set(told.map(\.site)) == ["alice", "bob"], "\(TestSites.name(site))")
      let other = try #require(told.first { $0.site == TestSites.name(1 - site) })
      #expect(other.uncertainty > .zero && other.uncertainty < .milliseconds(3 as Int64))
      let origin = try #require(told.first { $0.journey.isOrigin })
      let receiver = try #require(told.first { !$0.journey.isOrigin })
      #expect(origin.site == "alice")
      #expect(receiver.journey[.verified] != nil && receiver.journey[.written] != nil)
      #expect(receiver.journey[.tipUpdated] != nil, "the node's answer came back")
      // 2 ms of way between them, within what the clocks leave open.
      let flight = receiver.firstUnix - origin.firstUnix
      let slack = (receiver.uncertainty + origin.uncertainty).nanoseconds
      #expect(flight + slack >= 2_000_000 && flight - slack <= 8_000_000, "\(flight)")
    }
  }
}
