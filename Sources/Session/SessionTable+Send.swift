import Ground
import Wire

extension SessionTable {
  /// Seals one message into the sink's own buffer.
  ///
  /// `write` is given `capacity` bytes (at most the agreed `maxMessageBytes`), already at their place in the datagram,
  /// and returns how many it filled; 0 sends nothing. The plaintext is written once and sealed in place.
  /// - Returns: false when the link has no session, or the sink's queue is full; `write` was not called then.
  @inlinable @discardableResult
  public mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID = .none, capacity: Int,
    into sink: inout some DatagramSink & ~Copyable, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    let slot = sendableSlot(link)
    if slot < 0 { return false }
    let room = min(capacity, maxMessage(slot))
    return sink.send(
      on: link, urgency: urgency, flow: flow, capacity: room + SessionFormat.transportOverheadBytes
    ) { datagram in
      datagram.withUnsafeMutableBytes { bytes in
        var plain = MutableRawSpan(
          _unsafeBytes: UnsafeMutableRawBufferPointer(
            start: bytes.baseAddress! + SessionFormat.transportHeaderBytes, count: room))
        let count = write(&plain)
        if count <= 0 || count > room { return 0 }
        return seal(slot, bytes.baseAddress!, count: count)
      }
    }
  }

  /// Seals a message that lies elsewhere: it is read once, by the cipher, and nothing is copied first.
  /// - Returns: false when the link has no session, the message is empty or longer than agreed, or the queue is full.
  @inlinable @discardableResult
  public mutating func send(
    _ message: RawSpan, on link: LinkID, urgency: Urgency, flow: FlowID = .none,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let slot = sendableSlot(link)
    let count = message.byteCount
    if slot < 0 || count == 0 || count > maxMessage(slot) { return false }
    return message.withUnsafeBytes { plain in
      sink.send(
        on: link, urgency: urgency, flow: flow, capacity: count + SessionFormat.transportOverheadBytes
      ) { datagram in
        datagram.withUnsafeMutableBytes { bytes in
          seal(slot, bytes.baseAddress!, from: plain.baseAddress!, count: count)
        }
      }
    }
  }

  /// One message to many links, sealed for each straight from where it lies.
  /// - Returns: how many sinks' queues took it.
  @inlinable @discardableResult
  public mutating func broadcast(
    _ message: RawSpan, to links: Span<LinkID>, urgency: Urgency, flow: FlowID = .none,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Int {
    var queued = 0
    for i in links.indices where send(message, on: links[i], urgency: urgency, flow: flow, into: &sink) { queued += 1 }
    return queued
  }

  /// The slot to seal with, or -1.
  @usableFromInline func sendableSlot(_ link: LinkID) -> Int {
    let slot = currentSlot(of: link)
    return slot >= 0 && slots[slot].sendCounter < settings.expireAfterPackets ? slot : LinkRecord.none
  }

  @usableFromInline func maxMessage(_ slot: Int) -> Int { Int(slots[slot].parameters.maxMessageBytes) }

  /// Writes the header and seals `count` bytes, which lie behind it already unless `plain` is given.
  /// - Returns: the datagram's length.
  @usableFromInline mutating func seal(
    _ slot: Int, _ datagram: UnsafeMutableRawPointer, from plain: UnsafeRawPointer? = nil, count: Int,
    kind: UInt32 = SessionFormat.Kind.message
  ) -> Int {
    let record = slots + slot
    let counter = record.pointee.sendCounter
    record.pointee.sendCounter = counter + 1
    if counter + 1 == record.pointee.rekeyCount { rekeySoon(slot / SessionTable.slotsPerLink) }
    datagram.put(kind, at: 0)
    datagram.put(record.pointee.peerIndex, at: SessionFormat.indexOffset)
    datagram.put(counter, at: SessionFormat.counterOffset)
    sendKey(slot).seal(
      header: datagram, plain: plain ?? UnsafeRawPointer(datagram + SessionFormat.transportHeaderBytes), count: count,
      counter: counter, suite: record.pointee.suite)
    counters.sealed += 1
    return count + SessionFormat.transportOverheadBytes
  }

  /// A message of the session layer on the current session.
  mutating func sendControl(
    _ link: Int, into sink: inout some DatagramSink & ~Copyable, _ write: (UnsafeMutableRawPointer) -> Int
  ) {
    let slot = links[link].current
    if slot == LinkRecord.none { return }
    sink.send(
      on: LinkID(UInt16(link)), urgency: .control, flow: .none,
      capacity: SessionFormat.pongBytes + SessionFormat.transportOverheadBytes
    ) { datagram in
      datagram.withUnsafeMutableBytes { bytes in
        let count = write(bytes.baseAddress! + SessionFormat.transportHeaderBytes)
        return seal(slot, bytes.baseAddress!, count: count, kind: SessionFormat.Kind.control)
      }
    }
  }

  mutating func sendPing(_ link: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    sendControl(link, into: &sink) { out in
      out.u8[0] = SessionFormat.Control.ping
      out.put(now.nanoseconds, at: 1)
      return SessionFormat.pingBytes
    }
    if links[link].quickPings > 0 {
      links[link].quickPings -= 1
      links[link].pingAt = now + min(.milliseconds(100 as Int64), settings.pingInterval)
    } else {
      links[link].pingAt = now + settings.pingInterval
    }
    arm(links[link].pingAt)
  }
}
