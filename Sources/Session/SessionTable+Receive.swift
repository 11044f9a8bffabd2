import Ground
import Wire

extension SessionTable {
  /// Takes a datagram from anyone. Messages are opened in place; everything else is dealt with here.
  ///
  /// - Parameters:
  ///   - arrival: when the kernel received it, on the clock of `now`; goes into clock samples.
  /// - Returns: `.message` when there is plaintext for the caller, within `datagram`'s bytes.
  public mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> SessionInput {
    datagram.withUnsafeMutableBytes { bytes in
      receive(bytes, from: source, arrival: arrival, now: now, into: &sink)
    }
  }

  /// Takes what one system call received from one source: datagrams of `segmentBytes` each, the last perhaps shorter (a
  /// UDP_GRO buffer). `body` is given each opened message and the bytes of its plaintext.
  public mutating func receive<Sink: DatagramSink & ~Copyable>(
    segments: inout MutableRawSpan, of segmentBytes: Int, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout Sink, _ body: (SessionMessage, inout MutableRawSpan, inout Sink) -> Void
  ) {
    segments.withUnsafeMutableBytes { bytes in
      let step = max(segmentBytes, 1)
      for start in stride(from: 0, to: bytes.count, by: step) {
        let part = UnsafeMutableRawBufferPointer(rebasing: bytes[start..<min(start + step, bytes.count)])
        if case .message(let message) = receive(part, from: source, arrival: arrival, now: now, into: &sink) {
          var plain = MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: part[message.range]))
          body(message, &plain, &sink)
        }
      }
    }
  }

  mutating func receive(
    _ bytes: UnsafeMutableRawBufferPointer, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> SessionInput {
    openedControl = nil
    if isStopped { return .none }
    guard bytes.count >= SessionFormat.transportOverheadBytes, let start = bytes.baseAddress else {
      counters.malformed += 1
      return .none
    }
    let kind: UInt32 = UnsafeRawPointer(start).get(0)
    if kind == SessionFormat.Kind.message || kind == SessionFormat.Kind.control {
      return receiveTransport(
        start, bytes.count, isMessage: kind == SessionFormat.Kind.message, from: source, arrival: arrival, now: now,
        into: &sink)
    }
    switch (kind, bytes.count) {
    case (SessionFormat.Kind.actOne, SessionFormat.actOneBytes):
      receiveActOne(start, from: source, now: now, into: &sink)
    case (SessionFormat.Kind.actTwo, SessionFormat.actTwoBytes):
      receiveActTwo(start, now: now, into: &sink)
    case (SessionFormat.Kind.actThree, SessionFormat.actThreeBytes):
      receiveActThree(start, from: source, now: now, into: &sink)
    case (SessionFormat.Kind.cookieReply, SessionFormat.cookieReplyBytes):
      receiveCookieReply(start, now: now, into: &sink)
    case (SessionFormat.Kind.unknownSession, SessionFormat.unknownSessionBytes):
      receiveUnknownSession(start, now: now, into: &sink)
    default: counters.malformed += 1
    }
    return .none
  }

  /// The slot that an index names, or -1.
  @inline(__always) func slot(named index: UInt32) -> Int {
    let slot = Int(UInt16(truncatingIfNeeded: index) ^ indexMask)
    return slot < capacity * SessionTable.slotsPerLink && slots[slot].localIndex == index ? slot : LinkRecord.none
  }

  @inline(__always)
  private mutating func receiveTransport(
    _ start: UnsafeMutableRawPointer, _ count: Int, isMessage: Bool, from source: PeerAddress, arrival: Instant,
    now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> SessionInput {
    let index: UInt32 = UnsafeRawPointer(start).get(SessionFormat.indexOffset)
    let counter: UInt64 = UnsafeRawPointer(start).get(SessionFormat.counterOffset)
    let slot = slot(named: index)
    guard slot >= 0, slots[slot].state == .keyed else {
      counters.unknownSession += 1
      tellUnknownSession(index, counter, to: source, now: now, into: &sink)
      return .none
    }
    let record = slots + slot
    guard window(slot).isFresh(counter, next: record.pointee.receiveNext) else {
      counters.replayed += 1
      return .none
    }
    guard receiveKey(slot).open(datagram: start, count: count, counter: counter, suite: record.pointee.suite) else {
      counters.forged += 1
      return .none
    }
    window(slot).mark(counter, next: &record.pointee.receiveNext)
    record.pointee.opened += 1
    counters.opened += 1

    let i = slot / SessionTable.slotsPerLink
    let link = links + i
    let plainCount = count - SessionFormat.transportOverheadBytes
    let plain = start + SessionFormat.transportHeaderBytes
    if slot != link.pointee.current {
      // The initiator needs the responder's index before it can use the session; the responder, any sign that the
      // initiator has the keys.
      if slot == link.pointee.ours && record.pointee.promotable {
        guard !isMessage, plainCount == SessionFormat.confirmBytes, plain.u8[0] == SessionFormat.Control.confirm else {
          counters.nonsense += 1
          return .none
        }
        record.pointee.peerIndex = UnsafeRawPointer(plain).get(1)
        promote(i, slot, from: source, now: now, into: &sink)
        return .none
      }
      if slot == link.pointee.theirs && record.pointee.promotable {
        promote(i, slot, from: source, now: now, into: &sink)
      }
      // Under keys that only wait for stragglers: opens, but has no say in where the peer is.
    } else if source != link.pointee.address && counter + 1 == record.pointee.receiveNext {
      move(i, to: source, into: &sink)
    }
    link.pointee.lastHeard = now
    if isMessage {
      if link.pointee.current == LinkRecord.none { return .none }
      return .message(
        SessionMessage(
          link: LinkID(UInt16(i)), offset: SessionFormat.transportHeaderBytes, count: plainCount, counter: counter,
          generation: record.pointee.generation))
    }
    openedControl = SessionMessage(
      link: LinkID(UInt16(i)), offset: SessionFormat.transportHeaderBytes, count: plainCount, counter: counter,
      generation: record.pointee.generation)
    receiveControl(i, slot, plain, plainCount, arrival: arrival, now: now, into: &sink)
    return .none
  }

  private mutating func receiveControl(
    _ link: Int, _ slot: Int, _ plain: UnsafeMutableRawPointer, _ count: Int, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let bytes = UnsafeRawPointer(plain)
    switch (count > 0 ? bytes.u8[0] : 0, count) {
    case (SessionFormat.Control.ping, SessionFormat.pingBytes):
      if !links[link].pongs.take(now: now, interval: .perSecond(100), burst: 20) { return }
      let current = links[link].current
      if current == LinkRecord.none { return }
      let sent: UInt64 = bytes.get(1)
      let highest = max(slots[current].receiveNext, 1) - 1
      let opened = slots[current].opened
      sendControl(link, into: &sink) { out in
        out.u8[0] = SessionFormat.Control.pong
        out.put(sent, at: 1)
        out.put(arrival.nanoseconds, at: 9)
        out.put(now.nanoseconds, at: 17)
        out.put(highest, at: 25)
        out.put(opened, at: 33)
        return SessionFormat.pongBytes
      }
    case (SessionFormat.Control.pong, SessionFormat.pongBytes):
      let sample = ClockSample(
        sent: Instant(nanoseconds: bytes.get(1)), peerReceived: Instant(nanoseconds: bytes.get(9)),
        peerSent: Instant(nanoseconds: bytes.get(17)), received: arrival, peerOpened: bytes.get(33),
        peerHighestCounter: bytes.get(25), generation: slots[slot].generation)
      // A peer can only spoil its own link's figures, but not with what can't be.
      guard sample.sent <= arrival, arrival - sample.sent < .seconds(60), sample.peerReceived <= sample.peerSent,
        sample.peerSent - sample.peerReceived <= arrival - sample.sent
      else {
        counters.nonsense += 1
        return
      }
      links[link].noteRoundTrip(sample.roundTrip)
      note(.clock(LinkID(UInt16(link)), sample))
    case (SessionFormat.Control.confirm, SessionFormat.confirmBytes):
      // Again, so our answer was lost: answer again, which is what the responder waits for.
      if slot == links[link].current && slots[slot].initiated { sendPing(link, now: now, into: &sink) }
    case (SessionFormat.Control.close, SessionFormat.closeBytes):
      if slot == links[link].current { end(link, .closed, retryIn: settings.firstRetry, now: now, into: &sink) }
    case (SessionFormat.Control.rekey, SessionFormat.rekeyBytes):
      if links[link].phase == .idle && links[link].address != nil {
        beginHandshake(link, now: now, into: &sink)
      }
    default: counters.nonsense += 1
    }
  }

  private mutating func move(_ link: Int, to source: PeerAddress, into sink: inout some DatagramSink & ~Copyable) {
    links[link].address = source
    links[link].cookieUntil = .zero
    sink.assign(LinkID(UInt16(link)), to: source, rate: links[link].rate)
    note(.moved(LinkID(UInt16(link)), source))
  }

  // MARK: A peer that still uses a session which this side lost

  /// Only while some link has no session (after a restart), only so many a second, never longer than what it answers,
  /// and proving no more than that this relay is here. The peer just begins a handshake earlier than it would.
  private mutating func tellUnknownSession(
    _ index: UInt32, _ counter: UInt64, to source: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    guard hasLinkWithoutSession, notices.take(now: now, interval: .perSecond(20), burst: 20) else { return }
    let key = ownNoticeKey
    let sent = sink.reply(to: source, capacity: SessionFormat.unknownSessionBytes) { datagram in
      datagram.withUnsafeMutableBytes { bytes in
        let out = bytes.baseAddress!
        out.put(SessionFormat.Kind.unknownSession, at: 0)
        out.put(index, at: SessionFormat.indexOffset)
        out.put(counter, at: SessionFormat.bodyOffset)
        let covered = SessionFormat.bodyOffset + 8
        key.over(out, covered).store(to: out + covered)
        return SessionFormat.unknownSessionBytes
      }
    }
    if sent { counters.unknownSessionsTold += 1 }
  }

  private var hasLinkWithoutSession: Bool {
    for i in 0..<capacity where configured[i] && links[i].current == LinkRecord.none { return true }
    return false
  }

  private mutating func receiveUnknownSession(
    _ start: UnsafeMutableRawPointer, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let index: UInt32 = UnsafeRawPointer(start).get(SessionFormat.indexOffset)
    let counter: UInt64 = UnsafeRawPointer(start).get(SessionFormat.bodyOffset)
    for i in 0..<capacity where configured[i] && links[i].current != LinkRecord.none {
      let slot = slots[links[i].current]
      // It must name our current session and a datagram sent of late.
      guard slot.peerIndex == index, counter < slot.sendCounter, slot.sendCounter - counter <= 1 << 20 else { continue }
      let covered = SessionFormat.bodyOffset + 8
      let key = Mac(label: "lightpath unknown session from", links[i].peer)
      guard key.over(start, covered).matches(start + covered) else { break }
      if links[i].phase == .idle && links[i].configuredAddress != nil { beginHandshake(i, now: now, into: &sink) }
      return
    }
    counters.strangers += 1
  }
}
