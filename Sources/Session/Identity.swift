import CLibsodium
import Ground

/// A relay's static key pair. The secret stays in guarded memory and is wiped with the last reference.
public final class Identity: @unchecked Sendable {
  // Sendable: nothing changes after init.
  private let memory: GuardedBytes
  public let publicKey: PublicKey

  /// A new key.
  public init(generatedFrom random: RandomSource = .system) {
    memory = GuardedBytes(count: 32)
    Curve.generate(random, into: memory.pointer)
    publicKey = Identity.publicKey(of: memory.pointer)
  }

  /// From 32 bytes that the caller should wipe; `nil` when they are no key of the curve (0, or not below its order).
  public init?(secret: UnsafeRawBufferPointer) {
    guard secret.count == 32, let base = secret.baseAddress, Curve.isSecretKey(base) else { return nil }
    memory = GuardedBytes(count: 32)
    memory.pointer.copyMemory(from: base, byteCount: 32)
    publicKey = Identity.publicKey(of: memory.pointer)
  }

  /// The 32 secret bytes, for the handshake and the key file only.
  var secret: UnsafeRawPointer { UnsafeRawPointer(memory.pointer) }

  private static func publicKey(of secret: UnsafeRawPointer) -> PublicKey {
    withUnsafeTemporaryAllocation(byteCount: 33, alignment: 8) { bytes in
      Curve.publicKey(of: secret, into: bytes.baseAddress!)
      return PublicKey(unchecked: bytes.baseAddress!)
    }
  }
}
