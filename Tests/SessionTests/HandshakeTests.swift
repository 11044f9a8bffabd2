import Ground
import Session
import Testing
import Wire

struct HandshakeTests {
  /// Two relays; both know where the other is unless told otherwise.
  private func pair(_ network: Network, firstKnows: Bool = true, secondKnows: Bool = true) -> (Relay, Relay) {
    let keys = identities(2, seed: network.random.next())
    let a = Relay(keys[0], address(1), seed: network.random.next())
    let b = Relay(keys[1], address(2), seed: network.random.next())
    network.relays = [a, b]
    a.link(to: b, address: firstKnows, now: network.now)
    b.link(to: a, address: secondKnows, now: network.now)
    return (a, b)
  }

  @Test func comesUpInTwoRoundTripsAndCarriesMessages() {
    let network = Network(seed: 1)
    let (a, b) = pair(network, secondKnows: false)
    let start = network.now
    network.run(for: .seconds(1)) { a.isUp() && b.isUp() }
    #expect(a.establishedAt == start + network.delay * 4)
    #expect(b.establishedAt == start + network.delay * 5)
    a.send([1, 2, 3])
    b.send([4, 5])
    network.run(for: .seconds(1))
    #expect(b.messages.map(\.bytes) == [[1, 2, 3]])
    #expect(a.messages.map(\.bytes) == [[4, 5]])
    #expect(a.table.status(of: LinkID(0))?.roundTrip == network.delay * 2)
  }
}
