import Bitcoin
import Ground
import Mempool
import Session
import Wire

/// One link, for `status`.
public struct RelayLinkStatus: Hashable, Sendable {
  public var isUp: Bool
  /// By configuration and the trust ledger, now.
  public var isTrusted: Bool
  /// key4.
  public var key: UInt32
  public var session: LinkStatus
  /// What the neighbour says of the packets that it gets from us.
  public var lossTo: LinkLoss
  /// Of the packets that come from it.
  public var lossFrom: LinkLoss
  /// Packets from the neighbour that came out of order since the session began, and of ours to it, as it says.
  public var reorderedFrom: UInt64
  public var reorderedTo: UInt32
  /// Packets that were sealed and then dropped by who sealed them, here for the neighbour and there for us, since the
  /// session began: the counters' gaps that are no losses.
  public var withdrawnTo: UInt64
  public var withdrawnFrom: UInt32
  public var readiness: Readiness
  /// Messages that made no sense.
  public var malformed: UInt64
}

extension RelayCore {
  // MARK: Configuration

  /// Adds, changes and removes links so that these are the ones; links that are the same go on undisturbed. `relays`
  /// are the overlay's relays from now on; nil: as before.
  public mutating func updateLinks(
    _ wanted: [RelayLink], relays: [PublicKey]? = nil, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    if let relays { self.relays = relays }
    for index in 0..<LinkSet.capacity where links[index].isConfigured {
      let id = LinkID(UInt16(index))
      let stays = wanted.contains { $0.id == id && key4(of: $0.peer) == links[index].key4 }
      if !stays {
        sessions.removeLink(id, now: now, into: &sink)
        linkLost(id, now: now)
        links[index] = LinkState()
        ledger.remove(id, now: now)
      }
    }
    remakeMap(wanted)
    for link in wanted {
      if Int(link.id.index) < LinkSet.capacity, self.link(link.id).pointee.isConfigured {
        let state = self.link(link.id)
        if state.pointee.rate != link.rate {
          sessions.setRate(link.id, link.rate, into: &sink)
          state.pointee.rate = link.rate
          controller.configure(link.id, rate: link.rate)
        }
        sessions.setAddress(link.id, link.address, alternates: link.alternates, now: now, into: &sink)
        ledger.configure(link.id, isTrusted: link.isTrusted, now: now)
      } else {
        addLink(link, now: now, into: &sink)
      }
    }
    drainSessionEvents(now: now, into: &sink)
  }

  mutating func addLink(_ link: RelayLink, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    guard Int(link.id.index) < LinkSet.capacity else { return }
    do throws(LinkError) {
      try sessions.addLink(
        link.id, peer: link.peer, address: link.address, alternates: link.alternates, rate: link.rate, now: now,
        into: &sink)
    } catch { return }
    let state = self.link(link.id)
    state.pointee = LinkState()
    state.pointee.isConfigured = true
    ledger.configure(link.id, isTrusted: link.isTrusted, now: now)
    state.pointee.key4 = key4(of: link.peer)
    state.pointee.rate = link.rate
    if let delay = link.expectedDelay { state.pointee.expectedDelay = delay }
    controller.configure(link.id, rate: link.rate)
  }

  /// nil for a link that isn't configured.
  public func status(of id: LinkID) -> RelayLinkStatus? {
    guard Int(id.index) < LinkSet.capacity, links[Int(id.index)].isConfigured, let session = sessions.status(of: id)
    else { return nil }
    let state = links[Int(id.index)]
    return RelayLinkStatus(
      isUp: upLinks.contains(id), isTrusted: isTrusted(id), key: state.key4, session: session,
      lossTo: controller.loss(of: id), lossFrom: meters[Int(id.index)].loss,
      reorderedFrom: state.order.reordered, reorderedTo: state.reorderedTo, withdrawnTo: state.withdrawn,
      withdrawnFrom: state.withdrawnByPeer, readiness: controller.readiness(of: id),
      malformed: state.malformed)
  }

  /// The last four-timestamp exchange with a neighbour, for the measurement room's clock filter.
  public func lastClockSample(of id: LinkID) -> ClockSample? {
    Int(id.index) < LinkSet.capacity ? links[Int(id.index)].lastClock : nil
  }

  // MARK: Sessions

  mutating func drainSessionEvents(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    while let event = sessions.nextEvent() {
      switch event {
      case .established(let id, let parameters):
        linkUp(id, parameters, now: now, into: &sink)
      case .rekeyed(let id, let parameters):
        link(id).pointee.epoch = parameters.overlayEpoch
        refreshEpoch()
      case .lost(let id, let reason):
        linkLost(id, now: now)
        note(RelayEvent(.linkDown, link: id, at: now, a: UInt64(reason.rawValue)))
      case .clock(let id, let sample):
        let state = link(id)
        state.pointee.lastClock = sample
        if let roundTrip = sessions.status(of: id)?.roundTrip { state.pointee.roundTrip = roundTrip }
        note(RelayEvent(.clockSample, link: id, at: now))
      case .incompatible(let id, let why):
        note(RelayEvent(.linkIncompatible, link: id, at: now, a: UInt64(why.rawValue)))
      case .moved, .unknownPeer:
        break
      }
    }
  }

  private mutating func linkUp(
    _ id: LinkID, _ parameters: SessionParameters, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let state = link(id)
    state.pointee.isUp = true
    state.pointee.epoch = parameters.overlayEpoch
    state.pointee.chunkBytes = Int(parameters.chunkBytes)
    state.pointee.due = 0
    state.pointee.order = OrderMeter()
    state.pointee.reorderedTo = 0
    state.pointee.withdrawn = 0
    state.pointee.withdrawnByPeer = 0
    upLinks.insert(id)
    refreshEpoch()
    controller.sessionStarted(id)
    catchUp.linkUp(id)
    transactions.linkUp(id, now: now)
    meters[Int(id.index)].restart()
    // What the neighbour's last session had is gone when it restarted; lanes of old blocks are opened anew on request.
    for position in 0..<blocks.count {
      let block = blocks[blocks.slot(at: position)]
      block.pointee.opened.remove(id)
      for objectSlot in 0..<BlockState.objectSlots where block.pointee.has(objectSlot) {
        block.pointee.object(objectSlot).pointee.lanes.reset(id)
      }
      if block.pointee.isIncoming { touched |= 1 << UInt64(blocks.slot(at: position)) }
    }
    note(RelayEvent(.linkUp, link: id, at: now))
    sendStatus(to: id, wantsAnswer: true, now: now, into: &sink)
  }

  private mutating func linkLost(_ id: LinkID, now: Instant) {
    let state = link(id)
    state.pointee.isUp = false
    state.pointee.due = 0
    upLinks.remove(id)
    refreshEpoch()
    pen.forget(id)
    catchUp.linkDown(id)
    transactions.linkDown(id)
    forgetJourneys(for: id)
    pumpAgain.remove(id)
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      let block = blocks[slot]
      block.pointee.opened.remove(id)
      block.pointee.has.remove(id)
      block.pointee.wholes.remove(id)
      block.pointee.sized.remove(id)
      for objectSlot in 0..<BlockState.objectSlots where block.pointee.has(objectSlot) {
        block.pointee.object(objectSlot).pointee.lanes.reset(id)
        block.pointee.object(objectSlot).pointee.sources.remove(id)
        if block.pointee.object(objectSlot).pointee.only == id && objectSlot < BlockState.bodySlot {
          block.pointee.object(objectSlot).pointee.only = nil
        }
      }
      touched |= 1 << UInt64(slot)
    }
  }

  /// Per packet: the transport counters tell what was lost on the way here, and what was overtaken. `plain` is the opened
  /// message; empty for one of the session layer itself.
  @inline(__always)
  mutating func noteArrival(_ message: SessionMessage, _ plain: UnsafeRawBufferPointer, now: Instant) {
    let index = Int(message.link.index)
    if links[index].generation != message.generation {
      if links[index].generation > message.generation { return }
      links[index].generation = message.generation
      meters[index].restart()
      links[index].order.restart()
    }
    meters[index].received(counter: message.counter, now: now)
    links[index].order.received(counter: message.counter, message: plain)
  }

  // MARK: STATUS

  static let statusInterval = Interval.seconds(1)

  mutating func sendStatus(
    to peer: LinkID, wantsAnswer: Bool, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let loss = meters[Int(peer.index)].loss.forStatus
    let tip = statusTip
    let counts = store.counts(.node)
    let head = StatusHead(
      flags: wantsAnswer ? [.answer] : [], readiness: ownReadiness, height: UInt32(clamping: tip.height),
      tip: Bytes32(tip.hash), work: Bytes32(tip.chainWork), mempoolTransactions: UInt32(clamping: counts.transactions),
      mempoolBytes: UInt64(clamping: counts.bytes), loss: loss.loss, burst: loss.burst, observed: loss.observed,
      reordered: UInt32(truncatingIfNeeded: link(peer).pointee.order.reordered),
      withdrawn: UInt32(truncatingIfNeeded: link(peer).pointee.withdrawn))
    makeRows()
    let rows = statusRows
    send(to: peer, urgency: .control, capacity: 1_000, into: &sink) { out in
      StatusMessage.write(head, rows: rows.span, into: &out)
    }
  }

  /// What this relay says of its own links.
  private mutating func makeRows() {
    statusRows.removeAll(keepingCapacity: true)
    for index in 0..<LinkSet.capacity where links[index].isConfigured {
      let id = LinkID(UInt16(index))
      var flags: StatusRow.Flags = []
      if upLinks.contains(id) { flags.insert(.up) }
      if isTrusted(id) { flags.insert(.trusted) }
      let delay = links[index].roundTripOrGuess.nanoseconds / 2 / 10_000
      statusRows.append(
        StatusRow(neighbour: links[index].key4, delay: UInt32(clamping: max(delay, 0)), flags: flags))
    }
    let rows = statusRows
    map.noteOwn(rows.span)
    if map.needsRecompute { workDue = true }
  }

  /// The links are others: what was claimed of them comes again with the next STATUS and MAP.
  private mutating func remakeMap(_ wanted: [RelayLink]) {
    map = OverlayMap(
      own: ownKey, relays: relays.map { key4(of: $0) },
      links: wanted.map { (link: $0.id, key: key4(of: $0.peer)) })
  }

  mutating func receiveStatus(
    _ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) throws(DecodeError) {
    let status = try StatusMessage(parsing: message)
    let state = link(from.link)
    state.pointee.reorderedTo = status.head.reordered
    state.pointee.withdrawnByPeer = max(state.pointee.withdrawnByPeer, status.head.withdrawn)
    controller.note(status.head, on: from.link, ownTransactions: store.counts(.node).transactions)
    if map.note(status, on: from.link, now: from.now) { passOn(status, from, into: &sink) }
    if map.needsRecompute { workDue = true }
    if status.head.flags.contains(.answer) { sendStatus(to: from.link, wantsAnswer: false, now: from.now, into: &sink) }
    noteTip(of: status.head, from, into: &sink)
  }

  /// A neighbour's links: the other neighbours hear of them, but for those that it tells itself.
  private mutating func passOn(
    _ status: borrowing StatusMessage, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) {
    var rows: [StatusRow] = []
    for index in 0..<status.rowCount { rows.append(status.row(index)) }
    let origin = link(from.link).pointee.key4
    // Sequences of one origin come from several relays: the time of day makes them comparable, in milliseconds, and an
    // origin's rows are passed on at most once a second. When the clock is set back, they go on from where they were.
    let milliseconds = (unixNanosecondsAtZero &+ Int64(clamping: from.now.nanoseconds)) / 1_000_000
    mapSequence = max(mapSequence &+ 1, milliseconds)
    let sequence = UInt32(truncatingIfNeeded: mapSequence)
    var peers = mapAudience(of: origin, from: from.link)
    while let peer = peers.popFirst() {
      send(to: peer, urgency: .background, capacity: 1_000, into: &sink) { out in
        MapMessage.write(origin: origin, sequence: sequence, rows: rows.span, into: &out)
      }
    }
  }

  /// The neighbours that are told of a relay's links: not whom it came from, and not those that hear the relay itself.
  private func mapAudience(of origin: UInt32, from link: LinkID) -> LinkSet {
    var audience = LinkSet.none
    var peers = upLinks
    peers.remove(link)
    while let peer = peers.popFirst() {
      if !map.hears(peer, statusOf: origin) { audience.insert(peer) }
    }
    return audience
  }

  /// A relay further away, told by a neighbour.
  mutating func receiveMap(
    _ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) throws(DecodeError) {
    let news = try MapMessage(parsing: message)
    let isPassedOn = map.note(news, now: from.now)
    if map.needsRecompute { workDue = true }
    if !isPassedOn { return }
    var peers = mapAudience(of: news.origin, from: from.link)
    let pointer = message.withUnsafeBytes { $0 }
    while let peer = peers.popFirst() {
      send(to: peer, urgency: .background, capacity: 1_000, into: &sink) { out in
        out.withUnsafeMutableBytes { $0.copyMemory(from: pointer) }
        return pointer.count
      }
    }
  }

  /// A change worth telling everyone at once.
  mutating func broadcastStatus(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    var peers = upLinks
    while let peer = peers.popFirst() { sendStatus(to: peer, wantsAnswer: false, now: now, into: &sink) }
    nextStatus = now + RelayCore.statusInterval
  }

  /// Ten times a second: STATUS when due, old packets out of the pen, old blocks to their bytes alone.
  mutating func tick(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    nextTick = now + RelayCore.tickInterval
    for index in 0..<LinkSet.capacity where links[index].isUp { meters[index].tick(now: now) }
    if nextStatus <= now { broadcastStatus(now: now, into: &sink) }
    pen.expire(now: now)
    map.expire(now: now)
    if map.needsRecompute { workDue = true }
    counters.penDropped = pen.dropped
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      let block = blocks[slot]
      guard block.pointee.isComplete, !block.pointee.isSettled, !block.pointee.hasWork else { continue }
      let everyone = (upLinks - block.pointee.has).isEmpty
      if block.pointee.completeAt + (everyone ? .seconds(3) : RelayCore.settleAfter) < now { settle(slot) }
    }
    expireAwaited(now: now)
    releaseLateSpares(now: now, into: &sink)
    sendTails(now: now, into: &sink)
    tickBackground(now: now, into: &sink)
  }
}
