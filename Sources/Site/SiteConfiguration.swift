import Bitcoin
import Ground
import NodeBridge
import Relay
import Session

/// What one site runs: a relay, the bridge to its nodes, and for demonstrations a stand-in for a node and bad links.
public struct SiteConfiguration: Sendable {
  /// As the topology calls it.
  public var name: String
  public var overlayName: String
  public var relay: RelayConfiguration
  /// Names of the neighbours, by link.
  public var names: [LinkID: String]
  public var bridge: BridgeConfiguration
  public var embedded: EmbeddedNode.Configuration?
  public var impairments: [Impairment] = []
  /// Transactions that the node learns are passed on between blocks.
  public var relaysTransactions = true

  public init(
    name: String, overlayName: String, relay: RelayConfiguration, names: [LinkID: String], bridge: BridgeConfiguration
  ) {
    self.name = name
    self.overlayName = overlayName
    self.relay = relay
    self.names = names
    self.bridge = bridge
  }
}

/// The links of a site: those of the relay, and what their other ends are called.
public struct SiteLinks: Sendable, Hashable {
  public var links: [RelayLink]
  public var names: [LinkID: String]
  /// Every relay's key, in the topology's order.
  public var relays: [PublicKey]

  public init(links: [RelayLink], names: [LinkID: String], relays: [PublicKey]) {
    self.links = links
    self.names = names
    self.relays = relays
  }
}

/// How long this site's core has been asked to spoil what comes in from one neighbour: real packets over real sockets,
/// lost and late on purpose. For demonstrations and tests.
public struct Impairment: Sendable, Hashable {
  /// nil: every neighbour.
  public var source: PeerAddress?
  /// Share of datagrams thrown away, 0 to 1.
  public var loss: Double
  /// Added to each datagram's way.
  public var delay: Interval
  /// Up to this much more, drawn for each: datagrams overtake each other.
  public var jitter: Interval

  public init(source: PeerAddress? = nil, loss: Double = 0, delay: Interval = .zero, jitter: Interval = .zero) {
    self.jitter = jitter
    self.source = source
    self.loss = loss
    self.delay = delay
  }
}
