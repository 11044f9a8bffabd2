import Bitcoin
import Ground
import MemorySink
import NodeBridge
import RealBlocks
import Relay
import Session
import Site

/// Sites joined in memory under a virtual clock: no process, no socket, no thread. Nodes are `FakeNode`s.
final class TestSites {
  struct Packet {
    var at: Instant
    var from: Int
    var to: Int
    var bytes: [UInt8]
  }

  var now = Instant(nanoseconds: 1_000_000_000)
  let count: Int
  let cores: UnsafeMutablePointer<SiteCore>
  let outboxes: [SiteOutbox]
  let identities: [Identity]
  private let sinks: UnsafeMutablePointer<MemorySink>
  private var packets: [Packet] = []
  /// By site and stream; a stream that was asked for and has nobody at its other end stays closed.
  private var nodes: [[StreamID: FakeNode]]
  private var opened: [Set<StreamID>]
  private var available: [[FakeNode]]
  private(set) var events: [[SiteEvent]]
  /// From one site to another.
  var delay: (Int, Int) -> Interval = { _, _ in .milliseconds(2 as Int64) }
  /// How far each site's clock is ahead of the test's, and how many parts per million it goes faster.
  private let clocks: [(ahead: Interval, ppm: Double)]
  var overlay = OverlaySecret(generatedFrom: .predictable(seed: 5))

  /// 2026-11-22.
  static let unixAtZero: Int64 = 1_795_305_600_000_000_000

  /// `nodes[i]` are site i's own nodes, `watched[i]` the public peers it listens to; every site is linked with every
  /// other, or with those that `neighbours` lists.
  init(
    nodes: [[FakeNode]], watched: [[FakeNode]]? = nil, neighbours: [[Int]]? = nil,
    clocks: [(ahead: Interval, ppm: Double)] = [], configure: (Int, inout SiteConfiguration) -> Void = { _, _ in }
  ) {
    count = nodes.count
    let count = nodes.count
    identities = (0..<count).map { Identity(generatedFrom: .predictable(seed: 100 + UInt64($0))) }
    outboxes = (0..<count).map { _ in SiteOutbox() }
    available = (0..<count).map { nodes[$0] + (watched?[$0] ?? []) }
    self.clocks = clocks.isEmpty ? Array(repeating: (.zero, 0), count: count) : clocks
    self.nodes = Array(repeating: [:], count: count)
    opened = Array(repeating: [], count: count)
    events = Array(repeating: [], count: count)
    cores = .allocate(capacity: count)
    sinks = .allocate(capacity: count)
    for site in 0..<count {
      let links = TestSites.links(of: site, count, identities, neighbours?[site])
      var relay = RelayConfiguration(
        identity: identities[site], overlay: overlay, links: links.links, network: .regtest,
        unixNanosecondsAtZero: TestSites.unixAtZero, randomness: .predictable(seed: 7 + UInt64(site)),
        seed: 11 + UInt64(site))
      relay.relays = links.relays
      let own = nodes[site].indices.map { NodeConfiguration(name: "node\($0)", address: TestSites.node($0)) }
      let listened = (watched?[site] ?? []).indices.map {
        NodeConfiguration(
          name: "public\($0)", address: TestSites.node(own.count + $0), role: .watched, mirrorsMempool: false)
      }
      var configuration = SiteConfiguration(
        name: TestSites.name(site), overlayName: "test", relay: relay, names: links.names,
        bridge: BridgeConfiguration(network: .regtest, nodes: own + listened, nonce: 900 + UInt64(site)))
      configure(site, &configuration)
      (cores + site).initialize(
        to: try! SiteCore(configuration, mailbox: SiteMailbox(), outbox: outboxes[site]))
      (sinks + site).initialize(to: MemorySink())
    }
    for site in 0..<count {
      with(site) { core, sink, now in
        core.start(now: now, into: &sink)
        core.streamsReady(now: now, into: &sink)
      }
    }
  }

  deinit {
    cores.deinitialize(count: count)
    sinks.deinitialize(count: count)
    cores.deallocate()
    sinks.deallocate()
  }

  static func name(_ site: Int) -> String { ["alice", "bob", "carol", "dave", "erin"][site] }
  static func address(_ site: Int) -> PeerAddress { PeerAddress(ipv4: 10, 0, 0, UInt8(site), port: 8_000) }
  static func node(_ index: Int) -> PeerAddress { PeerAddress(ipv4: 127, 0, 0, 1, port: UInt16(18_444 + index)) }

  static func links(
    of site: Int, _ count: Int, _ identities: [Identity], _ neighbours: [Int]? = nil
  ) -> SiteLinks {
    let others = neighbours ?? (0..<count).filter { $0 != site }
    return SiteLinks(
      links: others.map {
        RelayLink(id: LinkID(UInt16($0)), peer: identities[$0].publicKey, address: TestSites.address($0))
      },
      names: Dictionary(uniqueKeysWithValues: others.map { (LinkID(UInt16($0)), TestSites.name($0)) }),
      relays: identities.prefix(count).map(\.publicKey))
  }

  /// What a site's clock shows when the test's shows `time`, and the other way round.
  func local(_ site: Int, _ time: Instant) -> Instant {
    let elapsed = Double((time - Instant(nanoseconds: 1_000_000_000)).nanoseconds)
    return time + clocks[site].ahead + Interval(nanoseconds: Int64(elapsed * clocks[site].ppm * 1e-6))
  }
  func global(_ site: Int, _ shown: Instant) -> Instant {
    if shown == .never || shown == .zero { return shown }
    let elapsed = Double((shown - clocks[site].ahead - Instant(nanoseconds: 1_000_000_000)).nanoseconds)
    return Instant(nanoseconds: 1_000_000_000)
      + Interval(nanoseconds: Int64((elapsed / (1 + clocks[site].ppm * 1e-6)).rounded(.up)))
  }

  func with<R>(_ site: Int, _ body: (inout SiteCore, inout MemorySink, Instant) -> R) -> R {
    let shown = local(site, now)
    let result = body(&cores[site], &sinks[site], shown)
    cores[site].streamsTurn(now: shown, into: &sinks[site])
    collect(site)
    return result
  }

  @discardableResult
  func ask(_ site: Int, _ request: SiteRequest) -> SiteReply {
    with(site) { core, sink, now in core.answer(request, now: now, into: &sink) }
  }
  func snapshot(_ site: Int) -> SiteSnapshot { with(site) { core, _, now in core.snapshot(now: now) } }

  private func collect(_ site: Int) {
    for (address, bytes) in sinks[site].sent {
      let to = Int(address.low & 0xFF)
      packets.append(Packet(at: now + delay(site, to), from: site, to: to, bytes: bytes))
    }
    sinks[site].sent.removeAll(keepingCapacity: true)
    events[site] += outboxes[site].take()
  }

  /// One round between a site and its nodes; true when anything was said.
  private func talk(_ site: Int) -> Bool {
    var said = false
    for (stream, address) in sinks[site].connecting {
      sinks[site].connecting[stream] = nil
      said = true
      let index = Int(address.port) - 18_444
      guard available[site].indices.contains(index), available[site][index].isUp else {
        with(site) { core, sink, now in core.streamClosed(stream, error: 111, now: now, into: &sink) }
        continue
      }
      let node = available[site][index]
      node.begin()
      nodes[site][stream] = node
      opened[site].insert(stream)
      with(site) { core, sink, now in core.streamOpened(stream, now: now, into: &sink) }
    }
    for stream in opened[site] {
      guard let node = nodes[site][stream] else { continue }
      if !node.isUp || sinks[site].closed.remove(stream) != nil {
        opened[site].remove(stream)
        nodes[site][stream] = nil
        said = true
        with(site) { core, sink, now in core.streamClosed(stream, error: 104, now: now, into: &sink) }
        continue
      }
      let bytes = sinks[site].written.removeValue(forKey: stream) ?? []
      if !bytes.isEmpty { node.hear(bytes) }
      let answer = node.take()
      if answer.isEmpty { continue }
      said = true
      with(site) { core, sink, now in
        core.streamReceived(answer.span.bytes, on: stream, now: now, into: &sink)
      }
    }
    return said
  }

  /// Runs until `until` holds or `limit` of virtual time is over; true in the first case.
  @discardableResult
  func run(_ limit: Interval, until: () -> Bool = { false }) -> Bool {
    let end = now + limit
    while !until() {
      var said = false
      for site in 0..<count where talk(site) { said = true }
      if said { continue }
      var next = Instant.never
      var who = -1
      for site in 0..<count {
        let deadline = global(site, cores[site].nextDeadline)
        if deadline < next { (next, who) = (deadline, site) }
      }
      let packet = packets.indices.min { packets[$0].at < packets[$1].at }
      if let packet, packets[packet].at <= next {
        if packets[packet].at > end { break }
        var item = packets.remove(at: packet)
        now = max(now, item.at)
        with(item.to) { core, sink, now in
          item.bytes.withUnsafeMutableBytes { bytes in
            var span = MutableRawSpan(_unsafeBytes: bytes)
            core.receive(&span, from: TestSites.address(item.from), arrival: now, now: now, into: &sink)
          }
          core.batchEnded(now: now, into: &sink)
        }
        continue
      }
      if who < 0 || next > end { break }
      // A slice of work takes 50 µs of virtual time.
      now = next > now ? next : now + .microseconds(50)
      with(who) { core, sink, now in core.deadlinePassed(now: now, into: &sink) }
    }
    if until() { return true }
    now = max(now, end)
    return false
  }

  var makers: [SiteJournal.Maker] {
    identities.enumerated().map { SiteJournal.Maker(key: $1.publicKey, name: TestSites.name($0)) }
  }

  func areLinked() -> Bool {
    (0..<count).allSatisfy { snapshot($0).peers.allSatisfy(\.status.isUp) }
  }
}
