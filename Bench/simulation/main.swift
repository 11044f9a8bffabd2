import ArgumentParser
import Ground
import Harness
import Simulation

/// What the simulator itself costs: eight nodes that keep 56 links of 1 Gbit/s full, with losses, and do nothing else.
struct Flood: SimulatedCore, ~Copyable {
  let peers: [PeerAddress]
  var received: UInt64 = 0
  var workNanoseconds: UInt64 { 0 }
  var nextDeadline: Instant { .never }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for (i, peer) in peers.enumerated() {
      sink.assign(LinkID(UInt16(i)), to: peer, rate: LinkRate(bitsPerSecond: 1_000_000_000))
      fill(LinkID(UInt16(i)), &sink)
    }
  }
  func fill(_ link: LinkID, _ sink: inout some DatagramSink & ~Copyable) {
    while sink.room(on: link) >= 1_200 {
      sink.send(on: link, urgency: .block, flow: FlowID(1), capacity: 1_200) { span in
        span.storeBytes(of: received, as: UInt64.self)
        return 1_200
      }
    }
  }
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) { received &+= 1 }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    fill(link, &sink)
  }
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
}

func address(_ i: Int) -> PeerAddress { PeerAddress(ipv4: 10, 0, 0, UInt8(i), port: 8335) }

let options = Options.parseOrExit()
var model = NetworkModel()
// The nodes must keep up with seven gigabits: their own time is not the question here.
model.receiveNanoseconds = 100
model.sendNanoseconds = 100
model.wakeNanoseconds = 100
let simulation = Simulation<Flood>(
  seed: 1, model: model,
  defaultPath: PathModel(delay: .microseconds(50_000), loss: LossModel(rate: 0.01, meanBurst: 4)))
for i in 0..<8 {
  let peers = (0..<8).filter { $0 != i }.map(address)
  simulation.addNode(address: address(i)) { _ in Flood(peers: peers) }
}
for i in 0..<8 { simulation.start(i) }
simulation.run(until: Instant(nanoseconds: 60_000_000))
let sent = { (0..<8).reduce(UInt64(0)) { $0 + simulation.counters(of: $1).sent } }
let before = sent()
let begin = Harness.now()
simulation.run(until: Instant(nanoseconds: 500_000_000))
let seconds = (Harness.now() - begin).seconds
Harness.report("simulation", "packets_per_second", Double(sent() - before) / seconds, "1/s")
Harness.report("simulation", "packets_at_once", Double(simulation.mostDatagrams), "packets")

try benchCosts(blocks: options.block, count: options.blocks, isFit: options.fit)
