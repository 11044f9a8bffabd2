import Bitcoin
import ErasureCode
import Ground
import Wire

extension RelayCore {
  /// A promise counts for this long after the neighbour's last packet, at least: packets of a budget follow each other
  /// closely, but a relay's own repair chunks come only once it has the block.
  static let patienceLeast = Interval.milliseconds(6 as Int64)
  /// The first request for a body waits no longer than this after matching for neighbours that are silent as yet.
  static let hearingMost = Interval.milliseconds(1 as Int64)
  /// A request is repeated after a round trip and a quarter, and no sooner than this.
  static let repeatLeast = Interval.milliseconds(2 as Int64)
  static let repeatMost = Interval.seconds(2)
  /// Rounds of requests before neighbours have turns at the body.
  static let plainAsks = 4
  /// When nothing has brought a block further for so long, promises of more don't count.
  static let stallTime = Interval.milliseconds(250 as Int64)
  /// Nor when it takes so much longer than its bytes, however little by little it gets on.
  static let plainTime = Interval.seconds(2)
  /// A neighbour's promises count as long as its useful chunks come at this rate, or at half its link's, but for pauses of
  /// so long: who sends little by little keeps nobody from asking others.
  static let paceRate: UInt64 = 10_000_000
  static let paceSlack = Interval.milliseconds(20 as Int64)

  // MARK: Asking

  /// Looks at the blocks that changed since the last look: does what is promised still suffice?
  mutating func lookAtTouched(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if touched == 0 { return }
    var left = touched
    touched = 0
    while left != 0 {
      let slot = left.trailingZeroBitCount
      left &= left - 1
      if blocks.isPresent(slot) { look(at: slot, isTimer: false, now: now, into: &sink) }
    }
    rearm()
  }

  mutating func runTimers(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    var position = 0
    while position < blocks.count {
      let slot = blocks.slot(at: position)
      if blocks[slot].pointee.nextAsk <= now { look(at: slot, isTimer: true, now: now, into: &sink) }
      position += 1
    }
    rearm()
  }

  func earliestAsk() -> Instant {
    var earliest = Instant.never
    for position in 0..<blocks.count {
      earliest = min(earliest, blocks[blocks.slot(at: position)].pointee.nextAsk)
    }
    return earliest
  }

  mutating func rearm() { timer = earliestAsk() }

  /// What a block waits for: the slot of the object and how many chunks it lacks; nil when it waits for nothing.
  private func shortage(_ slot: Int) -> (object: Int, needed: Int)? {
    let block = blocks[slot]
    if block.pointee.repair.step == .txids || block.pointee.repair.step == .wtxids {
      let list = block.pointee.repair.step == .txids ? BlockState.txidsSlot : BlockState.wtxidsSlot
      if block.pointee.has(list), let needed = needed(slot, list) { return (list, needed) }
    }
    switch block.pointee.stage {
    case .collecting:
      var best: (object: Int, needed: Int)?
      for sketch in 0..<BlockState.sketchSlots where block.pointee.has(sketch) {
        if let needed = needed(slot, sketch), needed < best?.needed ?? .max { best = (sketch, needed) }
      }
      return best
    case .gathering: return needed(slot, BlockState.bodySlot).map { (BlockState.bodySlot, $0) }
    default: return nil
    }
  }

  private func needed(_ slot: Int, _ objectSlot: Int) -> Int? {
    let object = blocks[slot].pointee.object(objectSlot)
    guard object.pointee.decoder != nil else { return nil }
    let needed = object.pointee.decoder!.needed
    return needed > 0 ? needed : nil
  }

  /// Asks for more when what is on its way falls short; arms the block's timer.
  private mutating func look(
    at slot: Int, isTimer: Bool, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    block.pointee.nextAsk = .never
    guard let (objectSlot, needed) = shortage(slot) else { return }
    let object = block.pointee.object(objectSlot)
    if isTurn(slot, objectSlot) {
      lookAtTurn(slot, objectSlot, needed: needed, now: now, into: &sink)
      return
    }
    // What is promised or asked for and may still come, link by link. Who only keeps promising keeps nobody from asking.
    let isStalled = isStalled(slot, now)
    let body = block.pointee.object(BlockState.bodySlot)
    var expected = 0.0
    var earliest = Instant.never
    var slow = LinkSet.none
    var slowUntil = Instant.never
    var peers = upLinks
    while let peer = peers.popFirst() {
      let lane = object.pointee.lanes[peer]
      if lane.pointee.coming <= 0 { continue }
      let isAsked = lane.pointee.outstanding > 0
      let until =
        (isStalled ? isAsked ? lane.pointee.askedAt : .zero : lane.pointee.heard)
        + patience(peer, asked: isAsked, block.pointee.asks)
      if until <= now {
        lane.pointee.promised = 0
        lane.pointee.outstanding = 0
        continue
      }
      if object.pointee.only == nil {
        let pace = body.pointee.lanes[peer]
        if pace.pointee.believedUntil == .zero { pace.pointee.believedUntil = now + paceSlack(peer) }
        if pace.pointee.believedUntil <= now {
          slow.insert(peer)
          slowUntil = min(slowUntil, until)
          continue
        }
        earliest = min(earliest, pace.pointee.believedUntil)
      }
      let coming = Double(isStalled ? lane.pointee.outstanding : lane.pointee.coming)
      expected += coming - (coming * lossFrom(peer)).rounded()
      earliest = min(earliest, until)
    }
    let lacking = needed - Int(expected)
    if lacking <= 0 {
      block.pointee.nextAsk = earliest
      return
    }
    if let until = hearing(slot, objectSlot), now < until {
      block.pointee.nextAsk = min(earliest, until)
      return
    }
    ask(slot, objectSlot, lacking: lacking, not: slow, until: slowUntil, isStalled: isStalled, now: now, into: &sink)
  }

  /// Until when the first request for the body waits for neighbours that have sent nothing of it: they have not said yet
  /// what they are about to send. A quarter of the nearest one's round trip at most, so next to what asking takes.
  private func hearing(_ slot: Int, _ objectSlot: Int) -> Instant? {
    let block = blocks[slot]
    guard objectSlot == BlockState.bodySlot, block.pointee.asks == 0, block.pointee.report.matched != .never else {
      return nil
    }
    let object = block.pointee.object(objectSlot)
    var (isAnyoneSilent, wait) = (false, RelayCore.hearingMost)
    var peers = upLinks
    while let peer = peers.popFirst() {
      if object.pointee.lanes[peer].pointee.heard == .zero && isTrusted(peer) { isAnyoneSilent = true }
      wait = min(wait, link(peer).pointee.roundTripOrGuess / 4)
    }
    return isAnyoneSilent ? block.pointee.report.matched + wait : nil
  }

  /// A useful chunk of a block came.
  @inline(__always)
  mutating func notePace(_ slot: Int, _ objectSlot: Int, _ from: Arrival) {
    let lane = blocks[slot].pointee.object(BlockState.bodySlot).pointee.lanes[from.link]
    if lane.pointee.pace == 0 {
      setPace(lane, blocks[slot].pointee.object(objectSlot).pointee.shape.chunkSize, from.link)
    }
    lane.pointee.keepPace(now: from.now)
  }

  /// Once for a block and neighbour: rates and round trips don't change while it comes.
  @inline(never)
  private func setPace(_ lane: UnsafeMutablePointer<Lane>, _ chunkBytes: Int, _ peer: LinkID) {
    let rate = link(peer).pointee.rate.bitsPerSecond
    let slowest = rate == 0 ? RelayCore.paceRate : max(min(RelayCore.paceRate, rate / 2), 1)
    lane.pointee.pace = UInt32(clamping: UInt64(chunkBytes) * 8 * 1_000_000_000 / slowest)
    lane.pointee.slack = UInt32(clamping: paceSlack(peer).nanoseconds)
  }

  private func paceSlack(_ peer: LinkID) -> Interval { max(RelayCore.paceSlack, patience(peer, asked: false, 0)) }

  /// Nothing has brought an incomplete block further of late, or all that came took far longer than its bytes need.
  func isStalled(_ slot: Int, _ now: Instant) -> Bool {
    let block = blocks[slot]
    let gated = block.pointee.report.gatePassed
    return max(block.pointee.progressed, gated) + RelayCore.stallTime < now
      || gated + RelayCore.plainTime + transferTime(block.pointee.bodyBytes) < now
  }

  /// How long after its last sign a neighbour's promise is believed.
  private func patience(_ peer: LinkID, asked: Bool, _ asks: Int) -> Interval {
    let roundTrip = link(peer).pointee.roundTripOrGuess
    if asked {
      let wait = max(roundTrip * 5 / 4, RelayCore.repeatLeast)
      return min(wait * Int64(1 << min(max(asks - 1, 0), 6)), RelayCore.repeatMost)
    }
    return max(RelayCore.patienceLeast, roundTrip / 8)
  }

  /// Sends NEED to the neighbours that can serve, nearest first, one more of them with each try.
  ///
  /// - Parameters:
  ///   - slow: neighbours that are still sending, too slowly to be relied on. Others are asked; to ask these would have what
  ///     is on its way sent twice. A narrow link is as slow: no turns, which begin anew, while it gets on.
  ///   - slowUntil: when the first of them is given up.
  private mutating func ask(
    _ slot: Int, _ objectSlot: Int, lacking: Int, not slow: LinkSet, until slowUntil: Instant, isStalled: Bool,
    now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let mayTurn = slow.isEmpty || isStalled
    if mayTurn && block.pointee.repair.plainAsks >= RelayCore.plainAsks && block.pointee.repair.nextPlain <= now {
      // It doesn't come together this way: the body alone, then, from one neighbour at a time.
      nextTurn(slot, now: now)
      block.pointee.nextAsk = now
      return
    }
    let object = block.pointee.object(objectSlot)
    var candidates = (block.pointee.wholes | object.pointee.sources) & upLinks
    if let only = object.pointee.only { candidates = LinkSet(only) & upLinks }
    if block.pointee.repair.plainAsks > 2 && object.pointee.only == nil {
      // Those who are known to have some of it don't help: whoever may have it by now.
      candidates = upLinks
    }
    if (candidates - slow).isEmpty { candidates = upLinks }
    candidates = candidates - slow
    if candidates.isEmpty {
      block.pointee.nextAsk = slow.isEmpty ? now + RelayCore.repeatMost : slowUntil
      return
    }
    let width = min(block.pointee.asks + 1, candidates.count)
    block.pointee.asks += 1
    block.pointee.report.requests += 1
    let share = (lacking + width - 1) / width
    let source = wantsSource(slot, objectSlot)
    var wait = Interval.zero
    for _ in 0..<width {
      guard let peer = nearest(candidates, preferring: block.pointee.wholes) else { break }
      candidates.remove(peer)
      let lane = object.pointee.lanes[peer]
      let loss = lossFrom(peer)
      // Enough that the answer's own losses don't cost another round, and more with each try.
      let spare = Int((Double(share) * min(2 * loss, 0.5)).rounded(.up)) + min(2 * block.pointee.asks, 16)
      let count = share + spare + lane.pointee.replaced
      let besides = lane.pointee.isPromisedBesides
      lane.pointee.ask(count)
      lane.pointee.heard = now
      lane.pointee.askedAt = now
      block.pointee.object(BlockState.bodySlot).pointee.lanes[peer].pointee.believedUntil =
        now + patience(peer, asked: true, block.pointee.asks) + paceSlack(peer)
      block.pointee.askedLinks.insert(peer)
      sendNeed(
        slot, kind: object.pointee.kind, count: count, source: source, besides: besides, to: peer, into: &sink)
      note(
        RelayEvent(
          .asked, link: peer, at: now, block: block.pointee.hash, a: UInt64(count),
          b: UInt64(object.pointee.kind.rawValue)))
      wait = max(wait, patience(peer, asked: true, block.pointee.asks))
    }
    block.pointee.nextAsk = now + wait
    if block.pointee.repair.nextPlain <= now {
      // One round, whatever is asked for meanwhile because a promise lapsed.
      block.pointee.repair.plainAsks += 1
      block.pointee.repair.nextPlain = now + wait
    }
  }

  /// Source chunks serve a receiver that knows nothing of the object as well as repair chunks, at no one's expense.
  private func wantsSource(_ slot: Int, _ objectSlot: Int) -> Bool {
    let block = blocks[slot]
    if objectSlot != BlockState.bodySlot { return false }
    return block.pointee.assembly.matchedCount * 10 < block.pointee.transactionCount
  }

  func nearest(_ candidates: LinkSet, preferring wholes: LinkSet) -> LinkID? {
    for set in [candidates & wholes, candidates] {
      var best: LinkID?
      var peers = set
      while let peer = peers.popFirst() {
        if best == nil || link(peer).pointee.roundTripOrGuess < link(best!).pointee.roundTripOrGuess { best = peer }
      }
      if best != nil { return best }
    }
    return nil
  }

  mutating func sendNeed(
    _ slot: Int, kind: ObjectKind, count: Int, source: Bool = false, besides: Bool = false, to peer: LinkID,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    var flags: NeedMessage.Flags = []
    if block.pointee.sketchDecoded >= 0 { flags.insert(.sketchDecoded) }
    if source { flags.insert(.source) }
    if besides { flags.insert(.besides) }
    let message = NeedMessage(block: block.pointee.id8, kind: kind, flags: flags, count: UInt32(clamping: count))
    send(to: peer, urgency: .control, capacity: NeedMessage.encodedBytes, into: &sink) { message.write(into: &$0) }
    counters.needsSent += 1
  }

  // MARK: Answering

  /// Chunks of one object that one neighbour is sent in a session, asked or not: many times what the worst link makes
  /// necessary, and as many as the object has more every ten seconds. Nobody can ask for ever, and nobody has asked so
  /// often that it is never helped again.
  private func servedMost(_ slot: Int, _ sourceCount: Int, _ now: Instant) -> Int {
    let age = max(0, (now - blocks[slot].pointee.report.gatePassed).nanoseconds / 10_000_000_000)
    return 16 * sourceCount + 1_024 + Int(min(age, 1_000)) * (sourceCount + 64)
  }

  /// So much of what a neighbour asks for: never more than the whole object and as much again.
  func allowed(
    _ wanted: Int, of object: UnsafeMutablePointer<ObjectState>, _ slot: Int, _ lane: UnsafeMutablePointer<Lane>,
    now: Instant
  ) -> Int32 {
    let count = object.pointee.sourceCount
    let most = min(2 * count + 64, servedMost(slot, count, now) - Int(lane.pointee.sent))
    return Int32(clamping: max(0, min(wanted, most)))
  }

  mutating func receiveNeed(_ need: NeedMessage, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable) {
    counters.needsReceived += 1
    let slot = self.slot(id8: need.block, from: from.link)
    guard slot >= 0, isTrusted(from.link) || blocks[slot].pointee.isComplete else { return }
    if blocks[slot].pointee.isSettled { revive(slot, now: from.now) }
    let block = blocks[slot]
    if (need.kind == .txids || need.kind == .wtxids) && block.pointee.isComplete { makeList(slot, need.kind) }
    let found: Int?
    if need.kind == .sketch {
      found = block.pointee.has(block.pointee.sketchSent) ? block.pointee.sketchSent : nil
    } else {
      found = block.pointee.slot(of: need.kind, with: from.link)
    }
    guard let objectSlot = found else { return }
    let object = block.pointee.object(objectSlot)
    let lane = object.pointee.lanes[from.link]
    if need.count == 0 {
      lane.pointee.isStopped = true
      lane.pointee.budget = 0
      lane.pointee.asked = 0
      return
    }
    block.pointee.opened.insert(from.link)
    lane.pointee.isStopped = false
    lane.pointee.isOpen = true
    if !need.flags.contains(.besides) { lane.pointee.budget = 0 }
    lane.pointee.asked = allowed(Int(need.count), of: object, slot, lane, now: from.now)
    if need.flags.contains(.source) { lane.pointee.wantsSource = true }
    link(from.link).pointee.due |= 1 << UInt64(slot)
    if block.pointee.isComplete { addWork(slot) }
    fill(from.link, now: from.now, into: &sink)
  }

  // MARK: HAVE

  mutating func sendHave(
    _ slot: Int, to peer: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    let lane = body.pointee.lanes[peer]
    var received = lane.pointee.received
    var useless = lane.pointee.useless
    for sketch in 0..<BlockState.sketchSlots where block.pointee.has(sketch) {
      received += block.pointee.object(sketch).pointee.lanes[peer].pointee.received
      useless += block.pointee.object(sketch).pointee.lanes[peer].pointee.useless
    }
    lane.pointee.haveSent = now
    meters[Int(peer.index)].haveSent(now: now, roundTrip: link(peer).pointee.roundTripOrGuess)
    var flags: HaveMessage.Flags = [.checked]
    if block.pointee.asks > 0 { flags.insert(.asked) }
    let message = HaveMessage(
      block: block.pointee.id8, flags: flags, received: received, useless: useless,
      needed: UInt32(clamping: block.pointee.report.neededChunks),
      missingBytes: UInt32(clamping: block.pointee.report.missingBytes), missing: block.pointee.missing)
    send(to: peer, urgency: .control, capacity: HaveMessage.encodedBytes, into: &sink) { message.write(into: &$0) }
    counters.havesSent += 1
  }

  /// HAVE for a block that is not in a slot any more: only that it was complete here.
  mutating func answerHave(
    _ hash: Hash256, to from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) {
    if lastAnswer.hash == hash && lastAnswer.link == from.link
      && lastAnswer.at + link(from.link).pointee.roundTripOrGuess > from.now
    {
      return
    }
    lastAnswer = (hash, from.link, from.now)
    meters[Int(from.link.index)].haveSent(now: from.now, roundTrip: link(from.link).pointee.roundTripOrGuess)
    let message = HaveMessage(
      block: hash.w0, flags: [.checked], received: 0, useless: 0, needed: 0, missingBytes: 0,
      missing: SizeClassCounts())
    send(to: from.link, urgency: .control, capacity: HaveMessage.encodedBytes, into: &sink) {
      message.write(into: &$0)
    }
    counters.havesSent += 1
  }

  mutating func receiveHave(_ have: HaveMessage, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable) {
    counters.havesReceived += 1
    let slot = self.slot(id8: have.block, from: from.link)
    guard slot >= 0 else { return }
    let block = blocks[slot]
    let isFirst = !block.pointee.has.contains(from.link)
    block.pointee.has.insert(from.link)
    noteWhole(slot, from.link)
    // What is left for it needs no dropping here: lanes are stopped; what the driver has queued goes by name.
    for objectSlot in 0..<BlockState.objectSlots where block.pointee.has(objectSlot) {
      let lane = block.pointee.object(objectSlot).pointee.lanes[from.link]
      lane.pointee.isStopped = true
      lane.pointee.budget = 0
      lane.pointee.asked = 0
    }
    link(from.link).pointee.due &= ~(1 << UInt64(slot))
    link(from.link).pointee.withdrawn += UInt64(sink.drop(flow: FlowID(block.pointee.id8 | 1), on: from.link))
    if isFirst {
      controller.note(have, on: from.link)
      note(
        RelayEvent(
          .peerHas, link: from.link, at: from.now, block: block.pointee.hash, a: UInt64(have.needed),
          b: UInt64(have.useless)))
    }
    touched |= 1 << UInt64(slot)
  }
}
