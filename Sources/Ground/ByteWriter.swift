/// Appends to a growing array; little-endian, as Bitcoin's wire formats. For messages built off the packet path; hot
/// paths write into the caller's buffer instead.
public struct ByteWriter: Sendable {
  public private(set) var bytes: [UInt8]

  public init(reserving capacity: Int = 0) {
    bytes = []
    bytes.reserveCapacity(capacity)
  }

  public var count: Int { bytes.count }

  public mutating func integer<T: FixedWidthInteger>(_ value: T) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }
  public mutating func bigEndian<T: FixedWidthInteger>(_ value: T) {
    withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
  }
  public mutating func byte(_ value: UInt8) { bytes.append(value) }
  public mutating func append(_ span: RawSpan) {
    span.withUnsafeBytes { bytes.append(contentsOf: $0) }
  }
  public mutating func append(_ more: some Sequence<UInt8>) { bytes.append(contentsOf: more) }

  /// Bitcoin's CompactSize, in its shortest form.
  public mutating func compactSize(_ value: UInt64) {
    switch value {
    case ..<0xFD: byte(UInt8(value))
    case ..<0x1_0000:
      byte(0xFD)
      integer(UInt16(value))
    case ..<0x1_0000_0000:
      byte(0xFE)
      integer(UInt32(value))
    default:
      byte(0xFF)
      integer(value)
    }
  }
  public mutating func compactSize(_ value: Int) { compactSize(UInt64(value)) }
}
