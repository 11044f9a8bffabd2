import Foundation
import Ground

/// An overlay as its operator described it: checked, complete, the same at every site. Holds no secret.
public struct OverlayTopology: Hashable, Sendable {
  /// The Bitcoin network whose blocks are carried.
  public enum Network: String, CaseIterable, Hashable, Sendable {
    case main, testnet3, testnet4, signet, regtest
  }

  /// How a relay treats what comes from, and goes to, the other end of a link.
  public enum Trust: String, CaseIterable, Hashable, Sendable {
    /// Cut-through: useful packets are forwarded before the block is complete.
    case trusted
    /// Forwarded to and from only after the whole block is checked.
    case verifiedOnly = "verified-only"
  }

  /// The site's own Bitcoin node. Passwords and cookies stay at the site; only their place may be named here.
  public struct Node: Hashable, Sendable {
    public var name: String
    /// The node's P2P address, as the relay at the site reaches it.
    public var p2p: PeerAddress
    public var rpc: PeerAddress?
    /// Path of the RPC cookie file on the site's machine.
    public var rpcCookieFile: String?
    /// It is handed no block before the relay has checked it.
    public var checkedOnly = false
  }

  /// A peer of the public network that the site only listens to, to know when it tells of a block.
  public struct WatchedPeer: Hashable, Sendable {
    public var name: String
    public var p2p: PeerAddress
    public init(name: String, p2p: PeerAddress) { (self.name, self.p2p) = (name, p2p) }
  }

  public struct Relay: Hashable, Sendable {
    public var name: String
    /// Compressed secp256k1 point, 33 bytes.
    public var publicKey: [UInt8]
    /// Where other relays reach it; a neighbour sends to the first of a family that it listens on.
    public var addresses: [PeerAddress]
    /// Degrees.
    public var latitude, longitude: Double
    /// What the site may send over all links together.
    public var uplink: LinkRate
    public var nodes: [Node]
    public var watched: [WatchedPeer] = []
    /// The site's pool, a Stratum v1 endpoint: when does its first job on a new block come?
    public var pool: PeerAddress?
    /// Transactions that the node learns are passed on to neighbours between blocks.
    public var relaysTransactions = true

    public init(
      name: String, publicKey: [UInt8], addresses: [PeerAddress], latitude: Double, longitude: Double, uplink: LinkRate,
      nodes: [Node] = []
    ) {
      self.name = name
      self.publicKey = publicKey
      self.addresses = addresses
      self.latitude = latitude
      self.longitude = longitude
      self.uplink = uplink
      self.nodes = nodes
    }
  }

  public struct Group: Hashable, Sendable {
    public var name: String
    /// Indexes into `relays`; each of them is linked with each other.
    public var members: [Int]

    public init(name: String, members: [Int]) {
      self.name = name
      self.members = members
    }
  }

  /// Two relays that talk to each other.
  public struct Link: Hashable, Sendable {
    /// Indexes into `relays`, `a < b`.
    public var a, b: Int
    /// Of each direction.
    public var rate: LinkRate
    /// How `b` treats `a`, and `a` treats `b`.
    public var trustInA, trustInB: Trust
    /// One way, the same in both directions.
    public var delay: Interval
    /// False when the delay was derived from the positions.
    public var isDelayConfigured: Bool

    public init(
      a: Int, b: Int, rate: LinkRate, trustInA: Trust, trustInB: Trust, delay: Interval, isDelayConfigured: Bool
    ) {
      self.a = a
      self.b = b
      self.rate = rate
      self.trustInA = trustInA
      self.trustInB = trustInB
      self.delay = delay
      self.isDelayConfigured = isDelayConfigured
    }
  }

  public var name: String
  public var network: Network
  /// Length of a fibre route over the great circle's.
  public var pathFactor: Double
  public var relays: [Relay]
  public var groups: [Group]
  /// Every link of every group and every `[[link]]`, each pair once, ordered by (`a`, `b`).
  public var links: [Link]

  /// An overlay put together in code (tests, simulations); nothing is checked. Files are read with `init(text:)`.
  public init(
    name: String, network: Network, pathFactor: Double, relays: [Relay], groups: [Group], links: [Link]
  ) {
    self.name = name
    self.network = network
    self.pathFactor = pathFactor
    self.relays = relays
    self.groups = groups
    self.links = links
  }

  public func relayIndex(named name: String) -> Int? { relays.firstIndex { $0.name == name } }

  /// The links of one relay: the other end, the link, and how the relay treats that other end.
  public func neighbours(of relay: Int) -> [(relay: Int, link: Link, trust: Trust)] {
    links.compactMap { link in
      if link.a == relay { return (link.b, link, link.trustInB) }
      if link.b == relay { return (link.a, link, link.trustInA) }
      return nil
    }
  }

  public func link(between x: Int, _ y: Int) -> Link? {
    links.first { $0.a == min(x, y) && $0.b == max(x, y) }
  }

  /// The light path between all pairs: the least sum of one-way delays over configured links, [from][to].
  /// `.max` nanoseconds where nothing connects them. Floyd and Warshall, cubic in the number of relays.
  public func lightPaths() -> [[Interval]] {
    let none = Interval(nanoseconds: .max)
    var paths = [[Interval]](repeating: [Interval](repeating: none, count: relays.count), count: relays.count)
    for i in relays.indices { paths[i][i] = .zero }
    for link in links {
      paths[link.a][link.b] = min(paths[link.a][link.b], link.delay)
      paths[link.b][link.a] = paths[link.a][link.b]
    }
    for k in relays.indices {
      for i in relays.indices where paths[i][k] != none {
        // Interval's sum saturates at `none`.
        for j in relays.indices { paths[i][j] = min(paths[i][j], paths[i][k] + paths[k][j]) }
      }
    }
    return paths
  }

  /// What light in a vacuum needs on the great circle between two relays: no link can be faster.
  public func lightBound(_ x: Int, _ y: Int) -> Interval {
    let kilometres = Geography.greatCircleKilometres(
      (relays[x].latitude, relays[x].longitude), (relays[y].latitude, relays[y].longitude))
    return .milliseconds(kilometres / Geography.vacuumKilometresPerMs)
  }
}

/// Distances and the speeds of light.
public enum Geography {
  /// Mean radius of the Earth, IUGG.
  static let earthRadiusKilometres = 6371.0088
  /// 299,792.458 km/s.
  public static let vacuumKilometresPerMs = 299.792458
  /// In single-mode fibre: group index 1.468 (ITU-T G.652, 1550 nm).
  public static let fibreKilometresPerMs = 299.792458 / 1.468

  /// Haversine formula, on a sphere: within 0.6% of the ellipsoid. Degrees in, kilometres out.
  public static func greatCircleKilometres(
    _ a: (latitude: Double, longitude: Double), _ b: (latitude: Double, longitude: Double)
  ) -> Double {
    let radians = Double.pi / 180
    let halfLatitude = sin((b.latitude - a.latitude) * radians / 2)
    let halfLongitude = sin((b.longitude - a.longitude) * radians / 2)
    let h =
      halfLatitude * halfLatitude
      + cos(a.latitude * radians) * cos(b.latitude * radians) * halfLongitude * halfLongitude
    return 2 * earthRadiusKilometres * asin(min(1, h.squareRoot()))
  }
}
