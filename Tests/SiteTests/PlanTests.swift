import Foundation
import Ground
import Measurement
import Relay
import Session
import Site
import Testing
import Topology
import Uring

@Suite struct PlanTests {
  /// What outsiders can have the sessions answer leaves the engine replies for configured peers.
  @Test func aFloodOfOpeningsLeavesReplies() {
    let (sessions, engine) = (SessionSettings(), EngineConfiguration(listen: []))
    let outsiders =
      sessions.cookieRepliesPerSecond + sessions.strangerActsPerSecond + sessions.cookiedActsPerSecond
    #expect(outsiders + 100 <= engine.repliesPerSecond)
  }

  static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appending(path: "topology")

  /// Of a neighbour's addresses all that this relay can send to are tried.
  @Test func aNeighboursOtherAddressesAreKnown() throws {
    let file = Self.folder.appending(path: "two-datacenters.toml")
    var topology = try OverlayTopology(contentsOf: file)
    let other = topology.neighbours(of: 0)[0].relay
    topology.relays[0].addresses = [PeerAddress("192.0.2.1:8335")!]
    topology.relays[other].addresses = ["192.0.2.2:1", "[2001:db8::2]:2", "192.0.2.2:3"].map { PeerAddress($0)! }
    let key = try #require(PublicKey(topology.relays[other].publicKey))
    let plan = try SitePlan(
      topology, as: topology.relays[0].name, key: #require(PublicKey(topology.relays[0].publicKey)))
    let link = try #require(plan.links().links.first { $0.peer == key })
    #expect(link.address == PeerAddress("192.0.2.2:1") && link.alternates == [PeerAddress("192.0.2.2:3")!])
  }

  /// No link of the examples is faster than the bound that its sites measure blocks against, whatever path factor the
  /// file has for links that state no delay.
  @Test(arguments: ["two-datacenters", "six-continents", "six-continents-16", "six-continents-32", "six-continents-64"])
  func noRouteBeatsTheLightBound(_ name: String) throws {
    let topology = try OverlayTopology(contentsOf: Self.folder.appending(path: "\(name).toml"))
    for (number, relay) in topology.relays.enumerated() {
      let plan = try SitePlan(topology, as: relay.name, key: #require(PublicKey(relay.publicKey)))
      let light = Dictionary(uniqueKeysWithValues: plan.makers.map { ($0.name, $0.light) })
      for (other, link, _) in topology.neighbours(of: number) where link.isDelayConfigured {
        let bound = try #require(light[topology.relays[other].name] ?? nil)
        #expect(bound <= link.delay, "\(relay.name) to \(topology.relays[other].name)")
      }
    }
  }
}
