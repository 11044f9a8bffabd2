import Ground
import Session
import Testing
import UringSupport
import Wire

/// Takes what a table sends into one buffer and forgets it: allocates nothing.
struct Drain: DatagramSink, ~Copyable {
  let buffer = UnsafeMutableRawPointer.allocate(byteCount: 2_048, alignment: 64)
  var replies = 0
  var repliedBytes = 0
  var sends = 0
  deinit { buffer.deallocate() }

  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {}
  mutating func remove(_ link: LinkID) {}
  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    sends += 1
    _ = fill(capacity, write)
    return true
  }
  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool {
    replies += 1
    repliedBytes += fill(capacity, write)
    return true
  }
  private func fill(_ capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Int {
    var span = MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(start: buffer, count: capacity))
    return write(&span)
  }
  mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  func room(on link: LinkID) -> Int { 1 << 20 }
}

extension Relay {
  /// Hands a datagram to the table without anything of the test's own being allocated.
  func receive(
    _ bytes: UnsafeMutableRawBufferPointer, from source: PeerAddress, now: Instant, into drain: inout Drain
  ) -> SessionInput {
    var span = MutableRawSpan(_unsafeBytes: bytes)
    return table.receive(&span, from: source, arrival: now, now: now, into: &drain)
  }
}

struct HostileTests {
  /// Two pairs of relays, everything they sent each other during handshakes, rekeys and traffic, and datagrams of a that
  /// b hasn't had yet.
  private func scene(settings: SessionSettings = SessionSettings()) -> (
    Network, a: Relay, b: Relay, recorded: [[UInt8]], kept: [[UInt8]]
  ) {
    let network = Network(seed: 77)
    let keys = identities(4)
    let relays = (0..<4).map { Relay(keys[$0], address(UInt8($0 + 1)), seed: UInt64($0) + 50, settings: settings) }
    network.relays = relays
    var recorded: [[UInt8]] = []
    network.tap = { _, _, bytes in
      recorded.append(bytes)
      return true
    }
    for (i, j) in [(0, 1), (2, 3)] {
      relays[i].link(to: relays[j], now: network.now)
      relays[j].link(to: relays[i], now: network.now)
    }
    for round in 0..<4 {
      network.run(for: .seconds(2))
      for relay in relays {
        for n in 0..<40 { relay.send([UInt8](repeating: UInt8(n), count: 1 + n * 35)) }
        if round % 2 == 1 {
          relay.table.setOffer(SessionOffer(features: UInt64(round)), now: network.now, into: &relay.outbox)
        }
      }
    }
    network.run(for: .seconds(2))
    network.tap = nil
    network.flush()
    for n in 0..<100 { relays[0].send([UInt8](repeating: UInt8(n), count: 900)) }
    let kept = relays[0].outbox.datagrams.map(\.bytes)
    relays[0].outbox.datagrams = []
    #expect(Set(recorded.map { $0[0] }) == [1, 2, 3, 16, 17])
    return (network, relays[0], relays[1], recorded, kept)
  }

  @Test func aMillionHostileDatagramsAreRefusedWithoutAllocating() {
    let (network, a, b, recorded, kept) = scene()
    var random = SeededRandom(seed: 4)
    var drain = Drain()
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 2_048, alignment: 64)
    defer { memory.deallocate() }
    var now = network.now
    var accepted = 0
    var byKind = (mutated: 0, replayed: 0, truncated: 0, crossed: 0)
    let (before, countersBefore, statusBefore) = (b.events.count, b.table.counters, b.status)
    // Laid out flat, so that the loop below touches no array of arrays.
    let flat = recorded.flatMap { $0 } + kept.flatMap { $0 }
    var starts = [0]
    for bytes in recorded + kept { starts.append(starts.last! + bytes.count) }
    let pieces = starts.count - 1

    let allocationsBefore = thread_allocations()
    for _ in 0..<1_000_000 {
      let fresh = random.chance(0.3)
      let n = fresh ? recorded.count + random.below(kept.count) : random.below(recorded.count)
      var count = starts[n + 1] - starts[n]
      for j in 0..<count { memory[j] = flat[starts[n] + j] }
      switch random.below(4) {
      case 0:
        for _ in 0...random.below(4) {
          // Half of the changes go into the header.
          let at = random.chance(0.5) ? random.below(min(24, count)) : random.below(count)
          memory[at] ^= 1 << UInt8(random.below(8))
        }
        byKind.mutated += 1
      case 1 where !fresh:
        byKind.replayed += 1
      case 2:
        count = random.below(count)
        byKind.truncated += 1
      default:
        // Another session's datagram under this one's index and a counter not seen yet; or another counter.
        let index = random.below(kept.count) + recorded.count
        for j in 4..<8 { memory[j] = flat[starts[index] + j] }
        let counter = random.next() >> UInt64(random.below(64))
        for j in 0..<8 where count >= 16 { memory[8 + j] = UInt8(truncatingIfNeeded: counter >> UInt64(8 * j)) }
        byKind.crossed += 1
      }
      // What came out as it went in is no attack, if b hasn't had it yet.
      if fresh && count == starts[n + 1] - starts[n] && (0..<count).allSatisfy({ memory[$0] == flat[starts[n] + $0] }) {
        memory[count - 1] ^= 1
      }
      now = now + .microseconds(1)
      let source = address(UInt8(random.below(4) + 1))
      let part = UnsafeMutableRawBufferPointer(rebasing: memory[..<count])
      if case .message = b.receive(part, from: source, now: now, into: &drain) { accepted += 1 }
    }
    let allocated = thread_allocations() - allocationsBefore
    b.drain(now)

    print("hostile datagrams: \(byKind), of \(pieces) recorded ones; allocations \(allocated)")
    #expect(accepted == 0 && allocated == 0)
    #expect(b.table.counters.opened == countersBefore.opened)
    #expect(b.events.count == before, "\(b.events[before...])")
    let status = b.status
    #expect(status.isEstablished && status.generation == statusBefore.generation && status.address == a.address)
    let counters = b.table.counters
    let reasons = [
      counters.malformed - countersBefore.malformed, counters.unknownSession - countersBefore.unknownSession,
      counters.replayed - countersBefore.replayed, counters.forged - countersBefore.forged,
      counters.strangers - countersBefore.strangers, counters.deferred - countersBefore.deferred,
      counters.failedActs - countersBefore.failedActs,
    ]
    print("refused as malformed, unknown session, replayed, forged, strangers, deferred, failed: \(reasons)")
    #expect(reasons.allSatisfy { $0 > 0 })
    // The session is whole: what a sealed before all this opens now, once.
    for bytes in kept { #expect(b.receive(bytes, from: a.address, now: now) != .none) }
    for bytes in kept { #expect(b.receive(bytes, from: a.address, now: now) == .none) }
  }

  /// Handshake acts changed by someone who knows both public keys, so that the first MAC is always right and all the
  /// curve work is done: none changes anything.
  @Test func actsOfAnOutsiderWhoKnowsTheKeysChangeNothing() {
    var settings = SessionSettings()
    settings.strangerActsPerSecond = 1_000_000
    let (network, a, b, recorded, kept) = scene(settings: settings)
    var random = SeededRandom(seed: 5)
    var drain = Drain()
    let key = Mac(label: "lightpath act to", b.identity.publicKey)
    let acts = recorded.filter { $0[0] == 1 || $0[0] == 3 }
    let (before, countersBefore, statusBefore) = (b.events.count, b.table.counters, b.status)
    for i in 0..<6_000 {
      var act = acts[random.below(acts.count)]
      let covered = act.count - 32
      if i % 3 > 0 { act[random.below(covered)] ^= 1 << UInt8(random.below(8)) }
      act.withUnsafeMutableBytes { bytes in
        key.over(bytes.baseAddress!, covered).store(to: bytes.baseAddress! + covered)
        _ = b.receive(bytes, from: address(UInt8(random.below(200))), now: network.now, into: &drain)
      }
    }
    b.drain(network.now)
    #expect(b.table.counters.curveSteps - countersBefore.curveSteps > 2_000)
    #expect(b.table.counters.failedActs - countersBefore.failedActs > 2_000)
    #expect(b.events.count == before && b.status.generation == statusBefore.generation)
    #expect(b.status.address == a.address)
    for bytes in kept { #expect(b.receive(bytes, from: a.address, now: network.now) != .none) }
  }

  /// Act three of a real handshake, kept back, repeated, and let in after a newer handshake: it never counts twice, and
  /// never displaces what came after it.
  @Test func replayedActThreeDisturbsNothing() {
    let network = Network(seed: 6)
    let (a, b) = pair(network, secondKnows: false)
    var actThree: [UInt8] = []
    network.tap = { _, _, bytes in
      if bytes[0] == 3 { actThree = bytes }
      return true
    }
    network.run(for: .seconds(1))
    #expect(a.isUp() && b.isUp() && !actThree.isEmpty)
    let old = actThree
    let generation = b.status.generation
    for _ in 0..<50 { b.receive(old, from: address(66), now: network.now) }
    network.run(for: .seconds(1))
    #expect(b.status.generation == generation && b.status.address == a.address)
    a.table.setOffer(SessionOffer(features: 1), now: network.now, into: &a.outbox)
    network.run(for: .seconds(1))
    #expect(a.rekeys == 1 && b.rekeys == 1)
    for _ in 0..<50 { b.receive(old, from: a.address, now: network.now) }
    a.send([5])
    network.run(for: .seconds(1))
    #expect(b.status.generation == generation + 1 && b.messages.last?.bytes == [5] && b.rekeys == 1)
  }

  @Test func unauthenticatedDatagramsGetNoLongerAnswer() {
    let (network, _, b, recorded, _) = scene()
    for bytes in recorded {
      var drain = Drain()
      var copy = bytes
      copy.withUnsafeMutableBytes { _ = b.receive($0, from: address(99), now: network.now, into: &drain) }
      #expect(drain.repliedBytes <= bytes.count && drain.sends == 0)
    }
  }

  /// Openings from forged addresses by someone who knows our key, far beyond what curve work could keep up with. A peer
  /// whose address is configured and one whose isn't both get in; work and answers stay within the budget.
  @Test(arguments: [2_000, 20_000, 100_000])
  func floodOfOpeningsIsBoundedAndPeersGetIn(_ perSecond: Int) {
    let network = Network(seed: 8)
    let keys = identities(3)
    let b = Relay(keys[0], address(1), seed: 1)
    let known = Relay(keys[1], address(2), seed: 2)
    let roaming = Relay(keys[2], address(3), seed: 3)
    network.relays = [b, known, roaming]
    b.link(0, to: known, now: network.now)
    b.link(1, to: roaming, address: false, now: network.now)
    b.outbox.datagrams = []  // its own opening is lost: the peers have to get in by themselves
    var template = [UInt8](repeating: 0, count: SessionFormat.actOneBytes)
    template[0] = 1
    let key = Mac(label: "lightpath act to", b.identity.publicKey)
    var random = SeededRandom(seed: 9)
    var drain = Drain()
    func flood(_ count: Int) {
      for _ in 0..<count {
        template.withUnsafeMutableBytes { bytes in
          // An ephemeral key that is a point of the curve every other time; never an authentic act.
          for i in stride(from: 10, to: 40, by: 8) {
            bytes.storeBytes(of: random.next(), toByteOffset: i, as: UInt64.self)
          }
          bytes[9] = 2
          key.over(bytes.baseAddress!, bytes.count - 32).store(to: bytes.baseAddress! + bytes.count - 32)
          let source = PeerAddress(high: random.next(), low: random.next(), port: 1)
          _ = b.receive(bytes, from: source, now: network.now, into: &drain)
        }
      }
    }
    let steps = 100
    let slice = Interval(nanoseconds: 1_000_000_000 / Int64(steps))
    flood(perSecond / 2)
    known.link(to: b, now: network.now)
    roaming.link(to: b, now: network.now)
    let start = network.now
    let stepsBefore = b.table.counters.curveSteps
    var knownIn = 0.0
    var roamingIn = 0.0
    while (network.now - start).seconds < 40 && (knownIn == 0 || roamingIn == 0) {
      flood(perSecond / steps)
      network.run(for: slice)
      if knownIn == 0 && known.isUp() { knownIn = (network.now - start).seconds }
      if roamingIn == 0 && roaming.isUp() { roamingIn = (network.now - start).seconds }
    }
    let seconds = (network.now - start).seconds
    let curve = Double(b.table.counters.curveSteps - stepsBefore) / seconds
    print(
      "flood of \(perSecond)/s: \(curve) curve steps/s, \(Double(drain.repliedBytes) / seconds) B/s answered, "
        + "peer at its address in after \(knownIn) s, roaming peer after \(roamingIn) s")
    #expect(knownIn > 0 && knownIn < 3)
    #expect(roamingIn > 0)
    #expect(curve < 600)
    #expect(drain.replies <= Int((seconds + 1) * 1_400) + 200)
  }

  /// A configured peer that begins a new life, or makes an offer that can't fit, with every handshake: it gets one a second,
  /// and in again when it stops.
  @Test(arguments: [SessionOffer(), SessionOffer(versions: 2...3)])
  func aPeerThatFlapsIsPutOff(_ offer: SessionOffer) {
    let network = Network(seed: 11)
    network.delay = .milliseconds(1 as Int64)
    let (a, b) = pair(network, secondKnows: false)
    network.run(for: .seconds(1))
    let before = b.events.count
    for round in 0..<200 as Range<UInt64> {
      a.restart(seed: 100 + round, offer: offer)
      a.link(to: b, now: network.now)
      network.run(for: .milliseconds(50 as Int64))
    }
    let told = b.events[before...].count {
      switch $0.event {
      case .established, .lost, .incompatible: true
      default: false
      }
    }
    // Ten seconds, and eight at once; a restart is two events. One more when the session before ends.
    #expect(told >= 10 && told <= 2 * 19 + 1, "\(told)")
    a.restart(seed: 400)
    a.link(to: b, now: network.now)
    network.run(for: .seconds(5)) { a.isUp() && b.isUp() }
    #expect(a.isUp() && b.isUp())
  }

  @Test func eventsAreBoundedWhenNobodyDrains() {
    let network = Network(seed: 10)
    let (a, b) = pair(network)
    network.run(for: .seconds(1))
    var outbox = Outbox()
    for i in 0..<2_000 {
      a.table.setAddress(LinkID(0), address(UInt8(i & 127)), now: network.now, into: &outbox)
      b.send([1])
    }
    network.flush()
    var now = network.now
    for _ in 0..<2_000 {
      now = now + .milliseconds(100 as Int64)
      a.table.deadlinePassed(now: now, into: &a.outbox)
      var sent = a.outbox.datagrams
      a.outbox.datagrams = []
      while let (_, bytes) = sent.popLast() {
        var copy = bytes
        var span = copy.mutableSpan
        var raw = span.mutableBytes
        _ = b.table.receive(&raw, from: a.address, arrival: now, now: now, into: &b.outbox)
      }
      b.table.deadlinePassed(now: now, into: &b.outbox)
      sent = b.outbox.datagrams
      b.outbox.datagrams = []
      while let (_, bytes) = sent.popLast() {
        var copy = bytes
        var span = copy.mutableSpan
        var raw = span.mutableBytes
        _ = a.table.receive(&raw, from: b.address, arrival: now, now: now, into: &a.outbox)
      }
    }
    #expect(a.table.counters.eventsDropped > 0)
    var left = 0
    while a.table.nextEvent() != nil { left += 1 }
    #expect(left == 256 + 4 * 4)
  }
}
