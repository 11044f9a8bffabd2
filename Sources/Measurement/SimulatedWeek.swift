import Foundation
import Ground

/// Fills a store with what a week on six continents could look like, from a seed. For the report's tests and pictures:
/// a model of arrivals with plausible delays, losses, clocks and mempools, no measurement of the relay. The error of each
/// peer's stated times is drawn once a block and lies within the stated bounds.
public enum SimulatedWeek {
  /// Name, latitude, longitude.
  public static let sites: [(String, SitePosition)] = [
    ("virginia", SitePosition(latitude: 38.95, longitude: -77.45)),
    ("oregon", SitePosition(latitude: 45.84, longitude: -119.7)),
    ("sao-paulo", SitePosition(latitude: -23.55, longitude: -46.63)),
    ("frankfurt", SitePosition(latitude: 50.11, longitude: 8.68)),
    ("cape-town", SitePosition(latitude: -33.92, longitude: 18.42)),
    ("tokyo", SitePosition(latitude: 35.68, longitude: 139.69)),
    ("singapore", SitePosition(latitude: 1.35, longitude: 103.82)),
    ("sydney", SitePosition(latitude: -33.87, longitude: 151.21)),
  ]
  /// One-way delays in milliseconds of the six-continents topology, upper triangle by rows.
  private static let delays: [[Double]] = [
    [33, 57.5, 46, 113.5, 75, 110, 99.5], [88, 71, 139.5, 49, 81.5, 69.5], [101.5, 168.5, 128, 163, 155.5],
    [77.5, 113, 80, 125], [143, 102.5, 147.5], [34.5, 52.5], [46],
  ]
  public static let week = Interval.seconds(7 * 86_400)

  public static func delay(_ a: Int, _ b: Int) -> Double { a == b ? 0 : delays[min(a, b)][abs(a - b) - 1] }

  /// - Parameters:
  ///   - end: the week's end in nanoseconds since 1970.
  ///   - home: index of the site whose store it is.
  public static func fill(_ store: JourneyStore, seed: UInt64, end: Int64, home: Int = 3) throws(StoreError) {
    var random = SeededRandom(seed: seed)
    let start = end - week.nanoseconds
    try store.setHome(sites[home].0)
    for (name, position) in sites { try store.setSite(name, position: position) }
    // Routes that light takes both ways are rarely the same: each direction deviates a little from half the round trip.
    var asymmetry = [Double](repeating: 0, count: 64)
    for a in 0..<8 {
      for b in 0..<a {
        let share = (random.unit() - 0.5) * 0.08
        asymmetry[a * 8 + b] = share
        asymmetry[b * 8 + a] = -share
      }
    }
    func oneWay(_ a: Int, _ b: Int) -> Double { delay(a, b) * (1 + asymmetry[a * 8 + b]) }
    func slack(_ site: Int) -> Double {
      // The operator has declared that neither direction takes less than 94 % of half the round trip.
      site == home ? 0 : delay(site, home) * 0.06 + 0.05
    }

    try store.batch { () throws(StoreError) in
      var time = start
      var height: UInt32 = 920_000
      while true {
        let wait = -600 * log(max(random.unit(), 1e-12))
        time += Int64(min(wait, 7_200) * 1e9)
        if time >= end { break }
        height += 1
        try block(store, height, time, home, &random, oneWay, slack)
      }
      try links(store, start, end, home, &random, oneWay, slack)
    }
  }

  private static func exponential(_ mean: Double, _ random: inout SeededRandom) -> Double {
    -mean * log(max(random.unit(), 1e-12))
  }

  private static func block(
    _ store: JourneyStore, _ height: UInt32, _ time: Int64, _ home: Int, _ random: inout SeededRandom,
    _ oneWay: (Int, Int) -> Double, _ slack: (Int) -> Double
  ) throws(StoreError) {
    let hash = BlockID(words: [random.next(), random.next(), random.next(), random.next() >> 20])
    let share: [Double] = [0.27, 0.22, 0.05, 0.18, 0.02, 0.09, 0.12, 0.05]
    var pick = random.unit()
    var origin = 0
    while origin < 7 && pick > share[origin] {
      pick -= share[origin]
      origin += 1
    }
    let transactions = 1_200 + random.below(3_600)
    let size = 1_100_000 + random.below(900_000)
    var verifiedAtHome = 0.0
    for site in 0..<8 {
      let late = exponential(0.35, &random) + (random.chance(0.02) ? exponential(9, &random) : 0)
      let first = site == origin ? 0 : oneWay(origin, site) + 0.25 + late
      let atUnix = time + Int64(first * 1e6)
      // What the peer's clock and ours leave open; the truth lies inside.
      let uncertainty = slack(site)
      let error = uncertainty * (random.unit() - 0.5) * 0.3
      var journey = Journey(
        block: hash, height: height, isOrigin: site == origin,
        first: Instant(nanoseconds: UInt64(atUnix) &- 1_600_000_000_000_000_000))
      journey.bodyBytes = size
      journey.sketchBytes = transactions * 6 + 600
      journey.transactions = transactions
      var at = 0.0
      func reach(_ stage: Journey.Stage, _ after: Double) {
        at += after
        journey[stage] = .milliseconds(at)
      }
      if site == origin {
        reach(.gatePassed, 0.05)
        reach(.verified, 0.4 + Double(size) * 4e-7)
        reach(.forwarded, 0.12)
        journey.packetsOut = 7 * (size / 1_150 / 8)
        journey.bytesOut = journey.packetsOut * 1_200
        journey[.tipUpdated] = .zero
      } else {
        let missingShare = random.chance(0.04) ? random.unit() * 0.12 : 0.002 + random.unit() * 0.018
        journey.missingTransactions = Int(Double(transactions) * missingShare)
        let missingBytes = Int(Double(size) * missingShare)
        journey.knownBytes = size - missingBytes
        journey.neededChunks = missingBytes / 1_150 + 2
        reach(.gatePassed, 0.06 + random.unit() * 0.05)
        reach(.forwarded, 0.03)
        reach(.sketchComplete, 0.25 + Double(transactions) * 5e-5 + exponential(0.1, &random))
        reach(.matched, 0.35 + Double(transactions) * 1.5e-4)
        journey.requests = missingShare > 0.09 ? 1 : 0
        let body = Double(missingBytes) * 2.4e-5 + exponential(0.25, &random)
        reach(.lastNeeded, body + (journey.requests > 0 ? oneWay(site, origin) * 2 : 0))
        reach(.decoded, 0.15 + Double(missingBytes) * 4e-6)
        reach(.verified, 0.7 + Double(size) * 5e-7 + exponential(0.1, &random))
        reach(.written, 0.12 + random.unit() * 0.1)
        if site == home { verifiedAtHome = first + at }
        reach(.tipUpdated, 60 + Double(size) * 3e-5 + exponential(12, &random))
        if site % 2 == 1 { reach(.minerJob, 8 + exponential(6, &random)) }
        journey.packetsIn = journey.neededChunks + journey.sketchBytes / 1_150 + 12
        journey.packetsUseless = 3 + random.below(12)
        journey.bytesIn = journey.packetsIn * 1_200
        journey.packetsOut = journey.packetsIn * 2
        journey.bytesOut = journey.packetsOut * 1_200
      }
      if site == home && site == origin { verifiedAtHome = at }
      // A peer that was restarted told nothing.
      if site != home && random.chance(0.003) { continue }
      try store.add(
        StoredJourney(
          journey: journey, site: sites[site].0, firstUnix: atUnix + Int64((site == home ? 0 : error) * 1e6),
          uncertainty: .milliseconds(site == home ? 0 : uncertainty)))
    }
    for (peer, extra) in [("public peer, Frankfurt", 0.0), ("public peer, Helsinki", 14.0)] {
      let hops = origin == home ? 1 : 2 + random.below(2)
      var gossip = oneWay(origin, home) * (1.05 + random.unit() * 0.5) + extra
      for _ in 0..<hops { gossip += 18 + exponential(55, &random) }
      // Now and then the miner's own node is a neighbour of the watched peer.
      if random.chance(0.008) { gossip = max(verifiedAtHome - 1 - exponential(4, &random), 0.5) }
      try store.add(PublicNews(block: hash, source: peer, atUnix: time + Int64(gossip * 1e6)))
    }
  }

  private static func links(
    _ store: JourneyStore, _ start: Int64, _ end: Int64, _ home: Int, _ random: inout SeededRandom,
    _ oneWay: (Int, Int) -> Double, _ slack: (Int) -> Double
  ) throws(StoreError) {
    let minute: Int64 = 60_000_000_000
    for site in 0..<8 where site != home {
      let base = [0.00002, 0.00004, 0.0021, 0, 0.0032, 0.0006, 0.0009, 0.0011][site]
      let outage = start + Int64(random.unit() * 0.8 * Double(end - start))
      let rerouted = start + Int64(random.unit() * Double(end - start))
      for direction in 0..<2 {
        var at = start + minute
        while at <= end {
          let hour = Double(at % 86_400_000_000_000) / 3.6e12
          let busy = 1 + 1.5 * max(0, sin((hour - 8) / 24 * 2 * .pi))
          var loss = base * busy * (0.4 + random.unit() * 1.2)
          if site == 4 && at > outage && at < outage + 180 * minute { loss += 0.03 + random.unit() * 0.02 }
          var delay = oneWay(direction == 0 ? home : site, direction == 0 ? site : home)
          if site == 6 && at > rerouted && at < rerouted + 900 * minute { delay += 18 }
          delay += exponential(0.05 * busy, &random)
          var summary = LinkMeter.Summary()
          summary.expected = UInt64(400 + random.below(300))
          let lost = Double(summary.expected) * loss
          summary.received = summary.expected - UInt64(lost) - (random.chance(lost - lost.rounded(.down)) ? 1 : 0)
          summary.reordered = random.chance(0.05) ? UInt64(random.below(4)) : 0
          summary.jitter = .milliseconds(0.03 * busy + random.unit() * 0.05)
          let slack = slack(site)
          summary.delayLow = .milliseconds(delay - slack)
          summary.delayHigh = .milliseconds(delay + slack)
          try store.add(
            LinkSample(
              from: sites[direction == 0 ? home : site].0, to: sites[direction == 0 ? site : home].0, atUnix: at,
              span: .seconds(60), summary: summary))
          at += minute * 5
        }
      }
      let drift = (random.unit() - 0.5) * 4
      try store.add(
        ClockRecord(
          site: sites[site].0, atUnix: end,
          bounds: ClockBounds(
            low: .milliseconds(-slack(site) + drift / 10), high: .milliseconds(slack(site) + drift / 10),
            driftLowPPM: drift - 0.4, driftHighPPM: drift + 0.4), steps: site == 2 ? 1 : 0))
    }
    try store.add(
      ClockRecord(
        site: sites[home].0, atUnix: end, bounds: nil,
        kernel: KernelClock(
          state: .ok, maxError: .milliseconds(1.8), estimatedError: .microseconds(40), frequencyPPM: -7.3)))
  }
}
