import Ground

/// A journey as its maker signed it and, when it came by way of others, what the last of them says of its time.
public struct ToldJourney: Hashable, Sendable {
  /// What a relay that passes a journey on adds: when the journey began by its own clock. Nobody but that relay vouches
  /// for this.
  public struct Passage: Hashable, Sendable {
    /// Relays between the maker and the reader, 1 ... `JourneyCodec.hopsMax`.
    public var hops: Int
    /// The journey's `first` lies in `first ... first + width` by the clock of the relay that tells it.
    public var first: Instant
    public var width: Interval

    public init(hops: Int, first: Instant, width: Interval) {
      (self.hops, self.first, self.width) = (hops, first, width)
    }
  }

  /// Short name of the maker's key: the first four bytes of SHA-256 of it.
  public var maker: UInt32
  /// The maker's, of `statement`: 64 bytes. Not looked at here.
  public var signature: [UInt8]
  /// What is signed: `journey` in bytes.
  public let statement: [UInt8]
  public let journey: Journey
  /// nil: the maker itself tells it.
  public var passage: Passage?

  /// A journey of this site's own, before it is signed.
  public init(_ journey: Journey, maker: UInt32, signature: [UInt8] = []) {
    (self.journey, self.maker, self.signature) = (journey, maker, signature)
    statement = JourneyCodec.statement(of: journey)
  }

  init(_ journey: Journey, maker: UInt32, signature: [UInt8], statement: [UInt8], passage: Passage?) {
    (self.journey, self.maker, self.signature, self.statement) = (journey, maker, signature, statement)
    self.passage = passage
  }
}

/// Journeys as the payload of a JOURNEY message: at most 1,100 bytes, several records.
///
/// Layout, all integers CompactSize in its shortest form unless said otherwise: version (1 byte, 2), number of records;
/// per record the maker's short key (4 bytes, little-endian), hops (1 byte; 0: the maker speaks), if hops are not 0 the
/// time `first` by the teller's clock in ns (8 bytes, little-endian) and its width in ns; the maker's signature
/// (64 bytes), the statement's length, the statement.
///
/// A statement, which is what is signed: the block's hash (32 bytes), height, flags (1 byte: 1 origin), `first` by the
/// maker's clock in ns (8 bytes, little-endian), a mask of the stations reached (2 bytes), for each its offset from
/// `first` in ns (zigzag), the 13 counts.
public enum JourneyCodec {
  public static let version: UInt8 = 2
  /// Longest payload.
  public static let maxBytes = 1_100
  /// A journey is not passed on further.
  public static let hopsMax = 16
  public static let signatureBytes = 64
  public static let statementMax = 300
  /// Clocks that leave more open say nothing about a block.
  public static let widthMax = Interval.seconds(10)
  /// Longest way of a station from the first packet: an hour.
  static let longest: UInt64 = 3_600_000_000_000
  /// Hash, height, flags, first, mask, counts, each in its shortest form.
  static let leastStatement = 32 + 1 + 1 + 8 + 2 + 13
  static let leastRecord = 4 + 1 + signatureBytes + 1 + leastStatement

  /// As many records as fit, from the front; the number taken is `count`. Traps for a signature of another length.
  public static func encode(_ journeys: some Sequence<ToldJourney>) -> (bytes: [UInt8], count: Int) {
    var body = ByteWriter(reserving: maxBytes)
    var count = 0
    for told in journeys {
      precondition(told.signature.count == signatureBytes)
      var record = ByteWriter(reserving: 384)
      record.integer(told.maker)
      record.byte(UInt8(clamping: told.passage?.hops ?? 0))
      if let passage = told.passage {
        record.integer(passage.first.nanoseconds)
        record.compactSize(UInt64(clamping: min(max(passage.width, .zero), widthMax).nanoseconds))
      }
      record.append(told.signature)
      record.compactSize(told.statement.count)
      record.append(told.statement)
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

  /// What a maker signs. Counts beyond their limits are told as the limit.
  public static func statement(of journey: Journey) -> [UInt8] {
    var out = ByteWriter(reserving: 256)
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
    return out.bytes
  }

  /// Reads a payload from a peer. Signatures are not checked.
  /// - Throws: `DecodeError` for anything that `encode` doesn't write.
  public static func decode(_ bytes: RawSpan) throws(DecodeError) -> [ToldJourney] {
    if bytes.byteCount > maxBytes {
      throw DecodeError("journey", at: 0, .outOfRange(value: UInt64(bytes.byteCount), limit: UInt64(maxBytes)))
    }
    var reader = ByteReader(bytes)
    let version = try reader.byte("journey.version")
    if version != self.version { throw DecodeError("journey.version", at: 0, .invalid("version \(version)")) }
    let count = try reader.count(itemBytes: leastRecord, "journey.count")
    var journeys: [ToldJourney] = []
    journeys.reserveCapacity(count)
    for _ in 0..<count { journeys.append(try record(&reader)) }
    try reader.end("journey")
    return journeys
  }

  private static func record(_ reader: inout ByteReader) throws(DecodeError) -> ToldJourney {
    let maker = try reader.integer(UInt32.self, "journey.maker")
    let hops = try reader.byte("journey.hops")
    if hops > hopsMax {
      throw DecodeError(
        "journey.hops", at: reader.offset - 1, .outOfRange(value: UInt64(hops), limit: UInt64(hopsMax)))
    }
    var passage: ToldJourney.Passage?
    if hops > 0 {
      let first = try reader.integer(UInt64.self, "journey.passage.first")
      let width = try bounded(&reader, UInt64(widthMax.nanoseconds), "journey.passage.width")
      passage = ToldJourney.Passage(
        hops: Int(hops), first: Instant(nanoseconds: first), width: Interval(nanoseconds: Int64(width)))
    }
    let signature = try reader.take(signatureBytes, "journey.signature").withUnsafeBytes { [UInt8]($0) }
    let length = try bounded(&reader, UInt64(statementMax), "journey.statement")
    let statement = try reader.take(Int(length), "journey.statement").withUnsafeBytes { [UInt8]($0) }
    return ToldJourney(
      try read(statement.span.bytes), maker: maker, signature: signature, statement: statement, passage: passage)
  }

  /// Reads a statement.
  static func read(_ statement: RawSpan) throws(DecodeError) -> Journey {
    var reader = ByteReader(statement)
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
    try reader.end("journey.statement")
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
