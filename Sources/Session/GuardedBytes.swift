import CLibsodium

/// Secret bytes in libsodium's guarded memory: between guard pages, locked into RAM where the limit on locked memory
/// allows, left out of core dumps, and overwritten when released.
package struct GuardedBytes: ~Copyable {
  package let pointer: UnsafeMutableRawPointer
  package let count: Int

  /// Zeros. `count` is rounded up to 64 so that the start is aligned for any cipher state.
  package init(count: Int) {
    precondition(count > 0)
    Sodium.start()
    self.count = (count + 63) & ~63
    // Out of memory at start-up: there is nothing to fall back to.
    guard let memory = sodium_malloc(self.count) else { fatalError("no guarded memory for \(count) bytes") }
    pointer = memory
    sodium_memzero(pointer, self.count)
  }

  deinit { sodium_free(pointer) }
}

/// Starts libsodium once for the process (it picks kernels by CPU feature); later calls cost one load.
enum Sodium {
  private static let started: Void = {
    if sodium_init() < 0 { fatalError("libsodium refuses to start") }
  }()

  @inline(__always) static func start() { _ = started }

  /// AES instructions and carry-less multiply: libsodium has no software AES.
  static let hasAES: Bool = {
    start()
    return crypto_aead_aes256gcm_is_available() == 1
  }()
}
