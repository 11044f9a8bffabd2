import Ground

/// A rate limit in one number (GCRA, the generic cell rate algorithm): `burst` at once, then one each `interval`.
package struct Pacer {
  private var earliest: UInt64 = 0

  package init() {}

  package mutating func take(now: Instant, interval: Interval, burst: Int64) -> Bool {
    let start = max(earliest, now.nanoseconds)
    let debt = UInt64(interval.nanoseconds) * UInt64(burst - 1)
    if start - now.nanoseconds > debt { return false }
    earliest = start + UInt64(interval.nanoseconds)
    return true
  }
}
