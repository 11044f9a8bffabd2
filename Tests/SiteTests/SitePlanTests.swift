import Ground
import Relay
import Session
import Site
import Testing
import Topology

@Suite struct SitePlanTests {
  /// A neighbour's first address of a family that the relay listens on: at its own addresses, or where it was told to.
  @Test func aNeighboursAddressIsOneThatCanBeReached() throws {
    let keys = (1...3).map { Identity(generatedFrom: .predictable(seed: $0)).publicKey }
    let (four, six) = (PeerAddress("198.51.100.2:8335")!, PeerAddress("[2001:db8::2]:8335")!)
    let only = PeerAddress("[2001:db8::3]:8335")!
    var text = "[overlay]\nname = \"test\"\nnetwork = \"regtest\"\n[defaults]\nrate_mbit = 1000\nuplink_mbit = 4000\n"
    for (index, addresses) in ["\"203.0.113.1:8335\"", "\"\(six)\", \"\(four)\"", "\"\(only)\""].enumerated() {
      text += "[[relay]]\nname = \"r\(index)\"\npublic_key = \"\(keys[index])\"\naddresses = [\(addresses)]\n"
      text += "position = [50.11, 8.68]\n"
    }
    text += "[[group]]\nname = \"all\"\nrelays = [\"r0\", \"r1\", \"r2\"]\n"
    let topology = try OverlayTopology(text: text)
    func addresses(_ listen: [String]) throws -> [PeerAddress?] {
      let plan = try SitePlan(topology, as: "r0", key: keys[0], listen: listen.map { PeerAddress($0)! })
      let links = plan.links()
      return ["r1", "r2"].map { name in links.links.first { links.names[$0.id] == name }?.address }
    }
    // One that can't be reached is named all the same when there is no other.
    #expect(try addresses([]) == [four, only])
    #expect(try addresses(["0.0.0.0:8335"]) == [four, only])
    #expect(try addresses(["[::]:8335"]) == [six, only])
    #expect(try addresses(["[2001:db8::1]:8335"]) == [six, only])
    #expect(try addresses(["10.0.0.1:8335", "[2001:db8::1]:8335"]) == [six, only])
  }
}
