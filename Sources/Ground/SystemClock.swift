import Glibc

/// The machine's clocks, for drivers, benches and tests. Protocol code never reads one (see `Instant`).
public enum SystemClock {
  /// CLOCK_MONOTONIC: counts from boot, never steps.
  @inlinable public static func now() -> Instant { Instant(nanoseconds: read(CLOCK_MONOTONIC)) }

  /// CLOCK_REALTIME, nanoseconds since 1970; steps when someone sets it.
  @inlinable public static func realtime() -> UInt64 { read(CLOCK_REALTIME) }

  @inlinable static func read(_ clock: clockid_t) -> UInt64 {
    var t = timespec()
    clock_gettime(clock, &t)
    return UInt64(t.tv_sec) &* 1_000_000_000 &+ UInt64(t.tv_nsec)
  }
}

/// What CLOCK_REALTIME shows at `Instant.zero`, as those were last told who reckon with it: it changes when someone sets
/// the clock, and when a machine has slept.
public struct WallClock: Sendable {
  /// Smaller changes are not worth telling: the rules of headers know seconds.
  public static let tolerance = Interval.seconds(1)

  /// In nanoseconds since 1970.
  public private(set) var unixAtZero: Int64
  /// By how much the clock is taken to be ahead of what it shows.
  private let offset: Interval

  public init(now: Instant, realtime: UInt64, offset: Interval = .zero) {
    self.offset = offset
    unixAtZero = WallClock.zero(now, realtime, offset)
  }

  /// Both clocks read together. What is to be told when it is another than what was told last; it counts as told with
  /// `told`.
  public func change(now: Instant, realtime: UInt64) -> Int64? {
    let zero = WallClock.zero(now, realtime, offset)
    let by = Interval(nanoseconds: zero) - Interval(nanoseconds: unixAtZero)
    return by > WallClock.tolerance || by < .zero - WallClock.tolerance ? zero : nil
  }

  public mutating func told(_ unixAtZero: Int64) { self.unixAtZero = unixAtZero }

  private static func zero(_ now: Instant, _ realtime: UInt64, _ offset: Interval) -> Int64 {
    (Interval(nanoseconds: Int64(clamping: realtime)) - Interval(nanoseconds: Int64(clamping: now.nanoseconds)) + offset)
      .nanoseconds
  }
}

/// Converts the kernel's receive times (CLOCK_REALTIME) to the monotonic clock, through steps of the former.
///
/// The difference of the two clocks is read again before each batch of datagrams. A datagram that came after a step was
/// seen is stamped by the new one; one that came before the reading before that, by the old one. Between these two
/// readings it may be either: the later of what is plausible counts. If nothing is, the arrival is `now`. An arrival is
/// never after `now`, and never earlier than `maxAge` before it.
public struct RealtimeConversion: Sendable {
  /// Realtime less monotonic, ns, wrapping.
  private var offset: UInt64
  private var offsetBefore: UInt64
  /// When the clocks were last read, when the last step was seen, and the reading before that.
  private var readAt: Instant
  private var stepSeen = Instant.zero
  private var readBeforeStep = Instant.zero
  /// How long a datagram can have waited in a socket buffer.
  private let maxAge: Interval

  /// Steps seen: changes of the difference by more than 1 ms between two readings.
  public private(set) var steps = 0
  /// Stamps that fitted neither difference.
  public private(set) var implausible = 0

  public init(now: Instant, realtime: UInt64, maxAge: Interval = .seconds(2)) {
    offset = realtime &- now.nanoseconds
    offsetBefore = offset
    readAt = now
    self.maxAge = maxAge
  }

  /// Before a batch: the realtime clock, read between two readings of the monotonic one. When these lie too far apart, the
  /// thread was interrupted between them, and the difference stays what it was.
  public mutating func refresh(now: Instant, realtime: UInt64, after: Instant) {
    let took = after - now
    if took < .zero || took > .microseconds(10) { return }
    let read = realtime &- (now.nanoseconds &+ UInt64(took.nanoseconds / 2))
    let change = Int64(bitPattern: read &- offset)
    if change.magnitude > 1_000_000 {
      steps += 1
      offsetBefore = offset
      (readBeforeStep, stepSeen) = (readAt, after)
    }
    offset = read
    readAt = now
  }

  /// - Parameter stamp: CLOCK_REALTIME in nanoseconds, by the kernel.
  public mutating func arrival(stamp: UInt64, now: Instant) -> Instant {
    let new = plausible(stamp &- offset, now)
    if let new, new >= stepSeen { return new }
    if let old = plausible(stamp &- offsetBefore, now), old <= stepSeen {
      if let new, new >= readBeforeStep { return max(new, old) }
      return old
    }
    if let new { return new }
    implausible += 1
    return now
  }

  /// The two clocks are read one after the other and disciplined at slightly different rates: a stamp up to 100 µs
  /// ahead is now.
  private func plausible(_ value: UInt64, _ now: Instant) -> Instant? {
    let age = Int64(bitPattern: now.nanoseconds &- value)
    if age >= 0 { return age <= maxAge.nanoseconds ? Instant(nanoseconds: value) : nil }
    return age >= -100_000 ? now : nil
  }
}
