import Bitcoin
import Ground
import Measurement
import NodeBridge
import Relay
import Session
import Topology

/// What of a topology concerns one relay: its links, its nodes, where it listens.
public struct SitePlan: Sendable {
  public enum Problem: Error, Hashable, Sendable, CustomStringConvertible {
    /// No relay of the topology has that name.
    case unknownRelay(String, known: [String])
    /// The key file's public half is not what the topology says.
    case wrongKey(relay: String, topology: String, file: String, owner: String?)
    /// More neighbours than a relay can have.
    case tooManyLinks(Int)

    public var description: String {
      switch self {
      case .unknownRelay(let name, let known):
        "the topology has no relay '\(name)'; it has: \(known.joined(separator: ", "))"
      case .wrongKey(let relay, let topology, let file, let owner):
        "the key file holds \(file)" + (owner.map { ", the key of '\($0)'" } ?? "")
          + ", but the topology says that '\(relay)' has \(topology): wrong key file, wrong --as, or put the new "
          + "public key into the topology at every site"
      case .tooManyLinks(let count): "\(count) links; a relay has at most \(OverlayTopology.maxLinks)"
      }
    }
  }

  public let topology: OverlayTopology
  public let own: Int
  /// Where the relay listens.
  public let listen: [PeerAddress]

  /// - Parameter listen: empty: at the relay's addresses in the topology.
  public init(
    _ topology: OverlayTopology, as name: String, key: PublicKey, listen: [PeerAddress] = []
  ) throws(Problem) {
    guard let own = topology.relayIndex(named: name) else {
      throw .unknownRelay(name, known: topology.relays.map(\.name))
    }
    let stated = PublicKey(topology.relays[own].publicKey)
    guard stated == key else {
      let owner = topology.relays.first { PublicKey($0.publicKey) == key }?.name
      throw .wrongKey(relay: name, topology: stated.map { "\($0)" } ?? "?", file: "\(key)", owner: owner)
    }
    self.topology = topology
    self.own = own
    let statedAddresses = topology.relays[own].addresses
    self.listen = !listen.isEmpty ? listen : !statedAddresses.isEmpty ? statedAddresses : [PeerAddress("[::]:0")!]
    let count = topology.neighbours(of: own).count
    if count > OverlayTopology.maxLinks { throw .tooManyLinks(count) }
  }

  public var relay: OverlayTopology.Relay { topology.relays[own] }
  public var network: Network { Network(named: topology.network.rawValue) ?? .mainnet }

  /// Whether one of the sockets that the relay has is of the address's family: `[::]` is of both.
  private func reaches(_ address: PeerAddress) -> Bool {
    listen.contains { own in
      own.isIPv4 == address.isIPv4 || !own.isIPv4 && own.high == 0 && own.low == 0
    }
  }

  /// The links, numbered so that a neighbour that was there before keeps its number.
  public func links(keeping before: SiteLinks? = nil) -> SiteLinks {
    let neighbours = topology.neighbours(of: own)
    let relays = topology.relays.compactMap { PublicKey($0.publicKey) }
    var result = SiteLinks(links: [], names: [:], relays: relays)
    var taken = Set<UInt16>()
    var numbers: [Int: UInt16] = [:]
    for neighbour in neighbours {
      let key = PublicKey(topology.relays[neighbour.relay].publicKey)
      if let old = before?.links.first(where: { $0.peer == key }) {
        numbers[neighbour.relay] = old.id.index
        taken.insert(old.id.index)
      }
    }
    for neighbour in neighbours {
      let other = topology.relays[neighbour.relay]
      guard let key = PublicKey(other.publicKey) else { continue }
      let number: UInt16
      if let known = numbers[neighbour.relay] {
        number = known
      } else {
        number = (0..<UInt16(OverlayTopology.maxLinks)).first { !taken.contains($0) } ?? 63
        taken.insert(number)
      }
      let usable = other.addresses.filter(reaches)
      result.links.append(
        RelayLink(
          id: LinkID(number), peer: key,
          // One that nothing could be sent to only when there is no other.
          address: usable.first ?? other.addresses.first, alternates: Array(usable.dropFirst().prefix(3)),
          rate: neighbour.link.rate, isTrusted: neighbour.trust == .trusted, expectedDelay: neighbour.link.delay))
      result.names[LinkID(number)] = other.name
    }
    return result
  }

  /// The site's nodes, as the bridge wants them, then the public peers that it listens to.
  public var nodes: [NodeConfiguration] {
    relay.nodes.map { node in
      var configuration = NodeConfiguration(name: node.name, address: node.p2p)
      configuration.takesUnchecked = !node.checkedOnly
      return configuration
    }
      + relay.watched.map {
        NodeConfiguration(name: $0.name, address: $0.p2p, role: .watched, mirrorsMempool: false)
      }
  }

  /// Every relay of the overlay, for the journal: whose journeys count, and by what name. Light takes the great circle
  /// (`pathFactor` is for guessing the delay of links that state none: true routes may be shorter).
  public var makers: [SiteJournal.Maker] {
    let here = SitePosition(latitude: relay.latitude, longitude: relay.longitude)
    return topology.relays.compactMap { relay in
      let there = SitePosition(latitude: relay.latitude, longitude: relay.longitude)
      return PublicKey(relay.publicKey).map {
        SiteJournal.Maker(key: $0, name: relay.name, light: LightBound.oneWay(there, here))
      }
    }
  }

  /// The neighbours for the journal: what light in a vacuum needs is the least that a packet can.
  public func neighbours(_ links: SiteLinks) -> [SiteJournal.Neighbour] {
    links.links.compactMap { link in
      guard let name = links.names[link.id], let other = topology.relayIndex(named: name) else { return nil }
      return SiteJournal.Neighbour(link: link.id, name: name, leastDelay: topology.lightBound(own, other))
    }
  }
}
