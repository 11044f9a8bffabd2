import CKernels

/// An implementation of the block arithmetic. All give the same bytes; `best` is the fastest that this CPU runs.
public struct Kernel: @unchecked Sendable, CustomStringConvertible {
  // Immutable tables with the lifetime of the process.
  package let ops: UnsafePointer<gf16_ops>

  /// What this CPU can run, the portable one first and the fastest last.
  public static let available: [Kernel] = {
    let list = gf16_kernels()!
    var kernels: [Kernel] = []
    while let ops = list[kernels.count] { kernels.append(Kernel(ops: ops)) }
    return kernels
  }()

  public static let best = available.last!

  public static func named(_ name: String) -> Kernel? { available.first { $0.name == name } }

  public var name: String { String(cString: ops.pointee.name) }
  public var description: String { name }
}

/// Logarithms, powers and inverses of the field in its Cantor basis.
package struct Field: @unchecked Sendable {
  package static let shared = Field()
  package static let order = 65_535

  package let log: UnsafePointer<UInt16>
  package let exp: UnsafePointer<UInt16>
  package let inverse: UnsafePointer<UInt16>

  init() {
    log = gf16_log()
    exp = gf16_exp()
    inverse = gf16_inverse()
  }

  @inline(__always) package func product(_ a: Int, _ b: Int) -> Int {
    a == 0 || b == 0 ? 0 : Int(exp[Int(log[a]) + Int(log[b])])
  }
}

/// 64-byte aligned memory with one owner. Grows only in `reserve`, never shrinks; contents are garbage after growth.
/// Large ones cost no physical memory until touched.
package struct AlignedBytes: ~Copyable {
  package private(set) var base: UnsafeMutablePointer<UInt8>
  package private(set) var count: Int

  package init(_ count: Int = 0) {
    self.count = count
    base = Self.allocate(count)
  }

  deinit { UnsafeMutableRawPointer(base).deallocate() }

  private static func allocate(_ count: Int) -> UnsafeMutablePointer<UInt8> {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: max(count, 64), alignment: 64)
    return memory.bindMemory(to: UInt8.self, capacity: max(count, 64))
  }

  package mutating func reserve(_ wanted: Int) {
    if wanted <= count { return }
    UnsafeMutableRawPointer(base).deallocate()
    base = Self.allocate(wanted)
    count = wanted
  }

  package func zero(_ range: Range<Int>) {
    (base + range.lowerBound).update(repeating: 0, count: range.count)
  }

  @inline(__always) package func bound<T: BitwiseCopyable>(to type: T.Type) -> UnsafeMutablePointer<T> {
    UnsafeMutableRawPointer(base).assumingMemoryBound(to: type)
  }
}
