import Ground

/// The keys of one session and what was sent and received under them; five to a link. Trivial. The keys themselves lie
/// in guarded memory, found by the slot's number.
struct Slot {
  enum State: UInt8 {
    case free
    /// Its index is given out in an act one; no keys yet.
    case reserved
    /// Has keys. Whether it is the one to send with is the link's business.
    case keyed
  }
  var state = State.free
  /// By this side.
  var initiated = false
  /// May become the current session when something authentic arrives under it.
  var promotable = false
  var suite = CipherSuite.chaCha20Poly1305
  var localIndex: UInt32 = 0
  var peerIndex: UInt32 = 0
  var generation: UInt32 = 0
  var sendCounter: UInt64 = 0
  /// One more than the highest counter opened.
  var receiveNext: UInt64 = 0
  var opened: UInt64 = 0
  /// Datagrams in one direction after which this side asks for new keys.
  var rekeyCount = UInt64.max
  var peerInstance: UInt64 = 0
  var ticket: UInt64 = 0
  var born = Instant.zero
  /// When a slot that is not the current one is wiped.
  var until = Instant.never
  var parameters = SessionParameters(
    version: 0, features: 0, chunkBytes: 0, codeProfile: 0, maxObjectBytes: 0, maxMessageBytes: 0,
    suite: .chaCha20Poly1305, overlayEpoch: 0)
}

/// One configured peer. Trivial: sessions come and go without allocation.
struct LinkRecord {
  enum Phase: UInt8 {
    case idle
    case actOneSent
    case actThreeSent
  }
  static let none: Int = -1

  var peer: PublicKey
  /// From the configuration; a link without one only accepts.
  var configuredAddress: PeerAddress?
  /// The peer's other addresses, tried in turn when nothing answers there; from the front.
  var alternates: InlineArray<3, PeerAddress?> = InlineArray(repeating: nil)
  /// Where its datagrams go now.
  var address: PeerAddress?
  var rate: LinkRate

  // Slot numbers, or `none`.
  /// What is sent under, once established.
  var current = LinkRecord.none
  /// Before the last rekey; still opens.
  var previous = LinkRecord.none
  /// Before the last but one: two handshakes that cross can be confirmed within a round trip.
  var oldest = LinkRecord.none
  /// This side's handshake under way.
  var ours = LinkRecord.none
  /// The peer's handshake, complete but not yet confirmed.
  var theirs = LinkRecord.none

  var generation: UInt32 = 0
  var peerInstance: UInt64 = 0
  var lastParameters: SessionParameters?

  // The handshake that this side has begun.
  var phase = Phase.idle
  var attempts = 0
  /// When to send the act again, or to begin.
  var retryAt = Instant.never
  var actSent = Instant.zero
  /// Checks acts that go to the peer, and act two on its way back.
  var peerMacKey: Mac
  var actTwoKey = Mac()
  var lastFirstMac = Mac()
  var cookie = Mac()
  var cookieUntil = Instant.zero
  /// The newest ticket accepted from the peer: no act three counts twice.
  var lastTicket: UInt64 = 0
  var begun = Pacer()

  // The running session.
  var lastHeard = Instant.zero
  var pingAt = Instant.never
  var quickPings = 0
  var rekeyAt = Instant.never
  var smoothedRoundTrip: Interval?
  var roundTripVariation = Interval.zero
  var leastRoundTrip: Interval?

  // What others can make this side do for the link, bounded.
  var acts = Pacer()
  var accepted = Pacer()
  var cookies = Pacer()
  var actTwos = Pacer()
  var confirms = Pacer()
  var pongs = Pacer()

  init(peer: PublicKey, address: PeerAddress?, alternates: [PeerAddress] = [], rate: LinkRate) {
    self.peer = peer
    configuredAddress = address
    self.address = address
    self.rate = rate
    peerMacKey = Mac(label: "lightpath act to", peer)
    setAlternates(alternates)
  }

  mutating func setAlternates(_ addresses: [PeerAddress]) {
    for i in alternates.indices { alternates[i] = i < addresses.count ? addresses[i] : nil }
  }

  /// The next of the peer's addresses takes the place of the present one, which goes to the end of the row. False when
  /// there is no other.
  mutating func rotateAddress() -> Bool {
    guard let present = configuredAddress, let next = alternates[0] else { return false }
    var last = 0
    while last + 1 < alternates.count, let following = alternates[last + 1] {
      alternates[last] = following
      last += 1
    }
    alternates[last] = present
    configuredAddress = next
    return true
  }

  /// RFC 6298.
  mutating func noteRoundTrip(_ sample: Interval) {
    let sample = max(sample, .zero)
    leastRoundTrip = min(leastRoundTrip ?? sample, sample)
    if let smoothed = smoothedRoundTrip {
      let error = smoothed < sample ? sample - smoothed : smoothed - sample
      roundTripVariation = (roundTripVariation * 3 + error) / 4
      smoothedRoundTrip = (smoothed * 7 + sample) / 8
    } else {
      smoothedRoundTrip = sample
      roundTripVariation = sample / 2
    }
  }
}
