import CKernels

/// Bitcoin's Merkle trees.
public enum Merkle {
  /// The root over `leaves` and whether the list could be a mutation of another one with the same root
  /// (CVE-2012-2459: an identical adjacent pair at any level). The root of no leaves is zero.
  public static func root(_ leaves: [Hash256], kernel: SHA256.Kernel = .best) -> (root: Hash256, isMutated: Bool) {
    var reduction = Reduction(leaves, kernel: kernel)
    reduction.advance(pairs: .max)
    return (reduction.root, reduction.isMutated)
  }

  /// The same in the caller's memory, which it overwrites.
  public static func root(inPlace nodes: inout MutableSpan<Hash256>, kernel: SHA256.Kernel = .best) -> (
    root: Hash256, isMutated: Bool
  ) {
    unsafe nodes.withUnsafeMutableBufferPointer { buffer in
      var level = Level(count: buffer.count)
      level.advance(buffer.baseAddress, pairs: .max, kernel)
      return (buffer.isEmpty ? .zero : buffer[0], level.isMutated)
    }
  }

  /// A root that is worked out in slices: a pair costs three SHA-256 compressions, about 50 ns with SHA extensions.
  public struct Reduction: Sendable {
    private var nodes: [Hash256]
    private var level: Level
    private let kernel: SHA256.Kernel

    /// Keeps `leaves` and reduces them in place.
    public init(_ leaves: [Hash256], kernel: SHA256.Kernel = .best) {
      nodes = leaves
      level = Level(count: leaves.count)
      self.kernel = kernel
    }

    public var isDone: Bool { level.isDone }
    /// True as soon as an identical pair was met; final when `isDone`.
    public var isMutated: Bool { level.isMutated }
    /// Meaningful when `isDone`.
    public var root: Hash256 { nodes.first ?? .zero }

    /// Hashes up to `pairs` pairs; returns how many it did.
    @discardableResult
    public mutating func advance(pairs: Int) -> Int {
      unsafe nodes.withUnsafeMutableBufferPointer { level.advance($0.baseAddress, pairs: pairs, kernel) }
    }
  }

  /// Where a reduction stands: `count` nodes of the current level of which the first `2 * done` have become `done`
  /// nodes of the next, in the same memory.
  private struct Level: Sendable {
    var count: Int
    var done = 0
    var isMutated = false

    init(count: Int) { self.count = count }

    var isDone: Bool { count <= 1 }

    @discardableResult
    mutating func advance(_ nodes: UnsafeMutablePointer<Hash256>?, pairs limit: Int, _ kernel: SHA256.Kernel) -> Int {
      guard let nodes else { return 0 }
      var spent = 0
      while count > 1 && spent < limit {
        let pairs = count / 2
        let now = min(pairs - done, limit - spent)
        if now > 0 {
          var twins = false
          for pair in done..<done + now { twins = unsafe twins || nodes[2 * pair] == nodes[2 * pair + 1] }
          isMutated = isMutated || twins
          hash(nodes + 2 * done, into: nodes + done, now, kernel)
          done += now
          spent += now
        }
        if done < pairs { break }
        if count & 1 == 1 {
          // The odd one out is paired with itself; that is no mutation.
          unsafe nodes[pairs] = SHA256.double(nodes[count - 1], nodes[count - 1], kernel: kernel)
          spent += 1
          count = pairs + 1
        } else {
          count = pairs
        }
        done = 0
      }
      return spent
    }

    private func hash(
      _ from: UnsafeMutablePointer<Hash256>, into to: UnsafeMutablePointer<Hash256>, _ count: Int,
      _ kernel: SHA256.Kernel
    ) {
      unsafe lp_sha256d_64(
        kernel.code, UnsafeMutableRawPointer(to).assumingMemoryBound(to: UInt8.self),
        UnsafeRawPointer(from).assumingMemoryBound(to: UInt8.self), count)
    }
  }
}
