import Foundation
import Ground
import Measurement
import Testing

@Suite struct ReportTests {
  private let t0: Int64 = 1_790_000_000_000_000_000
  private let a = SitePosition(latitude: 0, longitude: 0)
  private let b = SitePosition(latitude: 0, longitude: 30)
  private let hostile = "<script>alert('1')</script>&\"\u{202E}\u{1B}[31m"

  private func journey(
    _ number: UInt64, _ site: String, origin: Bool, at milliseconds: Double, verified: Double, uncertainty: Double
  ) -> StoredJourney {
    var journey = Journey(
      block: blockID(number), height: UInt32(number), isOrigin: origin, first: Instant(nanoseconds: 1))
    if !origin {
      journey[.gatePassed] = .milliseconds(0.25)
      journey[.sketchComplete] = .milliseconds(0.75)
      journey[.matched] = .milliseconds(1.0)
      journey[.lastNeeded] = .milliseconds(0.9)  // nothing was waited for
      journey[.decoded] = .milliseconds(1.25)
    }
    journey[.verified] = .milliseconds(verified)
    journey[.written] = .milliseconds(verified + 0.5)
    journey.bodyBytes = 1_000
    journey.knownBytes = origin ? 0 : 900
    return StoredJourney(
      journey: journey, site: site, firstUnix: t0 + Int64(number) * 600_000_000_000 + Int64(milliseconds * 1e6),
      uncertainty: .milliseconds(uncertainty))
  }

  /// A block handed to the node while it is checked: the stages still add up to the time at which the node had it.
  @Test func whatOverlapsIsCountedOnce() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let store = try JourneyStore(path: file.path)
    try store.setHome("home")
    try store.add(journey(1, "home", origin: true, at: 0, verified: 1, uncertainty: 0))
    var far = journey(1, "far", origin: false, at: 50, verified: 2, uncertainty: 1)
    far.journey[.written] = .milliseconds(1.5)
    far.journey[.tipUpdated] = .milliseconds(31.5)
    try store.add(far)
    let report = try ReportBuilder(store: store, range: t0...t0 + 3_600_000_000_000).build()
    func stage(_ name: String) -> Double? { report.stages.first { $0.name == name }?.times?.p50 }
    near(stage("verify"), 0.75, "verify")
    near(stage("write"), 0, "write")
    near(stage("tip"), 29.5, "tip")
  }

  private func builder(_ file: ScratchFile, far: String = "far", block: BlockID? = nil) throws -> ReportBuilder {
    let store = try JourneyStore(path: file.path)
    try store.setHome("home")
    try store.setSite("home", position: a)
    try store.setSite(far, position: b)
    for stored in [
      journey(1, "home", origin: true, at: 0, verified: 1, uncertainty: 0),
      journey(1, far, origin: false, at: 50, verified: 2, uncertainty: 1),
      journey(2, "home", origin: true, at: 0, verified: 1, uncertainty: 0),
      journey(2, far, origin: false, at: 60, verified: 2, uncertainty: 1),
      journey(3, far, origin: true, at: 0, verified: 1, uncertainty: 3),
      journey(3, "home", origin: false, at: 48, verified: 2, uncertainty: 0),
      // Three milliseconds for a twelfth of the equator: impossible even at the far end of the bounds.
      journey(4, "home", origin: true, at: 0, verified: 1, uncertainty: 0),
      journey(4, far, origin: false, at: 1, verified: 2, uncertainty: 1),
    ] { try store.add(stored) }
    func news(_ number: UInt64, _ milliseconds: Double, _ source: String) -> PublicNews {
      PublicNews(
        block: blockID(number), source: source,
        atUnix: t0 + Int64(number) * 600_000_000_000 + Int64(milliseconds * 1e6))
    }
    try store.add(news(1, 80, "peer \(hostile)"))
    try store.add(news(1, 95, "other"))
    try store.add(news(2, -25, "other"))
    try store.add(news(3, 40, "other"))
    for (minute, expected, received, low, high) in [(1, 100, 98, 18.0, 22.0), (2, 300, 299, 19.0, 25.0)] {
      var summary = LinkMeter.Summary()
      (summary.expected, summary.received) = (UInt64(expected), UInt64(received))
      (summary.delayLow, summary.delayHigh) = (.milliseconds(low), .milliseconds(high))
      try store.add(
        LinkSample(
          from: "home", to: far, atUnix: t0 + Int64(minute) * 60_000_000_000, span: .seconds(60), summary: summary))
    }
    return try ReportBuilder(store: store, range: t0...t0 + 86_400_000_000_000, block: block)
  }

  private func near(_ value: Double?, _ expected: Double, _ what: String) {
    // HdrHistogram keeps three figures.
    #expect(
      abs((value ?? .nan) - expected) <= max(abs(expected) * 0.002, 0.002), "\(what): \(value ?? .nan), not \(expected)"
    )
  }

  @Test func numbersByHand() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let report = try builder(file).build()
    // A twelfth of the equator (2 π 6,371,008.8 m) at 299,792,458 / 1.4682 m/s.
    let light = 2 * Double.pi * 6_371_008.8 / 12 * 1.4682 / 299_792_458 * 1e3
    #expect(report.blocks == 4 && report.arrivals == 4 && report.contradictions == 1)
    let far = report.sites.first { $0.name == "far" }!
    #expect(far.blocks == 4 && far.originated == 1 && far.overLight?.count == 2)
    near(far.overLight?.p50.value, 52 - light, "median")
    near(far.overLight?.p50.low, 51 - light, "median's lower bound")
    near(far.overLight?.p50.high, 53 - light, "median's upper bound")
    near(far.overLight?.max.value, 62 - light, "slowest")
    near(far.receiving?.p50, 2, "receiving")
    near(far.matchedPercent, 90, "matched")
    let home = report.sites.first { $0.name == "home" }!
    near(home.overLight?.p50.value, 50 - light, "home")
    near(home.overLight?.p50.uncertainty, 3, "the origin's clock counts")
    func stage(_ name: String) -> Double? { report.stages.first { $0.name == name }?.times?.p50 }
    near(stage("gate"), 0.25, "gate")
    near(stage("sketch"), 0.5, "sketch")
    near(stage("match"), 0.25, "match")
    near(stage("body"), 0, "body")
    near(stage("decode"), 0.35, "decode")
    near(stage("verify"), 0.75, "verify")
    near(stage("write"), 0.5, "write")
    #expect(stage("tip") == nil)
    // Block 1 was found here, so its public announcement, 79 ms later, says nothing about the overlay. Block 2 entered
    // the overlay here as well, but 25 ms after a public peer had told of it: plain P2P brought it.
    #expect(report.lead.blocks == 2 && report.lead.wins == 0 && report.lead.winPercent == 0)
    near(report.lead.p1, -25, "worst lead")
    near(report.lead.p99, -10, "best lead")
    #expect(report.lead.histogram.reduce(0, +) == 2)
    let link = try #require(report.links.first)
    near(link.lossPercent, 0.75, "loss")
    #expect(link.packets == 400 && link.series.count == 1)
    near(link.delay?.value, 22, "delay")
    near(link.delay?.uncertainty, 3, "delay's bound")
    #expect(report.recent.map(\.height) == [4, 3, 2, 1])
    #expect(report.recent[1].lead == -10 && report.recent[1].origin == "far")
    #expect(report.recent[2].lead == -25 && report.recent[2].origin == "home")
  }

  @Test func oneBlock() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let report = try builder(file, block: blockID(1)).build()
    let block = try #require(report.block)
    #expect(block.height == 1 && block.origin == "home" && block.arrivals.map(\.site) == ["home", "far"])
    #expect(block.arrivals[1].stations.first { $0.name == "written" }?.at == 52.5)
    #expect(block.lead == nil, "found here")
    let rows = report.csv(ofBlock: true).split(separator: "\n").map {
      $0.split(separator: ",", omittingEmptySubsequences: false)
    }
    #expect(rows.count == 3 && Set(rows.map(\.count)) == [rows[0].count])
    #expect(rows[2][2] == "far" && Double(rows[2][rows[0].firstIndex(of: "written_ms")!]) == 52.5)
    #expect(
      try ReportBuilder(store: JourneyStore(path: file.path), range: 0...1, block: blockID(99)).build().block == nil)
    let object = try JSONSerialization.jsonObject(with: Data(report.json().utf8)) as? [String: Any]
    #expect(object?["blocks"] as? Int == 4)
  }

  /// A block that plain P2P brings to another site's node before the overlay does enters at both. The second's own find is
  /// no arrival from the first, however fast; a third site's is measured from the one that light could come from first.
  @Test func aBlockFromTwoSitesContradictsNothing() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let store = try JourneyStore(path: file.path)
    try store.setHome("home")
    for (name, longitude) in [("home", 0.0), ("second", 30), ("third", 31)] {
      try store.setSite(name, position: SitePosition(latitude: 0, longitude: longitude))
    }
    // Light needs 16.3 ms from the first to the second and half a millisecond on to the third.
    for stored in [
      journey(1, "home", origin: true, at: 0, verified: 1, uncertainty: 0),
      journey(1, "second", origin: true, at: 5, verified: 1, uncertainty: 1),
      journey(1, "third", origin: false, at: 7, verified: 2, uncertainty: 1),
      // The second node had it while the overlay's was under way to the third: that came from the first.
      journey(2, "home", origin: true, at: 0, verified: 1, uncertainty: 0),
      journey(2, "second", origin: true, at: 30, verified: 1, uncertainty: 1),
      journey(2, "third", origin: false, at: 20, verified: 2, uncertainty: 1),
    ] { try store.add(stored) }
    let report = try ReportBuilder(store: store, range: t0...t0 + 86_400_000_000_000, block: blockID(1)).build()
    let millisecond = 2 * Double.pi * 6_371_008.8 / 360 * 1.4682 / 299_792_458 * 1e3
    #expect(report.contradictions == 0 && report.arrivals == 2)
    #expect(report.sites.first { $0.name == "second" }?.originated == 2)
    let third = try #require(report.sites.first { $0.name == "third" })
    near(third.overLight?.p50.value, 4 - millisecond, "from the second")
    near(third.overLight?.max.value, 22 - 31 * millisecond, "from the first")
    let block = try #require(report.block)
    #expect(block.origin == "home" && block.arrivals.map(\.isOrigin) == [true, true, false])
    #expect(block.arrivals[1].firstPacket == 5 && block.arrivals[1].overLight == nil)
    near(block.arrivals[2].lightBound, 5 + millisecond, "light from the second, on the first's scale")
    near(block.arrivals[2].overLight?.value, 4 - millisecond, "the block's own")
    near(block.arrivals[2].firstPacket, 7, "as it came")
  }

  @Test func hostileNamesStayText() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    var builder = try builder(file, far: hostile, block: blockID(1))
    builder.notes = [hostile]
    let report = try builder.build()
    let page = ReportPage.render(report)
    for bad in ["<script", "</script", "\u{202E}", "\u{1B}", "http:", "https:", "src=", "@import", "url(", "href"] {
      #expect(!page.contains(bad), "\(bad.debugDescription)")
    }
    #expect(page.contains("&lt;script&gt;alert(&#39;1&#39;)"))
    for output in [report.text(), report.csv(ofBlock: false), report.csv(ofBlock: true)] {
      #expect(!output.unicodeScalars.contains("\u{1B}") && !output.unicodeScalars.contains("\u{202E}"))
    }
    // Every tag that opens closes: a name can't have broken out of its attribute.
    for tag in ["section", "table", "tr", "td", "svg", "title", "text", "p", "div"] {
      let opened = page.components(separatedBy: "<\(tag)>").count + page.components(separatedBy: "<\(tag) ").count - 2
      #expect(opened == page.components(separatedBy: "</\(tag)>").count - 1, "\(tag)")
    }
  }

  @Test func spreadsheetsRunNothing() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let csv = try builder(file, far: "=cmd|' /C calc'!A0,\"x\"").build().csv(ofBlock: false)
    #expect(csv.contains("\n\"'=cmd|' /C calc'!A0,\"\"x\"\"\","))
  }

  @Test func anEmptyStoreStillReads() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let store = try JourneyStore(path: file.path)
    let report = try ReportBuilder(store: store, range: 0...1).build()
    #expect(report.blocks == 0 && report.block == nil)
    #expect(ReportPage.render(report).contains("</html>"))
    #expect(report.text().contains("no public peer watched"))
  }

  @Test func aSimulatedWeekIsTheSameForTheSameSeed() throws {
    var pages: [String] = []
    for _ in 0..<2 {
      let file = try ScratchFile()
      defer { file.remove() }
      let store = try JourneyStore(path: file.path)
      try SimulatedWeek.fill(store, seed: 3, end: t0)
      let report = try ReportBuilder(store: store, range: t0 - SimulatedWeek.week.nanoseconds...t0).build()
      #expect(report.contradictions == 0)
      #expect(report.sites.count == 8 && report.blocks > 900)
      for site in report.sites {
        let spread = try #require(site.overLight)
        for figure in [spread.p50, spread.p90, spread.p99, spread.max] {
          #expect(figure.low <= figure.value && figure.value <= figure.high)
          #expect(figure.low >= 0)
        }
      }
      let page = ReportPage.render(report)
      #expect(page.utf8.count < 500_000)
      pages.append(page)
    }
    #expect(pages[0] == pages[1])
  }
}
