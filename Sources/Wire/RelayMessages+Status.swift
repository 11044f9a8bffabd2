import Ground

// The messages that keep relays in step: STATUS, GETHEADERS, HEADERS, GETBLOCK, NOBLOCK, and JOURNEY.

/// How much of a block's transactions a relay can be expected to have.
public enum Readiness: UInt8, Sendable, Comparable {
  /// No mempool: send source chunks, all of them.
  case cold = 0
  /// The mempool is being filled.
  case starting = 1
  case inStep = 2

  @inlinable public static func < (a: Readiness, b: Readiness) -> Bool { a.rawValue < b.rawValue }
}

/// One of the sender's links, as the sender sees it.
public struct StatusRow: Hashable, Sendable {
  public struct Flags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let up = Flags(rawValue: 1)
    /// The sender cuts through to and from this neighbour.
    public static let trusted = Flags(rawValue: 2)
  }
  public static let encodedBytes = 9

  /// key4 of the neighbour.
  public var neighbour: UInt32
  /// One-way delay in units of 10 µs; the largest value means "not known".
  public var delay: UInt32
  public var flags: Flags

  public init(neighbour: UInt32, delay: UInt32, flags: Flags) {
    self.neighbour = neighbour
    self.delay = delay
    self.flags = flags
  }

  init(_ rows: RawSpan, _ i: Int) {
    let at = i * Self.encodedBytes
    precondition(i >= 0 && at + Self.encodedBytes <= rows.byteCount)
    unsafe self.init(
      neighbour: UInt32(littleEndian: rows.unsafeLoadUnaligned(fromUncheckedByteOffset: at, as: UInt32.self)),
      delay: UInt32(littleEndian: rows.unsafeLoadUnaligned(fromUncheckedByteOffset: at + 4, as: UInt32.self)),
      flags: Flags(rawValue: rows.unsafeLoad(fromUncheckedByteOffset: at + 8, as: UInt8.self)))
  }

  func store(into out: inout MutableRawSpan, at offset: Int) {
    out.put(neighbour, at: offset)
    out.put(delay, at: offset + 4)
    out.put(flags.rawValue, at: offset + 8)
  }
}

/// What STATUS says besides its rows.
public struct StatusHead: Hashable, Sendable {
  public struct Flags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Answer with your own.
    public static let answer = Flags(rawValue: 1)
  }
  public var flags: Flags
  public var readiness: Readiness
  /// Of the best tip whose block is complete here.
  public var height: UInt32
  public var tip: Bytes32
  /// The chain's work, a 256-bit number.
  public var work: Bytes32
  public var mempoolTransactions: UInt32
  public var mempoolBytes: UInt64
  /// Of what the addressee sends, the share lost, in units of 1/65,536.
  public var loss: UInt16
  /// Mean length of a run of losses, in units of 1/256; at least 256.
  public var burst: UInt16
  /// How many of the addressee's packets the two rest on, with the old ones discounted; saturates.
  public var observed: UInt32
  /// How many of the addressee's packets came out of order, since the session began; modulo 2^32.
  public var reordered: UInt32
  /// How many of its own packets to the addressee the sender sealed and then dropped itself, since the session began:
  /// gaps in its counters that are no losses; modulo 2^32.
  public var withdrawn: UInt32

  public init(
    flags: Flags, readiness: Readiness, height: UInt32, tip: Bytes32, work: Bytes32, mempoolTransactions: UInt32,
    mempoolBytes: UInt64, loss: UInt16, burst: UInt16, observed: UInt32, reordered: UInt32 = 0,
    withdrawn: UInt32 = 0
  ) {
    self.flags = flags
    self.readiness = readiness
    self.height = height
    self.tip = tip
    self.work = work
    self.mempoolTransactions = mempoolTransactions
    self.mempoolBytes = mempoolBytes
    self.loss = loss
    self.burst = burst
    self.observed = observed
    self.reordered = reordered
    self.withdrawn = withdrawn
  }
}

/// STATUS (5): how ready the sender is, how its side of the link does, and its links. Borrows the datagram.
public struct StatusMessage: ~Escapable {
  public static let headBytes = 100

  public var head: StatusHead
  @usableFromInline var rows: RawSpan

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.status)
    let flags = StatusHead.Flags(rawValue: try reader.byte("status.flags"))
    let code = try reader.byte("status.readiness")
    guard let readiness = Readiness(rawValue: code) else {
      throw DecodeError("status.readiness", at: 2, .outOfRange(value: UInt64(code), limit: 2))
    }
    head = StatusHead(
      flags: flags, readiness: readiness, height: try reader.integer(UInt32.self, "status.height"),
      tip: try reader.bytes32("status.tip"), work: try reader.bytes32("status.work"),
      mempoolTransactions: try reader.integer(UInt32.self, "status.mempoolTransactions"),
      mempoolBytes: try reader.integer(UInt64.self, "status.mempoolBytes"),
      loss: try reader.integer(UInt16.self, "status.loss"),
      burst: try reader.number(UInt16.self, in: 256...65_535, "status.burst"),
      observed: try reader.integer(UInt32.self, "status.observed"),
      reordered: try reader.integer(UInt32.self, "status.reordered"),
      withdrawn: try reader.integer(UInt32.self, "status.withdrawn"))
    let count = try reader.number(UInt8.self, in: 0...RelayLimits.statusRows, "status.rows")
    rows = try reader.take(Int(count) * StatusRow.encodedBytes, "status.rows")
    try reader.end("status")
  }

  public var rowCount: Int { rows.byteCount / StatusRow.encodedBytes }

  /// Traps outside 0 ..< `rowCount`.
  public func row(_ i: Int) -> StatusRow { StatusRow(rows, i) }

  /// Writes the message and returns its length; 0 when `out` is too small. Rows beyond 64 are left out.
  public static func write(_ head: StatusHead, rows: Span<StatusRow>, into out: inout MutableRawSpan) -> Int {
    let count = min(rows.count, RelayLimits.statusRows)
    let total = headBytes + count * StatusRow.encodedBytes
    if out.byteCount < total { return 0 }
    out.put(RelayMessageType.status.rawValue, at: 0)
    out.put(head.flags.rawValue, at: 1)
    out.put(head.readiness.rawValue, at: 2)
    out.put(head.height, at: 3)
    out.put(head.tip, at: 7)
    out.put(head.work, at: 39)
    out.put(head.mempoolTransactions, at: 71)
    out.put(head.mempoolBytes, at: 75)
    out.put(head.loss, at: 83)
    out.put(max(head.burst, 256), at: 85)
    out.put(head.observed, at: 87)
    out.put(head.reordered, at: 91)
    out.put(head.withdrawn, at: 95)
    out.put(UInt8(count), at: 99)
    for i in 0..<count {
      rows[i].store(into: &out, at: headBytes + i * StatusRow.encodedBytes)
    }
    return total
  }
}

/// MAP (16): the links of a relay further away, passed on by those that hear its STATUS. Borrows the datagram.
public struct MapMessage: ~Escapable {
  public static let headBytes = 10

  /// key4 of the relay whose links these are.
  public var origin: UInt32
  /// Counted up by the relay that first passed the rows on; compared modulo 2^32.
  public var sequence: UInt32
  @usableFromInline var rows: RawSpan

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.map)
    origin = try reader.integer(UInt32.self, "map.origin")
    sequence = try reader.integer(UInt32.self, "map.sequence")
    let count = try reader.number(UInt8.self, in: 0...RelayLimits.statusRows, "map.rows")
    rows = try reader.take(Int(count) * StatusRow.encodedBytes, "map.rows")
    try reader.end("map")
  }

  public var rowCount: Int { rows.byteCount / StatusRow.encodedBytes }

  /// Traps outside 0 ..< `rowCount`.
  public func row(_ i: Int) -> StatusRow { StatusRow(rows, i) }

  /// Writes the message and returns its length; 0 when `out` is too small. Rows beyond 64 are left out.
  public static func write(
    origin: UInt32, sequence: UInt32, rows: Span<StatusRow>, into out: inout MutableRawSpan
  ) -> Int {
    let count = min(rows.count, RelayLimits.statusRows)
    let total = headBytes + count * StatusRow.encodedBytes
    if out.byteCount < total { return 0 }
    out.put(RelayMessageType.map.rawValue, at: 0)
    out.put(origin, at: 1)
    out.put(sequence, at: 5)
    out.put(UInt8(count), at: 9)
    for i in 0..<count { rows[i].store(into: &out, at: headBytes + i * StatusRow.encodedBytes) }
    return total
  }
}

/// GETHEADERS (6): headers after the first of these that you know. Borrows the datagram.
public struct GetHeadersMessage: ~Escapable {
  public var stop: Bytes32
  @usableFromInline var locator: RawSpan

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.getHeaders)
    let count = try reader.number(UInt8.self, in: 1...RelayLimits.locatorHashes, "getheaders.count")
    locator = try reader.take(Int(count) * 32, "getheaders.locator")
    stop = try reader.bytes32("getheaders.stop")
    try reader.end("getheaders")
  }

  public var count: Int { locator.byteCount / 32 }

  /// Newest first. Traps outside 0 ..< `count`.
  public func hash(_ i: Int) -> Bytes32 {
    precondition(i >= 0 && i < count)
    return locator.load32(at: 32 * i)
  }

  /// Writes the message and returns its length; 0 when `out` is too small or there is no locator hash. Hashes beyond 32
  /// are left out. A `stop` of zeros asks for as many headers as there are.
  public static func write(locator: Span<Bytes32>, stop: Bytes32, into out: inout MutableRawSpan) -> Int {
    let count = min(locator.count, RelayLimits.locatorHashes)
    let total = 2 + 32 * count + 32
    if count == 0 || out.byteCount < total { return 0 }
    out.put(RelayMessageType.getHeaders.rawValue, at: 0)
    out.put(UInt8(count), at: 1)
    for i in 0..<count { out.put(locator[i], at: 2 + 32 * i) }
    out.put(stop, at: 2 + 32 * count)
    return total
  }
}

/// HEADERS (7): consecutive headers. None at all says "nothing after your locator". Borrows the datagram.
public struct HeadersMessage: ~Escapable {
  /// Height of the first header, as the sender has it.
  public var startHeight: UInt32
  /// The height of the last header that this answer will bring, over all its messages: what is still to come.
  public var lastHeight: UInt32
  @usableFromInline var headers: RawSpan

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.headers)
    startHeight = try reader.integer(UInt32.self, "headers.startHeight")
    lastHeight = try reader.integer(UInt32.self, "headers.lastHeight")
    let count = try reader.number(UInt8.self, in: 0...RelayLimits.headersPerMessage, "headers.count")
    headers = try reader.take(Int(count) * RelayLimits.headerBytes, "headers.headers")
    try reader.end("headers")
  }

  public var count: Int { headers.byteCount / RelayLimits.headerBytes }

  /// Traps outside 0 ..< `count`.
  public func header(_ i: Int) -> HeaderBytes {
    precondition(i >= 0 && i < count)
    return HeaderBytes(headers, at: i * RelayLimits.headerBytes)
  }

  /// Writes the message and returns its length; 0 when `out` is too small. Headers beyond 14 are left out.
  public static func write(
    startHeight: UInt32, lastHeight: UInt32, headers: Span<HeaderBytes>, into out: inout MutableRawSpan
  ) -> Int {
    let count = min(headers.count, RelayLimits.headersPerMessage)
    let total = 10 + RelayLimits.headerBytes * count
    if out.byteCount < total { return 0 }
    out.put(RelayMessageType.headers.rawValue, at: 0)
    out.put(startHeight, at: 1)
    out.put(lastHeight, at: 5)
    out.put(UInt8(count), at: 9)
    for i in 0..<count { headers[i].store(into: &out, at: 10 + RelayLimits.headerBytes * i) }
    return total
  }
}

/// GETBLOCK (8): send this block's objects, as to a cold peer.
public struct GetBlockMessage: Hashable, Sendable {
  public struct Flags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Nothing is known here: source chunks.
    public static let source = Flags(rawValue: 1)
  }
  public static let encodedBytes = 34

  public var hash: Bytes32
  public var flags: Flags

  public init(hash: Bytes32, flags: Flags) {
    self.hash = hash
    self.flags = flags
  }

  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.getBlock)
    hash = try reader.bytes32("getblock.hash")
    flags = Flags(rawValue: try reader.byte("getblock.flags"))
    try reader.end("getblock")
  }

  /// Writes the message and returns its length; 0 when `out` is too small.
  public func write(into out: inout MutableRawSpan) -> Int {
    if out.byteCount < Self.encodedBytes { return 0 }
    out.put(RelayMessageType.getBlock.rawValue, at: 0)
    out.put(hash, at: 1)
    out.put(flags.rawValue, at: 33)
    return Self.encodedBytes
  }
}

/// NOBLOCK (9): the block asked for isn't here.
public struct NoBlockMessage: Hashable, Sendable {
  public static let encodedBytes = 33

  public var hash: Bytes32

  public init(hash: Bytes32) { self.hash = hash }

  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.noBlock)
    hash = try reader.bytes32("noblock.hash")
    try reader.end("noblock")
  }

  /// Writes the message and returns its length; 0 when `out` is too small.
  public func write(into out: inout MutableRawSpan) -> Int {
    if out.byteCount < Self.encodedBytes { return 0 }
    out.put(RelayMessageType.noBlock.rawValue, at: 0)
    out.put(hash, at: 1)
    return Self.encodedBytes
  }
}

/// JOURNEY (15): measurement records, opaque here. Borrows the datagram.
public struct JourneyMessage: ~Escapable {
  /// 1 to 1,100 bytes.
  public var records: RawSpan

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.journey)
    let count = reader.remaining
    if !(1...RelayLimits.journeyBytes ~= count) {
      throw DecodeError("journey.records", at: 1, .outOfRange(value: UInt64(count), limit: 1_100))
    }
    records = try reader.take(count, "journey.records")
  }

  /// Writes the message and returns its length; 0 when `out` is too small, or for a length that the format doesn't have.
  public static func write(_ records: RawSpan, into out: inout MutableRawSpan) -> Int {
    let total = 1 + records.byteCount
    if !(1...RelayLimits.journeyBytes ~= records.byteCount) || out.byteCount < total { return 0 }
    out.put(RelayMessageType.journey.rawValue, at: 0)
    out.put(records, at: 1)
    return total
  }
}

extension RawSpan {
  /// Traps unless 32 bytes are there from `offset`.
  @inlinable func load32(at offset: Int) -> Bytes32 {
    precondition(offset >= 0 && byteCount - offset >= 32)
    return unsafe Bytes32(
      w0: UInt64(littleEndian: unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: UInt64.self)),
      w1: UInt64(littleEndian: unsafeLoadUnaligned(fromUncheckedByteOffset: offset + 8, as: UInt64.self)),
      w2: UInt64(littleEndian: unsafeLoadUnaligned(fromUncheckedByteOffset: offset + 16, as: UInt64.self)),
      w3: UInt64(littleEndian: unsafeLoadUnaligned(fromUncheckedByteOffset: offset + 24, as: UInt64.self)))
  }
}
