import Ground
import Session
import Wire

/// What a table sent, by address. Stands in for a driver: keeps the links' addresses and queues bytes.
struct Outbox: DatagramSink, ~Copyable {
  var addresses: [UInt16: PeerAddress] = [:]
  var datagrams: [(to: PeerAddress, bytes: [UInt8])] = []
  var replies = 0
  var limit = Int.max

  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) { addresses[link.index] = address }
  mutating func remove(_ link: LinkID) { addresses[link.index] = nil }

  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    guard let address = addresses[link.index] else { return false }
    return queue(address, capacity, write)
  }

  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool {
    replies += 1
    return queue(address, capacity, write)
  }

  private mutating func queue(
    _ address: PeerAddress, _ capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    if datagrams.count >= limit { return false }
    var bytes = [UInt8](repeating: 0, count: capacity)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    let count = write(&raw)
    if count == 0 { return true }
    bytes.removeLast(capacity - count)
    datagrams.append((address, bytes))
    return true
  }

  mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  func room(on link: LinkID) -> Int { 1 << 20 }
}

/// One relay of a test: a table, its outbox, its address, and what came of it.
final class Relay {
  var table: SessionTable
  var outbox = Outbox()
  var address: PeerAddress
  let identity: Identity
  var events: [(at: Instant, event: SessionEvent)] = []
  var messages: [(message: SessionMessage, bytes: [UInt8])] = []
  /// Off: only counts.
  var keepsMessages = true
  var received = 0

  init(
    _ identity: Identity, _ address: PeerAddress, seed: UInt64, network: String = "test",
    overlay: OverlaySecret? = nil, offer: SessionOffer = SessionOffer(), capacity: Int = 4,
    settings: SessionSettings = SessionSettings()
  ) {
    self.identity = identity
    self.address = address
    table = SessionTable(
      identity: identity, network: network, overlay: overlay, offer: offer, capacity: capacity, settings: settings,
      random: .predictable(seed: seed))
  }

  /// As after a crash: same key and address, nothing else.
  func restart(seed: UInt64, offer: SessionOffer = SessionOffer(), settings: SessionSettings = SessionSettings()) {
    table = SessionTable(
      identity: identity, network: "test", offer: offer, capacity: 4, settings: settings,
      random: .predictable(seed: seed))
    outbox = Outbox()
  }

  func link(_ index: UInt16 = 0, to peer: Relay, address known: Bool = true, now: Instant) {
    try! table.addLink(
      LinkID(index), peer: peer.identity.publicKey, address: known ? peer.address : nil, now: now, into: &outbox)
  }

  @discardableResult
  func receive(_ bytes: [UInt8], from source: PeerAddress, now: Instant) -> SessionInput {
    var copy = bytes
    var span = copy.mutableSpan
    var raw = span.mutableBytes
    let input = table.receive(&raw, from: source, arrival: now, now: now, into: &outbox)
    if case .message(let message) = input {
      received += 1
      if keepsMessages { messages.append((message, Array(copy[message.range]))) }
    }
    drain(now)
    return input
  }

  func tick(_ now: Instant) {
    if table.nextDeadline <= now { table.deadlinePassed(now: now, into: &outbox) }
    drain(now)
  }

  func drain(_ now: Instant) { while let event = table.nextEvent() { events.append((now, event)) } }

  @discardableResult
  func send(_ bytes: [UInt8], on link: UInt16 = 0) -> Bool {
    table.send(bytes.span.bytes, on: LinkID(link), urgency: .block, into: &outbox)
  }

  func isUp(_ link: UInt16 = 0) -> Bool { table.isEstablished(LinkID(link)) }

  var establishedAt: Instant? {
    for (at, event) in events { if case .established = event { return at } }
    return nil
  }
  func count(_ matches: (SessionEvent) -> Bool) -> Int { events.count { matches($0.event) } }
}

/// Virtual time and datagrams under way, with loss, duplication and reordering from a seed.
final class Network {
  var now = Instant(nanoseconds: 1_000_000_000)
  var random: SeededRandom
  var loss = 0.0
  var duplication = 0.0
  /// One-way delay: at least this, and up to `jitter` more, drawn for each datagram.
  var delay = Interval.milliseconds(20 as Int64)
  var jitter = Interval.zero
  var relays: [Relay] = []
  /// Sees each datagram as it is sent; false swallows it.
  var tap: ((_ from: Relay, _ to: PeerAddress, _ bytes: [UInt8]) -> Bool)?
  var carried = 0
  private var underWay: [(at: Instant, order: Int, to: PeerAddress, from: PeerAddress, bytes: [UInt8])] = []
  private var order = 0

  init(seed: UInt64) { random = SeededRandom(seed: seed) }

  func flush() {
    for relay in relays {
      let sent = relay.outbox.datagrams
      relay.outbox.datagrams.removeAll(keepingCapacity: true)
      for (to, bytes) in sent {
        if let tap, !tap(relay, to, bytes) { continue }
        for _ in 0..<(random.chance(duplication) ? 2 : 1) where !random.chance(loss) {
          let extra = jitter.nanoseconds > 0 ? Int64(random.below(Int(jitter.nanoseconds))) : 0
          underWay.append((now + delay + Interval(nanoseconds: extra), order, to, relay.address, bytes))
          order += 1
        }
      }
    }
    underWay.sort { ($0.at, $0.order) > ($1.at, $1.order) }
  }

  /// Runs until `end`, or until `done`.
  func run(for span: Interval, until done: () -> Bool = { false }) {
    let end = now + span
    flush()
    while !done() {
      var next = end
      for relay in relays { next = min(next, relay.table.nextDeadline) }
      if let first = underWay.last { next = min(next, first.at) }
      now = max(now, next)
      if now >= end {
        now = end
        return
      }
      while let first = underWay.last, first.at <= now {
        underWay.removeLast()
        carried += 1
        relays.first { $0.address == first.to }?.receive(first.bytes, from: first.from, now: now)
      }
      for relay in relays { relay.tick(now) }
      flush()
    }
  }
}

func address(_ n: UInt8, port: UInt16 = 8_400) -> PeerAddress { PeerAddress(ipv4: 10, 0, 0, n, port: port) }

/// Keys in a fixed order, so that which side gives in is known.
func identities(_ count: Int, seed: UInt64 = 1) -> [Identity] {
  (0..<count).map { Identity(generatedFrom: .predictable(seed: seed &* 1_000 &+ UInt64($0))) }
    .sorted { $0.publicKey.description < $1.publicKey.description }
}
