/// A point on a monotonic clock, in nanoseconds since an origin that only the clock's owner knows.
///
/// Protocol code never reads a clock: it is handed an `Instant` with every input and answers with the next one at
/// which it wants to be called (`DatagramCore.nextDeadline`). So the same code runs under a virtual clock.
public struct Instant: Comparable, Hashable, Sendable {
  public var nanoseconds: UInt64

  @inlinable public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

  /// Before any instant a clock hands out.
  public static let zero = Instant(nanoseconds: 0)
  /// 'Never', as a deadline.
  public static let never = Instant(nanoseconds: .max)

  @inlinable public static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }

  /// Saturates at `.zero` and `.never`: no sum of a clock value and a hostile number traps.
  @inlinable public static func + (a: Instant, b: Interval) -> Instant {
    if a == .never { return .never }
    if b.nanoseconds >= 0 {
      let (sum, overflow) = a.nanoseconds.addingReportingOverflow(UInt64(b.nanoseconds))
      return overflow ? .never : Instant(nanoseconds: sum)
    }
    let back = b.nanoseconds.magnitude
    return a.nanoseconds < back ? .zero : Instant(nanoseconds: a.nanoseconds - back)
  }
  @inlinable public static func - (a: Instant, b: Interval) -> Instant { a + Interval(nanoseconds: 0 &- b.nanoseconds) }

  /// Signed distance; saturates.
  @inlinable public static func - (a: Instant, b: Instant) -> Interval {
    if a >= b {
      return Interval(nanoseconds: Int64(clamping: a.nanoseconds - b.nanoseconds))
    }
    return Interval(nanoseconds: -Int64(clamping: b.nanoseconds - a.nanoseconds))
  }
}

/// A signed span of time in nanoseconds.
public struct Interval: Comparable, Hashable, Sendable {
  public var nanoseconds: Int64

  @inlinable public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  public static let zero = Interval(nanoseconds: 0)
  @inlinable public static func microseconds(_ n: Int64) -> Interval { Interval(nanoseconds: n * 1_000) }
  @inlinable public static func milliseconds(_ n: Int64) -> Interval { Interval(nanoseconds: n * 1_000_000) }
  @inlinable public static func seconds(_ n: Int64) -> Interval { Interval(nanoseconds: n * 1_000_000_000) }
  /// Rounds to the nearest nanosecond; saturates.
  @_disfavoredOverload @inlinable public static func milliseconds(_ n: Double) -> Interval {
    Interval(nanoseconds: Int64(clampingRounded: n * 1e6))
  }

  @inlinable public var milliseconds: Double { Double(nanoseconds) / 1e6 }
  @inlinable public var seconds: Double { Double(nanoseconds) / 1e9 }

  @inlinable public static func < (a: Interval, b: Interval) -> Bool { a.nanoseconds < b.nanoseconds }
  @inlinable public static func + (a: Interval, b: Interval) -> Interval {
    let (sum, overflow) = a.nanoseconds.addingReportingOverflow(b.nanoseconds)
    return Interval(nanoseconds: overflow ? (b.nanoseconds > 0 ? .max : .min) : sum)
  }
  @inlinable public static func - (a: Interval, b: Interval) -> Interval {
    let (difference, overflow) = a.nanoseconds.subtractingReportingOverflow(b.nanoseconds)
    return Interval(nanoseconds: overflow ? (b.nanoseconds < 0 ? .max : .min) : difference)
  }
  @inlinable public static func * (a: Interval, n: Int64) -> Interval {
    let (product, overflow) = a.nanoseconds.multipliedReportingOverflow(by: n)
    return Interval(nanoseconds: overflow ? ((a.nanoseconds < 0) == (n < 0) ? .max : .min) : product)
  }
  @inlinable public static func / (a: Interval, n: Int64) -> Interval { Interval(nanoseconds: a.nanoseconds / n) }
}

extension Int64 {
  /// The nearest integer, clamped to the type's range; NaN becomes 0.
  @inlinable public init(clampingRounded value: Double) {
    if value.isNaN {
      self = 0
    } else if value >= 9.223372036854775e18 {
      self = .max
    } else if value <= -9.223372036854775e18 {
      self = .min
    } else {
      self = Int64(value.rounded())
    }
  }
}
