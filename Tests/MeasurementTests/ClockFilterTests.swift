import Foundation
import Ground
import Measurement
import Testing

/// Two clocks and a path between them whose truth is known.
private struct ClockPair {
  var random: SeededRandom
  /// Peer's clock minus ours at our time 0, seconds.
  var offset: Double
  var driftPPM: Double
  var forward: Double  // least one-way delays, seconds
  var back: Double
  var jitter: Double  // mean of the exponential queueing on top

  func peerClock(at t: Double) -> Double { t + offset + driftPPM * 1e-6 * t }

  mutating func queueing() -> Double {
    -jitter * (random.chance(0.1) ? 10 : 1) * log(max(random.unit(), 1e-12))
  }
  mutating func exchange(at t: Double) -> ClockExchange {
    let there = t + forward + queueing()
    let held = there + 20e-6
    let home = held + back + queueing()
    return ClockExchange(
      t1: instant(t), t2: instant(peerClock(at: there)), t3: instant(peerClock(at: held)), t4: instant(home))
  }

  func instant(_ seconds: Double) -> Instant {
    Instant(nanoseconds: UInt64(1e15 + (seconds * 1e9).rounded()))
  }
  func truth(at t: Double) -> Double { peerClock(at: t) - t }
}

@Suite struct ClockFilterTests {
  @Test(arguments: 0..<40)
  func theTruthLiesWithinTightBounds(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let forward = 0.001 + random.unit() * 0.1
    var pair = ClockPair(
      random: random.fork(), offset: (random.unit() - 0.5) * 1000, driftPPM: (random.unit() - 0.5) * 200,
      forward: forward,
      back: forward * (0.7 + random.unit() * 0.6), jitter: 0.0005)
    let floor = min(pair.forward, pair.back) * 0.8
    var filter = ClockFilter(floor: Interval(nanoseconds: Int64(floor * 1e9)))
    var worst = 0.0
    for second in 0..<600 {
      let t = Double(second)
      filter.add(pair.exchange(at: t))
      let now = t + pair.forward + pair.back + 0.2
      guard let bounds = filter.bounds(at: pair.instant(now)) else {
        Issue.record("no bounds after an exchange")
        return
      }
      let truth = Int64((pair.truth(at: now) * 1e9).rounded())
      #expect(
        bounds.low.nanoseconds - 2 <= truth && truth <= bounds.high.nanoseconds + 2, "seed \(seed) second \(second)")
      if second > 60 { worst = max(worst, bounds.uncertainty.seconds) }
      if second > 200 {
        #expect(bounds.driftLowPPM <= pair.driftPPM && pair.driftPPM <= bounds.driftHighPPM)
      }
    }
    // What physics leaves open is half of what the floor doesn't explain; the filter adds little to it.
    let open = (pair.forward + pair.back) / 2 - floor
    #expect(worst < open + 0.0015, "seed \(seed): \(worst * 1e3) ms, physics leaves \(open * 1e3) ms")
    #expect(filter.steps == 0)
  }

  @Test(arguments: [0.25, -0.25, 3.0, -40.0])
  func aStepIsSeenAndForgotten(step: Double) {
    var pair = ClockPair(
      random: SeededRandom(seed: 5), offset: 12, driftPPM: 30, forward: 0.02, back: 0.03, jitter: 0.0003)
    var filter = ClockFilter()
    for second in 0..<100 { filter.add(pair.exchange(at: Double(second))) }
    pair.offset += step
    for second in 100..<130 {
      filter.add(pair.exchange(at: Double(second)))
      let now = Double(second) + 0.5
      let bounds = filter.bounds(at: pair.instant(now))!
      let truth = Int64((pair.truth(at: now) * 1e9).rounded())
      #expect(bounds.low.nanoseconds <= truth && truth <= bounds.high.nanoseconds)
    }
    #expect(filter.steps == 1)
  }

  /// What the report shows: one-way delays over an asymmetric path, between clocks that drift apart, through two steps.
  @Test(arguments: 0..<24)
  func oneWayDelaysLieWithinTheBoundsThroughDriftAndSteps(seed: UInt64) {
    var random = SeededRandom(seed: 1_000 + seed)
    let forward = 0.005 + random.unit() * 0.1
    var pair = ClockPair(
      random: random.fork(), offset: (random.unit() - 0.5) * 100, driftPPM: (random.unit() - 0.5) * 100,
      forward: forward, back: forward * (0.6 + random.unit() * 0.8), jitter: 0.0004)
    let floor = min(pair.forward, pair.back) * 0.9
    var filter = ClockFilter(floor: Interval(nanoseconds: Int64(floor * 1e9)))
    var excess: [Double] = []
    let open = (pair.forward + pair.back) / 2 - floor
    for second in 0..<400 {
      if second == 150 { pair.offset += 1.5 }
      if second == 280 { pair.offset -= 0.75 }
      let exchange = pair.exchange(at: Double(second))
      filter.add(exchange)
      guard let bounds = filter.bounds(at: exchange.t4) else {
        Issue.record("no bounds")
        return
      }
      var (outward, inward) = (LinkMeter(), LinkMeter())
      outward.exchange(exchange, clock: bounds, outward: true)
      inward.exchange(exchange, clock: bounds, outward: false)
      let there = (exchange.t2 - pair.instant(Double(second))).seconds - pair.truth(at: Double(second) + pair.forward)
      let summary = outward.take()
      // The truth of this very packet, queueing included; the drift during its flight is below a microsecond.
      #expect(
        summary.delayLow!.seconds <= there + 2e-6 && there - 2e-6 <= summary.delayHigh!.seconds, "second \(second)")
      if let low = inward.take().delayLow { #expect(low.seconds <= (exchange.t4 - exchange.t1).seconds) }
      if second % 130 > 30 { excess.append(summary.delayUncertainty!.seconds - open) }
    }
    #expect(filter.steps == 2)
    // Beyond what the round trip leaves open by physics, the filter adds less than a millisecond in the median.
    #expect(excess.sorted()[excess.count / 2] < 0.001)
  }

  /// The figures of README.md, printed: how much wider the bounds of one-way delays are than what physics leaves open, over
  /// many pairs of clocks with drift, lopsided lines, queueing and a step.
  @Test func howTightTheBoundsAre() {
    var (bounds, missed, excess) = (0, 0, [Double]())
    for seed in 0..<40 {
      var random = SeededRandom(seed: 9_000 + UInt64(seed))
      let forward = 0.005 + random.unit() * 0.1
      var pair = ClockPair(
        random: random.fork(), offset: (random.unit() - 0.5) * 1_000, driftPPM: (random.unit() - 0.5) * 100,
        forward: forward, back: forward * (0.6 + random.unit() * 0.8), jitter: 0.0004)
      let floor = min(pair.forward, pair.back) * 0.9
      let open = (pair.forward + pair.back) / 2 - floor
      var filter = ClockFilter(floor: Interval(nanoseconds: Int64(floor * 1e9)))
      for second in 0..<600 {
        if second == 300 { pair.offset += 1.5 }
        let exchange = pair.exchange(at: Double(second))
        filter.add(exchange)
        var meter = LinkMeter()
        meter.exchange(exchange, clock: filter.bounds(at: exchange.t4), outward: true)
        let summary = meter.take()
        let there = (exchange.t2 - exchange.t1).seconds - pair.truth(at: Double(second) + pair.forward)
        bounds += 1
        if summary.delayLow!.seconds > there + 2e-6 || there - 2e-6 > summary.delayHigh!.seconds { missed += 1 }
        // What a meter starts with, and begins again with after a step, narrows within half a minute.
        if second % 300 > 30 { excess.append((summary.delayUncertainty!.seconds - open) * 1e3) }
      }
      #expect(filter.steps == 1)
    }
    excess.sort()
    let (median, most) = (excess[excess.count / 2], excess[excess.count * 99 / 100])
    print(
      "clocks: \(bounds) bounds of one-way delays, \(missed) missed; wider than what physics leaves open by "
        + String(format: "%.2f ms in the median, %.2f ms in 99 of 100", median, most))
    #expect(missed == 0)
    #expect(median < 0.5 && most < 1.5)
  }

  @Test func contradictoryTimestampsAreRefused() {
    var filter = ClockFilter(floor: .microseconds(5_000))
    let t = Instant(nanoseconds: 1_000_000_000)
    filter.add(ClockExchange(t1: t, t2: t, t3: t, t4: t - .microseconds(1_000)))  // answered before asked
    filter.add(ClockExchange(t1: t, t2: t + .microseconds(1_000), t3: t, t4: t + .microseconds(20_000)))
    filter.add(ClockExchange(t1: t, t2: t, t3: t, t4: t + .microseconds(9_000)))  // faster than light
    filter.add(ClockExchange(t1: .zero, t2: .never, t3: .never, t4: .never))
    #expect(filter.refused >= 3)
    #expect(filter.exchanges == 4)
  }
}

@Suite struct LightBoundTests {
  @Test func knownDistances() {
    let london = SitePosition(latitude: 51.5074, longitude: -0.1278)
    let newYork = SitePosition(latitude: 40.7128, longitude: -74.0060)
    #expect(abs(LightBound.distance(london, newYork) - 5_570_000) < 10_000)
    let oneWay = LightBound.oneWay(london, newYork).milliseconds
    #expect(oneWay > 27.2 && oneWay < 27.4)
    #expect(LightBound.oneWay(london, london) == .zero)
    #expect(LightBound.oneWay(london, newYork, pathFactor: 2).milliseconds == 2 * oneWay)
    let antipode = SitePosition(latitude: -51.5074, longitude: 179.8722)
    #expect(abs(LightBound.distance(london, antipode) - Double.pi * LightBound.earthRadius) < 1)
  }
}
