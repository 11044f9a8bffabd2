import Ground

/// What one relay saw of one block. Times are that relay's own clock; `ClockFilter` brings them to another's.
public struct Journey: Hashable, Sendable {
  /// The stations after `first`, in the order in which a block usually passes them.
  public enum Stage: Int, CaseIterable, Sendable {
    /// The header passed the gate (proof of work and difficulty).
    case gatePassed
    /// All of the sketch was there.
    case sketchComplete
    /// Matched against the mempool.
    case matched
    /// The first datagram of the block went on to a neighbour.
    case forwarded
    /// Kernel receive time of the packet that made the body solvable.
    case lastNeeded
    /// The body is solved.
    case decoded
    /// All checks passed.
    case verified
    /// Written to the node's connection; a compact block may be before it is checked.
    case written
    /// The node's own announcement came back.
    case tipUpdated
    /// The site's pool sent the first `mining.notify` with this block as the previous one.
    case minerJob

    /// As in the report, JSON and metrics.
    public var name: String {
      switch self {
      case .gatePassed: "gate_passed"
      case .sketchComplete: "sketch_complete"
      case .matched: "matched"
      case .forwarded: "forwarded"
      case .lastNeeded: "last_needed"
      case .decoded: "decoded"
      case .verified: "verified"
      case .written: "written"
      case .tipUpdated: "tip_updated"
      case .minerJob: "miner_job"
      }
    }
  }

  public var block: BlockID
  public var height: UInt32
  /// The block entered the overlay here; `first` is its node's announcement.
  public var isOrigin: Bool
  /// Kernel receive time of the first packet, or of the node's announcement at the origin.
  public var first: Instant
  private var stages = [Int64](repeating: .min, count: Stage.allCases.count)

  public var bodyBytes = 0
  /// Of `bodyBytes`, those that the mempool knew.
  public var knownBytes = 0
  public var sketchBytes = 0
  public var transactions = 0
  public var missingTransactions = 0
  public var packetsIn = 0
  public var packetsOut = 0
  public var bytesIn = 0
  public var bytesOut = 0
  /// Packets that brought nothing new: redundancy that was not needed.
  public var packetsUseless = 0
  /// Chunks that the body still lacked after matching.
  public var neededChunks = 0
  /// Requests for more: each cost a round trip.
  public var requests = 0
  public var failedChecks = 0

  public init(block: BlockID, height: UInt32, isOrigin: Bool, first: Instant) {
    (self.block, self.height, self.isOrigin, self.first) = (block, height, isOrigin, first)
  }

  /// Time of a station after `first`; negative for what came before it (a node that knew first); nil when it was not
  /// reached. Setting more than an hour, which no journey takes, means not reached.
  public subscript(stage: Stage) -> Interval? {
    get {
      let value = stages[stage.rawValue]
      return value == .min ? nil : Interval(nanoseconds: value)
    }
    set {
      guard let newValue, newValue.nanoseconds.magnitude <= JourneyCodec.longest else {
        stages[stage.rawValue] = .min
        return
      }
      stages[stage.rawValue] = newValue.nanoseconds
    }
  }

  /// Notes that a station was reached at `at`; `.never` and second visits are ignored.
  public mutating func reach(_ stage: Stage, at: Instant) {
    if at == .never || self[stage] != nil { return }
    self[stage] = at - first
  }

  /// Share of the body that the mempool knew, 0 ... 1; nil for an unknown size.
  public var matchedShare: Double? { bodyBytes > 0 ? Double(knownBytes) / Double(bodyBytes) : nil }

  /// The counts with their names and greatest sensible values, in wire order.
  static let counts: [(name: String, path: any WritableKeyPath<Journey, Int> & Sendable, limit: UInt64)] = [
    ("body_bytes", \.bodyBytes, 64_000_000), ("known_bytes", \.knownBytes, 64_000_000),
    ("sketch_bytes", \.sketchBytes, 16_000_000), ("transactions", \.transactions, 1_000_000),
    ("missing_transactions", \.missingTransactions, 1_000_000), ("packets_in", \.packetsIn, 100_000_000),
    ("packets_out", \.packetsOut, 100_000_000), ("bytes_in", \.bytesIn, 1_000_000_000_000),
    ("bytes_out", \.bytesOut, 1_000_000_000_000), ("packets_useless", \.packetsUseless, 100_000_000),
    ("needed_chunks", \.neededChunks, 100_000_000), ("requests", \.requests, 1_000_000),
    ("failed_checks", \.failedChecks, 1_000_000),
  ]
}
