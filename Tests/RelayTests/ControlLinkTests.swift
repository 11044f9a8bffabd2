import Ground
import Relay
import Testing
import Wire

@Suite struct LossMeterTests {
  /// Packets through a Gilbert channel, reordered within `spread` places; what the meter makes of it.
  private func measure(rate: Double, burst: Double, packets: Int, spread: Int, seed: UInt64) -> LossMeter {
    var random = SeededRandom(seed: seed)
    var channel = GilbertChannel(rate: rate, burst: burst, random: &random)
    var arriving: [(order: Int, counter: UInt64)] = []
    for i in 0..<packets where !channel.loses(&random) || i == 0 {
      arriving.append((i + random.below(spread + 1), UInt64(i)))
    }
    arriving.sort { ($0.order, $0.counter) < ($1.order, $1.counter) }
    var meter = LossMeter()
    for packet in arriving { meter.received(counter: packet.counter + 1_000, now: .zero) }
    return meter
  }

  @Test(arguments: [(0.01, 4.0), (0.05, 4.0), (0.02, 1.0), (0.005, 8.0)], [0, 40, 400])
  func findsRateAndBurstDespiteReordering(channel: (Double, Double), spread: Int) {
    var rates = 0.0
    var bursts = 0.0
    for seed in 0..<8 as Range<UInt64> {
      let meter = measure(rate: channel.0, burst: channel.1, packets: 60_000, spread: spread, seed: seed)
      // Reordering before the first packet settled can't be told from loss; nothing after it may be misjudged.
      #expect(meter.tooLate <= UInt64(spread))
      rates += meter.loss.rate / 8
      bursts += meter.loss.burst / 8
    }
    #expect(abs(rates / channel.0 - 1) < 0.25, "rate \(rates)")
    #expect(abs(bursts / channel.1 - 1) < 0.25, "burst \(bursts)")
  }

  @Test func aCleanLinkShowsNoneHoweverReordered() {
    let meter = measure(rate: 0, burst: 1, packets: 50_000, spread: 400, seed: 1)
    #expect(meter.loss.rate == 0)
    #expect(meter.loss.observed > 30_000)
  }

  @Test func aChangeForTheWorseShowsWithinAFewThousandPackets() {
    var random = SeededRandom(seed: 5)
    var meter = LossMeter()
    var counter: UInt64 = 0
    for _ in 0..<200_000 {
      counter += 1
      meter.received(counter: counter, now: .zero)
    }
    #expect(meter.loss.rate == 0)
    var channel = GilbertChannel(rate: 0.05, burst: 4, random: &random)
    for _ in 0..<3_000 {
      counter += 1
      if !channel.loses(&random) { meter.received(counter: counter, now: .zero) }
    }
    #expect(meter.loss.rate > 0.02)
  }

  @Test func aQuietLinkIsSettledByTime() {
    var meter = LossMeter()
    var now = Instant.zero
    for i in 0..<40 as Range<UInt64> where i % 4 != 3 || i == 39 {
      now = now + .microseconds(100_000)
      meter.received(counter: i, now: now)
    }
    #expect(meter.loss.rate == 0, "nothing is confirmed yet")
    now = now + .microseconds(300_000)
    meter.tick(now: now)
    now = now + .microseconds(300_000)
    meter.tick(now: now)
    #expect(abs(meter.loss.rate - 0.225) < 0.001)
  }

  @Test func lateOnesAreTakenBack() {
    var meter = LossMeter()
    for i in 0..<2_000 as Range<UInt64> where i != 100 { meter.received(counter: i, now: .zero) }
    #expect(meter.loss.rate > 0)
    meter.received(counter: 100, now: .zero)
    #expect(meter.loss.rate < 0.0002)
    #expect(meter.tooLate == 1)
  }

  /// Counters from an authenticated but malicious peer: no trap, no long walk, and an outage is not 100% loss.
  @Test func wildCountersAreHarmless() {
    var meter = LossMeter()
    var random = SeededRandom(seed: 3)
    for counter in [0, .max / 2, .max - 600, .max - 1, .max, 5] as [UInt64] {
      meter.received(counter: counter, now: .zero)
    }
    meter.restart()
    for _ in 0..<100_000 { meter.received(counter: random.next(), now: .zero) }
    #expect(meter.loss.rate >= 0 && meter.loss.rate <= 1 && meter.loss.burst >= 1)
    #expect(meter.outages > 0)
    meter.restart()
    for i in 0..<1_000_000 as Range<UInt64> { meter.received(counter: i, now: .zero) }
    #expect(meter.loss.rate < 0.05)
  }

  /// Blocks' trains through a Gilbert channel. HAVE goes out after the first 60 packets; a round trip later the sender drops
  /// its last 20, which it had sealed.
  private func measureTrains(rate: Double, withdrawn: Int, blocks: Int) -> LossMeter {
    var random = SeededRandom(seed: 9)
    var channel = GilbertChannel(rate: rate, burst: 4, random: &random)
    var meter = LossMeter()
    var counter: UInt64 = 0
    var now = Instant.zero
    let roundTrip = Interval.microseconds(2_000)
    for _ in 0..<blocks {
      now = now + .microseconds(1_000_000)
      for packet in 0..<100 + withdrawn {
        counter += 1
        if packet == 60 { meter.haveSent(now: now, roundTrip: roundTrip) }
        if packet >= 100 { continue }
        now = now + .microseconds(50)
        if !channel.loses(&random) { meter.received(counter: counter, now: now) }
      }
      for _ in 0..<3 {
        now = now + .microseconds(200_000)
        counter += 1
        if !channel.loses(&random) { meter.received(counter: counter, now: now) }
      }
      meter.tick(now: now)
    }
    return meter
  }

  /// What the sender dropped after HAVE was never on the line.
  @Test func whatWasWithdrawnIsNoLoss() {
    let meter = measureTrains(rate: 0, withdrawn: 20, blocks: 300)
    #expect(meter.loss.rate == 0, "\(meter.loss)")
    #expect(meter.loss.observed > 10_000)
  }

  /// Nor do losses hide behind it: what is left out is left out whether it came or not.
  @Test(arguments: [0.01, 0.05], [0, 20]) func lossesAreFoundBetweenWithdrawals(rate: Double, withdrawn: Int) {
    let meter = measureTrains(rate: rate, withdrawn: withdrawn, blocks: 2_000)
    #expect(abs(meter.loss.rate / rate - 1) < 0.25, "\(meter.loss)")
    #expect(abs(meter.loss.burst / 4 - 1) < 0.25, "\(meter.loss)")
  }

  /// A gap at any other time is a loss, however short before or after.
  @Test func gapsApartFromHaveCount() {
    var meter = LossMeter()
    var now = Instant.zero
    for counter in 0..<2_000 as Range<UInt64> {
      now = now + .microseconds(1_000)
      // HAVE at 1 s; its time is over 30 ms later.
      if counter == 1_000 { meter.haveSent(now: now, roundTrip: .microseconds(10_000)) }
      if counter == 990 || counter == 1_005 || counter == 1_040 { continue }
      meter.received(counter: counter, now: now)
    }
    for counter in 2_000..<2_600 as Range<UInt64> { meter.received(counter: counter, now: now) }
    #expect(abs(meter.loss.rate * meter.loss.observed - 2) < 0.1, "\(meter.loss)")
  }

  @Test func reportsSurviveTheWire() {
    let (rate, burst, observed) = LinkLoss(rate: 0.0123, burst: 3.7, observed: 1234).forStatus
    let head = StatusHead(
      flags: [], readiness: .cold, height: 0, tip: .zero, work: .zero, mempoolTransactions: 0, mempoolBytes: 0,
      loss: rate, burst: burst, observed: observed)
    let back = LinkLoss(head)
    #expect(abs(back.rate - 0.0123) < 1e-4 && abs(back.burst - 3.7) < 0.01 && back.observed == 1234)
  }

  @Test func theSenderBelievesBadNewsAtOnce() {
    var reported = ReportedLoss()
    reported.note(LinkLoss(rate: 0.01, burst: 2, observed: 1000))
    reported.note(LinkLoss(rate: 0.08, burst: 6, observed: 1000))
    #expect(reported.loss.rate == 0.08 && reported.loss.burst == 6)
    reported.note(LinkLoss(rate: 0, burst: 1, observed: 1000))
    #expect(abs(reported.loss.rate - 0.06) < 1e-9)
  }
}

@Suite struct DelayEstimatorTests {
  @Test func queueingDoesNotMoveTheDelay() {
    var delay = DelayEstimator()
    #expect(delay.roundTrip == nil && delay.forStatus == .max)
    var random = SeededRandom(seed: 1)
    var now = Instant.zero
    for i in 0..<100 {
      now = now + .microseconds(1_000_000)
      let queue = i % 7 == 0 ? 0 : random.below(5_000_000)
      delay.note(roundTrip: Interval(nanoseconds: 80_000_000 + Int64(queue)), now: now)
    }
    #expect(delay.oneWay == Interval(nanoseconds: 40_000_000))
    #expect(delay.forStatus == 4_000)
    #expect(delay.jitter.nanoseconds > 100_000 && delay.jitter.nanoseconds < 5_000_000)
    #expect(delay.retry.nanoseconds >= 100_000_000)
  }

  @Test func aLongerRouteIsNoticedWithinAMinute() {
    var delay = DelayEstimator()
    var now = Instant.zero
    for i in 0..<161 {
      now = now + .microseconds(1_000_000)
      delay.note(roundTrip: .microseconds(i < 100 ? 10_000 : 90_000), now: now)
    }
    #expect(delay.oneWay == .microseconds(45_000))
  }
}
