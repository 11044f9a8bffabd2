import Ground

/// One four-timestamp exchange with a peer (RFC 5905 §8): we send at t1 and receive at t4 by our clock, the peer receives
/// at t2 and sends at t3 by its own.
public struct ClockExchange: Hashable, Sendable {
  public var t1, t2, t3, t4: Instant

  public init(t1: Instant, t2: Instant, t3: Instant, t4: Instant) {
    (self.t1, self.t2, self.t3, self.t4) = (t1, t2, t3, t4)
  }

  /// Time on the wire, both ways: (t4 − t1) − (t3 − t2).
  public var roundTrip: Interval { (t4 - t1) - (t3 - t2) }
}

/// What is known of a peer's clock at one moment: the offset lies in `low ... high`, for certain under the stated
/// assumptions; `estimate` is the middle.
public struct ClockBounds: Hashable, Sendable {
  /// Peer's clock minus ours.
  public var low, high: Interval
  /// Rate of the peer's clock over ours less one, in parts per million: bounds.
  public var driftLowPPM, driftHighPPM: Double

  public init(low: Interval, high: Interval, driftLowPPM: Double = 0, driftHighPPM: Double = 0) {
    (self.low, self.high, self.driftLowPPM, self.driftHighPPM) = (low, high, driftLowPPM, driftHighPPM)
  }

  public var estimate: Interval { low + (high - low) / 2 }
  /// ± this much.
  public var uncertainty: Interval { (high - low) / 2 }
}

/// Bounds on the offset between a peer's clock and ours, from four-timestamp exchanges.
///
/// An exchange proves that the offset lay in [t3 − t4 + floor, t2 − t1 − floor], where `floor` is the least one-way
/// delay that physics allows (light in fibre over the great circle; 0 when positions are unknown). Nothing is assumed
/// of how the rest of the round trip splits. With a constant rate between the clocks, the offset is a line that passes
/// through every such window; the bounds at a later time are the extremes over all lines that do (Zhang, Liu and Xia,
/// "Clock synchronization algorithms for network measurements", 2002). Quartz wanders and clocks are slewed, so windows
/// widen with age by `wanderPPM`. Exchanges that queued on the way have wide windows and constrain nothing: that is
/// the minimum filter.
///
/// When no line fits, a clock has stepped: the windows before the step are forgotten and `steps` counts it.
/// Memory: `capacity` windows. Each exchange costs O(capacity), each query O(capacity²).
public struct ClockFilter: Sendable {
  private struct Window {
    var time: Double  // seconds of our clock since `origin`
    var low, high: Double  // seconds, relative to `base`
    var width: Double { high - low }
  }

  /// Longest age of a window.
  public let horizon: Interval
  /// One window is kept for each of these: the narrowest.
  public let bucket: Interval
  /// How far the clocks' rate may change over the horizon.
  public let wanderPPM: Double
  /// No two clocks differ by more: quartz is good to 50 ppm each, and NTP slews by about as much in the ordinary course.
  /// A faster slew looks like a step and is treated as one.
  public let driftLimitPPM: Double
  /// Least one-way delay.
  public var floor: Interval

  public private(set) var steps = 0
  public private(set) var exchanges = 0
  /// Exchanges whose timestamps contradict themselves (negative round trip, or less than twice the floor).
  public private(set) var refused = 0

  private let capacity: Int
  private var windows: [Window] = []
  private var origin = Instant.zero
  private var base = Interval.zero

  public init(
    floor: Interval = .zero, horizon: Interval = .seconds(300), bucket: Interval = .seconds(3),
    wanderPPM: Double = 0.3, driftLimitPPM: Double = 200
  ) {
    self.floor = floor
    self.horizon = horizon
    self.bucket = bucket
    self.wanderPPM = wanderPPM
    self.driftLimitPPM = driftLimitPPM
    capacity = max(4, Int(horizon.nanoseconds / max(bucket.nanoseconds, 1)) + 2)
    windows.reserveCapacity(capacity + 1)
  }

  /// Takes one exchange. Exchanges come in order of t4.
  public mutating func add(_ exchange: ClockExchange) {
    exchanges += 1
    let low = exchange.t3 - exchange.t4
    let high = exchange.t2 - exchange.t1
    // t2 − t1 = offset + delay there, t4 − t3 = delay back − offset.
    // Saturating arithmetic: a peer's timestamps may be any number.
    let sane = Interval.seconds(100 * 365 * 86_400)
    if exchange.t4 < exchange.t1 || exchange.t3 < exchange.t2 || high - low < floor * 2 || high > sane
      || low < .zero - sane
    {
      refused += 1
      return
    }
    if windows.isEmpty {
      origin = exchange.t4
      base = low
    }
    let window = Window(
      time: (exchange.t4 - origin).seconds, low: (low - base + floor).seconds,
      high: (high - base - floor).seconds)
    if let last = windows.last, Int(last.time / bucket.seconds) == Int(window.time / bucket.seconds), fits(window, last)
    {
      if window.width < last.width { windows[windows.count - 1] = window }
    } else {
      windows.append(window)
    }
    let oldest = window.time - horizon.seconds
    windows.removeAll { $0.time < oldest }
    if windows.count > capacity { windows.removeFirst(windows.count - capacity) }
    if drift() == nil {
      // The newest window is the truth; the oldest go until a line fits again.
      steps += 1
      while windows.count > 1 && drift() == nil { windows.removeFirst() }
    }
  }

  /// What is known of the offset at `now`, which may lie between the exchanges or before them; nil before the first.
  public func bounds(at now: Instant) -> ClockBounds? {
    guard !windows.isEmpty, let (least, most) = drift() else { return nil }
    let t = (now - origin).seconds
    let wander = wanderPPM * 1e-6
    var high = Double.infinity
    var low = -Double.infinity
    for window in windows {
      let age = t - window.time
      high = min(high, window.high + (age >= 0 ? most : least) * age + wander * abs(age))
      low = max(low, window.low + (age >= 0 ? least : most) * age - wander * abs(age))
    }
    if low > high { swap(&low, &high) }
    return ClockBounds(
      low: Interval(nanoseconds: base.nanoseconds + Int64((low * 1e9).rounded(.down))),
      high: Interval(nanoseconds: base.nanoseconds + Int64((high * 1e9).rounded(.up))), driftLowPPM: least * 1e6,
      driftHighPPM: most * 1e6)
  }

  /// The rates of all lines through all windows; nil when there is none.
  private func drift() -> (Double, Double)? {
    var least = -driftLimitPPM * 1e-6
    var most = driftLimitPPM * 1e-6
    let slack = wanderPPM * 1e-6
    for i in windows.indices {
      for j in windows.indices where j > i {
        let span = windows[j].time - windows[i].time
        if span < 1e-3 {
          if windows[j].low > windows[i].high || windows[j].high < windows[i].low { return nil }
          continue
        }
        most = min(most, (windows[j].high - windows[i].low) / span + slack)
        least = max(least, (windows[j].low - windows[i].high) / span - slack)
      }
    }
    return least <= most ? (least, most) : nil
  }

  /// True when both windows can hold of one pair of clocks.
  private func fits(_ a: Window, _ b: Window) -> Bool {
    let give = driftLimitPPM * 1e-6 * abs(a.time - b.time)
    return a.low <= b.high + give && b.low <= a.high + give
  }
}
