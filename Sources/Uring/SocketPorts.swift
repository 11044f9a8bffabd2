import CLiburing
import CRing
import Glibc
import Ground

/// The engine's sockets with what receiving on each needs, in memory that stays put while the kernel may write to it.
struct SocketPorts: ~Copyable {
  /// Room for a source address, and for the control data of timestamp, segment size and drop count (80 bytes).
  static let nameBytes = 32
  static let controlBytes = 112
  /// Of the kernel's own header (`io_uring_recvmsg_out`).
  static let headerBytes = 16
  static let payloadOffset = headerBytes + nameBytes + controlBytes
  /// Holds the longest UDP payload; a multiple of cache lines but not of pages, so that buffers don't contend for the
  /// same cache sets.
  static let bufferBytes = (payloadOffset + 65_535 + 63) / 64 * 64 + 64

  struct Port {
    var socket: UDPSocket
    var isArmed = false
    var isErrorArmed = false
    var dropsSeen: UInt32 = 0
  }

  let count: Int
  let ports: UnsafeMutablePointer<Port>
  /// For arming receives: only says how much room name and control data get.
  let header: UnsafeMutablePointer<msghdr>
  /// For reading error queues, one at a time.
  let errorHeader: UnsafeMutablePointer<msghdr>
  /// Where the wake handle's count is read to.
  let wakeValue: UnsafeMutablePointer<UInt64>
  private let errorVector: UnsafeMutablePointer<iovec>
  private let errorMemory: UnsafeMutableRawPointer
  private static let errorBytes = 512

  init(_ configuration: EngineConfiguration) throws(RingError) {
    var opened: [UDPSocket] = []
    do throws(RingError) {
      for address in configuration.listen { opened.append(try UDPSocket.open(address, configuration)) }
    } catch {
      for socket in opened { close(socket.descriptor) }
      throw error
    }
    count = opened.count
    ports = .allocate(capacity: count)
    header = .allocate(capacity: 1)
    header.initialize(to: msghdr())
    header.pointee.msg_namelen = socklen_t(SocketPorts.nameBytes)
    header.pointee.msg_controllen = SocketPorts.controlBytes
    wakeValue = .allocate(capacity: 1)
    wakeValue.initialize(to: 0)
    errorHeader = .allocate(capacity: 1)
    errorVector = .allocate(capacity: 1)
    errorMemory = .allocate(byteCount: SocketPorts.errorBytes, alignment: 64)
    for i in 0..<count { (ports + i).initialize(to: Port(socket: opened[i])) }
    prepareError()
  }

  deinit {
    for i in 0..<count { close(ports[i].socket.descriptor) }
    ports.deinitialize(count: count)
    ports.deallocate()
    header.deallocate()
    wakeValue.deallocate()
    errorHeader.deallocate()
    errorVector.deallocate()
    errorMemory.deallocate()
  }

  /// Before each reading: the kernel overwrites the lengths. 32 bytes of address, 352 of control data, and a little of
  /// the datagram that the error answers.
  func prepareError() {
    errorVector.initialize(to: iovec(iov_base: errorMemory + 384, iov_len: 128))
    var header = msghdr()
    header.msg_name = errorMemory
    header.msg_namelen = 32
    header.msg_iov = errorVector
    header.msg_iovlen = 1
    header.msg_control = errorMemory + 32
    header.msg_controllen = 352
    errorHeader.initialize(to: header)
  }

  /// Counts what the socket dropped since last told. The kernel's count wraps at 32 bits; the one in a datagram's control
  /// data is older than one asked for meanwhile.
  func newDrops(_ i: Int, _ count: UInt32) -> Int {
    let change = Int32(bitPattern: count &- ports[i].dropsSeen)
    if change <= 0 { return 0 }
    ports[i].dropsSeen = count
    return Int(change)
  }
}
