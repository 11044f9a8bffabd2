import CLiburing
import CRing
import Glibc
import Ground

/// Sends in the kernel's hands: message header, address, segment size and vector of each, in memory that stays put
/// until its completion comes.
struct Trains: ~Copyable {
  /// UDP_MAX_SEGMENTS of Linux before 6.9.
  static let maxSegments = 64
  /// Keeps the sum with headers below the 65,535 of an IP packet.
  static let maxBytes = 65_000

  struct Train {
    var head: Int32 = -1
    var tail: Int32 = -1
    /// Datagrams.
    var count = 0
    /// Entries of its vector; adjacent datagrams share one.
    var pieces = 0
    var bytes = 0
    /// -1 for a reply.
    var link: Int32 = -1
    var generation: UInt32 = 0
    var urgency: UInt8 = 0
    var attempts: UInt8 = 0
    var socket: Int32 = 0
  }

  let capacity: Int
  let trains: UnsafeMutablePointer<Train>
  let headers: UnsafeMutablePointer<msghdr>
  let vectors: UnsafeMutablePointer<iovec>
  private let names: UnsafeMutableRawPointer
  private let controls: UnsafeMutableRawPointer
  private let free: UnsafeMutablePointer<Int32>
  private(set) var freeCount: Int

  var inFlight: Int { capacity - freeCount }

  init(capacity: Int) {
    self.capacity = capacity
    trains = .allocate(capacity: capacity)
    trains.initialize(repeating: Train(), count: capacity)
    headers = .allocate(capacity: capacity)
    headers.initialize(repeating: msghdr(), count: capacity)
    vectors = .allocate(capacity: capacity * Trains.maxSegments)
    vectors.initialize(repeating: iovec(), count: capacity * Trains.maxSegments)
    names = .allocate(byteCount: capacity * 32, alignment: 64)
    controls = .allocate(byteCount: capacity * Int(SEGMENT_CONTROL_BYTES), alignment: 64)
    free = .allocate(capacity: capacity)
    for i in 0..<capacity {
      free[i] = Int32(capacity - 1 - i)
      headers[i].msg_name = names + i * 32
      headers[i].msg_iov = vectors + i * Trains.maxSegments
    }
    freeCount = capacity
  }

  deinit {
    trains.deallocate()
    headers.deallocate()
    vectors.deallocate()
    names.deallocate()
    controls.deallocate()
    free.deallocate()
  }

  mutating func take() -> Int? {
    guard freeCount > 0 else { return nil }
    freeCount -= 1
    return Int(free[freeCount])
  }

  mutating func giveBack(_ train: Int) {
    free[freeCount] = Int32(train)
    freeCount += 1
  }

  /// Points the header at the address, and says the segment size when there are several datagrams.
  @inline(__always) func address(_ train: Int, _ address: PeerAddress, ipv4Socket: Bool, segment: Int) {
    headers[train].msg_namelen = SocketAddress.write(address, ipv4Socket: ipv4Socket, to: names + train * 32)
    headers[train].msg_iovlen = trains[train].pieces
    if trains[train].count > 1 {
      let control = controls + train * Int(SEGMENT_CONTROL_BYTES)
      headers[train].msg_control = control
      headers[train].msg_controllen = control_put_segment(control, UInt16(segment))
    } else {
      headers[train].msg_control = nil
      headers[train].msg_controllen = 0
    }
  }
}
