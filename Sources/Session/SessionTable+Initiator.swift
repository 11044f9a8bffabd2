import CLibsodium
import Ground
import Wire

// The side that begins: act one, act two's arrival, act three, retransmission.
extension SessionTable {
  /// Begins afresh with a new ephemeral key; whatever of ours was under way is dropped. A running session is not touched
  /// until the new one is confirmed.
  mutating func beginHandshake(_ link: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    guard links[link].address != nil else { return }
    // Never more than three at once and then one a second, whoever asks for it.
    if !links[link].begun.take(now: now, interval: settings.firstRetry * 4, burst: 3) {
      links[link].retryAt = now + settings.firstRetry
      arm(links[link].retryAt)
      return
    }
    abandonOurs(link)
    wipe(links[link].ours)
    links[link].ours = LinkRecord.none
    let slot = freeSlot(link)
    links[link].ours = slot
    slots[slot].state = .reserved
    slots[slot].initiated = true
    slots[slot].localIndex = newIndex(slot)

    let out = act(link)
    out.put(SessionFormat.Kind.actOne, at: 0)
    out.put(slots[slot].localIndex, at: SessionFormat.indexOffset)
    let noise = initiatorState(link)
    let peer = links[link].peer
    noise.begin(prologue: prologue, responder: peer)
    withUnsafeTemporaryAllocation(byteCount: SessionFormat.actOnePadding, alignment: 8) { padding in
      let start = padding.baseAddress!
      start.initializeMemory(as: UInt8.self, repeating: 0, count: padding.count)
      // The index again, where nobody can change it.
      start.put(slots[slot].localIndex, at: 0)
      // A configured peer's key is a point of the curve: this can't fail.
      try! noise.writeActOne(
        to: out + SessionFormat.bodyOffset, responder: peer, payload: UnsafeRawBufferPointer(padding),
        ephemeral: { Curve.generate(random, into: $0) })
    }
    let key = UnsafeRawBufferPointer(
      start: out + SessionFormat.bodyOffset + 1, count: SessionFormat.publicKeyBytes)
    links[link].actTwoKey = Mac(label: "lightpath act two from", peer, key)
    links[link].phase = .actOneSent
    links[link].attempts = 0
    transmit(link, now: now, into: &sink)
  }

  private func actBytes(_ link: Int) -> Int {
    links[link].phase == .actOneSent ? SessionFormat.actOneBytes : SessionFormat.actThreeBytes
  }

  /// Sends the act under way, again if need be, with fresh MACs.
  mutating func transmit(_ link: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let out = act(link)
    let count = actBytes(link)
    let first = out + (count - 2 * SessionFormat.macBytes)
    links[link].lastFirstMac = links[link].peerMacKey.over(out, count - 2 * SessionFormat.macBytes)
    links[link].lastFirstMac.store(to: first)
    let second = first + SessionFormat.macBytes
    let proof =
      now < links[link].cookieUntil ? links[link].cookie.over(out, count - SessionFormat.macBytes) : Mac()
    proof.store(to: second)
    sink.send(on: LinkID(UInt16(link)), urgency: .control, flow: .none, capacity: count) { datagram in
      datagram.withUnsafeMutableBytes { $0.copyMemory(from: UnsafeRawBufferPointer(start: out, count: count)) }
      return count
    }
    links[link].actSent = now
    var wait = settings.firstRetry
    if let smoothed = links[link].smoothedRoundTrip {
      // As TCP does (RFC 6298), but never slower to start than with no estimate.
      wait = max(min(smoothed + links[link].roundTripVariation * 4, wait), .milliseconds(20 as Int64))
    }
    // Loss is likelier than absence at first: back off only from the sixth on.
    for _ in 0..<min(max(links[link].attempts - 4, 0), 16) where wait < settings.longestRetry { wait = wait * 3 / 2 }
    wait = min(wait, settings.longestRetry)
    // Up to an eighth more, so that two relays don't stay in step.
    let jitter = Int64(random.next(UInt16.self)) * (wait.nanoseconds / 8) / 65_536
    links[link].attempts += 1
    links[link].retryAt = now + wait + Interval(nanoseconds: jitter)
    arm(links[link].retryAt)
  }

  /// `retryAt` has come.
  mutating func retry(_ link: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    links[link].retryAt = .never
    // After some attempts, a new ephemeral key and a fresh ticket; a lost act three may also mean a restarted responder.
    // Sooner when there is another address to try.
    let isOpening = links[link].phase == .actOneSent
    let limit = isOpening ? (links[link].alternates[0] == nil ? 14 : 6) : 10
    if links[link].phase == .idle || links[link].attempts >= limit {
      if isOpening { tryNextAddress(link, now: now, into: &sink) }
      beginHandshake(link, now: now, into: &sink)
    } else {
      transmit(link, now: now, into: &sink)
    }
  }

  /// A run of acts ended without an answer, and no session shows where the peer is: perhaps at its next address.
  private mutating func tryNextAddress(
    _ link: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let record = links[link]
    // Who sent a cookie is there, and busy.
    guard record.current == LinkRecord.none, record.theirs == LinkRecord.none, record.cookieUntil <= now,
      links[link].rotateAddress(), let address = links[link].configuredAddress
    else { return }
    links[link].address = address
    links[link].cookieUntil = .zero
    sink.assign(LinkID(UInt16(link)), to: address, rate: record.rate)
  }

  mutating func receiveActTwo(
    _ start: UnsafeMutableRawPointer, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let slot = slot(named: UnsafeRawPointer(start).get(SessionFormat.indexOffset))
    guard slot >= 0, slots[slot].state == .reserved else {
      counters.failedActs += 1
      return
    }
    let link = slot / SessionTable.slotsPerLink
    let covered = SessionFormat.actTwoBytes - SessionFormat.macBytes
    guard links[link].ours == slot, links[link].phase == .actOneSent,
      links[link].actTwoKey.over(start, covered).matches(start + covered)
    else {
      counters.strangers += 1
      return
    }
    // Who sees our acts and knows the peer's key can make up act twos; curve work for those is bounded too.
    guard links[link].actTwos.take(now: now, interval: .perSecond(50), burst: 20) else {
      counters.deferred += 1
      return
    }
    // On a copy: a forgery leaves the state as it was, for the real act two.
    let noise = scratch
    initiatorState(link).copy(to: noise)
    defer { noise.wipe() }
    counters.curveSteps += 1
    let act = UnsafeMutableRawBufferPointer(
      start: start + SessionFormat.bodyOffset, count: SessionFormat.noiseActTwoBytes)
    do throws(ActError) {
      try noise.readActTwo(act, payloadBytes: SessionFormat.helloBytes)
    } catch {
      counters.failedActs += 1
      return
    }
    guard let theirs = Hello(act.baseAddress! + 34) else {
      counters.nonsense += 1
      return
    }
    if links[link].attempts == 1 { links[link].noteRoundTrip(now - links[link].actSent) }

    var mine = hello
    mine.index = slots[slot].localIndex
    let out = self.act(link)
    out.put(SessionFormat.Kind.actThree, at: 0)
    (out + SessionFormat.bodyOffset).copyMemory(
      from: start + SessionFormat.bodyOffset + SessionFormat.noiseActTwoBytes, byteCount: SessionFormat.ticketBytes)
    withUnsafeTemporaryAllocation(byteCount: SessionFormat.helloBytes, alignment: 8) { payload in
      mine.write(to: payload.baseAddress!)
      // The responder's key was checked when act two was read: this can't fail.
      try! noise.writeActThree(
        to: out + SessionFormat.bodyOffset + SessionFormat.ticketBytes, payload: UnsafeRawBufferPointer(payload),
        identity: identity)
    }
    initiatorState(link).wipe()
    links[link].phase = .actThreeSent
    links[link].attempts = 0

    do throws(Incompatibility) {
      let parameters = try SessionParameters.agree(mine, theirs)
      install(slot, parameters, theirs, now: now)
      noise.split { toResponder, toInitiator in
        sendKey(slot).set(toResponder, parameters.suite)
        receiveKey(slot).set(toInitiator, parameters.suite)
      }
      transmit(link, now: now, into: &sink)
    } catch {
      // The peer is told who asked and with what, once, so that its operator learns of it too.
      transmit(link, now: now, into: &sink)
      note(.incompatible(LinkID(UInt16(link)), error))
      abandonOurs(link)
      links[link].retryAt = now + settings.incompatibleRetry
      arm(links[link].retryAt)
    }
  }

  /// Fills a slot in all but keys.
  mutating func install(_ slot: Int, _ parameters: SessionParameters, _ theirs: Hello, now: Instant) {
    let link = slot / SessionTable.slotsPerLink
    links[link].generation &+= 1
    window(slot).clear()
    slots[slot].state = .keyed
    slots[slot].promotable = true
    slots[slot].suite = parameters.suite
    slots[slot].parameters = parameters
    slots[slot].generation = links[link].generation
    slots[slot].sendCounter = 0
    slots[slot].receiveNext = 0
    slots[slot].opened = 0
    slots[slot].peerInstance = theirs.instance
    slots[slot].born = now
    slots[slot].until = now + .seconds(15)
    arm(slots[slot].until)
  }

  mutating func receiveCookieReply(
    _ start: UnsafeMutableRawPointer, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let slot = slot(named: UnsafeRawPointer(start).get(SessionFormat.indexOffset))
    guard slot >= 0, links[slot / SessionTable.slotsPerLink].ours == slot else {
      counters.failedActs += 1
      return
    }
    let link = slot / SessionTable.slotsPerLink
    guard links[link].phase != .idle,
      let cookie = HandshakeGate.openCookieReply(
        start, firstMac: links[link].lastFirstMac, responder: links[link].peer)
    else {
      counters.failedActs += 1
      return
    }
    // At once the first time; a cookie that does no good waits for the timer like anything else.
    let hadOne = now < links[link].cookieUntil
    links[link].cookie = cookie
    links[link].cookieUntil = now + HandshakeGate.cookieLifetime
    if !hadOne { transmit(link, now: now, into: &sink) }
  }
}
