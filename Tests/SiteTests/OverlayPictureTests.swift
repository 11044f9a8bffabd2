import Bitcoin
import Foundation
import Ground
import Measurement
import NodeBridge
import Relay
import Session
import Site
import Testing

/// Every site sees how a block went at all sites, also at those that are no neighbours, and how far each time can be
/// believed. Sites in memory with clocks that disagree and drift, lines whose two directions differ.
@Suite struct OverlayPictureTests {
  /// Sites with their journals.
  final class Overlay {
    let sites: TestSites
    var journals: [SiteJournal]
    var records: [Recorder.Output]
    private var read: [Int]

    init(_ count: Int, isLinked: @escaping (Int, Int) -> Bool) throws {
      let material = try Material(most: 60)
      let neighbours = (0..<count).map { site in (0..<count).filter { $0 != site && isLinked(site, $0) } }
      sites = TestSites(
        nodes: (0..<count).map { _ in [FakeNode(mempool: material.transactions)] }, neighbours: neighbours,
        // Apart by days and up to 80 ppm.
        clocks: (0..<count).map { (.seconds(Int64($0) * 86_400), [0, 40, -40, 25, -15][$0]) })
      // There 12 ms, back 9.
      sites.delay = { $0 < $1 ? .milliseconds(12 as Int64) : .milliseconds(9 as Int64) }
      let all = sites
      journals = (0..<count).map { site in
        var journal = SiteJournal(
          home: TestSites.name(site), identity: all.identities[site], makers: all.makers,
          unixNanosecondsAtZero: TestSites.unixAtZero, sources: [SiteJournal.Source(name: "node0", isWatched: false)],
          hasPool: false)
        journal.setNeighbours(
          neighbours[site].map {
            SiteJournal.Neighbour(link: LinkID(UInt16($0)), name: TestSites.name($0), leastDelay: .zero)
          })
        return journal
      }
      records = Array(repeating: Recorder.Output(), count: count)
      read = Array(repeating: 0, count: count)
    }

    /// What the daemon's measurement thread does. `tampers` may change a message on its way out of a site.
    func pump(_ tampers: (Int, SiteJournal.Message) -> SiteJournal.Message = { $1 }) {
      for site in journals.indices {
        for event in sites.events[site].dropFirst(read[site]) { journals[site].hear(event) }
        read[site] = sites.events[site].count
        let now = sites.local(site, sites.now)
        let due = journals[site].due(now: now)
        if case .reports(let reports) = sites.ask(site, .reports(due)) { journals[site].close(reports, now: now) }
        while let message = journals[site].takeMessage(now: now) { sites.ask(site, tampers(site, message).request) }
        let output = journals[site].takeRecords()
        records[site].journeys += output.journeys
        records[site].clocks += output.clocks
      }
    }

    func run(seconds: Int, _ tampers: (Int, SiteJournal.Message) -> SiteJournal.Message = { $1 }) {
      for _ in 0..<seconds * 4 {
        sites.run(.milliseconds(250 as Int64))
        pump(tampers)
      }
    }

    /// A block of site 0, and time for everyone to tell of it.
    func block(_ tampers: (Int, SiteJournal.Message) -> SiteJournal.Message = { $1 }) throws -> BlockID {
      #expect(sites.run(.seconds(5)) { sites.areLinked() })
      run(seconds: 10)
      let material = try Material(most: 60)
      let block = try material.mined(on: HeaderChain(network: .regtest).tip, material.transactions)
      let hash = try #require(blockHash(sites.ask(0, .submit(block))))
      run(seconds: 6, tampers)
      return BlockID(hash)
    }

    func journeys(at site: Int, of block: BlockID) -> [String: StoredJourney] {
      Dictionary(
        records[site].journeys.filter { $0.journey.block == block }.map { ($0.site, $0) }, uniquingKeysWith: { $1 })
    }

    /// When a site's journey really began, in unix time by another's clock.
    func truth(of maker: Int, seenFrom site: Int, _ block: BlockID) throws -> Int64 {
      let own = try #require(journeys(at: maker, of: block)[TestSites.name(maker)])
      return journals[site].recorder.unix(sites.local(site, sites.global(maker, own.journey.first)))
    }
  }

  @Test(arguments: [3, 5]) func aChainSeesTheWholeOverlay(count: Int) throws {
    let overlay = try Overlay(count) { abs($0 - $1) == 1 }
    let block = try overlay.block()
    let names = Set((0..<count).map(TestSites.name))
    for site in 0..<count {
      let seen = overlay.journeys(at: site, of: block)
      #expect(Set(seen.keys) == names, "\(TestSites.name(site)) sees \(seen.keys.sorted())")
      for maker in 0..<count where maker != site {
        let stored = try #require(seen[TestSites.name(maker)])
        let hops = abs(maker - site) - 1
        #expect(stored.hops == hops && stored.journey.isOrigin == (maker == 0))
        #expect(stored.via == (hops == 0 ? nil : TestSites.name(site < maker ? site + 1 : site - 1)))
        // Half of 21 ms a link, and a little for drift: bounds that hold, and add up.
        let error = stored.firstUnix - (try overlay.truth(of: maker, seenFrom: site, block))
        #expect(error.magnitude <= UInt64(stored.uncertainty.nanoseconds), "\(site) of \(maker): \(error) ns")
        let links = Double(hops + 1)
        #expect(stored.uncertainty.milliseconds >= 10 * links, "\(stored.uncertainty.milliseconds)")
        #expect(stored.uncertainty.milliseconds <= 11.5 * links, "\(stored.uncertainty.milliseconds)")
      }
      #expect(overlay.journals[site].recorder.refused == 0 && overlay.journals[site].recorder.malformed == 0)
    }
    // The first site's report, of the file as it would be.
    let folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-picture-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let store = try JourneyStore(path: folder.appending(path: "store.sqlite").path)
    try store.setHome("alice")
    overlay.journals[0].endInterval(now: overlay.sites.now, kernel: nil)
    overlay.pump()
    for record in overlay.records[0].journeys { try store.add(record) }
    for record in overlay.records[0].clocks { try store.add(record) }
    let report = try ReportBuilder(store: store, range: 0...Int64.max).build()
    #expect(report.block?.arrivals.count == count)
    let last = try #require(report.block?.arrivals.first { $0.site == TestSites.name(count - 1) })
    #expect(last.via == "bob" && last.hops == count - 2 && last.uncertainty > 10 * Double(count - 1))
    #expect(last.firstPacket + last.uncertainty >= 12 * Double(count - 1), "what light needed")
    let clock = try #require(report.clocks.first { $0.site == TestSites.name(count - 1) })
    #expect(clock.via == "bob" && clock.offset!.uncertainty > 10 * Double(count - 1))
    let text = report.text()
    #expect(text.contains("\(TestSites.name(count - 1)) (via bob)"), "\(text)")
    #expect(ReportPage.render(report).contains("via bob"))
    #expect(report.csv(ofBlock: true).contains(",bob,\(count - 2)\n"))
  }

  /// In a full mesh everybody hears everybody's own words; nothing is passed on.
  @Test func aMeshPassesNothingOn() throws {
    let overlay = try Overlay(4) { _, _ in true }
    let block = try overlay.block()
    for site in 0..<4 {
      let seen = overlay.journeys(at: site, of: block)
      #expect(seen.count == 4 && seen.values.allSatisfy { $0.hops == 0 && $0.via == nil })
    }
    // One block: each tells each of its neighbours twice.
    for site in 0..<4 {
      #expect(overlay.sites.snapshot(site).counters.journeysSent == 2 * 3, "\(site)")
    }
  }

  /// A ring of five: two ways to the far ones; each is heard, once, and by a way whose bounds hold.
  @Test func aRingHearsEveryoneOnce() throws {
    let overlay = try Overlay(5) { ($0 - $1 + 5) % 5 == 1 || ($1 - $0 + 5) % 5 == 1 }
    let block = try overlay.block()
    for site in 0..<5 {
      let mine = overlay.records[site].journeys.filter { $0.journey.block == block }
      #expect(Set(mine.map(\.site)).count == 5 && mine.count == 5, "\(mine.map(\.site))")
      for maker in 0..<5 where maker != site {
        let stored = try #require(mine.first { $0.site == TestSites.name(maker) })
        let error = stored.firstUnix - (try overlay.truth(of: maker, seenFrom: site, block))
        #expect(error.magnitude <= UInt64(stored.uncertainty.nanoseconds) && stored.hops <= 2)
      }
    }
  }

  /// Bob, in the middle, changes what he passes on: carol's station times, her name, his own words. Alice takes none of it
  /// for carol's, and the rest of the picture is whole.
  @Test func whoPassesOnCannotSpeakForAnother() throws {
    let overlay = try Overlay(3) { abs($0 - $1) == 1 }
    let block = try overlay.block { site, message in
      guard site == 1, message.passed != nil, var told = try? JourneyCodec.decode(message.bytes.span.bytes).first
      else { return message }
      var journey = told.journey
      journey[.verified] = .milliseconds(1 as Int64)
      var lie = ToldJourney(journey, maker: told.maker, signature: told.signature)
      lie.passage = told.passage
      told = lie
      return SiteJournal.Message(bytes: JourneyCodec.encode([told]).bytes, passed: message.passed)
    }
    #expect(Set(overlay.journeys(at: 0, of: block).keys) == ["alice", "bob"])
    #expect(Set(overlay.journeys(at: 2, of: block).keys) == ["bob", "carol"])
    #expect(overlay.journals[0].recorder.forged == 2, "told twice")
    #expect(overlay.journals[0].recorder.checked > 2)
  }

  /// Datagrams of the first telling get lost; the second telling comes.
  @Test func aLostJourneyIsToldAgain() throws {
    let overlay = try Overlay(3) { abs($0 - $1) == 1 }
    var seen: [[UInt8]] = []
    let block = try overlay.block { _, message in
      if seen.contains(message.bytes) { return message }
      seen.append(message.bytes)
      // Nothing a relay would send.
      return SiteJournal.Message(bytes: [])
    }
    for site in 0..<3 { #expect(overlay.journeys(at: site, of: block).count == 3, "\(site)") }
  }
}
