import CLibsodium
import Ground
import Wire

/// Why a link can't be configured.
public enum LinkError: Error, Hashable, Sendable {
  /// The ID is at or above the table's capacity.
  case noRoom(capacity: Int)
  /// The ID is in use.
  case taken
  /// Another link has this peer.
  case duplicatePeer(LinkID)
  /// The peer's key is our own.
  case ownKey
}

extension SessionTable {
  /// Configures a peer. With an address, this side begins a handshake at once and keeps trying, at up to three alternates
  /// in turn when nothing answers; without one it only accepts. Only configured peers get sessions.
  public mutating func addLink(
    _ id: LinkID, peer: PublicKey, address: PeerAddress?, alternates: [PeerAddress] = [], rate: LinkRate = .unlimited,
    now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) throws(LinkError) {
    let i = Int(id.index)
    if i >= capacity { throw .noRoom(capacity: capacity) }
    if configured[i] { throw .taken }
    if let other = link(of: peer) { throw .duplicatePeer(other) }
    if peer == identity.publicKey { throw .ownKey }
    links[i] = LinkRecord(peer: peer, address: address, alternates: alternates, rate: rate)
    configured[i] = true
    if let address {
      sink.assign(id, to: address, rate: rate)
      beginHandshake(i, now: now, into: &sink)
    }
  }

  /// Ends a link's session at once, wipes its keys and forgets the peer: what it sends from now on is a stranger's.
  public mutating func removeLink(_ id: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    guard isConfigured(id) else { return }
    let i = Int(id.index)
    if links[i].current != LinkRecord.none { note(.lost(id, .removed)) }
    wipeAll(i)
    configured[i] = false
    links[i] = LinkRecord(peer: identity.publicKey, address: nil, rate: .unlimited)
    sink.remove(id)
  }

  /// Changes where a link's peer is looked for. A running session goes on where it is until it is lost; otherwise the
  /// handshake begins at the new address at once.
  public mutating func setAddress(
    _ id: LinkID, _ address: PeerAddress?, alternates: [PeerAddress] = [], now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    guard isConfigured(id) else { return }
    let i = Int(id.index)
    links[i].configuredAddress = address
    links[i].setAlternates(alternates)
    guard links[i].current == LinkRecord.none else { return }
    abandonOurs(i)
    links[i].address = address
    links[i].cookieUntil = .zero
    if let address {
      sink.assign(id, to: address, rate: links[i].rate)
      beginHandshake(i, now: now, into: &sink)
    }
  }

  /// Changes what a link may send; the sink hears of it.
  public mutating func setRate(_ id: LinkID, _ rate: LinkRate, into sink: inout some DatagramSink & ~Copyable) {
    guard isConfigured(id) else { return }
    links[Int(id.index)].rate = rate
    if let address = links[Int(id.index)].address { sink.assign(id, to: address, rate: rate) }
  }

  /// Takes another set of overlay epochs. Running sessions go on and agree anew within seconds, each pair of relays on
  /// the highest epoch that both hold.
  public mutating func setOverlay(
    _ overlay: OverlaySecret?, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    self.overlay = overlay
    hello.set(overlay)
    helloChanged(now: now, into: &sink)
  }

  /// Takes another offer; running sessions go on and agree anew.
  public mutating func setOffer(_ offer: SessionOffer, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    hello.offer = offer
    helloChanged(now: now, into: &sink)
  }

  private mutating func helloChanged(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    helloVersion &+= 1
    for i in 0..<capacity where configured[i] {
      abandonOurs(i)
      if links[i].configuredAddress != nil {
        // Not all at once: 2 ms apart.
        links[i].retryAt = now + .milliseconds(2 * Int64(i))
        arm(links[i].retryAt)
      } else if links[i].current != LinkRecord.none {
        sendControl(i, into: &sink) { out in
          out.u8[0] = SessionFormat.Control.rekey
          return SessionFormat.rekeyBytes
        }
        // It may be lost: asked for again until there are new keys (`keep`).
        links[i].rekeyAt = now + .seconds(1)
        arm(links[i].rekeyAt)
      }
    }
  }

  /// Says goodbye on every session and ends it: for an orderly stop, so that peers needn't wait for silence.
  /// The table takes nothing more afterwards.
  public mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for i in 0..<capacity where configured[i] && links[i].current != LinkRecord.none {
      // Nobody is left to repeat it when it is lost: three times at once.
      for _ in 0..<3 {
        sendControl(i, into: &sink) { out in
          out.u8[0] = SessionFormat.Control.close
          out.u8[1] = 0
          return SessionFormat.closeBytes
        }
      }
      note(.lost(LinkID(UInt16(i)), .closed))
      wipeAll(i)
      links[i].phase = .idle
      links[i].retryAt = .never
    }
    isStopped = true
    nextDeadline = .never
  }

  // MARK: Slots

  func freeSlot(_ link: Int) -> Int {
    let record = links[link]
    for slot in link * SessionTable.slotsPerLink..<(link + 1) * SessionTable.slotsPerLink
    where slot != record.current && slot != record.previous && slot != record.oldest && slot != record.ours
      && slot != record.theirs
    {
      return slot
    }
    // Five slots, five uses, and each use is emptied before it is filled.
    fatalError("no free slot")
  }

  /// Low half: which slot, masked. High half: random, so that datagrams of an earlier session don't find a later one.
  func newIndex(_ slot: Int) -> UInt32 {
    UInt32(random.next(UInt16.self)) << 16 | UInt32(UInt16(slot) ^ indexMask)
  }

  func wipe(_ slot: Int) {
    if slot == LinkRecord.none { return }
    sendKey(slot).wipe()
    receiveKey(slot).wipe()
    slots[slot] = Slot()
  }

  mutating func wipeAll(_ link: Int) {
    for slot in link * SessionTable.slotsPerLink..<(link + 1) * SessionTable.slotsPerLink { wipe(slot) }
    initiatorState(link).wipe()
    links[link].current = LinkRecord.none
    links[link].previous = LinkRecord.none
    links[link].oldest = LinkRecord.none
    links[link].ours = LinkRecord.none
    links[link].theirs = LinkRecord.none
  }

  /// Drops the handshake that this side has begun. Keys that the peer may already be using go on opening for a while.
  mutating func abandonOurs(_ link: Int) {
    let slot = links[link].ours
    links[link].phase = .idle
    links[link].retryAt = .never
    initiatorState(link).wipe()
    if slot == LinkRecord.none { return }
    if slots[slot].state == .keyed {
      slots[slot].promotable = false
    } else {
      wipe(slot)
      links[link].ours = LinkRecord.none
    }
  }
}
