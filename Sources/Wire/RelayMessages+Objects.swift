import Ground

// The messages that carry and steer a block's objects: SKETCH, CHUNK, NEED, HAVE, BLAME, POINT.

/// How a chunk's sender came to send it.
public struct ChunkFlags: OptionSet, Hashable, Sendable {
  public var rawValue: UInt8
  @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// The sender has the whole, checked block.
  public static let whole = ChunkFlags(rawValue: 1)
  /// Sent because the receiver asked.
  public static let asked = ChunkFlags(rawValue: 2)
}

/// What every SKETCH packet says besides its chunk: the announcement of a block and the chunk's place.
public struct SketchHead: Hashable, Sendable {
  public var flags: ChunkFlags
  public var header: HeaderBytes
  /// Bytes of the block's serialisation.
  public var bodyBytes: UInt32
  public var sketchBytes: UInt32
  /// The first four bytes of SHA-256 of the whole sketch: chunks of different sketches of one block are told apart, and
  /// a sketch put together from a wrong chunk is noticed at once.
  public var sketchID: UInt32
  public var transactionCount: UInt32
  /// Chunk size of the kinds other than the sketch.
  public var bodyChunkBytes: UInt16
  /// The epoch of the overlay secret that keys the sketch's short ids.
  public var epoch: UInt32
  /// key4 of the relay that made this chunk.
  public var maker: UInt32
  /// How many further sketch chunks the sender means to send this receiver unasked.
  public var more: UInt16
  /// How many further body chunks, likewise.
  public var moreBody: UInt16
  /// Microseconds since the maker had the block; a measurement, never trusted.
  public var age: UInt32
  public var index: UInt32

  public init(
    flags: ChunkFlags, header: HeaderBytes, bodyBytes: UInt32, sketchBytes: UInt32, sketchID: UInt32,
    transactionCount: UInt32, bodyChunkBytes: UInt16, epoch: UInt32, maker: UInt32, more: UInt16, moreBody: UInt16,
    age: UInt32, index: UInt32
  ) {
    self.flags = flags
    self.header = header
    self.bodyBytes = bodyBytes
    self.sketchBytes = sketchBytes
    self.sketchID = sketchID
    self.transactionCount = transactionCount
    self.bodyChunkBytes = bodyChunkBytes
    self.epoch = epoch
    self.maker = maker
    self.more = more
    self.moreBody = moreBody
    self.age = age
    self.index = index
  }
}

/// SKETCH (1): a chunk of the sketch, and the announcement. Borrows the datagram.
public struct SketchMessage: ~Escapable {
  public static let headBytes = 120
  public static let encodedBytes = headBytes + RelayLimits.sketchChunkBytes
  /// The longest sketch that a block of the largest size can have (every transaction explicit, with lengths and ids).
  public static let sketchBytesMax =
    RelayLimits.bodyBytes + 16 * (RelayLimits.bodyBytes / RelayLimits.transactionBytesMin)

  public var head: SketchHead
  /// 1,024 bytes.
  public var chunk: RawSpan

  @_lifetime(copy chunk)
  @inlinable public init(_ head: SketchHead, chunk: RawSpan) {
    self.head = head
    self.chunk = chunk
  }

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    if let head = Self.head(of: message) {
      self = SketchMessage(head, chunk: message.extracting(Self.headBytes..<Self.encodedBytes))
    } else {
      try self.init(reading: message)
    }
  }

  /// A head without fault, in one look: this is read for every packet. Nil leaves it to `init(reading:)` to say what is
  /// wrong.
  @inline(__always)
  private static func head(of message: RawSpan) -> SketchHead? {
    guard message.byteCount == encodedBytes else { return nil }
    func number<T: FixedWidthInteger & BitwiseCopyable>(_ at: Int, _: T.Type) -> T {
      T(littleEndian: unsafe message.unsafeLoadUnaligned(fromUncheckedByteOffset: at, as: T.self))
    }
    let (bodyBytes, sketchBytes) = (number(82, UInt32.self), number(86, UInt32.self))
    let (transactions, bodyChunkBytes) = (number(94, UInt32.self), number(98, UInt16.self))
    guard number(0, UInt8.self) == RelayMessageType.sketch.rawValue,
      bodyBytes >= 82, bodyBytes <= UInt32(RelayLimits.bodyBytes),
      sketchBytes >= 1, sketchBytes <= UInt32(sketchBytesMax),
      transactions >= 1, transactions <= max(1, bodyBytes / UInt32(RelayLimits.transactionBytesMin)),
      bodyChunkBytes >= UInt16(RelayLimits.chunkBytesMin), bodyChunkBytes <= UInt16(RelayLimits.chunkBytes)
    else { return nil }
    return SketchHead(
      flags: ChunkFlags(rawValue: number(1, UInt8.self)), header: HeaderBytes(message, at: 2), bodyBytes: bodyBytes,
      sketchBytes: sketchBytes, sketchID: number(90, UInt32.self), transactionCount: transactions,
      bodyChunkBytes: bodyChunkBytes, epoch: number(100, UInt32.self), maker: number(104, UInt32.self),
      more: number(108, UInt16.self), moreBody: number(110, UInt16.self), age: number(112, UInt32.self),
      index: number(116, UInt32.self))
  }

  @_lifetime(copy message)
  package init(reading message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.sketch)
    let flags = ChunkFlags(rawValue: try reader.byte("sketch.flags"))
    let header = HeaderBytes(try reader.take(80, "sketch.header"))
    let bodyBytes = try reader.number(UInt32.self, in: 82...RelayLimits.bodyBytes, "sketch.bodyBytes")
    let sketchBytes = try reader.number(UInt32.self, in: 1...Self.sketchBytesMax, "sketch.sketchBytes")
    let sketchID = try reader.integer(UInt32.self, "sketch.sketchID")
    let transactions = try reader.number(
      UInt32.self, in: 1...Swift.max(1, Int(bodyBytes) / RelayLimits.transactionBytesMin), "sketch.transactionCount")
    let bodyChunkBytes = try reader.number(
      UInt16.self, in: RelayLimits.chunkBytesMin...RelayLimits.chunkBytes, "sketch.bodyChunkBytes")
    head = SketchHead(
      flags: flags, header: header, bodyBytes: bodyBytes, sketchBytes: sketchBytes, sketchID: sketchID,
      transactionCount: transactions,
      bodyChunkBytes: bodyChunkBytes, epoch: try reader.integer(UInt32.self, "sketch.epoch"),
      maker: try reader.integer(UInt32.self, "sketch.maker"), more: try reader.integer(UInt16.self, "sketch.more"),
      moreBody: try reader.integer(UInt16.self, "sketch.moreBody"), age: try reader.integer(UInt32.self, "sketch.age"),
      index: try reader.integer(UInt32.self, "sketch.index"))
    chunk = try reader.take(RelayLimits.sketchChunkBytes, "sketch.chunk")
    try reader.end("sketch")
  }

  /// Changes, in a message written before, what differs from receiver to receiver.
  @inlinable public static func patch(
    _ message: UnsafeMutableRawPointer, flags: ChunkFlags, more: UInt16, moreBody: UInt16, age: UInt32
  ) {
    message.storeBytes(of: flags.rawValue, toByteOffset: 1, as: UInt8.self)
    message.storeBytes(of: more.littleEndian, toByteOffset: 108, as: UInt16.self)
    message.storeBytes(of: moreBody.littleEndian, toByteOffset: 110, as: UInt16.self)
    message.storeBytes(of: age.littleEndian, toByteOffset: 112, as: UInt32.self)
  }

  /// Writes the message and returns its length; 0 when `out` is too small. A `chunk` shorter than 1,024 bytes (the
  /// last source chunk) is padded with zeros; a longer one traps.
  @inlinable public func write(into out: inout MutableRawSpan) -> Int {
    if out.byteCount < Self.encodedBytes { return 0 }
    precondition(chunk.byteCount <= RelayLimits.sketchChunkBytes)
    out.put(RelayMessageType.sketch.rawValue, at: 0)
    out.put(head.flags.rawValue, at: 1)
    head.header.store(into: &out, at: 2)
    out.put(head.bodyBytes, at: 82)
    out.put(head.sketchBytes, at: 86)
    out.put(head.sketchID, at: 90)
    out.put(head.transactionCount, at: 94)
    out.put(head.bodyChunkBytes, at: 98)
    out.put(head.epoch, at: 100)
    out.put(head.maker, at: 104)
    out.put(head.more, at: 108)
    out.put(head.moreBody, at: 110)
    out.put(head.age, at: 112)
    out.put(head.index, at: 116)
    out.put(chunk, at: Self.headBytes)
    for offset in Self.headBytes + chunk.byteCount..<Self.encodedBytes { out.put(UInt8(0), at: offset) }
    return Self.encodedBytes
  }
}

/// CHUNK (2): a chunk of an object other than the sketch. Borrows the datagram.
public struct ChunkMessage: ~Escapable {
  public static let headBytes = 20

  /// Never `.sketch`: those chunks travel with their announcement.
  public var kind: ObjectKind
  public var flags: ChunkFlags
  /// The first eight bytes of the block's hash.
  public var block: UInt64
  public var maker: UInt32
  public var more: UInt16
  public var index: UInt32
  /// 128 to 1,152 bytes; that it is the object's chunk size is for the receiver to check.
  public var chunk: RawSpan

  @_lifetime(copy chunk)
  @inlinable public init(
    kind: ObjectKind, flags: ChunkFlags, block: UInt64, maker: UInt32, more: UInt16, index: UInt32, chunk: RawSpan
  ) {
    self.kind = kind
    self.flags = flags
    self.block = block
    self.maker = maker
    self.more = more
    self.index = index
    self.chunk = chunk
  }

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.chunk)
    let packed = try reader.byte("chunk.kind")
    guard let kind = ObjectKind(rawValue: packed & 15), kind != .sketch else {
      throw DecodeError("chunk.kind", at: 1, .outOfRange(value: UInt64(packed & 15), limit: 3))
    }
    self.kind = kind
    flags = ChunkFlags(rawValue: packed >> 4)
    block = try reader.integer(UInt64.self, "chunk.block")
    maker = try reader.integer(UInt32.self, "chunk.maker")
    more = try reader.integer(UInt16.self, "chunk.more")
    index = try reader.integer(UInt32.self, "chunk.index")
    let count = reader.remaining
    if !(RelayLimits.chunkBytesMin...RelayLimits.chunkBytes ~= count) {
      throw DecodeError("chunk.chunk", at: reader.offset, .outOfRange(value: UInt64(count), limit: 1_152))
    }
    chunk = try reader.take(count, "chunk.chunk")
  }

  public var encodedBytes: Int { Self.headBytes + chunk.byteCount }

  /// Changes, in a message written before, what differs from receiver to receiver.
  @inlinable public static func patch(
    _ message: UnsafeMutableRawPointer, kind: ObjectKind, flags: ChunkFlags, more: UInt16
  ) {
    message.storeBytes(of: kind.rawValue | (flags.rawValue & 3) << 4, toByteOffset: 1, as: UInt8.self)
    message.storeBytes(of: more.littleEndian, toByteOffset: 14, as: UInt16.self)
  }

  /// Writes the message and returns its length; 0 when `out` is too small. Traps on kind `.sketch`, and on a chunk
  /// over 1,152 bytes.
  @inlinable public func write(into out: inout MutableRawSpan) -> Int {
    let total = Self.headBytes + chunk.byteCount
    if out.byteCount < total { return 0 }
    precondition(kind != .sketch && chunk.byteCount <= RelayLimits.chunkBytes)
    out.put(RelayMessageType.chunk.rawValue, at: 0)
    out.put(kind.rawValue | (flags.rawValue & 3) << 4, at: 1)
    out.put(block, at: 2)
    out.put(maker, at: 10)
    out.put(more, at: 14)
    out.put(index, at: 16)
    out.put(chunk, at: Self.headBytes)
    return total
  }
}

/// NEED (3): "send me `count` more of this kind"; 0 means "nothing more of it, stop".
public struct NeedMessage: Hashable, Sendable {
  public struct Flags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// The sketch is decoded here.
    public static let sketchDecoded = Flags(rawValue: 1)
    /// Source chunks, please: nothing is known here.
    public static let source = Flags(rawValue: 2)
    /// Besides what the addressee has said that it still means to send unasked; else instead of it.
    public static let besides = Flags(rawValue: 4)
  }
  public static let encodedBytes = 15

  public var block: UInt64
  public var kind: ObjectKind
  public var flags: Flags
  public var count: UInt32

  public init(block: UInt64, kind: ObjectKind, flags: Flags, count: UInt32) {
    self.block = block
    self.kind = kind
    self.flags = flags
    self.count = count
  }

  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.need)
    block = try reader.integer(UInt64.self, "need.block")
    kind = try reader.kind("need.kind")
    flags = Flags(rawValue: try reader.byte("need.flags"))
    count = try reader.integer(UInt32.self, "need.count")
    try reader.end("need")
  }

  /// Writes the message and returns its length; 0 when `out` is too small.
  public func write(into out: inout MutableRawSpan) -> Int {
    if out.byteCount < Self.encodedBytes { return 0 }
    out.put(RelayMessageType.need.rawValue, at: 0)
    out.put(block, at: 1)
    out.put(kind.rawValue, at: 9)
    out.put(flags.rawValue, at: 10)
    out.put(count, at: 11)
    return Self.encodedBytes
  }
}

/// Numbers of transactions by size. Receivers lack large transactions for other reasons than small ones (policy, relay
/// that takes longer), so what is lacked is counted and predicted by class.
public struct SizeClassCounts: Hashable, Sendable {
  /// Below 1,152 bytes; below 4,608; below 18,432; the rest.
  public var tiny, small, medium, large: UInt32

  public init(tiny: UInt32 = 0, small: UInt32 = 0, medium: UInt32 = 0, large: UInt32 = 0) {
    (self.tiny, self.small, self.medium, self.large) = (tiny, small, medium, large)
  }

  /// The class, 0 to 3, of a transaction of this many bytes.
  @inlinable public static func index(bytes: Int) -> Int {
    bytes < 4_608 ? (bytes < 1_152 ? 0 : 1) : (bytes < 18_432 ? 2 : 3)
  }

  /// Traps outside 0 ..< 4.
  @inlinable public subscript(i: Int) -> UInt32 {
    get {
      switch i {
      case 0: tiny
      case 1: small
      case 2: medium
      case 3: large
      default: preconditionFailure("no such size class")
      }
    }
    set {
      switch i {
      case 0: tiny = newValue
      case 1: small = newValue
      case 2: medium = newValue
      case 3: large = newValue
      default: preconditionFailure("no such size class")
      }
    }
  }

  public var total: Int { Int(tiny) + Int(small) + Int(medium) + Int(large) }
}

/// HAVE (4): "this block is complete here", and how sending it went.
public struct HaveMessage: Hashable, Sendable {
  public struct Flags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt8
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Checked, and handed to the node.
    public static let checked = Flags(rawValue: 1)
    /// The sender needed to ask: what it was sent unasked was too little.
    public static let asked = Flags(rawValue: 2)
  }
  public static let encodedBytes = 42

  public var block: UInt64
  public var flags: Flags
  /// Chunks of this block that came from the addressee.
  public var received: UInt32
  /// Chunks that were of no use.
  public var useless: UInt32
  /// Body chunks that the decoder needed, from whomever.
  public var needed: UInt32
  /// Bytes and numbers of the block's transactions that were neither in the sender's mempool nor explicit in the sketch:
  /// what the sender of the block learns the miss probability from.
  public var missingBytes: UInt32
  public var missing: SizeClassCounts

  public init(
    block: UInt64, flags: Flags, received: UInt32, useless: UInt32, needed: UInt32, missingBytes: UInt32,
    missing: SizeClassCounts
  ) {
    self.block = block
    self.flags = flags
    self.received = received
    self.useless = useless
    self.needed = needed
    self.missingBytes = missingBytes
    self.missing = missing
  }

  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.have)
    block = try reader.integer(UInt64.self, "have.block")
    flags = Flags(rawValue: try reader.byte("have.flags"))
    received = try reader.integer(UInt32.self, "have.received")
    useless = try reader.integer(UInt32.self, "have.useless")
    needed = try reader.integer(UInt32.self, "have.needed")
    missingBytes = try reader.number(UInt32.self, in: 0...RelayLimits.bodyBytes, "have.missingBytes")
    let limit = RelayLimits.bodyBytes / RelayLimits.transactionBytesMin
    missing = SizeClassCounts(
      tiny: try reader.number(UInt32.self, in: 0...limit, "have.missing"),
      small: try reader.number(UInt32.self, in: 0...limit, "have.missing"),
      medium: try reader.number(UInt32.self, in: 0...limit, "have.missing"),
      large: try reader.number(UInt32.self, in: 0...limit, "have.missing"))
    try reader.end("have")
  }

  /// Writes the message and returns its length; 0 when `out` is too small.
  public func write(into out: inout MutableRawSpan) -> Int {
    if out.byteCount < Self.encodedBytes { return 0 }
    out.put(RelayMessageType.have.rawValue, at: 0)
    out.put(block, at: 1)
    out.put(flags.rawValue, at: 9)
    out.put(received, at: 10)
    out.put(useless, at: 14)
    out.put(needed, at: 18)
    out.put(missingBytes, at: 22)
    out.put(missing.tiny, at: 26)
    out.put(missing.small, at: 30)
    out.put(missing.medium, at: 34)
    out.put(missing.large, at: 38)
    return Self.encodedBytes
  }
}

/// BLAME (13): a chunk that the addressee delivered proved wrong.
public struct BlameMessage: Hashable, Sendable {
  public static let encodedBytes = 18

  public var block: UInt64
  public var kind: ObjectKind
  public var index: UInt32
  public var maker: UInt32

  public init(block: UInt64, kind: ObjectKind, index: UInt32, maker: UInt32) {
    self.block = block
    self.kind = kind
    self.index = index
    self.maker = maker
  }

  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.blame)
    block = try reader.integer(UInt64.self, "blame.block")
    kind = try reader.kind("blame.kind")
    index = try reader.integer(UInt32.self, "blame.index")
    maker = try reader.integer(UInt32.self, "blame.maker")
    try reader.end("blame")
  }

  /// Writes the message and returns its length; 0 when `out` is too small.
  public func write(into out: inout MutableRawSpan) -> Int {
    if out.byteCount < Self.encodedBytes { return 0 }
    out.put(RelayMessageType.blame.rawValue, at: 0)
    out.put(block, at: 1)
    out.put(kind.rawValue, at: 9)
    out.put(index, at: 10)
    out.put(maker, at: 14)
    return Self.encodedBytes
  }
}

/// POINT (14): the answer to BLAME, naming the neighbour that the chunk came from.
public struct PointMessage: Hashable, Sendable {
  public static let encodedBytes = 22

  public var blame: BlameMessage
  /// key4 of the neighbour that the answering relay had the chunk from, or its own.
  public var source: UInt32

  public init(blame: BlameMessage, source: UInt32) {
    self.blame = blame
    self.source = source
  }

  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.point)
    blame = BlameMessage(
      block: try reader.integer(UInt64.self, "point.block"), kind: try reader.kind("point.kind"),
      index: try reader.integer(UInt32.self, "point.index"), maker: try reader.integer(UInt32.self, "point.maker"))
    source = try reader.integer(UInt32.self, "point.source")
    try reader.end("point")
  }

  /// Writes the message and returns its length; 0 when `out` is too small.
  public func write(into out: inout MutableRawSpan) -> Int {
    if out.byteCount < Self.encodedBytes { return 0 }
    _ = blame.write(into: &out)
    out.put(RelayMessageType.point.rawValue, at: 0)
    out.put(source, at: 18)
    return Self.encodedBytes
  }
}
