import CKernels
import Ground

/// SHA-256 and Bitcoin's double SHA-256.
public enum SHA256 {
  /// Which implementation runs. `best` is what the CPU can do; tests compare the others against `portable`.
  public enum Kernel: Sendable, CaseIterable {
    case portable
    case shaExtensions

    public static let best: Kernel = lp_sha256_best() == LP_SHA256_NI ? .shaExtensions : .portable

    /// Kernels that this CPU can run.
    public static var available: [Kernel] { best == .portable ? [.portable] : [.portable, .shaExtensions] }

    @inlinable package var code: lp_sha256_kernel { self == .portable ? LP_SHA256_PORTABLE : LP_SHA256_NI }
  }

  /// SHA-256(bytes).
  public static func hash(_ bytes: RawSpan, kernel: Kernel = .best) -> Hash256 {
    one(bytes, twice: false, kernel)
  }

  /// SHA-256(SHA-256(bytes)).
  public static func double(_ bytes: RawSpan, kernel: Kernel = .best) -> Hash256 {
    one(bytes, twice: true, kernel)
  }

  private static func one(_ bytes: RawSpan, twice: Bool, _ kernel: Kernel) -> Hash256 {
    var result = Hash256.zero
    unsafe bytes.withUnsafeBytes { buffer in
      unsafe withUnsafeMutableBytes(of: &result) { out in
        let start = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
        var job = lp_sha256_job()
        job.part = (start, start, start)
        job.length = (buffer.count, 0, 0)
        job.out = out.baseAddress!.assumingMemoryBound(to: UInt8.self)
        lp_sha256_batch(kernel.code, &job, 1, twice ? 1 : 0)
      }
    }
    return result
  }

  /// SHA-256(SHA-256(a ‖ b)): a Merkle node.
  public static func double(_ a: Hash256, _ b: Hash256, kernel: Kernel = .best) -> Hash256 {
    var pair = (a, b)
    unsafe withUnsafeMutableBytes(of: &pair) { buffer in
      let start = buffer.baseAddress!.assumingMemoryBound(to: UInt8.self)
      lp_sha256d_64(kernel.code, start, start, 1)
    }
    return pair.0
  }

  /// Double SHA-256 of a message that comes in pieces, so that a large one can be hashed in slices.
  public struct Stream: Sendable {
    private var state = lp_sha256_stream()
    private let kernel: Kernel

    public init(kernel: Kernel = .best) {
      self.kernel = kernel
      lp_sha256_stream_begin(&state)
    }

    public mutating func update(_ bytes: RawSpan) {
      unsafe bytes.withUnsafeBytes { buffer in
        guard let start = buffer.baseAddress else { return }
        lp_sha256_stream_update(kernel.code, &state, start.assumingMemoryBound(to: UInt8.self), buffer.count)
      }
    }

    /// SHA-256(SHA-256(all bytes so far)); the stream may go on.
    public func double() -> Hash256 { end(twice: true) }
    /// SHA-256(all bytes so far); the stream may go on.
    public func hash() -> Hash256 { end(twice: false) }

    private func end(twice: Bool) -> Hash256 {
      var result = Hash256.zero
      unsafe withUnsafeMutableBytes(of: &result) { out in
        unsafe withUnsafePointer(to: state) {
          lp_sha256_stream_end(kernel.code, $0, out.baseAddress!.assumingMemoryBound(to: UInt8.self), twice ? 1 : 0)
        }
      }
      return result
    }
  }
}
