import Ground

// What relays say to each other inside sealed datagrams. Sources/Relay/PROTOCOL.md §2 is the specification; these are
// its layouts. Parsing borrows the datagram and allocates nothing; encoding writes into the caller's buffer. What a
// value *means* (is this hash known, does this index exist) is for the relay core; here every length, count and range
// that the format itself fixes is checked.

/// Byte 0 of a relay message.
public enum RelayMessageType: UInt8, Sendable, CaseIterable {
  case sketch = 1
  case chunk = 2
  case need = 3
  case have = 4
  case status = 5
  case getHeaders = 6
  case headers = 7
  case getBlock = 8
  case noBlock = 9
  case transactionInventory = 10
  case getTransactions = 11
  case transaction = 12
  case blame = 13
  case point = 14
  case journey = 15
  case map = 16

  /// Reads byte 0.
  @inlinable public init(of message: RawSpan) throws(DecodeError) {
    if message.byteCount == 0 { throw DecodeError("type", at: 0, .truncated(needed: 1, available: 0)) }
    let byte = unsafe message.unsafeLoad(fromUncheckedByteOffset: 0, as: UInt8.self)
    guard let type = RelayMessageType(rawValue: byte) else {
      throw DecodeError("type", at: 0, .outOfRange(value: UInt64(byte), limit: 16))
    }
    self = type
  }
}

/// The kinds of object that a block has on the wire (PROTOCOL.md §1).
public enum ObjectKind: UInt8, Sendable, CaseIterable, Comparable {
  case sketch = 0
  case body = 1
  case txids = 2
  case wtxids = 3

  @inlinable public static func < (a: ObjectKind, b: ObjectKind) -> Bool { a.rawValue < b.rawValue }
}

/// The numbers of the format.
public enum RelayLimits {
  /// No message is longer. SKETCH takes 1,144 bytes, CHUNK 1,172, TX 1,169.
  public static let messageBytes = 1_172
  public static let sketchChunkBytes = 1_024
  /// The largest chunk of the other kinds, and the usual one.
  public static let chunkBytes = 1_152
  /// A smaller chunk would make a block more chunks than the erasure code has.
  public static let chunkBytesMin = 128
  public static let headerBytes = 80
  /// Bitcoin's weight limit: no serialised block is longer.
  public static let bodyBytes = 4_000_000
  /// The least that parses as a transaction: one input, no output.
  public static let transactionBytesMin = 51
  public static let statusRows = 64
  public static let locatorHashes = 32
  public static let headersPerMessage = 14
  public static let headersPerAnswer = 2_000
  /// Six-byte ids in one TXINV or TXGET.
  public static let transactionIDs = 190
  /// Weight is at least the size, so nothing that is passed on is longer.
  public static let transactionBytes = 400_000
  /// Every fragment of a transaction but the last has this length.
  public static let fragmentBytes = 1_144
  public static let journeyBytes = 1_100
}

/// 32 bytes that this room doesn't interpret: a hash, or a 256-bit number. Little-endian words, the first bytes in
/// `w0`, as `Bitcoin.Hash256` and `UInt256` have them.
public struct Bytes32: Hashable, Sendable, BitwiseCopyable {
  public var w0, w1, w2, w3: UInt64

  @inlinable public init(w0: UInt64, w1: UInt64, w2: UInt64, w3: UInt64) {
    (self.w0, self.w1, self.w2, self.w3) = (w0, w1, w2, w3)
  }
  public static let zero = Bytes32(w0: 0, w1: 0, w2: 0, w3: 0)

  /// The first eight bytes as a little-endian number: a block's `id8` when this is its hash.
  @inlinable public var first8: UInt64 { w0 }
}

/// A block header's 80 bytes, held by value so that a gate can keep it without the datagram.
public struct HeaderBytes: Hashable, Sendable, BitwiseCopyable {
  @usableFromInline var w0, w1, w2, w3, w4, w5, w6, w7, w8, w9: UInt64

  /// Traps unless 80 bytes are there from `offset`.
  @inlinable public init(_ bytes: RawSpan, at offset: Int = 0) {
    precondition(offset >= 0 && bytes.byteCount - offset >= 80)
    func word(_ i: Int) -> UInt64 {
      UInt64(littleEndian: unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: offset + 8 * i, as: UInt64.self))
    }
    (w0, w1, w2, w3, w4) = (word(0), word(1), word(2), word(3), word(4))
    (w5, w6, w7, w8, w9) = (word(5), word(6), word(7), word(8), word(9))
  }

  /// Lends the 80 bytes in wire order.
  @inlinable public func withBytes<R>(_ body: (RawSpan) throws -> R) rethrows -> R {
    let words: InlineArray<10, UInt64> = [
      w0.littleEndian, w1.littleEndian, w2.littleEndian, w3.littleEndian, w4.littleEndian,
      w5.littleEndian, w6.littleEndian, w7.littleEndian, w8.littleEndian, w9.littleEndian,
    ]
    return try body(words.span.bytes)
  }

  /// Bytes 4 ..< 36: the parent's hash.
  public var parent: Bytes32 {
    func join(_ low: UInt64, _ high: UInt64) -> UInt64 { low >> 32 | high << 32 }
    return Bytes32(w0: join(w0, w1), w1: join(w1, w2), w2: join(w2, w3), w3: join(w3, w4))
  }

  @inlinable func store(into out: inout MutableRawSpan, at offset: Int) {
    out.put(w0, at: offset)
    out.put(w1, at: offset + 8)
    out.put(w2, at: offset + 16)
    out.put(w3, at: offset + 24)
    out.put(w4, at: offset + 32)
    out.put(w5, at: offset + 40)
    out.put(w6, at: offset + 48)
    out.put(w7, at: offset + 56)
    out.put(w8, at: offset + 64)
    out.put(w9, at: offset + 72)
  }
}

extension MutableRawSpan {
  /// Little-endian, at a byte offset; traps outside the span (encoders check the whole length first).
  @_lifetime(self: copy self)
  @inlinable mutating func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
    storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
  }

  @_lifetime(self: copy self)
  @inlinable mutating func put(_ value: Bytes32, at offset: Int) {
    put(value.w0, at: offset)
    put(value.w1, at: offset + 8)
    put(value.w2, at: offset + 16)
    put(value.w3, at: offset + 24)
  }

  @_lifetime(self: copy self)
  @inlinable mutating func put(_ bytes: RawSpan, at offset: Int) {
    precondition(offset >= 0 && offset <= byteCount && bytes.byteCount <= byteCount - offset)
    unsafe withUnsafeMutableBytes { to in
      unsafe bytes.withUnsafeBytes { from in
        if from.count > 0 {
          unsafe (to.baseAddress! + offset).copyMemory(from: from.baseAddress!, byteCount: from.count)
        }
      }
    }
  }
}

extension ByteReader {
  /// Reads byte 0 and refuses a message of another type.
  @_lifetime(self: copy self)
  @inlinable mutating func expect(_ type: RelayMessageType) throws(DecodeError) {
    let byte = try byte("type")
    if byte != type.rawValue {
      throw DecodeError("type", at: 0, .outOfRange(value: UInt64(byte), limit: UInt64(type.rawValue)))
    }
  }

  @_lifetime(self: copy self)
  @inlinable mutating func bytes32(_ field: @autoclosure () -> String) throws(DecodeError) -> Bytes32 {
    try require(32, field())
    return try Bytes32(
      w0: integer(UInt64.self, field()), w1: integer(UInt64.self, field()), w2: integer(UInt64.self, field()),
      w3: integer(UInt64.self, field()))
  }

  /// A number within `range`.
  @_lifetime(self: copy self)
  @inlinable mutating func number<T: FixedWidthInteger & BitwiseCopyable & UnsignedInteger>(
    _ type: T.Type, in range: ClosedRange<Int>, _ field: @autoclosure () -> String
  ) throws(DecodeError) -> T {
    let start = offset
    let value = try integer(T.self, field())
    if !(range ~= Int(clamping: value)) {
      throw DecodeError(field(), at: start, .outOfRange(value: UInt64(value), limit: UInt64(range.upperBound)))
    }
    return value
  }

  @_lifetime(self: copy self)
  @inlinable mutating func kind(_ field: @autoclosure () -> String) throws(DecodeError) -> ObjectKind {
    let start = offset
    let value = try byte(field())
    guard let kind = ObjectKind(rawValue: value) else {
      throw DecodeError(field(), at: start, .outOfRange(value: UInt64(value), limit: 3))
    }
    return kind
  }
}
