import CLibsodium
import Ground
import Wire

// The side that answers. It keeps nothing between acts one and three: its state travels to the initiator and back as a
// ticket, sealed with a key of its own that is soon forgotten. So a flood of openings fills no table.
extension SessionTable {
  static var ticketLifetime: Interval { .seconds(10) }
  static var ticketKeyLifetime: Interval { .seconds(15) }

  /// Checks the first MAC, which shows that the sender knows our public key: one hash, for the packets of strangers.
  private mutating func knowsUs(_ start: UnsafeMutableRawPointer, _ count: Int) -> Bool {
    let covered = count - 2 * SessionFormat.macBytes
    if ownMacKey.over(start, covered).matches(start + covered) { return true }
    counters.strangers += 1
    return false
  }

  /// Whether curve work may be done for this act; sends a cookie reply if that is the way.
  private mutating func admit(
    _ start: UnsafeMutableRawPointer, _ count: Int, from source: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let known = link(at: source).map { links + $0 }
    switch gate.judge(start, count, from: source, link: known, now: now) {
    case .admitted:
      counters.curveSteps += 1
      return true
    case .cookie:
      let sent = sink.reply(to: source, capacity: SessionFormat.cookieReplyBytes) { datagram in
        datagram.withUnsafeMutableBytes {
          gate.writeCookieReply(to: $0.baseAddress!, act: start, count, source: source, now: now)
          return SessionFormat.cookieReplyBytes
        }
      }
      if sent { counters.cookiesSent += 1 }
    case .refused: break
    }
    counters.deferred += 1
    return false
  }

  mutating func receiveActOne(
    _ start: UnsafeMutableRawPointer, from source: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    guard knowsUs(start, SessionFormat.actOneBytes),
      admit(start, SessionFormat.actOneBytes, from: source, now: now, into: &sink)
    else { return }
    let noise = scratch
    defer { noise.wipe() }
    noise.begin(prologue: prologue, responder: identity.publicKey)
    let act = UnsafeMutableRawBufferPointer(
      start: start + SessionFormat.bodyOffset, count: SessionFormat.noiseActOneBytes)
    do throws(ActError) {
      try noise.readActOne(act, payloadBytes: SessionFormat.actOnePadding, identity: identity)
    } catch {
      counters.failedActs += 1
      return
    }
    let index: UInt32 = UnsafeRawPointer(start).get(SessionFormat.indexOffset)
    guard UnsafeRawPointer(act.baseAddress! + 34).get(0) == index else {
      counters.failedActs += 1
      return
    }
    let theirKey = UnsafeRawBufferPointer(
      start: start + SessionFormat.bodyOffset + 1, count: SessionFormat.publicKeyBytes)
    let macKey = Mac(label: "lightpath act two from", identity.publicKey, theirKey)
    sink.reply(to: source, capacity: SessionFormat.actTwoBytes) { datagram in
      datagram.withUnsafeMutableBytes { bytes in
        writeActTwo(to: bytes.baseAddress!, index, macKey, now: now) ? SessionFormat.actTwoBytes : 0
      }
    }
  }

  private mutating func writeActTwo(
    to out: UnsafeMutableRawPointer, _ index: UInt32, _ macKey: Mac, now: Instant
  ) -> Bool {
    let noise = scratch
    out.put(SessionFormat.Kind.actTwo, at: 0)
    out.put(index, at: SessionFormat.indexOffset)
    let written = withUnsafeTemporaryAllocation(byteCount: SessionFormat.helloBytes, alignment: 8) { payload in
      hello.write(to: payload.baseAddress!)
      do throws(ActError) {
        try noise.writeActTwo(
          to: out + SessionFormat.bodyOffset, payload: UnsafeRawBufferPointer(payload),
          ephemeral: { Curve.generate(random, into: $0) })
        return true
      } catch {
        return false
      }
    }
    if !written { return false }
    noise.notes.put(index, at: 0)
    noise.notes.put(helloVersion, at: 4)
    noise.notes.put(now.nanoseconds, at: 8)
    sealTicket(to: out + SessionFormat.bodyOffset + SessionFormat.noiseActTwoBytes, now: now)
    let covered = SessionFormat.actTwoBytes - SessionFormat.macBytes
    macKey.over(out, covered).store(to: out + covered)
    return true
  }

  // MARK: Tickets

  private mutating func sealTicket(to out: UnsafeMutableRawPointer, now: Instant) {
    if ticketRotation == .never {
      ticketRotation = now + SessionTable.ticketKeyLifetime
      arm(ticketRotation)
    }
    ticketsIssued = true
    ticketSerial += 1
    let serial = ticketSerial << 1 | ticketEpoch & 1
    out.put(serial, at: 0)
    withNonce(serial) { nonce in
      _ = crypto_aead_chacha20poly1305_ietf_encrypt(
        (out + 8).u8, nil, scratch.chainingKey.u8, UInt64(SessionFormat.ticketStateBytes), nil, 0, nil, nonce,
        ticketKey(Int(ticketEpoch & 1)).u8)
    }
  }

  /// Opens a ticket into `scratch`; its serial number, or `nil` for what isn't ours, or is too old.
  private func openTicket(_ ticket: UnsafeMutableRawPointer, now: Instant) -> UInt64? {
    let serial: UInt64 = UnsafeRawPointer(ticket).get(0)
    let state = scratch.chainingKey
    let status = withNonce(serial) { nonce in
      crypto_aead_chacha20poly1305_ietf_decrypt(
        state.u8, nil, nil, (ticket + 8).u8, UInt64(SessionFormat.ticketStateBytes + SessionFormat.tagBytes), nil, 0,
        nonce, ticketKey(Int(serial & 1)).u8)
    }
    if status != 0 { return nil }
    let notes = UnsafeRawPointer(scratch.notes)
    let issued = Instant(nanoseconds: notes.get(8))
    guard notes.get(4) == helloVersion, now - issued <= SessionTable.ticketLifetime else { return nil }
    return serial
  }

  /// Forgets the older ticket key. Sleeps when no ticket was given out under either.
  mutating func rotateTickets(now: Instant) {
    ticketEpoch += 1
    random.fill(ticketKey(Int(ticketEpoch & 1)), 32)
    ticketRotation = ticketsIssued ? now + SessionTable.ticketKeyLifetime : .never
    ticketsIssued = false
  }

  // MARK: Act three

  mutating func receiveActThree(
    _ start: UnsafeMutableRawPointer, from source: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    guard knowsUs(start, SessionFormat.actThreeBytes) else { return }
    // First what needs no curve: is the ticket ours, who is it, and was it here before?
    let noise = scratch
    defer { noise.wipe() }
    let act = UnsafeMutableRawBufferPointer(
      start: start + SessionFormat.bodyOffset + SessionFormat.ticketBytes, count: SessionFormat.noiseActThreeBytes)
    guard let ticket = openTicket(start + SessionFormat.bodyOffset, now: now) else {
      counters.failedActs += 1
      return
    }
    // The gate hashes the datagram as it came, so it is asked before anything is opened in place; but a repetition of an
    // act that was accepted must not use up the budget: it is recognised by its ticket.
    if let (link, slot) = session(from: ticket) {
      confirmAgain(link, slot, to: source, now: now, into: &sink)
      return
    }
    guard admit(start, SessionFormat.actThreeBytes, from: source, now: now, into: &sink) else { return }
    let peer: PublicKey
    do throws(ActError) {
      peer = try noise.readStaticKey(act, payloadBytes: SessionFormat.helloBytes)
    } catch {
      counters.failedActs += 1
      return
    }
    guard let id = link(of: peer) else {
      counters.unknownPeers += 1
      if unknownPeerEvents.take(now: now, interval: .seconds(1), burst: 5) { note(.unknownPeer(peer, source)) }
      return
    }
    let link = Int(id.index)
    guard ticket > links[link].lastTicket else {
      counters.failedActs += 1
      return
    }
    do throws(ActError) {
      try noise.readActThree(act, payloadBytes: SessionFormat.helloBytes)
    } catch {
      counters.failedActs += 1
      return
    }
    // The peer is proven. Each session that it begins ends another, and each offer that doesn't fit is told to the
    // operator: a rogue one can't have that as often as it likes. What is put off is accepted when it comes again.
    guard links[link].accepted.take(now: now, interval: .seconds(1), burst: 8) else {
      counters.deferred += 1
      return
    }
    // No older act of it counts any more.
    links[link].lastTicket = ticket
    guard let theirs = Hello(act.baseAddress! + 50),
      theirs.index == UnsafeRawPointer(noise.notes).get(0)
    else {
      counters.nonsense += 1
      return
    }
    accept(link, ticket, theirs, from: source, now: now, into: &sink)
  }

  private mutating func accept(
    _ link: Int, _ ticket: UInt64, _ theirs: Hello, from source: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let parameters: SessionParameters
    do throws(Incompatibility) {
      parameters = try SessionParameters.agree(hello, theirs)
    } catch {
      note(.incompatible(LinkID(UInt16(link)), error))
      return
    }
    // Both opened at the same time: the relay whose key comes first keeps its handshake, the other one gives in. Keys
    // already given out go on opening, so nothing under way is lost either way.
    if links[link].phase != .idle && PublicKey.precedes(links[link].peer, identity.publicKey) { abandonOurs(link) }
    wipe(links[link].theirs)
    links[link].theirs = LinkRecord.none
    let slot = freeSlot(link)
    links[link].theirs = slot
    slots[slot].localIndex = newIndex(slot)
    slots[slot].peerIndex = theirs.index
    slots[slot].ticket = ticket
    install(slot, parameters, theirs, now: now)
    scratch.split { toResponder, toInitiator in
      receiveKey(slot).set(toResponder, parameters.suite)
      sendKey(slot).set(toInitiator, parameters.suite)
    }
    sendConfirm(slot, to: source, into: &sink)
  }

  /// The session that came of a ticket, if it is still there.
  private func session(from ticket: UInt64) -> (Int, Int)? {
    for link in 0..<capacity where configured[link] && links[link].lastTicket == ticket {
      let (theirs, current) = (links[link].theirs, links[link].current)
      if theirs != LinkRecord.none && slots[theirs].ticket == ticket { return (link, theirs) }
      if current != LinkRecord.none && slots[current].ticket == ticket { return (link, current) }
    }
    return nil
  }

  /// Its initiator, or someone replaying it, shows that our confirmation may have been lost.
  private mutating func confirmAgain(
    _ link: Int, _ slot: Int, to source: PeerAddress, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    if links[link].confirms.take(now: now, interval: .perSecond(20), burst: 10) {
      sendConfirm(slot, to: source, into: &sink)
    }
  }

  /// Tells the initiator the session index by which to address this side.
  private mutating func sendConfirm(
    _ slot: Int, to source: PeerAddress, into sink: inout some DatagramSink & ~Copyable
  ) {
    sink.reply(
      to: source, capacity: SessionFormat.confirmBytes + SessionFormat.transportOverheadBytes
    ) { datagram in
      datagram.withUnsafeMutableBytes { bytes in
        let plain = bytes.baseAddress! + SessionFormat.transportHeaderBytes
        plain.u8[0] = SessionFormat.Control.confirm
        plain.put(slots[slot].localIndex, at: 1)
        return seal(slot, bytes.baseAddress!, count: SessionFormat.confirmBytes, kind: SessionFormat.Kind.control)
      }
    }
  }
}
