import Ground

/// Targets of proof of work, and their compact form `nBits`: a mantissa of 23 bits with a sign, times 256^(exponent−3).
public enum Target {
  /// The target that `bits` states, or `nil` when it is negative, zero, more than 256 bits wide, or above `limit`.
  public static func value(of bits: UInt32, limit: UInt256) -> UInt256? {
    let (value, isNegative, overflows) = decode(bits)
    if isNegative || overflows || value == .zero || value > limit { return nil }
    return value
  }

  /// Decodes like Bitcoin Core's `arith_uint256::SetCompact`; the value is what is left when it overflows.
  public static func decode(_ bits: UInt32) -> (value: UInt256, isNegative: Bool, overflows: Bool) {
    let exponent = Int(bits >> 24)
    let mantissa = bits & 0x7F_FFFF
    let value: UInt256
    let word: UInt32
    if exponent <= 3 {
      word = mantissa >> UInt32(8 * (3 - exponent))
      value = UInt256(UInt64(word))
    } else {
      word = mantissa
      value = UInt256(UInt64(mantissa)) << (8 * (exponent - 3))
    }
    let isNegative = word != 0 && bits & 0x80_0000 != 0
    let overflows =
      word != 0 && (exponent > 34 || (word > 0xFF && exponent > 33) || (word > 0xFFFF && exponent > 32))
    return (value, isNegative, overflows)
  }

  /// The compact form, rounded down.
  public static func bits(of value: UInt256) -> UInt32 {
    var size = (value.bitWidth + 7) / 8
    var compact = size <= 3 ? UInt32(value.w0 << UInt64(8 * (3 - size))) : UInt32((value >> (8 * (size - 3))).w0)
    if compact & 0x80_0000 != 0 {
      // The top bit is the sign: one byte less of mantissa.
      compact >>= 8
      size += 1
    }
    return compact | UInt32(size) << 24
  }

  /// True when `hash` as a number is at most the target, and the target is within `limit`.
  public static func meets(_ hash: Hash256, bits: UInt32, limit: UInt256) -> Bool {
    guard let target = value(of: bits, limit: limit) else { return false }
    return UInt256(hash) <= target
  }

  /// The hashes that a block of this target takes on average: 2^256 / (target + 1), rounded down. Zero for `bits` that
  /// state no target.
  public static func work(of bits: UInt32) -> UInt256 {
    let (target, isNegative, overflows) = decode(bits)
    if isNegative || overflows || target == .zero { return .zero }
    // 2^256 doesn't fit: (2^256 − target − 1) / (target + 1) + 1 is the same.
    return (~target).divided(by: target + UInt256(1)) + UInt256(1)
  }
}
