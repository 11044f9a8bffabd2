import CLibsecp256k1
import CLibsodium

/// The operations on secp256k1 that handshake and signatures need, by libsecp256k1 (constant-time in the secret).
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

  private static func digest(_ message: RawSpan, tag: StaticString, into out: UnsafeMutablePointer<UInt8>) {
    message.withUnsafeBytes { bytes in
      // An empty message has no address, which the library would refuse.
      var none: UInt8 = 0
      withUnsafeBytes(of: &none) { empty in
        let start = (bytes.baseAddress ?? empty.baseAddress!).assumingMemoryBound(to: UInt8.self)
        precondition(
          secp256k1_tagged_sha256(context, out, tag.utf8Start, tag.utf8CodeUnitCount, start, bytes.count) == 1)
      }
    }
  }

  /// BIP340 signature, 64 bytes, of the tagged hash of a message.
  static func sign(
    _ message: RawSpan, tag: StaticString, _ secret: UnsafeRawPointer, into out: UnsafeMutableRawPointer
  ) {
    var pair = secp256k1_keypair()
    defer { sodium_memzero(&pair, MemoryLayout<secp256k1_keypair>.size) }
    precondition(secp256k1_keypair_create(context, &pair, secret.assumingMemoryBound(to: UInt8.self)) == 1)
    withUnsafeTemporaryAllocation(byteCount: 64, alignment: 8) { bytes in
      let digest = bytes.baseAddress!.assumingMemoryBound(to: UInt8.self)
      let auxiliary = digest + 32
      self.digest(message, tag: tag, into: digest)
      randombytes_buf(auxiliary, 32)
      precondition(
        secp256k1_schnorrsig_sign32(context, out.assumingMemoryBound(to: UInt8.self), digest, &pair, auxiliary) == 1)
    }
  }

  /// `key` is 33 bytes; its parity doesn't matter to BIP340.
  static func verify(
    _ signature: UnsafeRawPointer, _ message: RawSpan, tag: StaticString, key: UnsafePointer<UInt8>
  ) -> Bool {
    var point = secp256k1_xonly_pubkey()
    if secp256k1_xonly_pubkey_parse(context, &point, key + 1) != 1 { return false }
    return withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { bytes in
      let digest = bytes.baseAddress!.assumingMemoryBound(to: UInt8.self)
      self.digest(message, tag: tag, into: digest)
      return secp256k1_schnorrsig_verify(
        context, signature.assumingMemoryBound(to: UInt8.self), digest, 32, &point) == 1
    }
  }

  /// A secret key from `random`: draws until the number is one of the curve's (all but 2^-128 of draws are).
  static func generate(_ random: RandomSource, into secret: UnsafeMutableRawPointer) {
    repeat { random.fill(secret, 32) } while !isSecretKey(secret)
  }
}
