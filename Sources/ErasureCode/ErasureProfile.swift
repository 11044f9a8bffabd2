/// Names a code: two ends that hold the same profile, object size and chunk size make the same repair chunks.
///
/// Whatever changes a byte of any repair chunk (field, basis, points, generator, symbol layout) needs a new id.
public struct ErasureProfile: Hashable, Sendable {
  /// Sent on the wire.
  public let id: UInt8
  /// GF(2^16) as polynomials modulo x^16 + x^5 + x^3 + x^2 + 1.
  public let field: String
  /// How a 16-bit number names a field element.
  public let basis: String
  /// The value of repair chunk i in terms of the source chunks.
  public let generator: String
  /// How a chunk's bytes hold its symbols.
  public let layout: String

  /// The one profile so far; CODE.md derives it.
  public static let current = ErasureProfile(
    id: 1,
    field: "GF(2^16), x^16 + x^5 + x^3 + x^2 + 1",
    basis: "Cantor: b0 = 1, b(i)^2 + b(i) = b(i-1), constant term of b(i>0) zero",
    generator: "systematic Reed-Solomon on K = 2^ceil(log2 N) points: repair i = s_k(K+i) * sum_j source_j / (K+i + j)",
    layout: "source: little-endian 16-bit symbols side by side; repair: per 64 bytes, 32 low halves then 32 high halves"
  )
}
