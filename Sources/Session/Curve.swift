import CLibsecp256k1
import CLibsodium

/// The two operations on secp256k1 that the handshake needs, by libsecp256k1 (constant-time in the secret).
enum Curve {
  /// Blinded once at start against side channels; read-only afterwards, so threads may share it.
  nonisolated(unsafe) private static let context: OpaquePointer = {
    Sodium.start()
    let context = secp256k1_context_create(UInt32(SECP256K1_CONTEXT_NONE))!
    var seed = InlineArray<32, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &seed) { bytes in
      let base = bytes.baseAddress!
      randombytes_buf(base, 32)
      // Can only fail on a context without tables, which this isn't.
      precondition(secp256k1_context_randomize(context, base.assumingMemoryBound(to: UInt8.self)) == 1)
      sodium_memzero(base, 32)
    }
    return context
  }()

  static func isSecretKey(_ secret: UnsafeRawPointer) -> Bool {
    secp256k1_ec_seckey_verify(context, secret.assumingMemoryBound(to: UInt8.self)) == 1
  }

  static func isPoint(_ key: UnsafeRawPointer) -> Bool {
    var point = secp256k1_pubkey()
    return secp256k1_ec_pubkey_parse(context, &point, key.assumingMemoryBound(to: UInt8.self), 33) == 1
  }

  /// Writes the 33-byte compressed public key of a valid 32-byte secret.
  static func publicKey(of secret: UnsafeRawPointer, into out: UnsafeMutableRawPointer) {
    var point = secp256k1_pubkey()
    precondition(secp256k1_ec_pubkey_create(context, &point, secret.assumingMemoryBound(to: UInt8.self)) == 1)
    var count = 33
    _ = secp256k1_ec_pubkey_serialize(
      context, out.assumingMemoryBound(to: UInt8.self), &count, &point, UInt32(SECP256K1_EC_COMPRESSED))
  }

  /// SHA-256 of the compressed shared point, 32 bytes (BOLT 8's ECDH). False when `key` is no point of the curve.
  static func ecdh(_ key: UnsafeRawPointer, _ secret: UnsafeRawPointer, into out: UnsafeMutableRawPointer) -> Bool {
    var point = secp256k1_pubkey()
    if secp256k1_ec_pubkey_parse(context, &point, key.assumingMemoryBound(to: UInt8.self), 33) != 1 { return false }
    return secp256k1_ecdh(
      context, out.assumingMemoryBound(to: UInt8.self), &point, secret.assumingMemoryBound(to: UInt8.self), nil, nil)
      == 1
  }

  /// A secret key from `random`: draws until the number is one of the curve's (all but 2^-128 of draws are).
  static func generate(_ random: RandomSource, into secret: UnsafeMutableRawPointer) {
    repeat { random.fill(secret, 32) } while !isSecretKey(secret)
  }
}
