import Ground

/// Losses of one direction of a path: Gilbert's two-state model (Gilbert 1960; Elliott 1963 with loss 1 in the bad state
/// and 0 in the good one). The chain steps once a datagram.
public struct LossModel: Hashable, Sendable {
  /// Share of datagrams lost in the long run, 0 ..< 1.
  public var rate: Double
  /// Mean number of datagrams lost in a row, ≥ 1. Values at or below `1 / (1 - rate)` (what independent losses have)
  /// give independent losses.
  public var meanBurst: Double

  public init(rate: Double, meanBurst: Double = 1) {
    self.rate = min(max(rate, 0), 0.999)
    self.meanBurst = max(meanBurst, 1)
  }
  public static let none = LossModel(rate: 0)

  /// P(bad → good) and P(good → bad). With r = P(bad → good) = 1 / meanBurst the stationary share of the bad state,
  /// p / (p + r), is `rate` when p = r · rate / (1 - rate).
  var transitions: (toGood: Double, toBad: Double) {
    if meanBurst <= 1 / (1 - rate) { return (1 - rate, rate) }
    let toGood = 1 / meanBurst
    return (toGood, toGood * rate / (1 - rate))
  }
}

/// One direction of the way between two nodes, after the sender's link has let a datagram go.
public struct PathModel: Hashable, Sendable {
  public var delay: Interval
  /// Mean of an exponential extra delay. Datagrams stay in order.
  public var jitter: Interval
  public var loss: LossModel
  /// Share of datagrams that are held back by up to `reorderDelay` more and so are overtaken.
  public var reorder: Double
  public var reorderDelay: Interval
  /// Share of datagrams that arrive twice.
  public var duplicate: Double

  public init(
    delay: Interval, jitter: Interval = .zero, loss: LossModel = .none, reorder: Double = 0,
    reorderDelay: Interval = .zero, duplicate: Double = 0
  ) {
    self.delay = delay
    self.jitter = jitter
    self.loss = loss
    self.reorder = reorder
    self.reorderDelay = reorderDelay
    self.duplicate = duplicate
  }
}

/// What happened on one direction of a path. Bytes are UDP payload.
public struct PathCounters: Hashable, Sendable {
  public var datagrams: UInt64 = 0
  public var bytes: UInt64 = 0
  public var lost: UInt64 = 0
  public var duplicated: UInt64 = 0
  public var heldBack: UInt64 = 0
  /// Sent into a cut.
  public var cut: UInt64 = 0
  public init() {}
}

/// What a node's own clock shows: `true time + offset`, running fast by `drift` parts in a thousand million.
public struct ClockModel: Hashable, Sendable {
  public var offset: Interval
  public var driftPpb: Int64
  public init(offset: Interval = .zero, driftPpb: Int64 = 0) {
    self.offset = offset
    self.driftPpb = driftPpb
  }
  public static let exact = ClockModel()

  func local(_ time: UInt64) -> Instant {
    var nanoseconds = Int64(clamping: time)
    if driftPpb != 0 { nanoseconds += Int64(Int128(nanoseconds) * Int128(driftPpb) / 1_000_000_000) }
    return Instant(nanoseconds: UInt64(nanoseconds)) + offset
  }

  /// The first true time at which the clock shows `local` or more, within a nanosecond.
  func trueTime(of local: Instant) -> UInt64 {
    if local == .never { return .max }
    let shown = Int64(clamping: (local - offset).nanoseconds)
    if driftPpb == 0 { return UInt64(shown) }
    let scaled = Int128(shown) * 1_000_000_000
    let rate = Int128(1_000_000_000 + driftPpb)
    return UInt64(clamping: (scaled + rate - 1) / rate)
  }
}

/// Virtual time that the driver's own work takes, and the driver's limits.
public struct NetworkModel: Hashable, Sendable {
  /// CPU time of receiving one datagram (kernel, completion), and of sending one, without the core's work.
  public var receiveNanoseconds: UInt64 = 1_500
  public var sendNanoseconds: UInt64 = 1_000
  /// CPU time of one wake-up of the driver.
  public var wakeNanoseconds: UInt64 = 2_000
  /// Datagrams handed to the core between two calls of `batchEnded`.
  public var maxBatch = 16
  /// Datagrams that wait for a busy node (its socket's receive buffer); later ones are lost.
  public var maxInbox = 8_192
  /// Datagrams queued on one link.
  public var maxQueued = 8_192
  /// Links a node may name.
  public var maxLinks = 128
  /// How long a link's queue should be at most, by its rate; `DatagramSink.room` counts against it.
  public var queueTarget = Interval.microseconds(200)
  /// The same for links without a rate, and the least for slow ones.
  public var unlimitedQueueBytes = 256 << 10
  public var leastQueueBytes = 12_000
  /// `reply` is refused beyond this many a second and node.
  public var repliesPerSecond = 2_000
  /// Largest datagram.
  public var maxDatagram = 2_048

  public init() {}
}
