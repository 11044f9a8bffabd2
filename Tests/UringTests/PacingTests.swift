import Ground
import Testing
import Uring

/// The bucket under a virtual clock whose owner wakes late by random amounts.
struct PacingTests {
  /// Sends whenever the bucket allows for two virtual seconds; returns the send times.
  func simulate(
    rate: UInt64, wire: Int, lateness: Int, seed: UInt64, idle: ClosedRange<UInt64>? = nil
  ) -> [(at: UInt64, bytes: Int)] {
    var random = SeededRandom(seed: seed)
    var bucket = TokenBucket(rate: LinkRate(bitsPerSecond: rate), fullDatagram: wire)
    var now = Instant(nanoseconds: 5_000_000_000)
    let end = now + .seconds(2)
    var sent: [(UInt64, Int)] = []
    while now < end {
      if let idle, idle.contains(now.nanoseconds) { now = Instant(nanoseconds: idle.upperBound + 1) }
      bucket.begin(now)
      if bucket.isReady(now, more: 1 << 20, lateness: .zero) {
        while bucket.allows(now) {
          sent.append((now.nanoseconds, wire))
          bucket.take(wire)
        }
      }
      let wake = bucket.wake(more: 1 << 20, lateness: .zero)
      now = max(wake, now + Interval(nanoseconds: 1)) + Interval(nanoseconds: Int64(random.below(lateness + 1)))
    }
    return sent
  }

  /// Most bytes that left at one instant.
  func largestBurst(_ sent: [(at: UInt64, bytes: Int)]) -> Int {
    var (at, burst, most) = (UInt64(0), 0, 0)
    for one in sent {
      burst = one.at == at ? burst + one.bytes : one.bytes
      at = one.at
      most = max(most, burst)
    }
    return most
  }

  @Test(arguments: [1_000_000, 50_000_000, 100_000_000, 1_000_000_000, 5_000_000_000, 40_000_000_000] as [UInt64])
  func longRunRateAndBursts(_ rate: UInt64) {
    let wire = 1_228
    // Late by up to 40 µs each time: within the credit from 50 Mbit/s upwards, so nothing is lost.
    let sent = simulate(rate: rate, wire: wire, lateness: 40_000, seed: rate)
    let bytes = sent.reduce(0) { $0 + $1.bytes } - wire
    let achieved = Double(bytes) * 8e9 / Double(sent.last!.at - sent.first!.at)
    #expect(abs(achieved / Double(rate) - 1) < 0.005, "\(achieved) of \(rate)")

    // What leaves at one instant: at most 100 µs of the rate, or one datagram.
    let most = max(Int(rate / 8 / 10_000), wire)
    let burst = largestBurst(sent)
    #expect(burst <= most, "\(burst) bytes at once, at most \(most)")
  }

  /// After a pause there is one burst, then the rate again: no credit is saved up.
  @Test(arguments: [50_000_000, 1_000_000_000, 5_000_000_000] as [UInt64])
  func idlenessBuysOneBurst(_ rate: UInt64) {
    let wire = 1_228
    let idle: ClosedRange<UInt64> = 5_500_000_000...6_000_000_000
    let sent = simulate(rate: rate, wire: wire, lateness: 0, seed: 1, idle: idle)
    let after = sent.filter { $0.at > idle.upperBound }
    let most = max(Double(rate) / 8 * 100e-6, Double(wire))
    let excess = after.enumerated().map { i, one in
      Double((i + 1) * wire) - (most + Double(rate) / 8 * Double(one.at - after[0].at) / 1e9 + Double(wire))
    }
    #expect(excess.max()! <= 0, "bytes beyond one burst and the rate")
  }

  /// Late by more than the credit: the loss is bounded by the lateness, and nothing is made up in a larger burst.
  @Test func greatLatenessIsNotMadeUp() {
    let rate: UInt64 = 1_000_000_000
    let sent = simulate(rate: rate, wire: 1_228, lateness: 2_000_000, seed: 3)
    #expect(largestBurst(sent) <= 12_500)
  }

  /// A lone datagram leaves as soon as it may; with more behind it a train is waited for, but never longer than
  /// five eighths of the burst, less what wake-ups are late by; and a wake-up never comes before anything may leave.
  @Test func trainsAreWaitedFor() {
    var bucket = TokenBucket(rate: LinkRate(bitsPerSecond: 5_000_000_000), fullDatagram: 1_228)
    let now = Instant(nanoseconds: 5_000_000_000)
    bucket.begin(now)
    #expect(bucket.isReady(now, more: 1 << 20, lateness: .zero), "after idleness nothing waits")
    while bucket.allows(now) { bucket.take(1_228) }
    let lone = bucket.wake(more: 0, lateness: .zero)
    let many = bucket.wake(more: 1 << 20, lateness: .zero)
    #expect(lone > now && many > lone && many - lone <= .microseconds(63))
    #expect(bucket.isReady(lone, more: 0, lateness: .zero) && !bucket.isReady(lone, more: 1 << 20, lateness: .zero))
    #expect(bucket.isReady(many, more: 1 << 20, lateness: .zero))
    let early = bucket.wake(more: 1 << 20, lateness: .microseconds(20))
    #expect(many - early == .microseconds(20))
    // Who is woken for it finds it ready: no waiting in a loop.
    #expect(bucket.isReady(early, more: 1 << 20, lateness: .microseconds(20)))
    #expect(bucket.wake(more: 1 << 20, lateness: .seconds(1)) == lone)
  }

  /// Steady lateness is anticipated as it is, unsteady by more than its mean; one great lateness counts as 100 µs.
  @Test func latenessIsLearned() {
    func usual(_ late: [Int64]) -> Interval {
      var lateness = Lateness()
      return late.reduce(.zero) { _, each in lateness.usual(.microseconds(each)) }
    }
    let steady = usual(Array(repeating: 10, count: 200))
    #expect(steady >= .microseconds(9) && steady <= .microseconds(11))
    #expect(usual((0..<200).map { $0 % 2 == 0 ? 0 : 20 }) > .microseconds(25))
    let settled = Array(repeating: Int64(10), count: 200)
    #expect(usual(settled + [5_000]) == usual(settled + [100]))
    #expect(usual(settled + [5_000] + settled) <= .microseconds(11))
  }

  @Test func unlimitedAndAbsurdRates() {
    var unlimited = TokenBucket(rate: .unlimited, fullDatagram: 1_228)
    #expect(unlimited.isUnlimited)
    let now = Instant(nanoseconds: 1)
    unlimited.begin(now)
    for _ in 0..<1_000 { unlimited.take(65_535) }
    #expect(unlimited.isReady(now, more: 1, lateness: .zero) && unlimited.wake(more: 1, lateness: .zero) <= now)
    for rate in [1, 999, UInt64.max] {
      var bucket = TokenBucket(rate: LinkRate(bitsPerSecond: rate), fullDatagram: 65_535)
      bucket.begin(now)
      #expect(bucket.allows(now))
      for _ in 0..<100 { bucket.take(65_535) }
      #expect(bucket.wake(more: .max, lateness: .seconds(9)) > now)
    }
  }
}
