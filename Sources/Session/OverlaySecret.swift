import CLibsodium
import Ground

/// The secret that every site of an overlay holds; the relay core derives its short ids' keys from it. Several epochs
/// may be held at once, so that a rotation needs no moment at which all sites switch: add the new epoch everywhere (each
/// pair of relays moves on as soon as both have it), then remove the old one.
public final class OverlaySecret: @unchecked Sendable {
  // Sendable: nothing changes after init.
  public static let maxEpochs = Hello.maxEpochs

  private let memory: GuardedBytes
  /// Ascending, each above 0.
  public let epochs: [UInt32]

  /// One epoch with a new secret.
  public convenience init(generatedFrom random: RandomSource = .system, epoch: UInt32 = 1) {
    self.init(epochs: [epoch]) { _, out in random.fill(out, 32) }
  }

  /// There is a number for one more epoch.
  public var canRotate: Bool { epochs.last! < .max }

  /// What this holds and one more epoch with a new secret, numbered after the newest; the oldest is left out when there
  /// would be more than `maxEpochs`. Only if `canRotate`.
  public func rotated(from random: RandomSource = .system) -> OverlaySecret {
    let kept = Array(epochs.suffix(OverlaySecret.maxEpochs - 1))
    return OverlaySecret(epochs: kept + [epochs.last! + 1]) { epoch, out in
      if !withSecret(ofEpoch: epoch, { out.copyMemory(from: $0.baseAddress!, byteCount: 32) }) { random.fill(out, 32) }
    }
  }

  /// `fill` is asked for each epoch's 32 bytes. `epochs` are ascending, above 0, at most `maxEpochs`.
  init(epochs: [UInt32], fill: (UInt32, UnsafeMutableRawPointer) -> Void) {
    precondition(!epochs.isEmpty && epochs.count <= OverlaySecret.maxEpochs && epochs[0] > 0)
    self.epochs = epochs
    memory = GuardedBytes(count: 32 * epochs.count)
    for (i, epoch) in epochs.enumerated() { fill(epoch, memory.pointer + 32 * i) }
  }

  /// Lends an epoch's 32 bytes; false when it isn't held.
  @discardableResult
  public func withSecret(ofEpoch epoch: UInt32, _ body: (UnsafeRawBufferPointer) -> Void) -> Bool {
    guard let i = epochs.firstIndex(of: epoch) else { return false }
    body(UnsafeRawBufferPointer(start: memory.pointer + 32 * i, count: 32))
    return true
  }

  /// Derives 32 bytes for one use from an epoch's secret: BLAKE2b keyed with it, over the label. `nil` when the epoch
  /// isn't held.
  public func derive(_ label: String, epoch: UInt32) -> [UInt8]? {
    var out = [UInt8](repeating: 0, count: 32)
    let message = Array(label.utf8)
    let held = withSecret(ofEpoch: epoch) { secret in
      _ = crypto_generichash(&out, 32, message, UInt64(message.count), secret.baseAddress!.u8, 32)
    }
    return held ? out : nil
  }

  /// What a peer is told of each epoch: enough to see that the secrets are equal, nothing about them.
  var checks: [EpochCheck] {
    epochs.map { epoch in
      let bytes = derive("lightpath overlay epoch check", epoch: epoch)!
      return EpochCheck(number: epoch, check: bytes.withUnsafeBytes { $0.baseAddress!.get(0) })
    }
  }
}
