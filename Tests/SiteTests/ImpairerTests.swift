import Bitcoin
import Ground
import Measurement
import NodeBridge
import Relay
import Session
import Site
import Testing

/// Bad lines on purpose, and what is measured of them.
@Suite struct ImpairerTests {
  /// A line whose packets take up to 6 ms longer, drawn for each, overtake each other; one that is as slow for all don't.
  @Test(arguments: [Interval.zero, .milliseconds(6 as Int64)]) func jitterReorders(jitter: Interval) throws {
    let material = try Material(most: 200)
    let sites = TestSites(nodes: (0..<2).map { _ in [FakeNode(mempool: [])] }) { site, configuration in
      if site == 1 {
        configuration.impairments = [Impairment(delay: .milliseconds(3 as Int64), jitter: jitter)]
      }
    }
    var journal = SiteJournal(
      home: "bob", identity: sites.identities[1], makers: sites.makers, unixNanosecondsAtZero: TestSites.unixAtZero,
      sources: [SiteJournal.Source(name: "node0", isWatched: false)], hasPool: false)
    journal.setNeighbours([SiteJournal.Neighbour(link: LinkID(0), name: "alice", leastDelay: .zero)])
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    journal.endInterval(now: sites.now, kernel: nil)
    let block = try material.mined(on: HeaderChain(network: .regtest).tip, material.transactions)
    let hash = try #require(blockHash(sites.ask(0, .submit(block))))
    sites.run(.seconds(20))
    for event in sites.events[1] { journal.hear(event) }
    #expect(sites.snapshot(1).blocks.contains { $0.report.hash == hash })
    let status = try #require(sites.snapshot(1).peers.first?.status)
    let figures = try #require(journal.recorder.figures(of: LinkID(0)))
    if jitter == .zero {
      #expect(status.reorderedFrom == 0 && figures.from.reordered == 0 && figures.from.received > 20)
      #expect(figures.from.jitter == .zero)
    } else {
      // Of packets sent together about half come after one that was sent later.
      #expect(status.reorderedFrom > 20, "\(status.reorderedFrom)")
      // The pings tell of it, all but what was before the first and after the last one.
      #expect(20...status.reorderedFrom ~= figures.from.reordered, "\(figures.from.reordered)")
      #expect(figures.from.reorderedShare ?? 0 > 0.05)
      // Two draws from 0 to 6 ms differ by 2 in the mean.
      #expect(0.7...3.5 ~= figures.from.jitter.milliseconds, "\(figures.from.jitter.milliseconds)")
      #expect(figures.to.jitter == .zero && figures.to.reordered == 0, "the other direction keeps its order")
      // As of the last STATUS.
      let told = try #require(sites.snapshot(0).peers.first?.status.reorderedTo)
      #expect(20...status.reorderedFrom ~= UInt64(told), "\(told) of \(status.reorderedFrom)")
    }
  }
}
