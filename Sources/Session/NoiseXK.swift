import CLibsodium
import Wire

/// Why an act was refused. The names in parentheses are BOLT 8's.
package enum ActError: Error, Hashable, Sendable {
  /// Not exactly the act's length (ACTn_READ_FAILED).
  case length
  /// A handshake version other than 0 (ACTn_BAD_VERSION).
  case version(UInt8)
  /// Bytes that are no point of the curve (ACTn_BAD_PUBKEY).
  case publicKey
  /// Failed authentication (ACTn_BAD_TAG).
  case tag
  /// The sealed static key failed authentication (ACT3_BAD_CIPHERTEXT).
  case ciphertext
}

/// `Noise_XK_secp256k1_ChaChaPoly_SHA256` as in BOLT 8, with a prologue and payloads as parameters: with the prologue
/// `lightning` and empty payloads the acts are BOLT 8's, byte for byte.
///
/// A view of `byteCount` bytes of guarded memory; all secrets, intermediate ones too, stay in there. The owner wipes.
package struct NoiseXK {
  package static let byteCount = 512
  private let base: UnsafeMutableRawPointer

  package init(_ base: UnsafeMutableRawPointer) { self.base = base }

  // The first 128 bytes are what a responder must keep between acts one and three; 16 bytes for its own notes follow.
  var chainingKey: UnsafeMutableRawPointer { base }
  private var h: UnsafeMutableRawPointer { base + 32 }
  private var key: UnsafeMutableRawPointer { base + 64 }
  private var ephemeral: UnsafeMutableRawPointer { base + 96 }
  var notes: UnsafeMutableRawPointer { base + 128 }
  private var temporary: UnsafeMutableRawPointer { base + 160 }  // 64 bytes
  private var shared: UnsafeMutableRawPointer { base + 224 }
  private var hmac: UnsafeMutablePointer<crypto_auth_hmacsha256_state> {
    (base + 256).assumingMemoryBound(to: crypto_auth_hmacsha256_state.self)  // 208 bytes
  }
  private var remote: UnsafeMutableRawPointer { base + 464 }  // 33 bytes

  package func wipe() { sodium_memzero(base, NoiseXK.byteCount) }
  func copy(to other: NoiseXK) { other.base.copyMemory(from: base, byteCount: NoiseXK.byteCount) }

  /// Both sides, before act one. `responder` is the responder's static key.
  package func begin(prologue: [UInt8], responder: PublicKey) {
    let name: StaticString = "Noise_XK_secp256k1_ChaChaPoly_SHA256"
    crypto_hash_sha256(h.u8, name.utf8Start, UInt64(name.utf8CodeUnitCount))
    chainingKey.copyMemory(from: h, byteCount: 32)
    prologue.withUnsafeBytes { mixHash($0.baseAddress ?? UnsafeRawPointer(h), $0.count) }
    responder.withBytes { mixHash($0, 33) }
  }

  // MARK: Act one: e, es

  /// Writes 50 + `payload.count` bytes.
  package func writeActOne(
    to out: UnsafeMutableRawPointer, responder: PublicKey, payload: UnsafeRawBufferPointer,
    ephemeral generate: (UnsafeMutableRawPointer) -> Void
  ) throws(ActError) {
    writeEphemeral(to: out, generate)
    if !responder.withBytes({ Curve.ecdh($0, ephemeral, into: shared) }) { throw .publicKey }
    mixKey()
    seal(payload, nonce: 0, to: out + 34)
  }

  /// Reads an act one in place; the payload's plaintext is left where it was sealed.
  package func readActOne(_ act: UnsafeMutableRawBufferPointer, payloadBytes: Int, identity: Identity) throws(ActError)
  {
    try readEphemeral(act, payloadBytes)
    if !Curve.ecdh(remote, identity.secret, into: shared) { throw .publicKey }
    mixKey()
    if !open(act.baseAddress! + 34, payloadBytes, nonce: 0) { throw .tag }
  }

  // MARK: Act two: e, ee

  /// Writes 50 + `payload.count` bytes.
  package func writeActTwo(
    to out: UnsafeMutableRawPointer, payload: UnsafeRawBufferPointer,
    ephemeral generate: (UnsafeMutableRawPointer) -> Void
  ) throws(ActError) {
    writeEphemeral(to: out, generate)
    if !Curve.ecdh(remote, ephemeral, into: shared) { throw .publicKey }
    mixKey()
    seal(payload, nonce: 0, to: out + 34)
  }

  package func readActTwo(_ act: UnsafeMutableRawBufferPointer, payloadBytes: Int) throws(ActError) {
    try readEphemeral(act, payloadBytes)
    if !Curve.ecdh(remote, ephemeral, into: shared) { throw .publicKey }
    mixKey()
    if !open(act.baseAddress! + 34, payloadBytes, nonce: 0) { throw .tag }
  }

  // MARK: Act three: s, se

  /// Writes 66 + `payload.count` bytes.
  package func writeActThree(to out: UnsafeMutableRawPointer, payload: UnsafeRawBufferPointer, identity: Identity)
    throws(ActError)
  {
    out.u8[0] = 0
    identity.publicKey.withBytes { seal(UnsafeRawBufferPointer(start: $0, count: 33), nonce: 1, to: out + 1) }
    if !Curve.ecdh(remote, identity.secret, into: shared) { throw .publicKey }
    mixKey()
    seal(payload, nonce: 0, to: out + 50)
  }

  /// The first part, without curve work: the initiator's static key, for the caller to look up. The key isn't proven
  /// yet, nor checked to be a point.
  package func readStaticKey(_ act: UnsafeMutableRawBufferPointer, payloadBytes: Int) throws(ActError) -> PublicKey {
    if act.count != 66 + payloadBytes { throw .length }
    let start = act.baseAddress!
    if start.u8[0] != 0 { throw .version(start.u8[0]) }
    if !open(start + 1, 33, nonce: 1) { throw .ciphertext }
    return PublicKey(unchecked: start + 1)
  }

  /// The second part: after it the static key is proven.
  package func readActThree(_ act: UnsafeMutableRawBufferPointer, payloadBytes: Int) throws(ActError) {
    let start = act.baseAddress!
    if !Curve.ecdh(start + 1, ephemeral, into: shared) { throw .publicKey }
    mixKey()
    if !open(start + 50, payloadBytes, nonce: 0) { throw .tag }
  }

  /// The two transport keys, 32 bytes each: initiator to responder, then responder to initiator.
  package func split(into body: (UnsafeRawPointer, UnsafeRawPointer) -> Void) {
    hkdf(count: 0)
    body(temporary, temporary + 32)
    sodium_memzero(temporary, 64)
  }

  // MARK: Noise's symmetric state

  private func writeEphemeral(to out: UnsafeMutableRawPointer, _ generate: (UnsafeMutableRawPointer) -> Void) {
    generate(ephemeral)
    out.u8[0] = 0
    Curve.publicKey(of: ephemeral, into: out + 1)
    mixHash(out + 1, 33)
  }

  private func readEphemeral(_ act: UnsafeMutableRawBufferPointer, _ payloadBytes: Int) throws(ActError) {
    if act.count != 50 + payloadBytes { throw .length }
    let start = act.baseAddress!
    if start.u8[0] != 0 { throw .version(start.u8[0]) }
    if !Curve.isPoint(start + 1) { throw .publicKey }
    remote.copyMemory(from: start + 1, byteCount: 33)
    mixHash(remote, 33)
  }

  private func mixHash(_ bytes: UnsafeRawPointer, _ count: Int) {
    var state = crypto_hash_sha256_state()
    crypto_hash_sha256_init(&state)
    crypto_hash_sha256_update(&state, h.u8, 32)
    crypto_hash_sha256_update(&state, bytes.u8, UInt64(count))
    crypto_hash_sha256_final(&state, h.u8)
  }

  /// chaining key, key = HKDF(chaining key, shared)
  private func mixKey() {
    hkdf(count: 32)
    chainingKey.copyMemory(from: temporary, byteCount: 32)
    key.copyMemory(from: temporary + 32, byteCount: 32)
    sodium_memzero(temporary, 64)
    sodium_memzero(shared, 32)
  }

  /// RFC 5869 with the chaining key as salt, the first `count` bytes of `shared` as input key and no info; 64 bytes into
  /// `temporary`.
  private func hkdf(count: Int) {
    crypto_auth_hmacsha256_init(hmac, chainingKey.u8, 32)
    crypto_auth_hmacsha256_update(hmac, shared.u8, UInt64(count))
    crypto_auth_hmacsha256_final(hmac, shared.u8)
    var index: UInt8 = 1
    crypto_auth_hmacsha256_init(hmac, shared.u8, 32)
    crypto_auth_hmacsha256_update(hmac, &index, 1)
    crypto_auth_hmacsha256_final(hmac, temporary.u8)
    index = 2
    crypto_auth_hmacsha256_init(hmac, shared.u8, 32)
    crypto_auth_hmacsha256_update(hmac, temporary.u8, 32)
    crypto_auth_hmacsha256_update(hmac, &index, 1)
    crypto_auth_hmacsha256_final(hmac, (temporary + 32).u8)
    sodium_memzero(hmac, MemoryLayout<crypto_auth_hmacsha256_state>.size)
    sodium_memzero(shared, 32)
  }

  private func seal(_ plain: UnsafeRawBufferPointer, nonce: UInt64, to out: UnsafeMutableRawPointer) {
    withNonce(nonce) { nonce in
      _ = crypto_aead_chacha20poly1305_ietf_encrypt(
        out.u8, nil, plain.baseAddress?.u8 ?? UnsafePointer(out.u8), UInt64(plain.count), h.u8, 32, nil, nonce, key.u8)
    }
    mixHash(out, plain.count + 16)
  }

  /// In place. The ciphertext is hashed before it is overwritten, but `h` only moves on when it is authentic.
  private func open(_ sealed: UnsafeMutableRawPointer, _ plainBytes: Int, nonce: UInt64) -> Bool {
    temporary.copyMemory(from: h, byteCount: 32)
    mixHash(sealed, plainBytes + 16)
    let authentic = withNonce(nonce) { nonce in
      crypto_aead_chacha20poly1305_ietf_decrypt(
        sealed.u8, nil, nil, sealed.u8, UInt64(plainBytes + 16), temporary.u8, 32, nonce, key.u8) == 0
    }
    if !authentic { h.copyMemory(from: temporary, byteCount: 32) }
    return authentic
  }
}

/// RFC 8439's 12 bytes from a counter, as Noise has it: 32 zero bits, then the counter little-endian.
@inline(__always)
func withNonce<R>(_ counter: UInt64, _ body: (UnsafePointer<UInt8>) -> R) -> R {
  var nonce: (UInt32, UInt32, UInt32) = (
    0, UInt32(truncatingIfNeeded: counter).littleEndian, UInt32(truncatingIfNeeded: counter >> 32).littleEndian
  )
  return withUnsafeBytes(of: &nonce) { body($0.baseAddress!.assumingMemoryBound(to: UInt8.self)) }
}
