import Ground

/// Paces bytes at a rate, as a virtual schedule (GCRA, ITU-T I.371): `due` is when the next byte may leave if all
/// leave on time. Lateness, of the owner's timer or for want of data, is credit up to a limit, chosen so that at most
/// max(100 µs of the rate, one full datagram) ever leaves at once, and after that burst at least half a datagram's
/// time passes. Lateness within the credit is caught up, so the long-run rate is the configured one.
///
/// Pure: time goes in. Arithmetic in sixteenths of a nanosecond, wrapping in 36 years of uptime.
package struct TokenBucket {
  /// Sixteenths of a nanosecond per byte, with 16 binary places; 0 for 'not limited'.
  private var costPerByte: UInt64
  /// Sixteenths of a nanosecond.
  private var due: UInt64 = 0
  private var credit: UInt64
  /// Part of the credit that is let grow while more is waiting, so that trains leave rather than single datagrams: each
  /// train costs a wake-up on both sides. The rest is for wake-ups later than usual, without which the rate would suffer.
  private var quantum: UInt64

  package static let burst = Interval.microseconds(100)

  /// - Parameter fullDatagram: bytes on the wire of the largest datagram.
  package init(rate: LinkRate, fullDatagram: Int) {
    guard rate.bitsPerSecond > 0 else {
      (costPerByte, credit, quantum) = (0, 0, 0)
      return
    }
    // Below 1 kbit/s a datagram would take minutes and the product below could overflow.
    let bits = max(rate.bitsPerSecond, 1_000)
    // Rounded up, here and below: the configured rate is never exceeded.
    costPerByte = UInt64((8e9 * 16 * 65_536 / Double(bits)).rounded(.up))
    let spacing = max((UInt64(fullDatagram) * costPerByte) >> 16, 1)
    let most = UInt64(TokenBucket.burst.nanoseconds) * 16
    let datagrams = max(most / spacing, 1)
    credit = (datagrams - 1) * spacing + min(spacing / 2, most)
    quantum = datagrams >= 4 ? credit / 8 * 5 : 0
  }

  package var isUnlimited: Bool { costPerByte == 0 }

  /// Whether a datagram may leave now.
  @inline(__always) package func allows(_ now: Instant) -> Bool { now.nanoseconds << 4 >= due }

  /// Before a series of `take`s at one instant: lateness beyond the credit is lost.
  @inline(__always) package mutating func begin(_ now: Instant) {
    let earliest = (now.nanoseconds << 4) &- min(credit, now.nanoseconds << 4)
    if due < earliest { due = earliest }
  }

  /// A datagram of so many bytes on the wire leaves.
  @inline(__always) package mutating func take(_ bytes: Int) { due &+= (UInt64(bytes) &* costPerByte &+ 65_535) >> 16 }

  /// Sixteenths of a nanosecond by which a train is worth waiting for, when `more` bytes wait behind the first datagram;
  /// less the time that wake-ups are usually late by, for then it will have waited that much longer.
  @inline(__always) private func patience(_ more: Int, _ lateness: Interval) -> UInt64 {
    let waiting = min(quantum, (UInt64(min(max(more, 0), 1 << 20)) &* costPerByte) >> 16)
    let late = min(UInt64(max(lateness.nanoseconds, 0)) << 4, quantum)
    return waiting > late ? waiting - late : 0
  }

  /// Whether a train may leave now and is worth sending: a lone datagram as soon as it may, several a little later,
  /// together. After idleness always.
  @inline(__always) package func isReady(_ now: Instant, more: Int, lateness: Interval) -> Bool {
    now.nanoseconds << 4 >= due &+ patience(more, lateness)
  }

  /// When it will be ready.
  @inline(__always) package func wake(more: Int, lateness: Interval) -> Instant {
    if isUnlimited { return .zero }
    return Instant(nanoseconds: (due &+ patience(more, lateness) &+ 15) >> 4)
  }
}

/// What timed wake-ups are usually late by, as TCP estimates round-trip times (RFC 6298): a mean over the last eight or so,
/// and twice the mean deviation from it, so that a machine whose wake-ups vary keeps more of the credit for them.
package struct Lateness {
  private var mean = Interval.zero
  private var deviation = Interval.zero

  package init() {}

  /// One great lateness (the thread was preempted) says little about the next: it counts as 100 µs.
  package mutating func usual(_ late: Interval) -> Interval {
    let counted = min(late, TokenBucket.burst)
    let error = counted - mean
    mean = mean + error / 8
    deviation = deviation + ((error < .zero ? .zero - error : error) - deviation) / 8
    return mean + deviation + deviation
  }
}
