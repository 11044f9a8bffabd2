import Ground

/// A block's hash as 32 bytes in the order of the wire. Text is in the reversed order of RPC and explorers.
///
/// The room has its own small type so that it needs no Bitcoin code: it only compares and prints hashes.
public struct BlockID: Hashable, Sendable, CustomStringConvertible {
  public var words: SIMD4<UInt64>

  public init(words: SIMD4<UInt64>) { self.words = words }

  /// `nil` unless there are exactly 32 bytes.
  public init?(bytes: some Collection<UInt8>) {
    guard bytes.count == 32 else { return nil }
    words = .zero
    for (index, byte) in bytes.enumerated() { words[index / 8] |= UInt64(byte) << UInt64(index % 8 * 8) }
  }

  /// From text as RPC writes it: 64 hexadecimal digits.
  public init?(_ text: some StringProtocol) {
    guard text.utf8.count == 64, let bytes = Hex.decode(text) else { return nil }
    self.init(bytes: bytes.reversed())
  }

  public var bytes: [UInt8] { (0..<32).map { UInt8(truncatingIfNeeded: words[$0 / 8] >> UInt64($0 % 8 * 8)) } }
  public var description: String { Hex.encode(bytes.reversed()) }
}
