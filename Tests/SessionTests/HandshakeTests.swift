import Ground
import Session
import Testing
import Wire

/// Two relays that are configured with each other.
func pair(
  _ network: Network, firstKnows: Bool = true, secondKnows: Bool = true, settings: SessionSettings = SessionSettings(),
  offers: (SessionOffer, SessionOffer) = (SessionOffer(), SessionOffer()),
  overlays: (OverlaySecret?, OverlaySecret?) = (nil, nil), networks: (String, String) = ("test", "test")
) -> (Relay, Relay) {
  let keys = identities(2, seed: network.random.next())
  let a = Relay(
    keys[0], address(1), seed: network.random.next(), network: networks.0, overlay: overlays.0, offer: offers.0,
    settings: settings)
  let b = Relay(
    keys[1], address(2), seed: network.random.next(), network: networks.1, overlay: overlays.1, offer: offers.1,
    settings: settings)
  network.relays = [a, b]
  a.link(to: b, address: firstKnows, now: network.now)
  b.link(to: a, address: secondKnows, now: network.now)
  return (a, b)
}

extension Relay {
  var status: LinkStatus { table.status(of: LinkID(0))! }
  func lost(_ loss: SessionLoss) -> Int { count { if case .lost(_, loss) = $0 { true } else { false } } }
  var rekeys: Int { count { if case .rekeyed = $0 { true } else { false } } }
}

struct HandshakeTests {
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
    #expect(a.status.roundTrip == network.delay * 2)
    #expect(a.status.parameters == b.status.parameters)
  }

  /// A peer with several addresses is found at whichever it answers, and again when it comes back at another.
  @Test(arguments: 0..<4) func everyAddressIsTried(_ right: Int) throws {
    let network = Network(seed: 12)
    let keys = identities(2)
    let addresses = (2...5).map { address($0) }
    let a = Relay(keys[0], address(1), seed: 1)
    let b = Relay(keys[1], addresses[right], seed: 2)
    network.relays = [a, b]
    try a.table.addLink(
      LinkID(0), peer: b.identity.publicKey, address: addresses[0], alternates: Array(addresses.dropFirst()),
      now: network.now, into: &a.outbox)
    b.link(to: a, address: false, now: network.now)
    network.run(for: .seconds(10)) { a.isUp() && b.isUp() }
    #expect(a.isUp() && b.isUp() && a.status.address == addresses[right])
    b.restart(seed: 3)
    b.address = addresses[(right + 3) % 4]
    b.link(to: a, address: false, now: network.now)
    network.run(for: .seconds(20)) { b.isUp() }
    #expect(b.isUp() && a.status.address == b.address)
    // Told anew where it is, this side begins there.
    a.table.setAddress(LinkID(0), address(9), alternates: [b.address], now: network.now, into: &a.outbox)
    b.restart(seed: 4)
    b.link(to: a, address: false, now: network.now)
    network.run(for: .seconds(20)) { b.isUp() }
    #expect(b.isUp() && a.status.address == b.address)
  }

  /// 30% loss, 10% duplicates, order shuffled over two delays; one side knowing the address, the other, or both: all of
  /// 400 runs come up, in at most `mostRoundTrips` of the longest round trip, and carry messages both ways.
  @Test func comesUpUnderLossDuplicationAndReordering() {
    let mostRoundTrips = 60.0
    var worst = 0.0
    var all: [Double] = []
    for seed in 1...400 as ClosedRange<UInt64> {
      let network = Network(seed: seed)
      network.loss = 0.3
      network.duplication = 0.1
      network.jitter = network.delay
      let (a, b) = pair(network, firstKnows: seed % 3 != 0, secondKnows: seed % 3 != 1)
      let start = network.now
      network.run(for: .seconds(60)) { a.isUp() && b.isUp() }
      #expect(a.isUp() && b.isUp(), "seed \(seed)")
      let roundTrip = (network.delay + network.jitter) * 2
      let taken = (network.now - start).seconds / roundTrip.seconds
      all.append(taken)
      worst = max(worst, taken)
      for i in 0..<40 {
        a.send([UInt8(i)])
        b.send([UInt8(i)])
      }
      network.run(for: .seconds(1))
      #expect(a.received > 0 && b.received > 0, "seed \(seed)")
      #expect(a.table.counters.forged == 0 && b.table.counters.forged == 0)
    }
    all.sort()
    print("handshakes at 30% loss: median \(all[200]), 99th of 100 \(all[396]), worst \(worst) round trips of 80 ms")
    #expect(worst <= mostRoundTrips)
  }

  /// Both open at the same time, in every order that the network makes of it: both end up sending under the same keys,
  /// and nothing that was sent on an established session is lost.
  @Test func simultaneousOpeningEndsTheSameWayOnBothSides() {
    for seed in 1...200 as ClosedRange<UInt64> {
      let network = Network(seed: seed)
      network.jitter = .milliseconds(60 as Int64)
      network.loss = seed % 2 == 0 ? 0.2 : 0
      let (a, b) = pair(network)
      network.run(for: .seconds(20)) { a.isUp() && b.isUp() }
      network.loss = 0
      network.run(for: .seconds(2))
      // What a sends is opened in b's newest session and the other way round: both counts go up by exactly what is sent.
      let (sentBefore, openedBefore) = (a.status.sent, b.status.opened)
      let (sentBack, openedBack) = (b.status.sent, a.status.opened)
      for _ in 0..<10 {
        a.send([1])
        b.send([1])
      }
      let pings = (a.status.sent - sentBefore - 10, b.status.sent - sentBack - 10)
      network.run(for: .milliseconds(90 as Int64))
      #expect(b.status.opened >= openedBefore + 10 + pings.0, "seed \(seed)")
      #expect(a.status.opened >= openedBack + 10 + pings.1, "seed \(seed)")
      #expect(a.received == 10 && b.received == 10, "seed \(seed)")
    }
  }

  @Test(arguments: [(true, true), (true, false), (false, true)], [0, 1])
  func restartOfEitherSideRecoversInAboutASecond(_ knows: (Bool, Bool), _ who: Int) {
    for seed in 1...20 as ClosedRange<UInt64> {
      let network = Network(seed: seed)
      let (a, b) = pair(network, firstKnows: knows.0, secondKnows: knows.1)
      network.run(for: .seconds(5))
      #expect(a.isUp() && b.isUp())
      let (gone, stays) = who == 0 ? (a, b) : (b, a)
      gone.restart(seed: seed + 100)
      gone.events = []
      gone.link(to: stays, address: who == 0 ? knows.0 : knows.1, now: network.now)
      let start = network.now
      network.run(for: .seconds(20)) { gone.isUp() && stays.lost(.peerRestarted) == 1 }
      #expect((network.now - start).seconds <= 1.2, "took \((network.now - start).seconds) s")
      gone.send([7])
      stays.send([8])
      network.run(for: .milliseconds(100 as Int64))
      #expect(stays.messages.last?.bytes == [7] && gone.messages.last?.bytes == [8])
      #expect(stays.lost(.silent) == 0)
    }
  }

  @Test func silentPeerIsLostWithinSecondsAndFoundAgain() {
    let network = Network(seed: 5)
    let (a, b) = pair(network, secondKnows: false)
    network.run(for: .seconds(5))
    let cut = network.now
    network.loss = 1
    network.run(for: .seconds(30)) { a.lost(.silent) == 1 && b.lost(.silent) == 1 }
    #expect((network.now - cut).seconds < 4)
    #expect(!a.isUp() && !b.isUp() && !a.send([1]))
    network.run(for: .seconds(300))
    network.loss = 0
    let back = network.now
    network.run(for: .seconds(30)) { a.isUp() && b.isUp() }
    #expect((network.now - back).seconds < 1.5)
  }

  @Test func goodbyeEndsTheSessionAtOnce() {
    let network = Network(seed: 6)
    let (a, b) = pair(network)
    network.run(for: .seconds(2))
    a.table.stop(now: network.now, into: &a.outbox)
    network.run(for: network.delay + .milliseconds(1 as Int64))
    #expect(b.lost(.closed) == 1 && !a.isUp() && !b.isUp())
    #expect(a.table.nextDeadline == .never)
  }

  @Test func removedLinkEndsAtOnceAndIsRefusedAfterwards() {
    let network = Network(seed: 7)
    let (a, b) = pair(network)
    network.run(for: .seconds(2))
    b.send([1])
    network.flush()
    a.table.removeLink(LinkID(0), now: network.now, into: &a.outbox)
    a.drain(network.now)
    #expect(a.lost(.removed) == 1 && !a.isUp())
    network.run(for: .seconds(20))
    #expect(a.received == 0 && a.table.counters.unknownPeers > 0 && !b.isUp())
    #expect(a.count { if case .unknownPeer(b.identity.publicKey, _) = $0 { true } else { false } } > 0)
  }

  @Test func unconfiguredKeyIsRefusedWhateverItProves() {
    let network = Network(seed: 8)
    let keys = identities(3)
    let a = Relay(keys[0], address(1), seed: 1)
    let b = Relay(keys[1], address(2), seed: 2)
    let c = Relay(keys[2], address(3), seed: 3)
    network.relays = [a, b, c]
    a.link(to: b, now: network.now)
    b.link(to: a, now: network.now)
    c.link(to: a, now: network.now)
    network.run(for: .seconds(10))
    #expect(a.isUp() && b.isUp() && !c.isUp())
    #expect(a.table.counters.unknownPeers > 0)
  }

  @Test func otherNetworkNeverComesUp() {
    let network = Network(seed: 9)
    let (a, b) = pair(network, networks: ("main", "test"))
    network.run(for: .seconds(10))
    #expect(!a.isUp() && !b.isUp())
    #expect(a.table.counters.failedActs + b.table.counters.failedActs > 0)
  }

  @Test func linksAreCheckedWhenAdded() {
    let keys = identities(3)
    let a = Relay(keys[0], address(1), seed: 1, capacity: 2)
    func add(_ i: UInt16, _ key: Identity) throws(LinkError) {
      try a.table.addLink(LinkID(i), peer: key.publicKey, address: nil, now: .zero, into: &a.outbox)
    }
    #expect(throws: LinkError.noRoom(capacity: 2)) { try add(2, keys[1]) }
    #expect(throws: LinkError.ownKey) { try add(0, keys[0]) }
    #expect(throws: Never.self) { try add(0, keys[1]) }
    #expect(throws: LinkError.taken) { try add(0, keys[2]) }
    #expect(throws: LinkError.duplicatePeer(LinkID(0))) { try add(1, keys[1]) }
    #expect(a.table.link(of: keys[1].publicKey) == LinkID(0))
    #expect(a.table.link(of: keys[2].publicKey) == nil)
  }
}
