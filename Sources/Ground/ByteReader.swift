/// What was wrong with bytes from outside, and where.
public struct DecodeError: Error, Hashable, Sendable, CustomStringConvertible {
  public enum Reason: Hashable, Sendable {
    /// The field needs more bytes than there are.
    case truncated(needed: Int, available: Int)
    /// A count, length or index is outside what the format allows.
    case outOfRange(value: UInt64, limit: UInt64)
    /// A number written in more bytes than it needs.
    case notCanonical
    /// Bytes left over after the last field.
    case trailing(Int)
    /// Anything else; the text says what.
    case invalid(String)
  }
  /// The field's name in its specification, such as `tx.vin.scriptSig`.
  public var field: String
  /// Bytes from the start of the message.
  public var offset: Int
  public var reason: Reason

  public init(_ field: String, at offset: Int, _ reason: Reason) {
    self.field = field
    self.offset = offset
    self.reason = reason
  }

  public var description: String {
    switch reason {
    case .truncated(let needed, let available):
      "\(field) at byte \(offset): needs \(needed) bytes, \(available) left"
    case .outOfRange(let value, let limit): "\(field) at byte \(offset): \(value) is out of range, limit \(limit)"
    case .notCanonical: "\(field) at byte \(offset): not in its shortest form"
    case .trailing(let count): "\(field) at byte \(offset): \(count) bytes left over"
    case .invalid(let text): "\(field) at byte \(offset): \(text)"
    }
  }
}

/// A cursor over borrowed bytes. Little-endian, as Bitcoin's wire formats; big-endian where the name says so.
/// Copies nothing, allocates nothing, and never reads past the end: every read throws `DecodeError` instead.
public struct ByteReader: ~Escapable {
  public let bytes: RawSpan
  /// Bytes read so far.
  @inlinable public var offset: Int { _offset }
  @usableFromInline var _offset: Int

  @_lifetime(copy bytes)
  @inlinable public init(_ bytes: RawSpan) {
    self.bytes = bytes
    _offset = 0
  }

  @inlinable public var remaining: Int { bytes.byteCount - _offset }
  @inlinable public var isAtEnd: Bool { remaining == 0 }

  /// Checks that `count` more bytes are there. `count` may be hostile: any `Int` is fine.
  @inlinable public func require(_ count: Int, _ field: @autoclosure () -> String) throws(DecodeError) {
    if count < 0 || count > remaining {
      throw DecodeError(field(), at: _offset, .truncated(needed: count, available: remaining))
    }
  }

  @_lifetime(self: copy self)
  @inlinable public mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(
    _ type: T.Type = T.self, _ field: @autoclosure () -> String
  ) throws(DecodeError) -> T {
    try require(MemoryLayout<T>.size, field())
    let value = unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: _offset, as: T.self)
    _offset += MemoryLayout<T>.size
    return T(littleEndian: value)
  }

  @_lifetime(self: copy self)
  @inlinable public mutating func bigEndian<T: FixedWidthInteger & BitwiseCopyable>(
    _ type: T.Type = T.self, _ field: @autoclosure () -> String
  ) throws(DecodeError) -> T {
    T(try integer(T.self, field())).byteSwapped
  }

  @_lifetime(self: copy self)
  @inlinable public mutating func byte(_ field: @autoclosure () -> String) throws(DecodeError) -> UInt8 {
    try integer(UInt8.self, field())
  }

  /// The next `count` bytes, borrowed.
  @_lifetime(self: copy self)
  @_lifetime(copy self)
  @inlinable public mutating func take(_ count: Int, _ field: @autoclosure () -> String) throws(DecodeError) -> RawSpan
  {
    try require(count, field())
    let part = bytes.extracting(_offset..<_offset + count)
    _offset += count
    return part
  }

  @_lifetime(self: copy self)
  @inlinable public mutating func skip(_ count: Int, _ field: @autoclosure () -> String) throws(DecodeError) {
    try require(count, field())
    _offset += count
  }

  /// Bitcoin's CompactSize; longer forms of small numbers are refused, as Bitcoin Core does.
  @_lifetime(self: copy self)
  @inlinable public mutating func compactSize(_ field: @autoclosure () -> String) throws(DecodeError) -> UInt64 {
    let start = _offset
    let first = try byte(field())
    if first < 0xFD { return UInt64(first) }
    let value: UInt64
    let least: UInt64
    switch first {
    case 0xFD: (value, least) = (UInt64(try integer(UInt16.self, field())), 0xFD)
    case 0xFE: (value, least) = (UInt64(try integer(UInt32.self, field())), 0x1_0000)
    default: (value, least) = (try integer(UInt64.self, field()), 0x1_0000_0000)
    }
    if value < least { throw DecodeError(field(), at: start, .notCanonical) }
    return value
  }

  /// A CompactSize count of items that take at least `itemBytes` each: a count that the bytes left can't hold is
  /// refused before anything is allocated for it.
  @_lifetime(self: copy self)
  @inlinable public mutating func count(
    itemBytes: Int, max limit: Int = .max, _ field: @autoclosure () -> String
  ) throws(DecodeError) -> Int {
    let start = _offset
    let value = try compactSize(field())
    let fits = UInt64(remaining / Swift.max(itemBytes, 1))
    let most = Swift.min(fits, UInt64(clamping: limit))
    if value > most { throw DecodeError(field(), at: start, .outOfRange(value: value, limit: most)) }
    return Int(value)
  }

  /// Throws unless every byte was read.
  @inlinable public func end(_ field: @autoclosure () -> String) throws(DecodeError) {
    if !isAtEnd { throw DecodeError(field(), at: _offset, .trailing(remaining)) }
  }
}
