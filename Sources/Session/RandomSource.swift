import CLibsodium
import Ground

/// Where keys, indexes and nonces come from. Injected, so that a simulated run replays from its seed.
public struct RandomSource: Sendable {
  let fill: @Sendable (UnsafeMutableRawBufferPointer) -> Void

  /// `fill` overwrites every byte of what it is given.
  public init(fill: @escaping @Sendable (UnsafeMutableRawBufferPointer) -> Void) { self.fill = fill }

  /// The kernel's generator through libsodium. The only one fit for a network that others can reach.
  public static let system = RandomSource { buffer in
    Sodium.start()
    if let base = buffer.baseAddress { randombytes_buf(base, buffer.count) }
  }

  /// Predictable keys from a seed: for simulations and tests only. Not thread-safe: one owner.
  public static func predictable(seed: UInt64) -> RandomSource {
    let state = PredictableState(seed)
    return RandomSource { buffer in
      for i in 0..<buffer.count { buffer[i] = UInt8(truncatingIfNeeded: state.random.next() >> 32) }
    }
  }

  func fill(_ pointer: UnsafeMutableRawPointer, _ count: Int) {
    fill(UnsafeMutableRawBufferPointer(start: pointer, count: count))
  }

  func next<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type = T.self) -> T {
    var value = T.zero
    withUnsafeMutableBytes(of: &value) { fill($0) }
    return value
  }
}

private final class PredictableState: @unchecked Sendable {
  var random: SeededRandom
  init(_ seed: UInt64) { random = SeededRandom(seed: seed) }
}
