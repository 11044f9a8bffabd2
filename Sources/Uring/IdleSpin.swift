import Ground

/// How long the engine thread looks for the next event before it sleeps: not at all, unless events have lately come so
/// soon that looking costs less than sleeping.
///
/// Going to sleep and being woken costs each side about ten microseconds, of the processor and of latency, most of it in
/// the interrupt that ends a core's idleness. Within a block's datagrams, or between two hosts that answer each other,
/// the next one is there sooner than that. Whether it would have been is read off the kernel's receive time stamps, so
/// the engine learns also while it sleeps.
///
/// Pure: time goes in.
package struct IdleSpin {
  /// What a look lasts at most.
  private let short: Interval
  /// Two hosts that both sleep see each other's wake-up in every gap; one longer look now and then finds that out.
  private let long: Interval
  private var credit = 0
  private var streak = 0
  private var idles = 0
  private var looksLong = false
  private var isDoubtful = false
  private var began: Instant?

  static let mostCredit = 8
  /// Looking begins here: two or three datagrams in quick succession are no trend.
  static let enoughCredit = 4
  /// So many looks in a row that paid make a single late datagram worth a long look.
  static let longStreak = 64
  /// One idle time in so many, if the gap before it was between `short` and `long`, is looked through.
  static let probeEvery = 32

  /// - Parameter short: 0 for never looking.
  package init(short: Interval) {
    self.short = short
    long = short + short + short
  }

  /// Nothing is left to do: how long to look before sleeping.
  @inline(__always) package mutating func begin(_ now: Instant) -> Interval {
    began = now
    if looksLong {
      looksLong = false
      return long
    }
    if credit >= IdleSpin.enoughCredit { return short }
    if !isDoubtful { return .zero }
    idles += 1
    return idles % IdleSpin.probeEvery == 0 ? long : .zero
  }

  /// A datagram came: the first since `begin` tells whether looking paid or would have. A gap that is too long counts
  /// twice, because a look in vain costs about twice what a hit saves.
  @inline(__always) package mutating func came(_ arrival: Instant) {
    guard let began, short > .zero else { return }
    self.began = nil
    let gap = arrival - began
    if gap <= short {
      credit = min(credit + 1, IdleSpin.mostCredit)
      streak += 1
    } else {
      credit = max(credit - 2, 0)
      looksLong = streak >= IdleSpin.longStreak
      streak = 0
      isDoubtful = gap <= long
    }
  }
}
