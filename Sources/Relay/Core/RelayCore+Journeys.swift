import Ground
import Session
import Wire

// JOURNEY messages: what relays tell each other of blocks that are over. The records are opaque here.

extension RelayCore {
  /// Messages that came and wait for the owner, and of the owner's that wait for room.
  static let journeysHeld = 256
  /// Of one neighbour: so many a second, so many at once (an overlay of 256 relays tells each block in as many, twice).
  static let journeysPerSecond: Int64 = 100
  static let journeysBurst: Int64 = 600

  /// Measurement records for all neighbours, after the block; 1 to 1,100 bytes. They wait while anything of a block is
  /// due to a neighbour; at most 256 do, then the oldest goes.
  public mutating func sendJourney(
    _ records: RawSpan, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    tell(records, to: upLinks, now: now, into: &sink)
  }

  /// Records that a relay further away made and the neighbour `from` told: for the neighbours that hear them best by way
  /// of this relay, as the map has it, and not from the maker itself. A maker that the map doesn't know: for all but
  /// `from`.
  /// - Parameter maker: its key4.
  public mutating func passJourney(
    _ records: RawSpan, maker: UInt32, from: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    var targets = LinkSet.none
    var candidates = upLinks & map.primaries(for: maker)
    candidates.remove(from)
    while let peer = candidates.popFirst() {
      if link(peer).pointee.key4 != maker && !map.hears(peer, statusOf: maker) { targets.insert(peer) }
    }
    tell(records, to: targets, now: now, into: &sink)
  }

  private mutating func tell(
    _ records: RawSpan, to targets: LinkSet, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    guard 1...RelayLimits.journeyBytes ~= records.byteCount, !targets.isEmpty else { return }
    if journeysOut.count == RelayCore.journeysHeld {
      journeysOut.removeFirst()
      counters.journeysDropped += 1
    }
    journeysOut.append((records.withUnsafeBytes { [UInt8]($0) }, targets))
    var peers = targets
    while let peer = peers.popFirst() { sendBackground(to: peer, now: now, into: &sink) }
    if !journeysOut.isEmpty { armBackground(now: now) }
  }

  /// The oldest journey that waits for a neighbour; false when there is none, or no room.
  mutating func sendNextJourney(to peer: LinkID, into sink: inout some DatagramSink & ~Copyable) -> Bool {
    guard let index = journeysOut.firstIndex(where: { $0.to.contains(peer) }) else { return false }
    let records = journeysOut[index].records
    let sent = send(to: peer, urgency: .background, capacity: 1 + records.count, into: &sink) { out in
      JourneyMessage.write(records.span.bytes, into: &out)
    }
    if sent == 0 { return false }
    counters.journeysSent += 1
    journeysOut[index].to.remove(peer)
    if journeysOut[index].to.isEmpty { journeysOut.remove(at: index) }
    return true
  }

  /// A neighbour is gone: what waits for it goes too.
  mutating func forgetJourneys(for peer: LinkID) {
    for index in journeysOut.indices { journeysOut[index].to.remove(peer) }
    journeysOut.removeAll { $0.to.isEmpty }
  }

  mutating func receiveJourney(_ journey: borrowing JourneyMessage, _ from: Arrival) {
    let isAllowed = link(from.link).pointee.journeys.take(
      now: from.now, interval: .perSecond(RelayCore.journeysPerSecond), burst: RelayCore.journeysBurst)
    guard isAllowed, journeys.count < RelayCore.journeysHeld else {
      counters.journeysRefused += 1
      return
    }
    journeys.append((from.link, journey.records.withUnsafeBytes { [UInt8]($0) }))
    note(RelayEvent(.journey, link: from.link, at: from.now))
  }

  /// Hands over a journey record that came in; false when there is none. What a neighbour says is its own claim.
  public mutating func takeJourney(_ body: (LinkID, RawSpan) -> Void) -> Bool {
    if journeys.isEmpty { return false }
    let (link, bytes) = journeys.removeFirst()
    body(link, bytes.span.bytes)
    return true
  }
}
