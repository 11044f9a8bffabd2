import Ground

/// Statistics of one direction of one link, for one interval at a time: loss, reordering, delay and jitter.
///
/// Takes either packets (their sequence numbers in arrival order, with send times where the format has them) or totals
/// that the session already keeps. Constant memory.
public struct LinkMeter: Sendable {
  /// What an interval comes to.
  public struct Summary: Hashable, Sendable {
    /// Packets that should have come (from the sequence numbers) and those that did.
    public var expected: UInt64 = 0
    public var received: UInt64 = 0
    /// Packets that came after one that was sent later (RFC 4737, type P reordered).
    public var reordered: UInt64 = 0
    public var duplicates: UInt64 = 0
    /// Smoothed difference of successive transit times (RFC 3550, 6.4.1); needs no synchronised clocks.
    public var jitter = Interval.zero
    /// Least one-way delay in the interval, as bounds; nil without clock bounds.
    public var delayLow: Interval?
    public var delayHigh: Interval?
    /// Least round trip of the clock exchanges.
    public var roundTrip: Interval?

    public init() {}
    /// 0 ... 1; nil when nothing was expected.
    public var loss: Double? {
      expected == 0 ? nil : Double(expected - min(received, expected)) / Double(expected)
    }
    /// 0 ... 1, of what came; nil when nothing did.
    public var reorderedShare: Double? { received == 0 ? nil : Double(min(reordered, received)) / Double(received) }
    public var delay: Interval? {
      guard let delayLow, let delayHigh else { return nil }
      return delayLow + (delayHigh - delayLow) / 2
    }
    /// ± this much.
    public var delayUncertainty: Interval? {
      guard let delayLow, let delayHigh else { return nil }
      return (delayHigh - delayLow) / 2
    }

    /// This interval and the next one as one.
    public func joined(_ next: Summary) -> Summary {
      var sum = self
      sum.expected &+= next.expected
      sum.received &+= next.received
      sum.reordered &+= next.reordered
      sum.duplicates &+= next.duplicates
      // Smoothed: the later value is the whole's.
      if next.received > 0 || next.roundTrip != nil { sum.jitter = next.jitter }
      sum.delayLow = [delayLow, next.delayLow].compactMap { $0 }.min()
      sum.delayHigh = [delayHigh, next.delayHigh].compactMap { $0 }.min()
      sum.roundTrip = [roundTrip, next.roundTrip].compactMap { $0 }.min()
      return sum
    }
  }

  private var summary = Summary()
  /// Still to be taken off what was expected.
  private var withdrawn: UInt64 = 0
  /// Highest sequence number seen, and the 64 before it that were.
  private var highest: UInt64?
  private var seen: UInt64 = 0
  private var transit: Int64?
  private var jitter16: Int64 = 0

  /// A jump of the sequence beyond this is a new session, no loss.
  private static let longestGap: UInt64 = 1 << 20

  public init() {}

  /// A packet arrived.
  /// - Parameters:
  ///   - sent: by the sender's clock, which need not agree with ours.
  ///   - clock: what is known of the sender's clock at `received`.
  public mutating func packet(
    sequence: UInt64, sent: Instant? = nil, received: Instant, clock: ClockBounds? = nil
  ) {
    if let top = highest {
      if sequence > top {
        let step = sequence - top
        if step > LinkMeter.longestGap {
          restart(at: sequence)
        } else {
          summary.expected += step
          seen = step <= 64 ? (seen << step) | (1 << (step - 1)) : 0
          highest = sequence
          summary.received += 1
        }
      } else {
        let back = top - sequence
        if back == 0 || (back <= 64 && seen >> (back - 1) & 1 == 1) {
          summary.duplicates += 1
          return
        }
        if back > LinkMeter.longestGap {
          restart(at: sequence)
        } else {
          if back <= 64 { seen |= 1 << (back - 1) }
          summary.reordered += 1
          summary.received += 1
        }
      }
    } else {
      restart(at: sequence)
    }
    guard let sent else { return }
    noteTransit((received - sent).nanoseconds)
    if let clock {
      // received − (sent − offset), for the offset at either bound.
      note(low: (received - sent) + clock.low, high: (received - sent) + clock.high)
    }
  }

  private mutating func noteTransit(_ now: Int64) {
    if let transit {
      let (difference, overflow) = now.subtractingReportingOverflow(transit)
      // A step of either clock is no jitter.
      if !overflow && difference.magnitude < 10_000_000_000 {
        jitter16 += Int64(difference.magnitude) - (jitter16 + 8) / 16
        summary.jitter = Interval(nanoseconds: jitter16 / 16)
      }
    }
    transit = now
  }

  private mutating func restart(at sequence: UInt64) {
    highest = sequence
    seen = 0
    summary.expected += 1
    summary.received += 1
  }

  /// A clock exchange: both one-way delays follow from the offset's bounds; `outward` says which one this meter keeps.
  public mutating func exchange(_ exchange: ClockExchange, clock: ClockBounds?, outward: Bool) {
    let trip = exchange.roundTrip
    if trip < .zero { return }
    summary.roundTrip = min(summary.roundTrip ?? trip, trip)
    // Their clocks' offset drops out of differences between successive transits.
    noteTransit((outward ? exchange.t2 - exchange.t1 : exchange.t4 - exchange.t3).nanoseconds)
    guard let clock else { return }
    if outward {
      let raw = exchange.t2 - exchange.t1
      note(low: raw - clock.high, high: raw - clock.low)
    } else {
      let raw = exchange.t4 - exchange.t3
      note(low: raw + clock.low, high: raw + clock.high)
    }
  }

  /// Totals that the session counts itself.
  /// - Parameter withdrawn: of `expected`, or of what was before, those that the sender never put on the line. It may
  ///   say so a while later.
  public mutating func totals(expected: UInt64, received: UInt64, reordered: UInt64 = 0, withdrawn: UInt64 = 0) {
    self.withdrawn &+= withdrawn
    summary.expected &+= expected
    summary.received &+= received
    summary.reordered &+= reordered
  }

  private mutating func note(low: Interval, high: Interval) {
    guard low <= high else { return }
    // The least delay of the interval: the smallest of both bounds, each by itself, still brackets it.
    let floor = max(low, .zero)
    summary.delayLow = min(summary.delayLow ?? floor, floor)
    summary.delayHigh = min(summary.delayHigh ?? high, high)
  }

  /// The interval so far.
  public var current: Summary {
    var result = summary
    // Packets overtaken across the border of intervals would look like negative loss.
    if result.received > result.expected { result.received = result.expected }
    result.expected -= min(withdrawn, result.expected - result.received)
    return result
  }

  /// The interval so far; the next one begins.
  public mutating func take() -> Summary {
    let result = current
    withdrawn -= min(withdrawn, summary.expected - min(summary.received, summary.expected))
    summary = Summary()
    summary.jitter = result.jitter
    return result
  }
}
