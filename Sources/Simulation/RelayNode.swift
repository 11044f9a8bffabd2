import Bitcoin
import Ground
import Relay

/// A relay core as the simulator drives it: what it delivered, what it asked for, what its work cost.
public struct RelayNode: SimulatedCore, ~Copyable {
  public struct Delivery: Hashable, Sendable {
    public var block: Hash256
    /// On the node's own clock.
    public var at: Instant
    public var isSubmitted: Bool
    /// What was handed over is the block that was submitted somewhere.
    public var isGenuine: Bool
  }

  public var core: RelayCore
  let costs: RelayCosts
  private var calls: UInt64 = 0
  /// Hears what each call really took.
  let probe: CallProbe?
  public private(set) var deliveries: [Delivery] = []
  /// Blocks for which this relay sent a request, and its first.
  public private(set) var asked: [Hash256: RelayEvent] = [:]
  /// Since the last `forget`.
  public private(set) var demotions = 0
  public private(set) var abandoned: [Hash256] = []
  /// Most bytes that the core ever held.
  public private(set) var mostHeld = 0
  /// Says whether delivered bytes are the block that they should be: the sweep's check, no part of the run.
  let judge: ((Hash256, RawSpan) -> Bool)?

  public init(
    _ core: consuming RelayCore, costs: RelayCosts = RelayCosts(), judge: ((Hash256, RawSpan) -> Bool)? = nil,
    probe: CallProbe? = nil
  ) {
    self.core = core
    self.costs = costs
    self.probe = probe
    self.judge = judge
  }

  public var workNanoseconds: UInt64 { UInt64(costs.nanoseconds(of: core.counters, calls: calls)) }

  public var nextDeadline: Instant { core.nextDeadline }

  /// Forgets what was delivered, asked and counted, once it is scored.
  mutating func forget() {
    demotions = 0
    deliveries.removeAll(keepingCapacity: true)
    asked.removeAll(keepingCapacity: true)
    abandoned.removeAll(keepingCapacity: true)
  }

  /// A block from the site's node, put together and checked by the bridge before this: the run's time begins here.
  public mutating func submit(
    _ block: [UInt8], parsed: ParsedBlock, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let before = workNanoseconds
    var isTaken = true
    call(.submit) { core in
      do {
        try core.submit(block, parsed: parsed, isChecked: true, arrival: now, now: now, into: &sink)
      } catch {
        isTaken = false
      }
    }
    drain(since: before)
    return isTaken
  }

  /// A block's sketch before the block itself. `submit` follows, or `withdrawSketch`.
  mutating func submitSketch(
    of block: ParsedBlock, coinbase: RawSpan, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let before = workNanoseconds
    let isTaken = core.submitSketch(of: block, coinbase: coinbase, arrival: now, now: now, into: &sink)
    drain(since: before)
    return isTaken
  }

  mutating func withdrawSketch(of hash: Hash256, now: Instant) {
    core.withdrawSketch(of: hash, now: now)
    drain(since: workNanoseconds)
  }

  /// A block as bytes, which the core checks before it goes out.
  public mutating func submit(
    raw block: [UInt8], now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let before = workNanoseconds
    do {
      try core.submit(block, arrival: now, now: now, into: &sink)
    } catch {
      return false
    }
    drain(since: before)
    return true
  }

  /// `before`: the work done when the call began that these events are of. What it delivers is there when it ends.
  private mutating func drain(since before: UInt64) {
    let spent = Interval(nanoseconds: Int64(workNanoseconds - before))
    while let event = core.nextEvent() {
      switch event.kind {
      case .verified:
        var isGenuine = true
        if let judge {
          isGenuine = core.withBlock(event.block) { bytes, _ in judge(event.block, bytes) } ?? false
        }
        deliveries.append(
          Delivery(block: event.block, at: event.at + spent, isSubmitted: event.a == 1, isGenuine: isGenuine))
      case .asked: if asked[event.block] == nil { asked[event.block] = event }
      case .demoted: demotions += 1
      case .abandoned: abandoned.append(event.block)
      default: break
      }
    }
    if core.heldBytes > mostHeld { mostHeld = core.heldBytes }
  }

  /// One call into the core, counted, and timed if there is a probe.
  @inline(__always)
  private mutating func call(_ kind: CallProbe.Kind, _ body: (inout RelayCore) -> Void) {
    calls += 1
    guard let probe else { return body(&core) }
    let before = core.counters
    let begin = probe.begin()
    body(&core)
    probe.end(kind, begin, before, core.counters)
  }

  public mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let before = workNanoseconds
    call(.other) { $0.start(now: now, into: &sink) }
    drain(since: before)
  }
  public mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    calls += 1
    guard let probe else {
      core.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
      return
    }
    let before = core.counters
    let begin = probe.begin()
    core.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
    probe.end(.receive, begin, before, core.counters)
  }
  public mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let before = workNanoseconds
    call(.batch) { $0.batchEnded(now: now, into: &sink) }
    drain(since: before)
  }
  public mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let before = workNanoseconds
    call(.deadline) { $0.deadlinePassed(now: now, into: &sink) }
    drain(since: before)
  }
  public mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    call(.room) { $0.roomAvailable(on: link, now: now, into: &sink) }
  }
  public mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let before = workNanoseconds
    call(.other) { $0.woken(now: now, into: &sink) }
    drain(since: before)
  }
  public mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    call(.other) { $0.stop(now: now, into: &sink) }
  }
}
