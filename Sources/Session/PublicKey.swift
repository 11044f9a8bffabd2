import Ground

/// A compressed secp256k1 public key: 33 bytes, 02 or 03 and the x coordinate. In lower-case hex it is a relay's name in
/// the topology. Trivial: copied without reference counting.
public struct PublicKey: Hashable, Sendable, CustomStringConvertible {
  var bytes: InlineArray<33, UInt8>

  init(unchecked pointer: UnsafeRawPointer) {
    bytes = .init(repeating: 0)
    withUnsafeMutableBytes(of: &bytes) { $0.copyMemory(from: UnsafeRawBufferPointer(start: pointer, count: 33)) }
  }

  /// `nil` unless the 33 bytes are a point of the curve.
  public init?(_ bytes: some Collection<UInt8>) {
    let array = Array(bytes)
    guard array.count == 33, Curve.isPoint(array) else { return nil }
    self.init(unchecked: array)
  }

  /// From 66 hex digits; `nil` for anything that is not a point of the curve.
  public init?(hex: some StringProtocol) {
    guard let bytes = Hex.decode(hex) else { return nil }
    self.init(bytes)
  }

  /// The 33 bytes.
  public var array: [UInt8] { (0..<33).map { bytes[$0] } }
  public var description: String { Hex.encode(array) }

  @inline(__always)
  func withBytes<R>(_ body: (UnsafePointer<UInt8>) -> R) -> R {
    withUnsafeBytes(of: bytes) { body($0.baseAddress!.assumingMemoryBound(to: UInt8.self)) }
  }

  public static func == (a: PublicKey, b: PublicKey) -> Bool { !precedes(a, b) && !precedes(b, a) }

  public func hash(into hasher: inout Hasher) {
    withBytes { hasher.combine(bytes: UnsafeRawBufferPointer(start: $0, count: 33)) }
  }

  /// Byte order. The relay whose key comes first wins when both open a session at the same time.
  static func precedes(_ a: PublicKey, _ b: PublicKey) -> Bool {
    for i in 0..<33 where a.bytes[i] != b.bytes[i] { return a.bytes[i] < b.bytes[i] }
    return false
  }
}
