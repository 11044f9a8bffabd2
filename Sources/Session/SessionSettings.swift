import Ground

/// Times and limits of a session table. The defaults are for production; tests shorten them.
public struct SessionSettings: Sendable {
  /// Between pings on an established session; any of them also keeps the session and NAT mappings alive.
  public var pingInterval: Interval = .milliseconds(500 as Int64)
  /// After this long without anything authentic the session is lost.
  public var silenceLimit: Interval = .seconds(3)
  /// First retransmission of an act while no round trip is known; the wait grows by half from the sixth on.
  public var firstRetry: Interval = .milliseconds(250 as Int64)
  /// Longest wait between retransmissions. A dead peer costs one datagram in this time, and a peer that comes back
  /// without knowing our address is found again within it.
  public var longestRetry: Interval = .seconds(1)
  /// Between attempts at a peer with which no parameters can be agreed.
  public var incompatibleRetry: Interval = .seconds(5)
  /// New keys after this long, or after this many datagrams in one direction (AES-GCM's bounds stay far away:
  /// 2^24 datagrams of 1,500 bytes are under 2^31 blocks).
  public var rekeyAfter: Interval = .seconds(120)
  public var rekeyAfterPackets: UInt64 = 1 << 24
  /// A session that could not be rekeyed ends after this long, or this many datagrams in one direction.
  public var expireAfter: Interval = .seconds(240)
  public var expireAfterPackets: UInt64 = 1 << 27
  /// How long the keys before the current ones still open what was under way.
  public var previousGrace: Interval = .seconds(10)

  /// Handshake acts of unproven addresses worked on a second; beyond it a cookie is asked for.
  public var strangerActsPerSecond: Int64 = 300
  /// Acts with a good cookie from addresses of no link: per address, and in all.
  public var cookiedActsPerSecondAndAddress: Int64 = 10
  public var cookiedActsPerSecond: Int64 = 500
  /// Acts with a good cookie from the address of a link; nobody else can use them up.
  public var linkActsPerSecond: Int64 = 20
  /// Cookies for addresses of no link. With the answers to strangers' acts and to those with a cookie, less than what the
  /// engine sends of replies in all (`EngineConfiguration.repliesPerSecond`): else a flood of openings used that up, and
  /// configured peers' cookies and acts two, which have budgets of their own here, were dropped there.
  public var cookieRepliesPerSecond: Int64 = 1_000

  public init() {}
}

extension Interval {
  package static func perSecond(_ n: Int64) -> Interval { Interval(nanoseconds: 1_000_000_000 / max(n, 1)) }
}
