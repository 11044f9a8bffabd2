import Ground

/// What `SessionTable.receive` made of a datagram. Trivial.
public enum SessionInput: Hashable, Sendable {
  /// Nothing for the relay: a handshake, a control message, or rejected (`SessionTable.counters` says why).
  case none
  /// A message of an authenticated peer.
  case message(SessionMessage)
}

/// Where an opened message lies, and whose it is.
public struct SessionMessage: Hashable, Sendable {
  public var link: LinkID
  /// Where the plaintext lies within the datagram's bytes.
  public var offset: Int
  public var count: Int
  /// The peer's packet counter: from 0 up in each generation, without gaps at the sender.
  public var counter: UInt64
  /// Counts the link's sessions at this end; counters of different generations don't compare.
  public var generation: UInt32

  @inlinable public var range: Range<Int> { offset..<offset + count }
}

/// Why a session ended.
public enum SessionLoss: UInt8, Hashable, Sendable {
  /// Nothing authenticated arrived for `SessionSettings.silenceLimit`.
  case silent = 1
  /// The peer said goodbye.
  case closed = 2
  /// A new session with the same peer replaced it, from another start of its process: its state is gone.
  case peerRestarted = 3
  /// Its keys are too old, or used too often, and no new session could be agreed.
  case expired = 4
  /// The link was removed or given another peer.
  case removed = 5
}

/// The four timestamps of one ping (NTP's): two of this clock, two of the peer's.
/// Round trip = (received − sent) − (peerSent − peerReceived);
/// the peer's clock − this clock ≈ ((peerReceived − sent) + (peerSent − received)) / 2.
public struct ClockSample: Hashable, Sendable {
  /// This relay's clock when the ping was sealed.
  public var sent: Instant
  /// The peer's clock when its kernel received the ping.
  public var peerReceived: Instant
  /// The peer's clock when the pong was sealed.
  public var peerSent: Instant
  /// This relay's kernel receive time of the pong.
  public var received: Instant
  /// Datagrams that the peer had opened in this session when it answered, and the highest counter among them: with
  /// `LinkStatus.sent`, the loss towards the peer.
  public var peerOpened: UInt64
  public var peerHighestCounter: UInt64
  public var generation: UInt32

  public init(
    sent: Instant, peerReceived: Instant, peerSent: Instant, received: Instant, peerOpened: UInt64,
    peerHighestCounter: UInt64, generation: UInt32
  ) {
    (self.sent, self.peerReceived, self.peerSent, self.received) = (sent, peerReceived, peerSent, received)
    (self.peerOpened, self.peerHighestCounter, self.generation) = (peerOpened, peerHighestCounter, generation)
  }

  /// Network time there and back: negative only when a clock was set in between.
  public var roundTrip: Interval { (received - sent) - (peerSent - peerReceived) }
}

/// What happened, in order. Trivial; drained with `SessionTable.nextEvent`.
public enum SessionEvent: Hashable, Sendable {
  /// Messages can be sent and will arrive.
  case established(LinkID, SessionParameters)
  /// New keys, same session: nothing was lost. The parameters may differ (a new overlay epoch).
  case rekeyed(LinkID, SessionParameters)
  case lost(LinkID, SessionLoss)
  case clock(LinkID, ClockSample)
  /// The peer now sends from another address.
  case moved(LinkID, PeerAddress)
  /// The peer is who it should be, but no session is possible.
  case incompatible(LinkID, Incompatibility)
  /// Someone proved a key that no link is configured for; refused.
  case unknownPeer(PublicKey, PeerAddress)
}

/// What was counted since the table was made.
public struct SessionCounters: Hashable, Sendable {
  public var opened: UInt64 = 0
  public var sealed: UInt64 = 0
  /// Too short, of the wrong length, or of no known type.
  public var malformed: UInt64 = 0
  /// Transport datagrams for a session index that isn't.
  public var unknownSession: UInt64 = 0
  /// Counters seen before or too old for the window.
  public var replayed: UInt64 = 0
  /// Transport datagrams that failed authentication.
  public var forged: UInt64 = 0
  /// Authentic datagrams of a rogue or faulty peer that make no sense.
  public var nonsense: UInt64 = 0
  /// Handshake datagrams whose sender doesn't know our key.
  public var strangers: UInt64 = 0
  /// Handshake datagrams turned away to spare the CPU, with or without a cookie reply.
  public var deferred: UInt64 = 0
  public var cookiesSent: UInt64 = 0
  public var unknownSessionsTold: UInt64 = 0
  /// Acts that failed authentication, were stale, or were out of place.
  public var failedActs: UInt64 = 0
  public var unknownPeers: UInt64 = 0
  /// Handshakes completed, as initiator and as responder.
  public var initiated: UInt64 = 0
  public var responded: UInt64 = 0
  /// Elliptic-curve steps done for acts that came in.
  public var curveSteps: UInt64 = 0
  /// Events dropped because nobody drained them.
  public var eventsDropped: UInt64 = 0

  public init() {}
}

/// A link at a glance.
public struct LinkStatus: Hashable, Sendable {
  public var isEstablished: Bool
  public var address: PeerAddress?
  public var peer: PublicKey
  /// Of the current session, else of the last one.
  public var parameters: SessionParameters?
  public var generation: UInt32
  /// Datagrams sealed and opened in the current generation, control messages included.
  public var sent: UInt64
  public var opened: UInt64
  /// The highest counter opened in the current generation.
  public var highestCounter: UInt64
  /// Smoothed round trip (RFC 6298) and the least seen; `nil` before the first sample.
  public var roundTrip: Interval?
  public var leastRoundTrip: Interval?
  public var lastHeard: Instant
}
