import Bitcoin
import Ground
import Session
import Wire

extension RelayCore: DatagramCore {
  /// Between STATUS messages, looks at promises that were not kept, and pen keeping.
  static let tickInterval = Interval.milliseconds(100 as Int64)

  public mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    prepareIndex(for: chain.tip.hash)
    for link in configuration.links { addLink(link, now: now, into: &sink) }
    nextTick = now + RelayCore.tickInterval
    drainSessionEvents(now: now, into: &sink)
  }

  public mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let input = sessions.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
    guard case .message(let message) = input else {
      if let control = sessions.openedControl {
        noteArrival(control, UnsafeRawBufferPointer(start: nil, count: 0), now: now)
      }
      drainSessionEvents(now: now, into: &sink)
      return
    }
    if !upLinks.contains(message.link) { drainSessionEvents(now: now, into: &sink) }
    counters.packetsOpened += 1
    counters.bytesOpened += UInt64(message.count)
    let context = Arrival(link: message.link, counter: message.counter, arrival: arrival, now: now)
    datagram.withUnsafeBytes { bytes in
      let plain = UnsafeRawBufferPointer(rebasing: bytes[message.range])
      noteArrival(message, plain, now: now)
      handle(plain.bytes, context, into: &sink)
    }
  }

  public mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    drainSessionEvents(now: now, into: &sink)
    lookAtTouched(now: now, into: &sink)
    if workDue { runSlice(now: now, into: &sink) }
  }

  public mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if sessions.nextDeadline <= now { sessions.deadlinePassed(now: now, into: &sink) }
    drainSessionEvents(now: now, into: &sink)
    if ledger.nextDeadline <= now { _ = ledger.expire(now: now) }
    if nextTick <= now { tick(now: now, into: &sink) }
    if nextBackground <= now { runBackground(now: now, into: &sink) }
    if timer <= now { runTimers(now: now, into: &sink) }
    if quietEnds <= now { endQuiet() }
    lookAtTouched(now: now, into: &sink)
    if aheadDue != 0 { addAheadWork() }
    if workDue { runSlice(now: now, into: &sink) }
  }

  public mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    guard Int(link.index) < LinkSet.capacity else { return }
    fill(link, now: now, into: &sink)
    if !blockWaits(for: link, now) { sendBackground(to: link, now: now, into: &sink) }
  }

  public mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    batchEnded(now: now, into: &sink)
  }

  public mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    sessions.stop(now: now, into: &sink)
    drainSessionEvents(now: now, into: &sink)
  }

  public var nextDeadline: Instant {
    workDue || aheadDue != 0
      ? .zero
      : min(
        min(sessions.nextDeadline, timer), min(min(nextTick, quietEnds), min(ledger.nextDeadline, nextBackground)))
  }
}

/// How a message came: who sent it, and when. Trivial.
struct Arrival {
  var link: LinkID
  var counter: UInt64
  /// The kernel's receive time.
  var arrival: Instant
  var now: Instant
}

extension RelayCore {
  /// Takes a plaintext as if a neighbour had sealed it: for tests that fuzz what an authenticated peer can say.
  package mutating func receivePlaintext(
    _ message: RawSpan, from link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    handle(message, Arrival(link: link, counter: 0, arrival: now, now: now), into: &sink)
  }

  /// Sorts an opened message. Whatever is wrong with it changes nothing but a count.
  mutating func handle(_ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable) {
    do throws(DecodeError) {
      switch try RelayMessageType(of: message) {
      case .sketch: try receiveSketch(message, from, into: &sink)
      case .chunk: try receiveChunk(message, from, into: &sink)
      case .need: receiveNeed(try NeedMessage(parsing: message), from, into: &sink)
      case .have: receiveHave(try HaveMessage(parsing: message), from, into: &sink)
      case .status: try receiveStatus(message, from, into: &sink)
      case .map: try receiveMap(message, from, into: &sink)
      case .blame: receiveBlame(try BlameMessage(parsing: message), from, into: &sink)
      case .point: receivePoint(try PointMessage(parsing: message), from, into: &sink)
      default: try receiveBackground(message, from, into: &sink)
      }
    } catch {
      malformed(message, from)
    }
  }

  mutating func malformed(_ message: RawSpan, _ from: Arrival) {
    counters.messagesMalformed += 1
    link(from.link).pointee.malformed += 1
    let type = message.byteCount > 0 ? message.unsafeLoad(fromByteOffset: 0, as: UInt8.self) : 0
    complain(RelayEvent(.malformed, link: from.link, at: from.now, a: UInt64(type)), from)
  }

  /// Tells of something wrong that a neighbour said; of a flood only some: counters have all of it, and the owner's queue of
  /// events has room for more than this.
  mutating func complain(_ event: RelayEvent, _ from: Arrival) {
    if link(from.link).pointee.complaints.take(now: from.now, interval: .seconds(1), burst: 10) { note(event) }
  }

  /// Seals a message of at most `capacity` bytes for a neighbour and counts it.
  @discardableResult
  mutating func send(
    to link: LinkID, urgency: Urgency, flow: FlowID = .none, capacity: Int,
    into sink: inout some DatagramSink & ~Copyable, _ write: (inout MutableRawSpan) -> Int
  ) -> Int {
    var written = 0
    let sent = sessions.send(on: link, urgency: urgency, flow: flow, capacity: capacity, into: &sink) { out in
      written = write(&out)
      return written
    }
    if !sent || written == 0 { return 0 }
    counters.packetsSealed += 1
    counters.bytesSealed += UInt64(written)
    return written
  }
}
