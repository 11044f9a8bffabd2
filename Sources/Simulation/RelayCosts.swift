import Relay

/// Nanoseconds that a relay's work takes: a price for each thing that its core counts.
///
/// Fitted by `bench-simulation --fit --blocks 12 --block 702861 --block 702861 --block mainnet-0021868c2c --block 413567`
/// on one core of a virtual AMD EPYC (AVX-512, GFNI, VAES, SHA-NI), compilers stopped: eight relays relay twelve blocks
/// at 1% loss, every call into a core is timed (CLOCK_MONOTONIC, the median of five identical runs, the clock's own time
/// taken off), and non-negative least squares over the calls gives the prices (weights 1 / (expected time + 2 µs)). The
/// simulator's queueing of a datagram is inside the price of a packet: the sink is part of the call. Modelled to
/// measured, after the fit: all calls 1.00; receiving 0.98; slices of more than 20 µs 1.04 in the median, 0.42 and 1.55
/// at the 5th and 95th percentile, the low ones being calls that met memory for the first time. Prices that always come
/// together (a packet and its bytes) are told apart badly; their sum is what is known. Eight relays share one core's
/// caches in the bench: on a machine of its own a relay is no slower.
public struct RelayCosts: Hashable, Sendable {
  /// Each call into the core.
  public var perCall = 272.0
  /// Opening or sealing: a packet, and each byte of AES-256-GCM.
  public var perPacket = 962.0
  public var perSealedByte = 0.0
  /// A chunk that is new (tables, log, its copy; the decoder's part is work), known already, or late; one that is sent.
  public var perUsefulChunk = 841.0
  public var perUselessChunk = 0.0
  public var perChunkSent = 236.0
  /// Work of the erasure code, in its own units: encoding, decoding.
  public var perWorkEncoded = 1.75
  public var perWorkSolved = 4.80
  public var perWorkDecoded = 2.44
  /// Double SHA-256 on two lanes of SHA-NI.
  public var perHashedByte = 0.435
  public var perCopiedByte = 0.048
  /// Out of the mempool into the body's decoder.
  public var perFilledTransaction = 120.0
  public var perFilledByte = 0.146
  /// Parsed or gone over for the checks.
  public var perCheckedTransaction = 30.5
  public var perMatchedID = 40.6
  public var perComputedID = 15.0
  /// Confirmed in the mempool store.
  public var perLearnedTransaction = 549.0
  /// A block's state, made for one that comes in or that is submitted here; given up again; a budget.
  public var perBlock = 68588.0
  public var perSubmittedBlock = 70422.0
  public var perSettledByte = 0.106
  public var perBudget = 17981.0
  public init() {}

  /// What calls that counted this much would have taken.
  public func nanoseconds(of c: RelayCounters, calls: UInt64) -> Double {
    var ns = Double(calls) * perCall
    ns += Double(c.packetsOpened &+ c.packetsSealed) * perPacket
    ns += Double(c.bytesOpened &+ c.bytesSealed) * perSealedByte
    ns += Double(c.chunksUseful) * perUsefulChunk
    ns += Double(c.chunksDuplicate &+ c.chunksLate) * perUselessChunk
    ns += Double(c.chunksForwarded &+ c.chunksOwn) * perChunkSent
    ns += Double(c.workEncoded) * perWorkEncoded
    ns += Double(c.workDecoded &- c.workSolved) * perWorkDecoded
    ns += Double(c.workSolved) * perWorkSolved
    ns += Double(c.bytesHashed) * perHashedByte
    ns += Double(c.bytesCopied) * perCopiedByte
    ns += Double(c.transactionsFilled) * perFilledTransaction
    ns += Double(c.bytesFilled) * perFilledByte
    ns += Double(c.transactionsChecked) * perCheckedTransaction
    ns += Double(c.idsMatched) * perMatchedID
    ns += Double(c.idsComputed) * perComputedID
    ns += Double(c.transactionsLearned) * perLearnedTransaction
    ns += Double(c.blocksOpened &- c.blocksSubmitted) * perBlock
    ns += Double(c.blocksSubmitted) * perSubmittedBlock
    ns += Double(c.bytesSettled) * perSettledByte
    ns += Double(c.budgets) * perBudget
    return ns
  }

  /// The prices that `nanoseconds` is linear in, for fitting.
  public static var terms: [(name: String, price: WritableKeyPath<RelayCosts, Double>)] {
    [
      ("call", \.perCall), ("packet", \.perPacket), ("sealed byte", \.perSealedByte),
      ("useful chunk", \.perUsefulChunk), ("useless chunk", \.perUselessChunk), ("chunk sent", \.perChunkSent),
      ("work encoded", \.perWorkEncoded), ("work decoded", \.perWorkDecoded), ("work solved", \.perWorkSolved),
      ("hashed byte", \.perHashedByte),
      ("copied byte", \.perCopiedByte), ("filled transaction", \.perFilledTransaction),
      ("filled byte", \.perFilledByte), ("checked transaction", \.perCheckedTransaction),
      ("matched id", \.perMatchedID), ("computed id", \.perComputedID),
      ("learned transaction", \.perLearnedTransaction), ("block", \.perBlock), ("submitted block", \.perSubmittedBlock),
      ("settled byte", \.perSettledByte),
      ("budget", \.perBudget),
    ]
  }

  /// All prices zero.
  public static var free: RelayCosts {
    var costs = RelayCosts()
    for term in terms { costs[keyPath: term.price] = 0 }
    return costs
  }
}

/// Holds a real clock against the calls into relay cores, to fit or to check `RelayCosts`. It hears of every call and
/// has no part in the run: virtual time goes by counters alone.
public final class CallProbe {
  public enum Kind: UInt8, Sendable, CaseIterable { case receive, batch, deadline, room, submit, other }
  public struct Sample: Sendable {
    public var kind: Kind
    /// By the clock that the probe was given.
    public var nanoseconds: Double
    /// What the call added to each counted thing, in the order of `RelayCosts.terms`.
    public var counts: [Float]
  }
  public private(set) var samples: [Sample] = []
  private let clock: () -> UInt64
  private let units: [RelayCosts]
  public var isOn = true

  /// - Parameter clock: nanoseconds.
  public init(clock: @escaping () -> UInt64) {
    self.clock = clock
    units = RelayCosts.terms.map { term in
      var costs = RelayCosts.free
      costs[keyPath: term.price] = 1
      return costs
    }
  }

  func begin() -> UInt64 { clock() }

  func end(_ kind: Kind, _ begin: UInt64, _ before: RelayCounters, _ after: RelayCounters) {
    let time = clock() &- begin
    if !isOn { return }
    let counts = units.map {
      Float($0.nanoseconds(of: after, calls: 1) - $0.nanoseconds(of: before, calls: 0))
    }
    samples.append(Sample(kind: kind, nanoseconds: Double(time), counts: counts))
  }
}
