import Ground

/// Turns a store into a `Report`.
public struct ReportBuilder {
  private let store: JourneyStore
  private let range: ClosedRange<Int64>
  private let wanted: BlockID?
  private let recentCount: Int
  private let home: String
  private let pathFactor: Double
  private var positions: [String: SitePosition] = [:]
  /// Notes that the caller adds, such as that the data is simulated.
  public var notes: [String] = []

  /// No two clocks' rates differ by more (`ClockFilter.driftLimitPPM`).
  static let rateLimit = 200e-6

  /// Stages between two stations, in order. The first compares two clocks; the others are one site's own.
  static let stages: [(name: String, title: String, from: Journey.Stage?, to: Journey.Stage?)] = [
    ("flight", "flight beyond light", nil, nil),
    ("gate", "header checked", nil, .gatePassed),
    ("sketch", "sketch arriving", .gatePassed, .sketchComplete),
    ("match", "mempool matched", .sketchComplete, .matched),
    ("body", "missing parts arriving", .matched, .lastNeeded),
    ("decode", "decoded", .lastNeeded, .decoded),
    ("verify", "checked", .decoded, .verified),
    ("write", "written to the node", .verified, .written),
    ("tip", "node's own work", .written, .tipUpdated),
    ("job", "first miner job", .tipUpdated, .minerJob),
  ]

  /// - Parameters:
  ///   - pathFactor: how much longer than the great circle the bound's paths are taken to be; at 1 nothing can beat it.
  ///   - block: also report this one.
  public init(
    store: JourneyStore, range: ClosedRange<Int64>, block: BlockID? = nil, pathFactor: Double = 1,
    recentCount: Int = 12
  ) throws(StoreError) {
    (self.store, self.range, wanted, self.recentCount) = (store, range, block, recentCount)
    self.pathFactor = pathFactor
    home = try store.home()
    for site in try store.sites() { positions[site.name] = site.position }
  }

  /// One-way light bound in milliseconds; nil without both positions.
  private func light(_ a: String, _ b: String) -> Double? {
    guard let from = positions[a], let to = positions[b] else { return nil }
    return LightBound.oneWay(from, to, pathFactor: pathFactor).milliseconds
  }

  /// Nothing beats light along the great circle itself, whatever path factor the report uses.
  private func physics(_ a: String, _ b: String) -> Double {
    guard a != b, let from = positions[a], let to = positions[b] else { return 0 }
    return LightBound.oneWay(from, to).milliseconds
  }

  private struct Told {
    /// Where the block entered the overlay, by time: several, when plain P2P brought it to another site's node before the
    /// overlay did.
    var origins: [StoredJourney]
    var journeys: [StoredJourney]
    /// The first origin's announcement, or the first packet anywhere when no origin told.
    var start: StoredJourney
  }

  private static func told(_ journeys: [StoredJourney]) -> Told {
    let origins = journeys.filter(\.journey.isOrigin).sorted { $0.firstUnix < $1.firstUnix }
    let first = journeys.min { $0.firstUnix < $1.firstUnix }!
    return Told(origins: origins, journeys: journeys, start: origins.first ?? first)
  }

  /// The origin that a site's block is measured from: that from which light could be there first, of those that don't
  /// contradict light, if there are any. nil at an origin, whose block came from its own node: no arrival.
  private func source(of stored: StoredJourney, _ told: Told) -> StoredJourney? {
    if stored.journey.isOrigin { return nil }
    func earliest(_ origin: StoredJourney) -> Double {
      Double(origin.firstUnix &- told.start.firstUnix) / 1e6 + physics(origin.site, stored.site)
    }
    let origins = told.origins.sorted { earliest($0) < earliest($1) }
    return origins.first { elapsed(stored, stored.journey[.verified] ?? .zero, since: $0) != nil } ?? origins.first
  }

  /// Milliseconds from the start to `offset` after this journey's first packet, with the clocks' bounds, narrowed by
  /// what light allows. nil when the two contradict each other.
  private func elapsed(_ journey: StoredJourney, _ offset: Interval, since start: StoredJourney) -> Report.Figure? {
    let value = Double(journey.firstUnix &+ offset.nanoseconds &- start.firstUnix) / 1e6
    // The same site's clock twice has no uncertainty.
    // A station's distance from the first packet is by that site's own rate.
    let slack =
      journey.site == start.site
      ? 0
      : journey.uncertainty.milliseconds + start.uncertainty.milliseconds
        + abs(offset.milliseconds) * ReportBuilder.rateLimit
    if !start.journey.isOrigin || journey.site == start.site {
      return Report.Figure(value: value, low: value - slack, high: value + slack)
    }
    let least = physics(start.site, journey.site)
    if value + slack < least { return nil }
    return Report.Figure(value: max(value, least), low: max(value - slack, least), high: value + slack)
  }

  public func build() throws(StoreError) -> Report {
    let journeys = try store.journeys(in: range)
    var byBlock: [BlockID: [StoredJourney]] = [:]
    var order: [BlockID] = []
    for stored in journeys {
      if byBlock[stored.journey.block] == nil { order.append(stored.journey.block) }
      byBlock[stored.journey.block, default: []].append(stored)
    }
    var collectors: [String: Collector] = [:]
    var all = Collector()
    var (arrivals, contradictions) = (0, 0)
    for hash in order {
      let told = ReportBuilder.told(byBlock[hash]!)
      for stored in told.journeys {
        var figure: Report.Figure?
        var flight: Double?
        let origin = source(of: stored, told)
        if let origin, let verified = stored.journey[.verified] {
          figure = elapsed(stored, verified, since: origin)
          arrivals += 1
          if figure == nil { contradictions += 1 }
          if let figure, let light = light(origin.site, stored.site) {
            flight = elapsed(stored, .zero, since: origin).map { $0.value - light }
            all.overLight.add(figure, less: light)
          }
        }
        let bound = origin.flatMap { light($0.site, stored.site) }
        collectors[stored.site, default: Collector()].add(stored, figure, bound: bound, flight: flight)
        if !stored.journey.isOrigin { all.addStages(stored.journey, flight: flight) }
      }
    }
    let news = try firstNews()
    return Report(
      home: home, fromUnix: Double(range.lowerBound) / 1e9, toUnix: Double(range.upperBound) / 1e9,
      pathFactor: pathFactor, blocks: order.count, arrivals: arrivals, overLight: all.overLight.spread,
      contradictions: contradictions, sites: sites(collectors), stages: stages(all), lead: lead(byBlock, news),
      links: try links(),
      clocks: try clocks(),
      recent: order.suffix(recentCount).reversed().map { block(ReportBuilder.told(byBlock[$0]!), news, whole: false) },
      block: try detail(order, byBlock, news), notes: notes)
  }

  private func detail(
    _ order: [BlockID], _ byBlock: [BlockID: [StoredJourney]], _ news: [BlockID: PublicNews]
  ) throws(StoreError) -> Report.Block? {
    if let wanted {
      let journeys = try store.journeys(of: wanted)
      if journeys.isEmpty { return nil }
      var news = news
      if news[wanted] == nil, let first = journeys.first {
        let around = first.firstUnix &- 3_600_000_000_000...first.firstUnix &+ 3_600_000_000_000
        news[wanted] = try store.news(in: around).first { $0.block == wanted }
      }
      return block(ReportBuilder.told(journeys), news, whole: true)
    }
    let most = byBlock.values.map(\.count).max() ?? 0
    guard let last = order.last(where: { byBlock[$0]!.count == most }) else { return nil }
    return block(ReportBuilder.told(byBlock[last]!), news, whole: true)
  }

  private func firstNews() throws(StoreError) -> [BlockID: PublicNews] {
    var first: [BlockID: PublicNews] = [:]
    for news in try store.news(in: range) where first[news.block] == nil { first[news.block] = news }
    return first
  }

  private func sites(_ collectors: [String: Collector]) -> [Report.Site] {
    var names = Set(positions.keys)
    names.formUnion(collectors.keys)
    return names.sorted().map { name in
      let collector = collectors[name] ?? Collector()
      return Report.Site(
        name: name, latitude: positions[name]?.latitude, longitude: positions[name]?.longitude, isHome: name == home,
        via: collector.via, blocks: collector.blocks, originated: collector.originated,
        overLight: collector.overLight.spread,
        arrival: collector.arrival.spread, receiving: collector.receiving.times,
        matchedPercent: collector.matched.isEmpty ? nil : median(collector.matched) * 100,
        extraRoundsPercent: collector.received == 0
          ? nil : Double(collector.extraRounds) / Double(collector.received) * 100,
        stageMedians: collector.stages.map { $0.percentile(50) },
        overLightPercentiles: collector.overLight.middle.count == 0
          ? [] : (1...100).map { collector.overLight.middle.percentile(Double($0))! })
    }
  }

  private func stages(_ collector: Collector) -> [Report.Stage] {
    zip(ReportBuilder.stages, collector.stages).map { stage, times in
      Report.Stage(name: stage.name, title: stage.title, isCrossSite: stage.name == "flight", times: times.times)
    }
  }

  /// How far this site was ahead of the first announcement by a watched peer. A block that entered the overlay here is
  /// early because it was found here, and doesn't count; unless that peer had told of it before: then plain P2P brought it
  /// to the node, and the overlay lost. nil: nothing to compare.
  private func lead(_ journeys: [StoredJourney], _ first: PublicNews) -> Interval? {
    guard let own = journeys.first(where: { $0.site == home }) else { return nil }
    if own.journey.isOrigin {
      return first.atUnix < own.firstUnix ? Interval(nanoseconds: first.atUnix &- own.firstUnix) : nil
    }
    return own.journey[.verified].map { Interval(nanoseconds: first.atUnix &- (own.firstUnix &+ $0.nanoseconds)) }
  }

  /// The lead at this site: only its own clock and its own watched peers are compared, so no uncertainty enters.
  private func lead(_ byBlock: [BlockID: [StoredJourney]], _ news: [BlockID: PublicNews]) -> Report.Lead {
    let leads = news.compactMap { block, first in byBlock[block].flatMap { lead($0, first) } }
    let standing = LeadStanding(leads: leads)
    let distribution = standing.distribution
    var result = Report.Lead(
      blocks: standing.blocks, wins: standing.wins, winPercent: standing.winRate.map { $0 * 100 },
      winPercentLow: standing.winRateInterval.map { $0.low * 100 },
      winPercentHigh: standing.winRateInterval.map { $0.high * 100 }, p1: distribution.percentile(1),
      p10: distribution.percentile(10), p50: distribution.percentile(50), p90: distribution.percentile(90),
      p99: distribution.percentile(99), histogramFrom: 0, histogramStep: 1, histogram: [])
    guard let low = distribution.percentile(0.5), let high = distribution.percentile(99.5) else { return result }
    let step = Axis.step(max(high - low, 1), about: 32)
    let from = (low / step).rounded(.down) * step
    let count = min(max(Int(((high - from) / step).rounded(.up)) + 1, 1), 200)
    result.histogramFrom = from
    result.histogramStep = step
    result.histogram = [Int](repeating: 0, count: count)
    for lead in leads {
      // What lies outside stands in the outermost bars.
      let bar = ((lead.milliseconds - from) / step).rounded(.down)
      result.histogram[Int(min(max(bar, 0), Double(count - 1)))] += 1
    }
    return result
  }

  private func block(_ told: Told, _ news: [BlockID: PublicNews], whole: Bool) -> Report.Block {
    let start = told.start
    var arrivals: [Report.Arrival] = []
    for stored in told.journeys.sorted(by: { $0.firstUnix < $1.firstUnix }) {
      let journey = stored.journey
      let raw = Double(stored.firstUnix &- start.firstUnix) / 1e6
      let slack = stored.site == start.site ? 0 : stored.uncertainty.milliseconds + start.uncertainty.milliseconds
      var first = Report.Figure(value: raw, low: raw - slack, high: raw + slack)
      var (bound, over): (Double?, Report.Figure?)
      if let origin = source(of: stored, told) {
        // Light from the first origin narrows nothing of what came from another.
        if origin.site == start.site, let figure = elapsed(stored, .zero, since: start) { first = figure }
        if let light = light(origin.site, stored.site) {
          bound = light + Double(origin.firstUnix &- start.firstUnix) / 1e6
          if let verified = journey[.verified], let figure = elapsed(stored, verified, since: origin) {
            over = Report.Figure(value: figure.value - light, low: figure.low - light, high: figure.high - light)
          }
        }
      }
      arrivals.append(
        Report.Arrival(
          site: stored.site, isOrigin: journey.isOrigin, via: stored.via, hops: stored.hops,
          uncertainty: first.uncertainty,
          lightBound: bound,
          firstPacket: first.value,
          stations: Journey.Stage.allCases.compactMap { stage in
            journey[stage].map { Report.Station(name: stage.name, at: first.value + $0.milliseconds) }
          },
          overLight: over, matchedPercent: journey.isOrigin ? nil : journey.matchedShare.map { $0 * 100 },
          transactions: journey.transactions, missingTransactions: journey.missingTransactions,
          bodyBytes: journey.bodyBytes, packetsIn: journey.packetsIn, packetsOut: journey.packetsOut,
          bytesIn: journey.bytesIn, bytesOut: journey.bytesOut, packetsUseless: journey.packetsUseless,
          neededChunks: journey.neededChunks, requests: journey.requests))
    }
    let slowest = arrivals.filter { $0.overLight != nil }.max { $0.overLight!.value < $1.overLight!.value }
    let first = news[start.journey.block]
    let lead = first.flatMap { self.lead(told.journeys, $0) }?.milliseconds
    return Report.Block(
      hash: start.journey.block.description, height: Int(start.journey.height),
      announcedUnix: Double(start.firstUnix) / 1e9, origin: told.origins.first?.site, arrivals: whole ? arrivals : [],
      sites: told.journeys.count, slowestSite: slowest?.site, slowestOverLight: slowest?.overLight, lead: lead,
      leadSource: first?.source)
  }

  private func links() throws(StoreError) -> [Report.Link] {
    struct Key: Hashable { var from, to: String }
    var samples: [Key: [LinkSample]] = [:]
    for sample in try store.links(in: range) {
      samples[Key(from: sample.from, to: sample.to), default: []].append(sample)
    }
    let buckets = 96
    let width = max((range.upperBound - range.lowerBound) / Int64(buckets), 1)
    return samples.sorted { ($0.key.from, $0.key.to) < ($1.key.from, $1.key.to) }.map { key, samples in
      var parts = [[LinkSample]](repeating: [], count: buckets)
      for sample in samples {
        parts[min(max(Int((sample.atUnix - range.lowerBound) / width), 0), buckets - 1)].append(sample)
      }
      let series = parts.enumerated().compactMap { index, part -> Report.LinkPoint? in
        if part.isEmpty { return nil }
        return Report.LinkPoint(
          atUnix: Double(range.lowerBound + Int64(index) * width + width / 2) / 1e9, lossPercent: loss(part),
          delay: part.compactMap(delay).min { $0.value < $1.value })
      }
      let delays = samples.compactMap(delay).sorted { $0.value < $1.value }
      let received = samples.reduce(0) { $0 + Double($1.summary.received) }
      return Report.Link(
        from: key.from, to: key.to, packets: samples.reduce(0) { $0 &+ $1.summary.expected },
        lossPercent: loss(samples),
        reorderedPercent: received == 0
          ? nil : samples.reduce(0) { $0 + Double($1.summary.reordered) } / received * 100,
        delay: delays.isEmpty ? nil : delays[delays.count / 2],
        jitter: median(samples.map(\.summary.jitter.milliseconds)), lightBound: light(key.from, key.to), series: series)
    }
  }

  private func loss(_ samples: [LinkSample]) -> Double? {
    let expected = samples.reduce(0.0) { $0 + Double($1.summary.expected) }
    let received = samples.reduce(0.0) { $0 + Double($1.summary.received) }
    return expected == 0 ? nil : max(0, expected - received) / expected * 100
  }

  private func delay(_ sample: LinkSample) -> Report.Figure? {
    guard let low = sample.summary.delayLow, let high = sample.summary.delayHigh, let value = sample.summary.delay
    else { return nil }
    return Report.Figure(value: value.milliseconds, low: low.milliseconds, high: high.milliseconds)
  }

  private func clocks() throws(StoreError) -> [Report.Clock] {
    try store.clocks(in: range).map { record in
      Report.Clock(
        site: record.site, via: record.via,
        offset: record.bounds.map {
          Report.Figure(value: $0.estimate.milliseconds, low: $0.low.milliseconds, high: $0.high.milliseconds)
        }, driftLowPPM: record.via == nil ? record.bounds?.driftLowPPM : nil,
        driftHighPPM: record.via == nil ? record.bounds?.driftHighPPM : nil, steps: record.steps,
        kernelState: record.kernel.map { "\($0.state)" }, kernelMaxError: record.kernel?.maxError.milliseconds,
        kernelFrequencyPPM: record.kernel?.frequencyPPM)
    }
  }

  private func median(_ values: [Double]) -> Double {
    values.isEmpty ? 0 : values.sorted()[values.count / 2]
  }
}

/// Percentiles of a figure with bounds: if every value lies within its bounds, so does every percentile within the same
/// percentile of the lower and of the upper bounds.
struct BoundedDistribution {
  var low = Distribution()
  var middle = Distribution()
  var high = Distribution()

  mutating func add(_ figure: Report.Figure, less bound: Double = 0) {
    low.add(.milliseconds(figure.low - bound))
    middle.add(.milliseconds(figure.value - bound))
    high.add(.milliseconds(figure.high - bound))
  }

  func figure(_ percent: Double) -> Report.Figure? {
    guard let low = low.percentile(percent), let value = middle.percentile(percent),
      let high = high.percentile(percent)
    else { return nil }
    return Report.Figure(value: value, low: low, high: high)
  }

  var spread: Report.Spread? {
    guard let p50 = figure(50), let p90 = figure(90), let p99 = figure(99), let max = figure(100) else { return nil }
    return Report.Spread(count: middle.count, p50: p50, p90: p90, p99: p99, max: max)
  }
}

extension Distribution {
  var times: Report.Times? {
    guard let p50 = percentile(50), let p90 = percentile(90), let p99 = percentile(99), let max = percentile(100)
    else { return nil }
    return Report.Times(count: count, p50: p50, p90: p90, p99: p99, max: max)
  }
}

/// What one site's journeys add up to.
private struct Collector {
  var blocks = 0
  var originated = 0
  /// Of the last journey.
  var via: String?
  var received = 0
  var extraRounds = 0
  var overLight = BoundedDistribution()
  var arrival = BoundedDistribution()
  var receiving = Distribution()
  var matched: [Double] = []
  var stages = [Distribution](repeating: Distribution(), count: ReportBuilder.stages.count)

  mutating func add(_ stored: StoredJourney, _ figure: Report.Figure?, bound: Double?, flight: Double?) {
    let journey = stored.journey
    blocks += 1
    via = stored.via
    if journey.isOrigin {
      originated += 1
      return
    }
    received += 1
    if journey.requests > 0 { extraRounds += 1 }
    if let share = journey.matchedShare { matched.append(share) }
    if let verified = journey[.verified] { receiving.add(verified) }
    if let figure {
      arrival.add(figure)
      if let bound { overLight.add(figure, less: bound) }
    }
    addStages(journey, flight: flight)
  }

  mutating func addStages(_ journey: Journey, flight: Double?) {
    if let flight { stages[0].add(.milliseconds(flight)) }
    for index in 1..<ReportBuilder.stages.count {
      let stage = ReportBuilder.stages[index]
      var from = stage.from.map { journey[$0] } ?? Interval.zero
      // Handed over while it was checked: both are over when the later one is.
      if stage.from == .written, let written = from, let verified = journey[.verified] { from = max(written, verified) }
      guard let from, let to = stage.to.flatMap({ journey[$0] }) else { continue }
      // The last needed packet may come before the sketch is matched, the node may be handed what is still checked: then
      // nothing was waited for.
      stages[index].add(max(to - from, .zero))
    }
  }
}
