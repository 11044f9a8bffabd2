import CLiburing
import CRing
import Glibc
import Ground

extension UDPEngine {
  /// One completion of a socket's standing receive: a buffer with one datagram or several coalesced ones, or the news
  /// that the receive has ended.
  @inline(__always)
  mutating func receive<Core: DatagramCore & ~Copyable>(
    _ completion: Completion, _ socket: Int, _ core: inout Core
  ) {
    if !completion.hasMore {
      ports.ports[socket].isArmed = false
      counters.add(.receivesRearmed)
    }
    if completion.result < 0 {
      // ENOBUFS: the core is slower than the network for now; datagrams wait in the socket buffer. Others are pending
      // errors of some destination, which the error queue tells in full.
      counters.add(completion.result == -ENOBUFS ? .buffersExhausted : .receiveErrors)
      return
    }
    guard let buffer = completion.buffer, let memory = buffers.address(buffer) else { return }
    if isDraining {
      countUnread(completion, buffer)
    } else {
      deliver(memory, Int(completion.result), socket, &core)
      buffers.giveBack(buffer)
      flushIfDue()
    }
  }

  @inline(__always)
  private mutating func deliver<Core: DatagramCore & ~Copyable>(
    _ memory: UnsafeMutableRawPointer, _ bytes: Int, _ socket: Int, _ core: inout Core
  ) {
    guard let message = ReceivedMessage(memory, bytes), message.flags & UInt32(MSG_TRUNC) == 0 else {
      return counters.add(.dropTruncated)
    }
    guard let source = SocketAddress.read(message.name, length: message.nameLength), source.port != 0 else {
      return counters.add(.dropBadSource)
    }
    var control = control_data()
    control_parse(message.control, message.controlLength, &control)
    tick()
    var arrival = now
    if control.has & UInt32(CONTROL_TIMESTAMP) != 0 {
      arrival = clock.arrival(stamp: control.timestamp_ns, now: now)
      idle.came(arrival)
    } else {
      counters.add(.arrivalsWithoutStamp)
    }
    if control.has & UInt32(CONTROL_DROPS) != 0 {
      counters.add(.dropSocketBuffer, ports.newDrops(socket, control.drops))
    }
    let total = message.payloadLength
    let segment = control.has & UInt32(CONTROL_SEGMENT) != 0 ? Int(control.segment) : total
    output.receivingSocket = Int32(socket)
    output.receivingFrom = source
    var at = 0
    var datagrams = 0
    repeat {
      let length = min(segment, total - at)
      var span = unsafe MutableRawSpan(_unsafeStart: message.payload + at, byteCount: length)
      core.receive(&span, from: source, arrival: arrival, now: now, into: &output)
      at += length
      datagrams += 1
    } while at < total
    output.receivingFrom = nil
    counters.add(.receives)
    counters.add(.receivedDatagrams, datagrams)
    counters.add(.receivedBytes, total)
    if datagrams > 1 { counters.add(.receivesCoalesced) }
    counters.record(.receiveLength, UInt64(datagrams))
    counters.set(.realtimeSteps, clock.steps)
    counters.set(.arrivalsImplausible, clock.implausible)
  }

  /// Datagrams that came after `stop`: nobody to hand them to.
  mutating func countUnread(_ completion: Completion, _ buffer: Int) {
    if let memory = buffers.address(buffer), let message = ReceivedMessage(memory, Int(completion.result)) {
      var control = control_data()
      control_parse(message.control, message.controlLength, &control)
      let segment = control.has & UInt32(CONTROL_SEGMENT) != 0 ? Int(control.segment) : message.payloadLength
      counters.add(.dropWhileStopping, max((message.payloadLength + segment - 1) / max(segment, 1), 1))
    }
    buffers.giveBack(buffer)
  }

  /// What the socket's error queue holds, a few at a time: each is counted for its destination, and nothing else.
  mutating func readErrors(_ socket: Int) {
    ports.ports[socket].isErrorArmed = false
    for _ in 0..<16 {
      ports.prepareError()
      let flags = Int32(MSG_ERRQUEUE) | Int32(MSG_DONTWAIT)
      if recvmsg(ports.ports[socket].socket.descriptor, ports.errorHeader, flags) < 0 { return }
      let header = ports.errorHeader.pointee
      var error = queued_error()
      guard let control = header.msg_control, let name = header.msg_name,
        control_parse_error(control, header.msg_controllen, &error) != 0, error.origin == 2 || error.origin == 3
      else { continue }
      output.heardICMP(
        SocketAddress.read(name, length: Int(header.msg_namelen)), Int32(truncatingIfNeeded: error.error))
    }
  }

  /// Asks the sockets for their drop counts, which otherwise come only with the next datagram.
  mutating func checkDrops(every interval: Interval) {
    if now - lastDropCheck < interval { return }
    lastDropCheck = now
    for i in 0..<ports.count {
      let drops = socket_drops(ports.ports[i].socket.descriptor)
      if drops >= 0 { counters.add(.dropSocketBuffer, ports.newDrops(i, UInt32(truncatingIfNeeded: drops))) }
    }
  }
}

/// A provided buffer as the kernel fills it for a multishot `recvmsg`: lengths and flags, then name, control data and
/// payload, each at a fixed place.
struct ReceivedMessage {
  let name: UnsafeMutableRawPointer
  let nameLength: Int
  let control: UnsafeMutableRawPointer
  let controlLength: Int
  let payload: UnsafeMutableRawPointer
  let payloadLength: Int
  let flags: UInt32

  /// `nil` when the kernel wrote less than the fixed part.
  @inline(__always) init?(_ memory: UnsafeMutableRawPointer, _ bytes: Int) {
    guard bytes >= SocketPorts.payloadOffset else { return nil }
    let lengths = memory.loadUnaligned(as: SIMD4<UInt32>.self)
    name = memory + SocketPorts.headerBytes
    nameLength = min(Int(lengths[0]), SocketPorts.nameBytes)
    control = name + SocketPorts.nameBytes
    controlLength = min(Int(lengths[1]), SocketPorts.controlBytes)
    payload = memory + SocketPorts.payloadOffset
    payloadLength = bytes - SocketPorts.payloadOffset
    flags = lengths[3]
  }
}
