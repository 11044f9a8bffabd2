import Ground

/// An unsigned 256-bit number, for targets and chain work. Arithmetic never traps: it reports or saturates as stated.
public struct UInt256: Hashable, Sendable, Comparable, BitwiseCopyable {
  /// From the least significant 64 bits up.
  public var w0, w1, w2, w3: UInt64

  @inlinable public init(w0: UInt64, w1: UInt64 = 0, w2: UInt64 = 0, w3: UInt64 = 0) {
    (self.w0, self.w1, self.w2, self.w3) = (w0, w1, w2, w3)
  }
  @inlinable public init(_ value: UInt64) { self.init(w0: value) }
  /// A block hash as the number that proof of work compares.
  @inlinable public init(_ hash: Hash256) { self.init(w0: hash.w0, w1: hash.w1, w2: hash.w2, w3: hash.w3) }

  public static let zero = UInt256(0)
  public static let max = UInt256(w0: .max, w1: .max, w2: .max, w3: .max)

  @inlinable public static func < (a: UInt256, b: UInt256) -> Bool {
    if a.w3 != b.w3 { return a.w3 < b.w3 }
    if a.w2 != b.w2 { return a.w2 < b.w2 }
    if a.w1 != b.w1 { return a.w1 < b.w1 }
    return a.w0 < b.w0
  }

  /// Bits up to and with the highest one set; 0 for zero.
  public var bitWidth: Int {
    if w3 != 0 { return 256 - w3.leadingZeroBitCount }
    if w2 != 0 { return 192 - w2.leadingZeroBitCount }
    if w1 != 0 { return 128 - w1.leadingZeroBitCount }
    return 64 - w0.leadingZeroBitCount
  }

  /// Saturates at `max`: a chain's work can't be driven around.
  public static func + (a: UInt256, b: UInt256) -> UInt256 {
    let (s0, c0) = a.w0.addingReportingOverflow(b.w0)
    let (s1, c1) = addCarry(a.w1, b.w1, c0)
    let (s2, c2) = addCarry(a.w2, b.w2, c1)
    let (s3, c3) = addCarry(a.w3, b.w3, c2)
    return c3 ? .max : UInt256(w0: s0, w1: s1, w2: s2, w3: s3)
  }

  /// Saturates at zero.
  public static func - (a: UInt256, b: UInt256) -> UInt256 {
    a < b ? .zero : a.subtractingWrapping(b)
  }

  /// Zeros come in; a shift of 256 or more gives zero.
  public static func << (a: UInt256, n: Int) -> UInt256 {
    precondition(n >= 0)
    var r = a
    for _ in 0..<Swift.min(n / 64, 4) { r = UInt256(w0: 0, w1: r.w0, w2: r.w1, w3: r.w2) }
    let k = UInt64(n % 64)
    if k == 0 { return r }
    return UInt256(
      w0: r.w0 << k, w1: r.w1 << k | r.w0 >> (64 - k), w2: r.w2 << k | r.w1 >> (64 - k),
      w3: r.w3 << k | r.w2 >> (64 - k))
  }

  /// Zeros come in; a shift of 256 or more gives zero.
  public static func >> (a: UInt256, n: Int) -> UInt256 {
    precondition(n >= 0)
    var r = a
    for _ in 0..<Swift.min(n / 64, 4) { r = UInt256(w0: r.w1, w1: r.w2, w2: r.w3, w3: 0) }
    let k = UInt64(n % 64)
    if k == 0 { return r }
    return UInt256(
      w0: r.w0 >> k | r.w1 << (64 - k), w1: r.w1 >> k | r.w2 << (64 - k), w2: r.w2 >> k | r.w3 << (64 - k),
      w3: r.w3 >> k)
  }

  public static prefix func ~ (a: UInt256) -> UInt256 { UInt256(w0: ~a.w0, w1: ~a.w1, w2: ~a.w2, w3: ~a.w3) }

  /// Modulo 2^256, as Bitcoin Core's `arith_uint256` does.
  public func multipliedWrapping(by factor: UInt64) -> UInt256 {
    var carry: UInt64 = 0
    func step(_ word: UInt64) -> UInt64 {
      let (high, low) = word.multipliedFullWidth(by: factor)
      let (sum, overflow) = low.addingReportingOverflow(carry)
      carry = high &+ (overflow ? 1 : 0)
      return sum
    }
    return UInt256(w0: step(w0), w1: step(w1), w2: step(w2), w3: step(w3))
  }

  /// Rounds down. Traps on a divisor of zero.
  public func divided(by divisor: UInt64) -> UInt256 {
    precondition(divisor != 0)
    var rest: UInt64 = 0
    func step(_ word: UInt64) -> UInt64 {
      let (quotient, remainder) = divisor.dividingFullWidth((rest, word))
      rest = remainder
      return quotient
    }
    let q3 = step(w3)
    let q2 = step(w2)
    let q1 = step(w1)
    return UInt256(w0: step(w0), w1: q1, w2: q2, w3: q3)
  }

  /// Rounds down, bit by bit. Traps on a divisor of zero.
  public func divided(by divisor: UInt256) -> UInt256 {
    precondition(divisor != .zero)
    if divisor.bitWidth <= 64 { return divided(by: divisor.w0) }
    var shift = bitWidth - divisor.bitWidth
    if shift < 0 { return .zero }
    var rest = self
    var quotient = UInt256.zero
    var shifted = divisor << shift
    while shift >= 0 {
      quotient = quotient << 1
      if rest >= shifted {
        rest = rest.subtractingWrapping(shifted)
        quotient.w0 |= 1
      }
      shifted = shifted >> 1
      shift -= 1
    }
    return quotient
  }

  private func subtractingWrapping(_ b: UInt256) -> UInt256 {
    let (d0, c0) = w0.subtractingReportingOverflow(b.w0)
    let (d1, c1) = UInt256.subtractBorrow(w1, b.w1, c0)
    let (d2, c2) = UInt256.subtractBorrow(w2, b.w2, c1)
    let (d3, _) = UInt256.subtractBorrow(w3, b.w3, c2)
    return UInt256(w0: d0, w1: d1, w2: d2, w3: d3)
  }

  private static func addCarry(_ a: UInt64, _ b: UInt64, _ carry: Bool) -> (UInt64, Bool) {
    let (s, c) = a.addingReportingOverflow(b)
    let (t, d) = s.addingReportingOverflow(carry ? 1 : 0)
    return (t, c || d)
  }

  private static func subtractBorrow(_ a: UInt64, _ b: UInt64, _ borrow: Bool) -> (UInt64, Bool) {
    let (s, c) = a.subtractingReportingOverflow(b)
    let (t, d) = s.subtractingReportingOverflow(borrow ? 1 : 0)
    return (t, c || d)
  }
}

extension UInt256: CustomStringConvertible {
  /// `0x` and 64 hexadecimal digits.
  public var description: String { "0x\(Hash256(w0: w0, w1: w1, w2: w2, w3: w3))" }
}
