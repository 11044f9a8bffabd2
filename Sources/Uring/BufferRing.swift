import CLiburing
import Glibc

/// Buffers lent to the kernel, which fills whichever is next when data arrives. The owner reads a buffer and gives it
/// back; how many the kernel holds is therefore known at any time, and running out is an error of the receive
/// (ENOBUFS), never a loss of memory. Registered by `Ring.register(buffers:)` on any thread before activation.
public struct BufferRing: ~Copyable {
  public let group: UInt16
  public let count: Int
  public let bytesEach: Int
  private let ring: UnsafeMutablePointer<io_uring_buf_ring>
  private let ringBytes: Int
  private let memory: UnsafeMutableRawPointer
  private let mask: Int32

  /// - Parameters:
  ///   - count: a power of two, at most 32,768.
  ///   - bytesEach: pages are taken from the system only once touched.
  public init(group: UInt16, count: Int, bytesEach: Int, on ring: borrowing Ring) throws(RingError) {
    guard count > 0, count <= 1 << 15, count & (count - 1) == 0, bytesEach > 0 else {
      throw .configuration("\(count) receive buffers: must be a power of two from 1 to 32768")
    }
    let ringBytes = count * MemoryLayout<io_uring_buf>.stride
    let protection = PROT_READ | PROT_WRITE
    let flags = MAP_PRIVATE | MAP_ANONYMOUS
    let entries = mmap(nil, ringBytes, protection, flags, -1, 0)
    let storage = mmap(nil, count * bytesEach, protection, flags, -1, 0)
    guard let entries, entries != MAP_FAILED, let storage, storage != MAP_FAILED else {
      throw .system(call: "mmap of \(count) receive buffers", errno: errno)
    }
    var registration = io_uring_buf_reg()
    registration.ring_addr = UInt64(UInt(bitPattern: entries))
    registration.ring_entries = UInt32(count)
    registration.bgid = group
    let result = io_uring_register_buf_ring(ring.ring, &registration, 0)
    if result < 0 {
      munmap(entries, ringBytes)
      munmap(storage, count * bytesEach)
      if result == -EINVAL {
        throw .kernelTooOld(missing: "provided-buffer rings", release: RingError.kernelRelease())
      }
      throw .system(call: "io_uring_register(buffer ring)", errno: -result)
    }
    self.group = group
    self.count = count
    self.bytesEach = bytesEach
    self.ringBytes = ringBytes
    mask = Int32(count - 1)
    self.ring = entries.assumingMemoryBound(to: io_uring_buf_ring.self)
    memory = storage
    io_uring_buf_ring_init(self.ring)
    for index in 0..<count {
      io_uring_buf_ring_add(
        self.ring, memory + index * bytesEach, UInt32(bytesEach), UInt16(index), mask, Int32(index))
    }
    io_uring_buf_ring_advance(self.ring, Int32(count))
  }

  // The kernel pins the entries' pages for as long as the ring lives: unmapping early is safe for it.
  deinit {
    munmap(ring, ringBytes)
    munmap(memory, count * bytesEach)
  }

  /// The buffer's first byte, or `nil` for a number that was never lent.
  @inline(__always) public func address(_ index: Int) -> UnsafeMutableRawPointer? {
    index < count ? memory + index * bytesEach : nil
  }

  /// Gives a buffer back to the kernel.
  @inline(__always) public mutating func giveBack(_ index: Int) {
    io_uring_buf_ring_add(ring, memory + index * bytesEach, UInt32(bytesEach), UInt16(index), mask, 0)
    io_uring_buf_ring_advance(ring, 1)
  }
}
