import Bitcoin
import Ground
import Relay

/// Nanoseconds that a relay's work takes, by what its core counted. Set after the CPU time of 126,000 calls into an early
/// core that relayed 702861 among eight relays, on a busy 2-core x86-64 machine; to be fitted again on a quiet one. Short
/// slices are charged as whole ones (too much); work that the core doesn't count (releasing a settled block, parsing) is
/// not charged (too little). `perSolvedByte` is an estimate.
public struct RelayCosts: Hashable, Sendable {
  /// Opening or sealing: a call, and each byte of AES-256-GCM.
  public var perPacket = 300.0
  public var perSealedByte = 0.6
  /// Double SHA-256 on two lanes of SHA-NI.
  public var perHashedByte = 0.75
  /// Out of the mempool, entry by entry.
  public var perCopiedByte = 0.4
  /// Each source byte that the encoder goes over for a group of repair chunks.
  public var perEncodedByte = 0.09
  /// Each byte that a slice of the decoder goes over; each byte of the body when it is solved.
  public var perDecodedByte = 0.28
  public var perSolvedByte = 1.0
  public var perMatchedID = 65.0
  public var perComputedID = 20.0
  /// Looking after one chunk: tables, log; and what a new one costs besides (the decoder's part).
  public var perChunk = 700.0
  public var perUsefulChunk = 2_000.0
  /// A submitted block's way from the node's compact block: matching and putting together, a transaction and a byte.
  public var perSubmittedTransaction = 65.0
  public var perSubmittedByte = 0.4
  public init() {}
}

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
  /// Work outside the core, such as the bridge's.
  var extra: UInt64 = 0
  public private(set) var deliveries: [Delivery] = []
  /// Blocks for which this relay sent a request.
  public private(set) var asked: Set<Hash256> = []
  public private(set) var demotions = 0
  public private(set) var abandoned: [Hash256] = []
  /// Most bytes that the core ever held.
  public private(set) var mostHeld = 0
  /// Says whether delivered bytes are the block that they should be: the sweep's check, no part of the run.
  let judge: ((Hash256, RawSpan) -> Bool)?

  public init(
    _ core: consuming RelayCore, costs: RelayCosts = RelayCosts(), judge: ((Hash256, RawSpan) -> Bool)? = nil
  ) {
    self.core = core
    self.costs = costs
    self.judge = judge
  }

  public var workNanoseconds: UInt64 {
    let c = core.counters
    var ns = Double(c.packetsOpened + c.packetsSealed) * costs.perPacket
    ns += Double(c.bytesOpened + c.bytesSealed) * costs.perSealedByte
    ns += Double(c.bytesHashed) * costs.perHashedByte
    ns += Double(c.bytesCopied) * costs.perCopiedByte
    ns += Double(c.bytesEncoded) * costs.perEncodedByte
    ns += Double(c.bytesDecoded) * costs.perDecodedByte
    ns += Double(c.idsMatched) * costs.perMatchedID
    ns += Double(c.idsComputed) * costs.perComputedID
    ns += Double(c.chunksUseful + c.chunksDuplicate + c.chunksLate + c.chunksForwarded + c.chunksOwn) * costs.perChunk
    ns += Double(c.chunksUseful) * costs.perUsefulChunk
    return UInt64(ns) + extra
  }

  public var nextDeadline: Instant { core.nextDeadline }

  /// Forgets what was delivered and asked, once it is scored.
  mutating func forget() {
    deliveries.removeAll(keepingCapacity: true)
    asked.removeAll(keepingCapacity: true)
    abandoned.removeAll(keepingCapacity: true)
  }

  /// A block from the site's node, which announced it as a compact block: put together and checked before this.
  public mutating func submit(
    _ block: [UInt8], parsed: ParsedBlock, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    extra += UInt64(Double(parsed.transactions.count) * costs.perSubmittedTransaction)
    extra += UInt64(Double(block.count) * costs.perSubmittedByte)
    do {
      try core.submit(block.span.bytes, parsed: parsed, isChecked: true, arrival: now, now: now, into: &sink)
    } catch {
      return false
    }
    drain()
    return true
  }

  /// A block as bytes, which the core checks before it goes out.
  public mutating func submit(
    raw block: [UInt8], now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    do {
      try core.submit(block.span.bytes, arrival: now, now: now, into: &sink)
    } catch {
      return false
    }
    drain()
    return true
  }

  private mutating func drain() {
    while let event = core.nextEvent() {
      switch event.kind {
      case .verified:
        var isGenuine = true
        if let judge {
          isGenuine = core.withBlock(event.block) { bytes, _ in judge(event.block, bytes) } ?? false
        }
        deliveries.append(
          Delivery(block: event.block, at: event.at, isSubmitted: event.a == 1, isGenuine: isGenuine))
      case .decoded:
        let bytes = core.report(of: event.block)?.bodyBytes ?? 0
        extra += UInt64(Double(bytes) * costs.perSolvedByte)
      case .asked: asked.insert(event.block)
      case .demoted: demotions += 1
      case .abandoned: abandoned.append(event.block)
      default: break
      }
    }
    if core.heldBytes > mostHeld { mostHeld = core.heldBytes }
  }

  public mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.start(now: now, into: &sink)
    drain()
  }
  public mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) { core.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink) }
  public mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.batchEnded(now: now, into: &sink)
    drain()
  }
  public mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.deadlinePassed(now: now, into: &sink)
    drain()
  }
  public mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.roomAvailable(on: link, now: now, into: &sink)
  }
  public mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.woken(now: now, into: &sink)
    drain()
  }
  public mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.stop(now: now, into: &sink)
  }
}
