import Ground
import Wire

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// Counts what gets lost on the way here, from the transport counters of the packets that arrive. One a link and
/// direction, at the receiving end; what it finds goes back to the sender in STATUS.
///
/// Packets overtake each other, so a counter that is missing counts as lost only once 512 newer ones have come or 250 ms
/// have passed. Runs of losses are counted too: their mean length is what the sender's budgets hang on most. Memory is
/// fixed, a packet costs O(1) amortised.
///
/// Some gaps are no losses: HAVE makes the sender drop what it has sealed of that block and not sent. Which counters those
/// were nobody tells, and nobody need be believed about it: they come right after packets that arrived when HAVE was on
/// its way or had just got there. What follows such a packet is not counted, whether it came or not, so that leaving it
/// out makes no loss look smaller.
public struct LossMeter: Sendable {
  /// Newer counters that confirm a gap.
  public static let reorderDistance: UInt64 = 512
  /// A run longer than this is an outage of the link, not something that redundancy should cover; it counts as this long.
  public static let runMax = 64
  static let window: UInt64 = 1_024
  static let settleTime = Interval.microseconds(250_000)
  /// How much later than a round trip after HAVE the sender may still send what it had in its queue.
  static let withdrawalSlack = Interval.microseconds(20_000)
  /// Packets that came so shortly before HAVE may be the last that the sender let go.
  static let withdrawalLead = Interval.microseconds(5_000)

  /// One bit a counter, of the newest 1,024; bit set when it came.
  private var arrived = InlineArray<16, UInt64>(repeating: 0)
  /// Likewise; bit set when it is not counted.
  private var excused = InlineArray<16, UInt64>(repeating: 0)
  /// What follows packets that came from then till then is not counted.
  private var excusedFrom = Instant.never
  private var excusedUntil = Instant.zero
  private var isStarted = false
  private var newest: UInt64 = 0
  private var newestTime = Instant.zero
  /// Counters up to here are in the sums.
  private var settled: UInt64 = 0
  private var mark: UInt64 = 0
  private var markTime = Instant.zero
  private var run = 0
  private var sinceDecay = 0

  /// Sums that forget with half-lives of 2,048 and 65,536 packets: one sees a change, the other is sure.
  private var fast = Sums()
  private var slow = Sums()
  /// Runs of more than 64, ever.
  public private(set) var outages: UInt64 = 0
  /// Counters that came after they had been counted as lost, ever.
  public private(set) var tooLate: UInt64 = 0

  private struct Sums: Sendable {
    var came = 0.0
    var lost = 0.0
    var runs = 0.0
    var all: Double { came + lost }
    mutating func scale(_ f: Double) {
      came *= f
      lost *= f
      runs *= f
    }
  }

  public init() {}

  /// A packet with this counter was opened (so it is genuine and no duplicate).
  public mutating func received(counter: UInt64, now: Instant) {
    if !isStarted {
      isStarted = true
      (newest, mark, markTime) = (counter, counter, now)
      newestTime = now
      settled = counter  // What came before the first packet is unknown.
      count(arrived: true)
      return
    }
    if counter <= settled {
      // Counted as lost already, if at all: take it back.
      if newest - counter < Self.window && excused.holds(counter) { return }
      tooLate += 1
      fast.lost = max(0, fast.lost - 1)
      slow.lost = max(0, slow.lost - 1)
      fast.came += 1
      slow.came += 1
      return
    }
    if counter > newest {
      let isExcused =
        excusedFrom <= now && newestTime <= excusedUntil && newestTime + Self.withdrawalLead >= excusedFrom
      if counter - newest >= Self.window / 2 {
        // A jump beyond the window: settle what is there, and the gap as one run.
        settle(upTo: newest)
        if isExcused { run = 0 } else { addRun(lost: counter - newest - 1) }
        settled = counter - 1
        for i in 0..<16 { excused[i] = isExcused ? .max : 0 }
      } else {
        var position = newest
        while position < counter {
          position += 1
          arrived.set(position, false)
          excused.set(position, isExcused)
        }
      }
      newest = counter
      newestTime = now
    }
    arrived.set(counter, true)
    if newest - settled > Self.reorderDistance { settle(upTo: newest - Self.reorderDistance) }
  }

  /// Once in a while (each STATUS): settles what is older than 250 ms, so that a quiet link is measured too.
  public mutating func tick(now: Instant) {
    guard isStarted, now - markTime >= Self.settleTime else { return }
    if mark > settled { settle(upTo: mark) }
    (mark, markTime) = (newest, now)
  }

  /// HAVE goes to the sender, who hears it half a round trip later: it may drop then what it has sealed of that block.
  public mutating func haveSent(now: Instant, roundTrip: Interval) {
    let until = now + roundTrip + Self.withdrawalSlack
    if excusedUntil < now { excusedFrom = now }
    excusedFrom = min(excusedFrom, now)
    excusedUntil = max(excusedUntil, until)
  }

  /// New keys, counters from 0 again. What was learned stays.
  public mutating func restart() {
    if isStarted { settle(upTo: newest) }
    isStarted = false
    run = 0
    for i in 0..<16 {
      arrived[i] = 0
      excused[i] = 0
    }
  }

  /// The estimate so far: the long memory's, or the short one's where it is worse beyond chance.
  public var loss: LinkLoss {
    let burst = slow.runs > 0 ? max(1, slow.lost / slow.runs) : 1
    let slowRate = slow.all > 0 ? slow.lost / slow.all : 0
    if fast.all > 64 {
      let fastRate = fast.lost / fast.all
      let fastBurst = fast.runs > 0 ? max(1, fast.lost / fast.runs) : 1
      let deviation = (max(slowRate, 1 / fast.all) * (2 * burst - 1) / fast.all).squareRoot()
      if fastRate > slowRate + 2.5 * deviation {
        return LinkLoss(rate: fastRate, burst: max(burst, fastBurst), observed: fast.all)
      }
    }
    return LinkLoss(rate: slowRate, burst: burst, observed: slow.all)
  }

  private mutating func settle(upTo limit: UInt64) {
    while settled < limit {
      settled += 1
      if excused.holds(settled) {
        // No run of losses is known to reach across it.
        run = 0
      } else {
        count(arrived: arrived.holds(settled))
      }
    }
  }

  private mutating func count(arrived: Bool) {
    if arrived {
      run = 0
      fast.came += 1
      slow.came += 1
    } else {
      run += 1
      if run == Self.runMax + 1 { outages += 1 }
      if run <= Self.runMax {
        if run == 1 {
          fast.runs += 1
          slow.runs += 1
        }
        fast.lost += 1
        slow.lost += 1
      }
    }
    sinceDecay += 1
    if sinceDecay == 256 {
      sinceDecay = 0
      fast.scale(0.917_004_043_204_671_2)  // 2^(−256/2,048)
      slow.scale(0.997_296_056_085_470_1)  // 2^(−256/65,536)
    }
  }

  /// A run too long to walk. Its length may be anything a peer's counter says.
  private mutating func addRun(lost: UInt64) {
    for _ in 0..<Int(min(lost, UInt64(Self.runMax + 1))) { count(arrived: false) }
  }
}

/// One bit for each of the newest 1,024 counters.
extension InlineArray<16, UInt64> {
  fileprivate func holds(_ counter: UInt64) -> Bool { self[Int(counter >> 6 & 15)] & (1 &<< (counter & 63)) != 0 }
  fileprivate mutating func set(_ counter: UInt64, _ isSet: Bool) {
    let bit: UInt64 = 1 &<< (counter & 63)
    let word = Int(counter >> 6 & 15)
    self[word] = isSet ? self[word] | bit : self[word] & ~bit
  }
}

/// Loss of one direction of a link: a Gilbert channel's two numbers, and what they rest on.
public struct LinkLoss: Hashable, Sendable {
  /// Share of packets lost, 0 to 1.
  public var rate: Double
  /// Mean length of a run of losses, at least 1.
  public var burst: Double
  /// Packets that the two rest on.
  public var observed: Double

  public init(rate: Double, burst: Double, observed: Double) {
    self.rate = rate
    self.burst = burst
    self.observed = observed
  }

  /// Nothing known.
  public static let unknown = LinkLoss(rate: 0, burst: 1, observed: 0)

  /// What a peer's STATUS says of our packets.
  public init(_ status: StatusHead) {
    self.init(
      rate: Double(status.loss) / 65_536, burst: Double(max(status.burst, 256)) / 256, observed: Double(status.observed)
    )
  }

  /// The units of STATUS.
  public var forStatus: (loss: UInt16, burst: UInt16, observed: UInt32) {
    (
      UInt16(clamping: Int64(clampingRounded: rate * 65_536)),
      UInt16(clamping: max(256, Int64(clampingRounded: burst * 256))),
      UInt32(clamping: Int64(clampingRounded: observed))
    )
  }

  /// What to be prepared for: the estimate with a prior worth 100 packets at 1%, one standard deviation on top (losses
  /// come in runs, so its variance is 2·burst − 1 times the binomial one), and never below one in a thousand in runs of
  /// two: a link that has been clean for long costs a handful of chunks more, and its first loss no round trip.
  public var prudent: LinkLoss {
    let n = observed + 100
    let mean = (rate * observed + 1) / n
    let runs = rate * observed / max(burst, 1)
    let length = min(max((rate * observed + 4) / (runs + 2), 2), Double(LossMeter.runMax))
    let deviation = (mean * (2 * length - 1) / n).squareRoot()
    return LinkLoss(rate: min(max(mean + deviation, 0.001), 0.5), burst: length, observed: observed)
  }
}

/// The sending end's view of a link: what the receiver reports, believed at once when it gets worse and by a quarter each
/// time when it gets better.
public struct ReportedLoss: Sendable {
  public private(set) var loss = LinkLoss.unknown

  public init() {}

  public mutating func note(_ report: LinkLoss) {
    var next = LinkLoss(
      rate: min(max(report.rate, 0), 1), burst: max(report.burst, 1), observed: max(report.observed, 0))
    if loss.observed > 0 {
      if next.rate < loss.rate { next.rate = loss.rate + (next.rate - loss.rate) / 4 }
      if next.burst < loss.burst { next.burst = loss.burst + (next.burst - loss.burst) / 4 }
    }
    loss = next
  }
}

/// One-way delay and its spread from the session's pings. The delay is half of the least round trip of the last 30 to 60
/// seconds (queueing only adds), the spread RFC 6298's mean deviation.
public struct DelayEstimator: Sendable {
  static let bucketTime = Interval.seconds(30)

  private var least = Interval(nanoseconds: .max)
  private var leastBefore = Interval(nanoseconds: .max)
  private var bucketStart = Instant.zero
  private var smoothed = 0.0
  private var deviation = 0.0
  public private(set) var samples: UInt64 = 0

  public init() {}

  public mutating func note(roundTrip: Interval, now: Instant) {
    if roundTrip.nanoseconds <= 0 { return }
    if samples == 0 || now - bucketStart >= Self.bucketTime {
      leastBefore = least
      least = roundTrip
      bucketStart = now
    } else {
      least = min(least, roundTrip)
    }
    let value = Double(roundTrip.nanoseconds)
    if samples == 0 {
      smoothed = value
      deviation = value / 2
    } else {
      deviation += (abs(value - smoothed) - deviation) / 4
      smoothed += (value - smoothed) / 8
    }
    samples += 1
  }

  /// `nil` before the first ping.
  public var roundTrip: Interval? { samples == 0 ? nil : min(least, leastBefore) }
  public var oneWay: Interval? { roundTrip.map { $0 / 2 } }
  /// Mean deviation of round trips.
  public var jitter: Interval { Interval(nanoseconds: Int64(clampingRounded: deviation)) }

  /// In STATUS's unit of 10 µs; all ones for 'not known'.
  public var forStatus: UInt32 {
    guard let oneWay else { return .max }
    return UInt32(clamping: min(oneWay.nanoseconds / 10_000, Int64(UInt32.max - 1)))
  }

  /// How long to wait for an answer before asking again: a round trip and a quarter, and four deviations; at least 2 ms,
  /// and 200 ms before the first ping.
  public var retry: Interval {
    guard let roundTrip else { return .microseconds(200_000) }
    return max(.microseconds(2_000), roundTrip + roundTrip / 4 + jitter * 4)
  }
}
