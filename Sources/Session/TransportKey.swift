import CLibsodium
import Wire

/// One direction's key of a session, expanded for its suite. A view of `byteCount` bytes of guarded memory.
struct TransportKey {
  /// 32 bytes of key, padding, 512 bytes of AES round keys and GHASH tables; a multiple of 64 keeps all aligned.
  static let byteCount = 576
  private let base: UnsafeMutableRawPointer

  @inline(__always) init(_ base: UnsafeMutableRawPointer) { self.base = base }

  @inline(__always) private var aes: UnsafeMutablePointer<crypto_aead_aes256gcm_state> {
    (base + 64).assumingMemoryBound(to: crypto_aead_aes256gcm_state.self)
  }

  func set(_ key: UnsafeRawPointer, _ suite: CipherSuite) {
    switch suite {
    case .chaCha20Poly1305: base.copyMemory(from: key, byteCount: 32)
    case .aes256GCM: _ = crypto_aead_aes256gcm_beforenm(aes, key.u8)
    }
  }

  func wipe() { sodium_memzero(base, TransportKey.byteCount) }

  /// Seals `count` bytes from `plain` to just after `header`, whose 16 bytes are authenticated with them, and adds the
  /// tag. `plain` may lie where the ciphertext goes; else it is read where it is and nothing is copied first.
  @inline(__always)
  func seal(
    header: UnsafeMutableRawPointer, plain: UnsafeRawPointer, count: Int, counter: UInt64, suite: CipherSuite
  ) {
    let out = (header + SessionFormat.transportHeaderBytes).u8
    withNonce(counter) { nonce in
      switch suite {
      case .chaCha20Poly1305:
        _ = crypto_aead_chacha20poly1305_ietf_encrypt(
          out, nil, plain.u8, UInt64(count), header.u8, UInt64(SessionFormat.transportHeaderBytes), nil, nonce, base.u8)
      case .aes256GCM:
        _ = crypto_aead_aes256gcm_encrypt_afternm(
          out, nil, plain.u8, UInt64(count), header.u8, UInt64(SessionFormat.transportHeaderBytes), nil, nonce, aes)
      }
    }
  }

  /// Opens a whole datagram of `count` ≥ 32 bytes in place; the plaintext follows the header. The tag is checked before
  /// anything is decrypted; what was forged is overwritten with zeros.
  @inline(__always)
  func open(datagram: UnsafeMutableRawPointer, count: Int, counter: UInt64, suite: CipherSuite) -> Bool {
    let sealed = (datagram + SessionFormat.transportHeaderBytes).u8
    let sealedCount = UInt64(count - SessionFormat.transportHeaderBytes)
    return withNonce(counter) { nonce in
      switch suite {
      case .chaCha20Poly1305:
        crypto_aead_chacha20poly1305_ietf_decrypt(
          sealed, nil, nil, sealed, sealedCount, datagram.u8, UInt64(SessionFormat.transportHeaderBytes), nonce, base.u8
        )
          == 0
      case .aes256GCM:
        crypto_aead_aes256gcm_decrypt_afternm(
          sealed, nil, nil, sealed, sealedCount, datagram.u8, UInt64(SessionFormat.transportHeaderBytes), nonce, aes)
          == 0
      }
    }
  }
}
