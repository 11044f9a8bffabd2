import Ground
import Simulation

/// A core that does as it is told and remembers what it saw.
struct ToyCore: SimulatedCore, ~Copyable {
  struct Arrival: Equatable {
    var link: Int
    var number: UInt64
    var arrival, now: Instant
    var length: Int
  }
  var peers: [PeerAddress]
  var rates: [LinkRate]
  /// Sends everything back.
  var echoes = false
  /// Keeps every link as full as it has room for, with datagrams of this many bytes.
  var floodBytes = 0
  var workPerDatagram: UInt64 = 0
  var keepsArrivals = true

  var arrivals: [Arrival] = []
  var received = 0
  var roomCalls = 0
  var wokenCalls = 0
  var deadlines: [Instant] = []
  var next = Instant.never
  var numbers: [UInt64]
  var workNanoseconds: UInt64 = 0
  let incarnation: Int

  init(peers: [PeerAddress], rates: [LinkRate], incarnation: Int = 0) {
    self.peers = peers
    self.rates = rates
    self.incarnation = incarnation
    numbers = [UInt64](repeating: 0, count: peers.count)
  }

  var nextDeadline: Instant { next }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for (i, peer) in peers.enumerated() { sink.assign(LinkID(UInt16(i)), to: peer, rate: rates[i]) }
    if floodBytes > 0 { for i in peers.indices { flood(i, &sink) } }
  }

  @discardableResult
  mutating func send(
    _ link: Int, bytes: Int, urgency: Urgency = .block, flow: FlowID = .none,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let number = numbers[link]
    numbers[link] += 1
    return sink.send(on: LinkID(UInt16(link)), urgency: urgency, flow: flow, capacity: bytes) { span in
      span.storeBytes(of: number, as: UInt64.self)
      return bytes
    }
  }

  mutating func flood(_ link: Int, _ sink: inout some DatagramSink & ~Copyable) {
    while sink.room(on: LinkID(UInt16(link))) >= floodBytes { send(link, bytes: floodBytes, into: &sink) }
  }

  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    received += 1
    workNanoseconds += workPerDatagram
    let link = peers.firstIndex(of: source) ?? -1
    let length = datagram.byteCount
    if keepsArrivals {
      let number = length >= 8 ? datagram.unsafeLoad(as: UInt64.self) : 0
      arrivals.append(Arrival(link: link, number: number, arrival: arrival, now: now, length: length))
    }
    if echoes && link >= 0 { send(link, bytes: length, into: &sink) }
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    deadlines.append(now)
    next = .never
  }
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    roomCalls += 1
    if floodBytes > 0 { flood(Int(link.index), &sink) }
  }
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) { wokenCalls += 1 }
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for i in peers.indices { send(i, bytes: 9, into: &sink) }
  }
}

func address(_ i: Int) -> PeerAddress { PeerAddress(ipv4: 10, 0, UInt8(i >> 8), UInt8(i & 255), port: 8335) }

/// No CPU time anywhere: times are then those of the network alone.
let freeModel: NetworkModel = {
  var model = NetworkModel()
  model.receiveNanoseconds = 0
  model.sendNanoseconds = 0
  model.wakeNanoseconds = 0
  return model
}()

/// `count` nodes, each linked with each other (link numbers skip the node itself).
func mesh(
  _ count: Int, seed: UInt64 = 1, model: NetworkModel = freeModel, rate: LinkRate = .unlimited,
  uplink: LinkRate = .unlimited, path: PathModel = PathModel(delay: .microseconds(10_000)),
  configure: @escaping (Int, inout ToyCore) -> Void = { _, _ in }
) -> Simulation<ToyCore> {
  let simulation = Simulation<ToyCore>(seed: seed, model: model, defaultPath: path)
  for i in 0..<count {
    let peers = (0..<count).filter { $0 != i }.map(address)
    simulation.addNode(address: address(i), uplink: uplink) { incarnation in
      var core = ToyCore(
        peers: peers, rates: [LinkRate](repeating: rate, count: peers.count), incarnation: incarnation)
      configure(i, &core)
      return core
    }
  }
  for i in 0..<count { simulation.start(i) }
  return simulation
}

func milliseconds(_ n: Int64) -> Instant { Instant(nanoseconds: UInt64(n) * 1_000_000) }
