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
    /// Written to the node's connection.
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

/// Journeys as the payload of a JOURNEY message: at most 1,100 bytes, several records.
///
/// Layout, all integers CompactSize in its shortest form unless said otherwise: version (1 byte, 1), number of records;
/// per record the block's hash (32 bytes), height, flags (1 byte: 1 origin), `first` in ns (8 bytes, little-endian),
/// a mask of the stations reached (2 bytes), for each its offset from `first` in ns (zigzag), the 13 counts. There is
/// no sender: who speaks is known from the session, and bytes can't say otherwise.
public enum JourneyCodec {
  public static let version: UInt8 = 1
  /// Longest payload.
  public static let maxBytes = 1_100
  /// No station is further from the first packet than an hour.
  static let longest: UInt64 = 3_600_000_000_000
  /// Hash, height, flags, first, mask, counts, each in its shortest form.
  static let leastRecord = 32 + 1 + 1 + 8 + 2 + 13

  /// As many records as fit, from the front; the number taken is `count`. Counts beyond their limits are sent as the
  /// limit.
  public static func encode(_ journeys: some Sequence<Journey>) -> (bytes: [UInt8], count: Int) {
    var body = ByteWriter(reserving: maxBytes)
    var count = 0
    for journey in journeys {
      var record = ByteWriter(reserving: 192)
      write(journey, into: &record)
      // Version and count take two bytes: a message holds fewer than 253 records.
      if 2 + body.count + record.count > maxBytes { break }
      body.append(record.bytes)
      count += 1
    }
    var out = ByteWriter(reserving: 2 + body.count)
    out.byte(version)
    out.compactSize(count)
    out.append(body.bytes)
    return (out.bytes, count)
  }

  private static func write(_ journey: Journey, into out: inout ByteWriter) {
    out.append(journey.block.bytes)
    out.compactSize(Int(journey.height))
    out.byte(journey.isOrigin ? 1 : 0)
    out.integer(journey.first.nanoseconds)
    var mask: UInt16 = 0
    for stage in Journey.Stage.allCases where journey[stage] != nil { mask |= 1 << UInt16(stage.rawValue) }
    out.integer(mask)
    for stage in Journey.Stage.allCases {
      guard let offset = journey[stage]?.nanoseconds else { continue }
      out.compactSize(UInt64(bitPattern: (offset << 1) ^ (offset >> 63)))
    }
    for (_, path, limit) in Journey.counts { out.compactSize(min(UInt64(max(journey[keyPath: path], 0)), limit)) }
  }

  /// Reads a payload from a peer.
  /// - Throws: `DecodeError` for anything that `encode` doesn't write.
  public static func decode(_ bytes: RawSpan) throws(DecodeError) -> [Journey] {
    if bytes.byteCount > maxBytes {
      throw DecodeError("journey", at: 0, .outOfRange(value: UInt64(bytes.byteCount), limit: UInt64(maxBytes)))
    }
    var reader = ByteReader(bytes)
    let version = try reader.byte("journey.version")
    if version != self.version { throw DecodeError("journey.version", at: 0, .invalid("version \(version)")) }
    let count = try reader.count(itemBytes: leastRecord, "journey.count")
    var journeys: [Journey] = []
    journeys.reserveCapacity(count)
    for _ in 0..<count { journeys.append(try read(&reader)) }
    try reader.end("journey")
    return journeys
  }

  private static func read(_ reader: inout ByteReader) throws(DecodeError) -> Journey {
    var words = SIMD4<UInt64>.zero
    for index in 0..<4 { words[index] = try reader.integer(UInt64.self, "journey.block") }
    let height = try bounded(&reader, UInt64(UInt32.max), "journey.height")
    let flags = try reader.byte("journey.flags")
    if flags > 1 { throw DecodeError("journey.flags", at: reader.offset - 1, .invalid("unknown flags \(flags)")) }
    let first = try reader.integer(UInt64.self, "journey.first")
    var journey = Journey(
      block: BlockID(words: words), height: UInt32(height), isOrigin: flags == 1, first: Instant(nanoseconds: first))
    let mask = try reader.integer(UInt16.self, "journey.stations")
    let known = UInt16(1) << UInt16(Journey.Stage.allCases.count) - 1
    if mask & ~known != 0 { throw DecodeError("journey.stations", at: reader.offset - 2, .invalid("unknown station")) }
    for stage in Journey.Stage.allCases where mask >> UInt16(stage.rawValue) & 1 == 1 {
      let value = try bounded(&reader, longest * 2, "journey.offset")
      journey[stage] = Interval(nanoseconds: Int64(value >> 1) ^ -Int64(value & 1))
    }
    for (name, path, limit) in Journey.counts {
      journey[keyPath: path] = Int(try bounded(&reader, limit, "journey.\(name)"))
    }
    if journey.knownBytes > journey.bodyBytes {
      throw DecodeError("journey.known_bytes", at: reader.offset, .invalid("more than the body"))
    }
    if journey.missingTransactions > journey.transactions {
      throw DecodeError("journey.missing_transactions", at: reader.offset, .invalid("more than there are"))
    }
    return journey
  }

  private static func bounded(
    _ reader: inout ByteReader, _ limit: UInt64, _ field: @autoclosure () -> String
  ) throws(DecodeError) -> UInt64 {
    let start = reader.offset
    let value = try reader.compactSize(field())
    if value > limit { throw DecodeError(field(), at: start, .outOfRange(value: value, limit: limit)) }
    return value
  }
}
