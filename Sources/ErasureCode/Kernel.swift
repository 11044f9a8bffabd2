import CKernels
import Synchronization

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

  deinit { Self.deallocate(base, count) }

  private static func allocate(_ count: Int) -> UnsafeMutablePointer<UInt8> {
    let bytes = LargePieces.rounded(max(count, 64))
    let memory = LargePieces.take(bytes) ?? UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
    return memory.bindMemory(to: UInt8.self, capacity: bytes)
  }

  private static func deallocate(_ base: UnsafeMutablePointer<UInt8>, _ count: Int) {
    let memory = UnsafeMutableRawPointer(base)
    if !LargePieces.give(memory, LargePieces.rounded(max(count, 64))) { memory.deallocate() }
  }

  package mutating func reserve(_ wanted: Int) {
    if wanted <= count { return }
    Self.deallocate(base, count)
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

/// Large pieces of memory that were given back, kept to be used again: the kernel hands out fresh memory page by page and
/// zeroes each page at its first touch, which for an object of a block's size takes as long as coding it. At most 64
/// pieces and 64 MB; what exceeds that goes back to the system. Any thread.
package enum LargePieces {
  package static let bytesLeast = 64 << 10
  package static let bytesMost = 64 << 20
  package static let countMost = 64

  /// A pointer on its way through the lock.
  package struct Piece: @unchecked Sendable {
    package let memory: UnsafeMutableRawPointer
    package init(_ memory: UnsafeMutableRawPointer) { self.memory = memory }
  }

  /// What is kept, whose owner locks it.
  package struct Kept: Sendable {
    private var pieces: [(piece: Piece, bytes: Int)] = []
    package private(set) var bytes = 0
    package var count: Int { pieces.count }

    package init() {}

    /// The piece of so many bytes that came last.
    package mutating func take(_ wanted: Int) -> Piece? {
      guard let index = pieces.lastIndex(where: { $0.bytes == wanted }) else { return nil }
      bytes -= wanted
      return pieces.remove(at: index).piece
    }

    /// False when it isn't kept, and is the caller's to free.
    package mutating func give(_ piece: Piece, _ count: Int) -> Bool {
      if count < bytesLeast || bytes + count > bytesMost || pieces.count == countMost { return false }
      pieces.append((piece, count))
      bytes += count
      return true
    }
  }
  private static let kept = Mutex(Kept())

  /// Sizes of pieces: an eighth of a power of two apart, so that objects of about one size fit each other's.
  static func rounded(_ bytes: Int) -> Int {
    if bytes < bytesLeast { return bytes }
    let step = 1 << (Int.bitWidth - bytes.leadingZeroBitCount - 4)
    return (bytes + step - 1) / step * step
  }

  static func take(_ bytes: Int) -> UnsafeMutableRawPointer? {
    if bytes < bytesLeast { return nil }
    return kept.withLock { $0.take(bytes) }?.memory
  }

  /// False when it isn't kept, and is the caller's to free.
  static func give(_ memory: UnsafeMutableRawPointer, _ bytes: Int) -> Bool {
    if bytes < bytesLeast { return false }
    let piece = Piece(memory)
    return kept.withLock { $0.give(piece, bytes) }
  }
}
