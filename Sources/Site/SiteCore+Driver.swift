import Ground
import NodeBridge
import Relay

extension SiteCore: DatagramCore {
  public mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    startedAt = now
    host.core.start(now: now, into: &sink)
    host.drain()
  }

  public mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    if impairer.isActive && impairer.takes(datagram.bytes, from: source, arrival: arrival) { return }
    host.core.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
  }

  public mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    host.core.batchEnded(now: now, into: &sink)
    host.drain()
  }

  public mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if impairer.nextDeadline <= now {
      while let held = impairer.next(now: now) {
        var copy = held.bytes
        var span = copy.mutableSpan
        var bytes = span.mutableBytes
        host.core.receive(&bytes, from: held.source, arrival: held.due, now: now, into: &sink)
      }
      host.core.batchEnded(now: now, into: &sink)
      host.drain()
    }
    // A complete block is handed over before the relay's next slice: see the type.
    if host.deliveries.isEmpty && host.core.nextDeadline <= now {
      host.core.deadlinePassed(now: now, into: &sink)
      host.drain()
    }
  }

  public mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    host.core.roomAvailable(on: link, now: now, into: &sink)
    host.drain()
  }

  public mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    answerMail(now: now, into: &sink)
    host.core.woken(now: now, into: &sink)
    host.drain()
  }

  public mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    host.core.stop(now: now, into: &sink)
    host.drain()
    mailbox.close()
    postEvents()
  }

  public var nextDeadline: Instant {
    if !host.deliveries.isEmpty { return .zero }
    return min(
      min(host.core.nextDeadline, bridge.nextDeadline), min(impairer.nextDeadline, min(readinessDue, heapReserve.due)))
  }

  // MARK: Streams: all of them are the bridge's

  public mutating func streamsReady(
    now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    let error = bridge.start(host: &host, now: now, into: &sink)
    if error != 0, let address = configuration.bridge.listen {
      host.note(.inboundRefused(address, "can't listen there: errno \(error)"))
    }
    host.drain()
  }

  public mutating func streamsTurn(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    deliver(now: now, into: &sink)
    if bridge.nextDeadline <= now { bridge.tick(host: &host, now: now, into: &sink) }
    // What the bridge has just told the relay may have completed a block.
    host.drain()
    deliver(now: now, into: &sink)
    noteInventory(now: now, into: &sink)
    if host.nodesChanged || readinessDue <= now { reviewReadiness(now: now, into: &sink) }
    heapReserve.advance(now: now)
    postEvents()
  }

  public mutating func streamOpened(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    bridge.opened(stream, host: &host, now: now, into: &sink)
    host.drain()
  }

  public mutating func streamAccepted(
    from peer: PeerAddress, on local: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) -> StreamID? { bridge.accepted(from: peer, host: &host, now: now) }

  public mutating func streamReceived(
    _ bytes: RawSpan, on stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    bridge.received(bytes, on: stream, host: &host, now: now, into: &sink)
    host.drain()
  }

  public mutating func streamClosed(
    _ stream: StreamID, error: Int32, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    bridge.closed(stream, error: error, host: &host, now: now)
    host.drain()
  }
}
