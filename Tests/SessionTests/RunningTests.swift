import Ground
import Session
import Testing
import Wire

struct RunningTests {
  /// Datagrams both ways all the time, jitter up to half a round trip, rekeys by count and by time, begun by either side:
  /// every single one arrives.
  @Test(arguments: [(true, true), (true, false), (false, true)])
  func rekeyUnderFullTrafficLosesNothing(_ knows: (Bool, Bool)) {
    for byCount in [true, false] {
      let network = Network(seed: byCount ? 1 : 2)
      network.jitter = .milliseconds(20 as Int64)
      var settings = SessionSettings()
      settings.rekeyAfterPackets = byCount ? 3_000 : 1 << 24
      settings.rekeyAfter = byCount ? .seconds(120) : .seconds(2)
      let (a, b) = pair(network, firstKnows: knows.0, secondKnows: knows.1, settings: settings)
      network.run(for: .seconds(2)) { a.isUp() && b.isUp() }
      network.run(for: .milliseconds(200 as Int64))
      (a.keepsMessages, b.keepsMessages) = (false, false)
      var sent = 0
      for _ in 0..<10_000 {
        #expect(a.send([1]) && b.send([2]))
        sent += 1
        network.run(for: .milliseconds(1 as Int64))
      }
      network.run(for: .milliseconds(200 as Int64))
      #expect(a.received == sent && b.received == sent)
      #expect(a.rekeys >= 3 && b.rekeys >= 3, "\(a.rekeys) \(b.rekeys)")
      #expect(a.lost(.silent) + a.lost(.expired) + a.lost(.peerRestarted) == 0)
      for counters in [a.table.counters, b.table.counters] {
        #expect(counters.forged == 0 && counters.replayed == 0)
        #expect(counters.unknownSession == 0, "\(counters)")
      }
    }
  }

  /// Both sides begin new keys at the same moment, under traffic, in every order that jitter and lost handshakes make of
  /// it: no message is lost.
  @Test func simultaneousRekeyLosesNothing() {
    for seed in 1...40 as ClosedRange<UInt64> {
      let network = Network(seed: seed)
      let (a, b) = pair(network)
      network.run(for: .seconds(3))
      network.jitter = .milliseconds(30 as Int64)
      network.tap = { [unowned network] _, _, bytes in bytes[0] >= 16 || !network.random.chance(0.2) }
      var sent = 0
      for i in 0..<1_000 {
        if i % 300 == 20 {
          for relay in [a, b] {
            relay.table.setOffer(SessionOffer(features: UInt64(i)), now: network.now, into: &relay.outbox)
          }
        }
        #expect(a.send([1]) && b.send([2]))
        sent += 1
        network.run(for: .milliseconds(3 as Int64))
      }
      network.run(for: .milliseconds(500 as Int64))
      #expect(a.received == sent && b.received == sent, "seed \(seed)")
      #expect(a.rekeys >= 3 && b.rekeys >= 3 && a.count { if case .lost = $0 { true } else { false } } == 0)
      #expect(a.status.parameters == b.status.parameters)
    }
  }

  @Test func withoutRekeyASessionExpires() {
    let network = Network(seed: 3)
    var settings = SessionSettings()
    settings.rekeyAfter = .seconds(5)
    settings.expireAfter = .seconds(10)
    let (a, b) = pair(network, settings: settings)
    network.run(for: .seconds(1))
    network.tap = { _, _, bytes in bytes[0] >= 16 }  // swallow handshakes
    network.run(for: .seconds(12))
    #expect(a.lost(.expired) == 1 && b.lost(.expired) + b.lost(.silent) >= 1)
    #expect(!a.isUp() && !b.isUp())
  }

  /// Sealing stops before a counter could come near its end, whatever the driver does with deadlines.
  @Test func packetLimitIsHard() {
    let network = Network(seed: 4)
    var settings = SessionSettings()
    settings.expireAfterPackets = 100
    let (a, b) = pair(network, settings: settings)
    network.run(for: .seconds(1)) { a.isUp() && b.isUp() }
    var sent = 0
    while a.send([1]) { sent += 1 }
    #expect(sent <= 100 && a.status.sent == 100)
  }

  @Test func addressMovesOnlyAfterAnAuthenticDatagram() {
    let network = Network(seed: 5)
    let (a, b) = pair(network, secondKnows: false)
    network.run(for: .seconds(2))
    // An outsider repeats what a sent, and sends its own, from elsewhere.
    var seen: [[UInt8]] = []
    network.tap = { from, _, bytes in
      if from === a { seen.append(bytes) }
      return true
    }
    network.run(for: .seconds(2))
    network.tap = nil
    for bytes in seen {
      b.receive(bytes, from: address(66), now: network.now)
      var forged = bytes
      forged[8] &+= 100
      b.receive(forged, from: address(66), now: network.now)
    }
    #expect(b.status.address == address(1))
    // An authentic but overtaken datagram doesn't move it either.
    a.send([1])
    let late = a.outbox.datagrams.removeLast().bytes
    a.send([2])
    network.run(for: .milliseconds(100 as Int64))
    b.receive(late, from: address(66), now: network.now)
    #expect(b.received == 2 && b.status.address == address(1))
    // a itself moves: everything follows.
    a.address = address(9, port: 999)
    a.send([3])
    network.run(for: .seconds(2))
    #expect(b.status.address == address(9, port: 999))
    #expect(b.count { if case .moved = $0 { true } else { false } } == 1)
    b.send([4])
    network.run(for: .seconds(20))
    #expect(a.messages.last?.bytes == [4] && a.isUp() && b.isUp() && b.lost(.silent) == 0)
  }

  @Test func clockSamplesGiveRoundTripOffsetAndLoss() {
    let network = Network(seed: 6)
    let (a, b) = pair(network, secondKnows: false)
    network.run(for: .seconds(1))
    var dropped = 0
    network.tap = { [unowned network] from, _, bytes in
      guard from === a, bytes[0] == 16, bytes.count == 33 + 32, network.random.chance(0.25) else { return true }
      dropped += 1
      return false
    }
    for _ in 0..<1_000 {
      a.send([UInt8](repeating: 1, count: 33))
      network.run(for: .milliseconds(1 as Int64))
    }
    network.run(for: .seconds(2))
    var last: ClockSample?
    for (_, event) in a.events {
      guard case .clock(_, let sample) = event else { continue }
      #expect(sample.roundTrip == network.delay * 2)
      // Both clocks are the network's: no offset.
      #expect((sample.peerReceived - sample.sent) + (sample.peerSent - sample.received) == .zero)
      last = sample
    }
    let sample = last!
    #expect(sample.peerHighestCounter + 1 - sample.peerOpened == UInt64(dropped))
    #expect(dropped > 200 && dropped < 300)
    #expect(a.status.leastRoundTrip == network.delay * 2)
  }

  @Test func countersAreSurfacedWithoutGaps() {
    let network = Network(seed: 7)
    let (a, b) = pair(network, secondKnows: false)
    network.run(for: .seconds(1))
    for i in 0..<50 { a.send([UInt8(i)]) }
    network.run(for: .milliseconds(50 as Int64))
    let counters = b.messages.map(\.message.counter)
    #expect(counters == Array(counters[0]..<counters[0] + 50))
    #expect(Set(b.messages.map(\.message.generation)).count == 1)
    #expect(b.status.highestCounter >= counters.last!)
  }

  @Test func sendInPlaceBroadcastAndSegments() {
    let network = Network(seed: 8)
    let keys = identities(4)
    let hub = Relay(keys[0], address(1), seed: 1)
    let leaves = (1...3).map { Relay(keys[$0], address(UInt8($0 + 1)), seed: UInt64($0) + 10) }
    network.relays = [hub] + leaves
    for (i, leaf) in leaves.enumerated() {
      hub.link(UInt16(i), to: leaf, now: network.now)
      leaf.link(to: hub, address: false, now: network.now)
    }
    network.run(for: .seconds(1))
    let ids: [LinkID] = [0, 1, 2, 3].map { LinkID($0) }
    let message = [UInt8](0..<200)
    let queued = hub.table.broadcast(message.span.bytes, to: ids.span, urgency: .block, into: &hub.outbox)
    #expect(queued == 3)
    hub.table.send(on: LinkID(0), urgency: .block, capacity: 5_000, into: &hub.outbox) { plain in
      #expect(plain.byteCount == 1_420)
      plain.withUnsafeMutableBytes { $0.copyBytes(from: [9, 8, 7]) }
      return 3
    }
    let before = hub.status.sent
    hub.table.send(on: LinkID(0), urgency: .block, capacity: 10, into: &hub.outbox) { _ in 0 }
    #expect(hub.status.sent == before)
    #expect(!hub.send([UInt8](repeating: 0, count: 1_421)) && !hub.send([]))
    network.run(for: .milliseconds(30 as Int64))
    for leaf in leaves { #expect(leaf.messages.first?.bytes == message) }
    #expect(leaves[0].messages.last?.bytes == [9, 8, 7])

    // A GRO buffer: equal segments, a forged one among them, and a shorter last one.
    for i in 0..<5 { hub.send([UInt8](repeating: UInt8(i), count: i == 4 ? 20 : 40)) }
    var buffer: [UInt8] = []
    for datagram in hub.outbox.datagrams { buffer += datagram.bytes }
    hub.outbox.datagrams = []
    buffer[72 * 2 + 50] ^= 1
    var got: [[UInt8]] = []
    var span = buffer.mutableSpan
    var raw = span.mutableBytes
    leaves[0].table.receive(
      segments: &raw, of: 72, from: address(1), arrival: network.now, now: network.now, into: &leaves[0].outbox
    ) { message, plain, _ in
      #expect(message.count == plain.byteCount)
      got.append(plain.withUnsafeMutableBytes { Array($0) })
    }
    #expect(got == [0, 1, 3, 4].map { [UInt8](repeating: UInt8($0), count: $0 == 4 ? 20 : 40) })
  }

  /// The same seed gives the same datagrams, byte for byte.
  @Test func runsReplayFromTheirSeed() {
    func trace() -> [[UInt8]] {
      let network = Network(seed: 99)
      network.loss = 0.1
      var all: [[UInt8]] = []
      network.tap = { _, _, bytes in
        all.append(bytes)
        return true
      }
      let (a, b) = pair(network)
      network.run(for: .seconds(5))
      a.send([1])
      b.send([2])
      network.run(for: .seconds(1))
      return all
    }
    let first = trace()
    #expect(first.count > 30 && first == trace())
  }
}
