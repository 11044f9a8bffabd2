import Ground

#if _endian(big)
  #error("Hash256 and the SHA-256 kernels share memory: only little-endian machines are supported")
#endif

/// 32 bytes that name something: a txid, wtxid, block hash or Merkle node. A trivial value, copied without reference
/// counting, so arrays of it are flat.
///
/// The bytes are kept in wire order. As text, Bitcoin shows them reversed (`description`, `init(_:)`).
public struct Hash256: Hashable, Sendable, BitwiseCopyable {
  /// Bytes 0–7, 8–15, 16–23 and 24–31 as little-endian numbers; `w3` is the most significant as a number.
  public var w0, w1, w2, w3: UInt64

  @inlinable public init(w0: UInt64, w1: UInt64, w2: UInt64, w3: UInt64) {
    (self.w0, self.w1, self.w2, self.w3) = (w0, w1, w2, w3)
  }

  public static let zero = Hash256(w0: 0, w1: 0, w2: 0, w3: 0)

  /// From 32 bytes in wire order; traps unless `bytes` holds 32 from `offset`.
  @inlinable public init(_ bytes: RawSpan, at offset: Int = 0) {
    precondition(offset >= 0 && bytes.byteCount - offset >= 32)
    unsafe (w0, w1, w2, w3) = (
      UInt64(littleEndian: bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: UInt64.self)),
      UInt64(littleEndian: bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: offset + 8, as: UInt64.self)),
      UInt64(littleEndian: bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: offset + 16, as: UInt64.self)),
      UInt64(littleEndian: bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: offset + 24, as: UInt64.self))
    )
  }

  /// From the text that block explorers and RPCs show: 64 hexadecimal digits, last byte first. `nil` for anything else.
  public init?(_ text: some StringProtocol) {
    guard let bytes = Hex.decode(text), bytes.count == 32 else { return nil }
    let wire = [UInt8](bytes.reversed())
    self.init(wire.span.bytes)
  }

  /// The 32 bytes in wire order.
  public var bytes: [UInt8] {
    [UInt8](unsafeUninitializedCapacity: 32) { buffer, count in
      write(to: UnsafeMutableRawPointer(buffer.baseAddress!))
      count = 32
    }
  }

  @inlinable package func write(to pointer: UnsafeMutableRawPointer) {
    unsafe pointer.storeBytes(of: w0.littleEndian, as: UInt64.self)
    unsafe pointer.storeBytes(of: w1.littleEndian, toByteOffset: 8, as: UInt64.self)
    unsafe pointer.storeBytes(of: w2.littleEndian, toByteOffset: 16, as: UInt64.self)
    unsafe pointer.storeBytes(of: w3.littleEndian, toByteOffset: 24, as: UInt64.self)
  }
}

extension Hash256: CustomStringConvertible {
  /// 64 hexadecimal digits, last byte first.
  public var description: String { Hex.encode(bytes.reversed()) }
}

extension ByteReader {
  @_lifetime(self: copy self)
  @inlinable public mutating func hash(_ field: @autoclosure () -> String) throws(DecodeError) -> Hash256 {
    try require(32, field())
    let value = Hash256(bytes, at: offset)
    try skip(32, field())
    return value
  }
}

extension ByteWriter {
  public mutating func hash(_ value: Hash256) {
    integer(value.w0)
    integer(value.w1)
    integer(value.w2)
    integer(value.w3)
  }
}
