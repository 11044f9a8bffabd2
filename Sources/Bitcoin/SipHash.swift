import Ground

/// SipHash-2-4 (Aumasson and Bernstein, 2012): 64 bits, keyed.
public struct SipHash: Sendable {
  /// The key's first and last eight bytes, little-endian.
  public var k0, k1: UInt64

  @inlinable public init(k0: UInt64, k1: UInt64) {
    self.k0 = k0
    self.k1 = k1
  }

  /// Of 32 bytes: what short transaction ids are cut from.
  @inlinable public func hash(_ value: Hash256) -> UInt64 {
    var state = State(self)
    state.absorb(value.w0)
    state.absorb(value.w1)
    state.absorb(value.w2)
    state.absorb(value.w3)
    state.absorb(32 << 56)
    return state.finish()
  }

  /// Of any bytes.
  public func hash(_ bytes: RawSpan) -> UInt64 {
    var state = State(self)
    var at = 0
    while bytes.byteCount - at >= 8 {
      state.absorb(UInt64(littleEndian: unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: at, as: UInt64.self)))
      at += 8
    }
    var last = UInt64(truncatingIfNeeded: bytes.byteCount) << 56
    for i in at..<bytes.byteCount {
      last |= UInt64(unsafe bytes.unsafeLoad(fromUncheckedByteOffset: i, as: UInt8.self)) << UInt64(8 * (i - at))
    }
    state.absorb(last)
    return state.finish()
  }

  @usableFromInline struct State {
    @usableFromInline var v0, v1, v2, v3: UInt64

    @inlinable init(_ key: SipHash) {
      v0 = 0x736f_6d65_7073_6575 ^ key.k0
      v1 = 0x646f_7261_6e64_6f6d ^ key.k1
      v2 = 0x6c79_6765_6e65_7261 ^ key.k0
      v3 = 0x7465_6462_7974_6573 ^ key.k1
    }

    @inlinable mutating func absorb(_ word: UInt64) {
      v3 ^= word
      round()
      round()
      v0 ^= word
    }

    @inlinable mutating func finish() -> UInt64 {
      v2 ^= 0xFF
      for _ in 0..<4 { round() }
      return v0 ^ v1 ^ v2 ^ v3
    }

    @inlinable mutating func round() {
      @inline(__always) func rotl(_ x: UInt64, _ k: UInt64) -> UInt64 { x << k | x >> (64 - k) }
      v0 = v0 &+ v1
      v2 = v2 &+ v3
      v1 = rotl(v1, 13) ^ v0
      v3 = rotl(v3, 16) ^ v2
      v0 = rotl(v0, 32)
      v2 = v2 &+ v1
      v0 = v0 &+ v3
      v1 = rotl(v1, 17) ^ v2
      v3 = rotl(v3, 21) ^ v0
      v2 = rotl(v2, 32)
    }
  }
}
