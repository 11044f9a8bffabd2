import CLibsodium
import Wire

/// 16 bytes: a SipHash-2-4-128 key, or what it computes. SipHash with 128-bit output is a keyed PRF and costs a seventh of
/// BLAKE2b on these sizes; strangers' packets are rejected with one call.
package struct Mac: Sendable {
  var a: UInt64 = 0
  var b: UInt64 = 0

  package init() {}

  /// A key for one purpose: the first half of SHA-256 over a label and public bytes.
  package init(
    label: StaticString, _ first: PublicKey,
    _ more: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
  ) {
    var state = crypto_hash_sha256_state()
    crypto_hash_sha256_init(&state)
    crypto_hash_sha256_update(&state, label.utf8Start, UInt64(label.utf8CodeUnitCount))
    first.withBytes { _ = crypto_hash_sha256_update(&state, $0, 33) }
    if let base = more.baseAddress { crypto_hash_sha256_update(&state, base.u8, UInt64(more.count)) }
    var hash: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    withUnsafeMutableBytes(of: &hash) { _ = crypto_hash_sha256_final(&state, $0.baseAddress!.u8) }
    (a, b) = (hash.0, hash.1)
  }

  init(random: RandomSource) {
    a = random.next()
    b = random.next()
  }

  init(loadingFrom bytes: UnsafeRawPointer) {
    a = bytes.loadUnaligned(as: UInt64.self)
    b = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
  }

  @inline(__always) package func store(to bytes: UnsafeMutableRawPointer) {
    bytes.storeBytes(of: a, as: UInt64.self)
    bytes.storeBytes(of: b, toByteOffset: 8, as: UInt64.self)
  }

  /// The MAC of bytes under this key.
  package func over(_ bytes: UnsafeRawPointer, _ count: Int) -> Mac {
    var key = self
    var out = Mac()
    withUnsafeMutableBytes(of: &out) { out in
      withUnsafeBytes(of: &key) { key in
        _ = crypto_shorthash_siphashx24(out.baseAddress!.u8, bytes.u8, UInt64(count), key.baseAddress!.u8)
      }
    }
    return out
  }

  /// In constant time.
  @inline(__always) func matches(_ bytes: UnsafeRawPointer) -> Bool {
    let other = Mac(loadingFrom: bytes)
    return (a ^ other.a) | (b ^ other.b) == 0
  }

  static func isZero(_ bytes: UnsafeRawPointer) -> Bool {
    let other = Mac(loadingFrom: bytes)
    return other.a | other.b == 0
  }
}
