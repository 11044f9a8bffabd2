import Foundation
import Ground
import Simulation
import Testing

@Suite struct NetworkTests {
  let gigabit = LinkRate(bitsPerSecond: 1_000_000_000)

  @Test func aDatagramTakesSerialisationAndDelayExactly() {
    let simulation = mesh(2, rate: gigabit)
    simulation.perform(on: 0) { core, _, sink in core.send(0, bytes: 1_222, into: &sink) }
    simulation.run(until: milliseconds(100))
    // 1,222 + 28 bytes at 1 Gbit/s are 10,000 ns; then 10 ms.
    let arrivals = simulation.inspect(1) { $0.arrivals } ?? []
    #expect(arrivals.map(\.arrival.nanoseconds) == [10_010_000])
    #expect(arrivals.map(\.now) == arrivals.map(\.arrival))
    #expect(simulation.now == milliseconds(100))
  }

  @Test func aLinkKeepsItsRateAndOrder() {
    let simulation = mesh(2, rate: LinkRate(bitsPerSecond: 10_000_000))
    simulation.perform(on: 0) { core, _, sink in
      for _ in 0..<1_000 { core.send(0, bytes: 1_222, into: &sink) }
    }
    simulation.run(until: milliseconds(5_000))
    let arrivals = simulation.inspect(1) { $0.arrivals } ?? []
    #expect(arrivals.map(\.number) == Array(0..<1_000))
    // 10,000 bits at 10 Mbit/s: one a millisecond.
    #expect(arrivals.last?.arrival.nanoseconds == 10_000_000 + 1_000 * 1_000_000)
    #expect(simulation.pathCounters(from: 0, to: 1).bytes == 1_222_000)
  }

  @Test func linksOfASiteShareItsUplinkInTurn() {
    let simulation = mesh(3, rate: gigabit, uplink: gigabit)
    simulation.perform(on: 0) { core, _, sink in
      for _ in 0..<100 { core.send(0, bytes: 1_222, into: &sink) }
      for _ in 0..<100 { core.send(1, bytes: 1_222, into: &sink) }
    }
    simulation.run(until: milliseconds(100))
    let first = simulation.inspect(1) { $0.arrivals.map(\.arrival.nanoseconds) } ?? []
    let second = simulation.inspect(2) { $0.arrivals.map(\.arrival.nanoseconds) } ?? []
    // Together they take what one link alone would have: 200 datagrams of 10 µs, alternating.
    #expect(max(first.last ?? 0, second.last ?? 0) == 10_000_000 + 200 * 10_000)
    #expect(zip(first, second).allSatisfy { abs(Int($0) - Int($1)) == 10_000 })
  }

  @Test func theUrgentOvertake() {
    let simulation = mesh(2, rate: LinkRate(bitsPerSecond: 10_000_000))
    simulation.perform(on: 0) { core, _, sink in
      for _ in 0..<50 { core.send(0, bytes: 1_000, urgency: .background, into: &sink) }
    }
    simulation.at(milliseconds(5)) { simulation in
      simulation.perform(on: 0) { core, _, sink in core.send(0, bytes: 20, urgency: .control, into: &sink) }
    }
    simulation.run(until: milliseconds(500))
    let numbers = simulation.inspect(1) { $0.arrivals.map(\.number) } ?? []
    #expect(numbers.count == 51)
    #expect((numbers.firstIndex(of: 50) ?? 99) <= 8)
  }

  @Test(arguments: [(0.01, 4.0), (0.05, 4.0), (0.2, 10.0), (0.01, 1.0), (0.3, 1.0)])
  func lossesHaveTheRateAndTheBurstsAskedFor(_ rate: Double, _ burst: Double) {
    let path = PathModel(delay: .microseconds(1), loss: LossModel(rate: rate, meanBurst: burst))
    let simulation = mesh(2, path: path)
    let total = 400_000
    for round in 0..<total / 4_000 {
      simulation.at(milliseconds(Int64(round))) { simulation in
        simulation.perform(on: 0) { core, _, sink in
          for _ in 0..<4_000 { core.send(0, bytes: 16, into: &sink) }
        }
      }
    }
    simulation.run(until: milliseconds(1_000))
    let arrived = simulation.inspect(1) { $0.arrivals.map { Int($0.number) } } ?? []
    let lost = total - arrived.count
    #expect(UInt64(lost) == simulation.pathCounters(from: 0, to: 1).lost)
    // Five standard errors of a bursty chain's mean: variance grows with the bursts.
    let mean = burst <= 1 ? 1 / (1 - rate) : burst
    let error = 5 * (rate * (1 - rate) / Double(total) * 2 * mean).squareRoot()
    #expect(abs(Double(lost) / Double(total) - rate) < error, "\(Double(lost) / Double(total))")
    var bursts = 0
    for (a, b) in zip([-1] + arrived, arrived + [total]) where b - a > 1 { bursts += 1 }
    let measured = Double(lost) / Double(bursts)
    #expect(abs(measured - mean) / mean < 5 / Double(bursts).squareRoot(), "\(measured)")
  }

  @Test func jitterKeepsOrderAndHoldingBackBreaksIt() {
    let jitter = mesh(2, rate: gigabit, path: PathModel(delay: .microseconds(100), jitter: .microseconds(500)))
    let held = mesh(
      2, rate: gigabit,
      path: PathModel(delay: .microseconds(100), reorder: 0.1, reorderDelay: .microseconds(300), duplicate: 0.05))
    for simulation in [jitter, held] {
      simulation.perform(on: 0) { core, _, sink in
        for _ in 0..<2_000 { core.send(0, bytes: 1_000, into: &sink) }
      }
      simulation.run(until: milliseconds(1_000))
    }
    let inOrder = jitter.inspect(1) { $0.arrivals.map(\.number) } ?? []
    #expect(inOrder == Array(0..<2_000))
    let numbers = held.inspect(1) { $0.arrivals.map(\.number) } ?? []
    #expect(Set(numbers) == Set(0..<2_000))
    let counters = held.pathCounters(from: 0, to: 1)
    #expect(numbers.count == 2_000 + Int(counters.duplicated))
    #expect((60...140).contains(counters.duplicated))
    #expect((150...260).contains(counters.heldBack))
    let overtaken = zip(numbers, numbers.dropFirst()).count { $0 > $1 }
    #expect(overtaken > 100)
  }

  @Test func fullQueuesRefuseAndFlowsAreDropped() {
    var model = freeModel
    model.maxQueued = 100
    let simulation = mesh(2, model: model, rate: LinkRate(bitsPerSecond: 1_000_000))
    simulation.perform(on: 0) { core, _, sink in
      var accepted = 0
      for i in 0..<150 where core.send(0, bytes: 1_000, flow: FlowID(i % 2 == 0 ? 7 : 8), into: &sink) { accepted += 1 }
      #expect(accepted == 100)
      #expect(sink.room(on: LinkID(0)) == 0)
      #expect(sink.drop(flow: FlowID(7), on: LinkID(0)) == 50)
      #expect(sink.drop(flow: .none, on: LinkID(0)) == 0)
      #expect(!sink.send(on: LinkID(5), urgency: .block, flow: .none, capacity: 9) { _ in 9 })
    }
    simulation.run(until: milliseconds(2_000))
    let numbers = simulation.inspect(1) { $0.arrivals.map(\.number) } ?? []
    #expect(numbers == (0..<100).filter { $0 % 2 == 1 }.map(UInt64.init))
    #expect(simulation.counters(of: 0).refused >= 50)
    #expect(simulation.counters(of: 0).dropped == 50)
    #expect(simulation.datagramsInUse == 0)
  }

  @Test func aFloodingCoreFillsItsLinkThroughRoomAlone() {
    let simulation = mesh(2, rate: gigabit) { i, core in
      core.floodBytes = i == 0 ? 1_222 : 0
      core.keepsArrivals = false
    }
    simulation.run(until: milliseconds(1_010))
    // One second of arrivals at 100,000 a second, none lost to pauses between refills.
    let received = simulation.inspect(1) { $0.received } ?? 0
    #expect((99_900...100_001).contains(received), "\(received)")
    #expect((simulation.inspect(0) { $0.roomCalls } ?? 0) > 1_000)
    // The queue never grew beyond its target: 25,000 bytes are 20 datagrams, and some were under way.
    #expect(simulation.mostDatagrams < 20 + 1_002 + 30)
  }

  @Test func cutsCrashesAndRestarts() {
    let simulation = mesh(3, rate: gigabit) { _, core in core.echoes = false }
    func sendAll(_ simulation: Simulation<ToyCore>) {
      simulation.perform(on: 0) { core, _, sink in
        core.send(0, bytes: 100, into: &sink)
        core.send(1, bytes: 100, into: &sink)
      }
    }
    simulation.partition([1], true)
    sendAll(simulation)
    simulation.run(until: milliseconds(50))
    #expect(simulation.inspect(1) { $0.received } == 0)
    #expect(simulation.inspect(2) { $0.received } == 1)
    #expect(simulation.pathCounters(from: 0, to: 1).cut == 1)
    simulation.partition([1], false)
    sendAll(simulation)
    simulation.run(until: milliseconds(100))
    #expect(simulation.inspect(1) { $0.received } == 1)
    // Under way when the node dies, and to a dead node: gone.
    sendAll(simulation)
    simulation.run(until: milliseconds(105))
    simulation.crash(1)
    #expect(!simulation.isUp(1))
    simulation.run(until: milliseconds(150))
    #expect(simulation.inspect(1) { $0.received } == nil)
    simulation.start(1)
    sendAll(simulation)
    simulation.run(until: milliseconds(200))
    #expect(simulation.inspect(1) { [$0.received, $0.incarnation] } == [1, 1])
    #expect(simulation.inspect(2) { $0.received } == 4)
    // A graceful end says goodbye.
    simulation.stop(1)
    simulation.run(until: milliseconds(400))
    #expect(!simulation.isUp(1))
    #expect(simulation.inspect(2) { $0.received } == 5)
    #expect(simulation.datagramsInUse == 0)
  }

  @Test func clocksAreSkewedAndDeadlinesFollowThem() {
    let clock = ClockModel(offset: .microseconds(5_000_000), driftPpb: 100_000)
    let simulation = mesh(2)
    simulation.setClock(of: 1, clock)
    simulation.run(until: milliseconds(10_000))
    // 10 s, 100 parts in a million fast, 5 s ahead.
    #expect(simulation.localTime(of: 1) == Instant(nanoseconds: 15_001_000_000))
    #expect(simulation.trueTime(of: simulation.localTime(of: 1), at: 1) == simulation.now)
    simulation.perform(on: 1) { core, now, _ in core.next = now + .microseconds(1_000_000) }
    simulation.run(until: milliseconds(10_999))
    #expect(simulation.inspect(1) { $0.deadlines } == [])
    simulation.run(until: milliseconds(11_001))
    let fired = simulation.inspect(1) { $0.deadlines } ?? []
    #expect(fired.count == 1)
    #expect(abs((fired[0] - Instant(nanoseconds: 16_001_000_000)).nanoseconds) <= 2)
  }

  @Test func workTakesTimeAndTheBusyLetOthersWait() {
    var model = freeModel
    model.maxInbox = 20
    model.maxBatch = 4
    let simulation = mesh(2, model: model, rate: .unlimited) { i, core in
      core.workPerDatagram = i == 1 ? 1_000_000 : 0
      core.echoes = i == 1
    }
    simulation.perform(on: 0) { core, _, sink in for _ in 0..<100 { core.send(0, bytes: 64, into: &sink) } }
    simulation.run(until: milliseconds(1_000))
    // The first is taken at once, twenty wait, the rest find the buffer full.
    #expect(simulation.counters(of: 1).overflowed == 79)
    let nows = simulation.inspect(1) { $0.arrivals.map(\.now.nanoseconds) } ?? []
    #expect(nows == (0..<21).map { 10_000_000 + UInt64($0) * 1_000_000 })
    // Echoes leave when the run that made them is over: the first after 1 ms, then four at a time.
    let back = simulation.inspect(0) { $0.arrivals.map(\.arrival.nanoseconds) } ?? []
    #expect(back.first == 10_000_000 + 1_000_000 + 10_000_000)
    #expect(back.dropFirst().first == 10_000_000 + 5_000_000 + 10_000_000)
    #expect(simulation.counters(of: 1).busyNanoseconds == 21_000_000)
  }

  @Test func wakesAndRepliesAndForgeries() {
    var model = freeModel
    model.repliesPerSecond = 3
    let simulation = mesh(2, model: model)
    simulation.wake(0)
    simulation.run(until: milliseconds(1))
    #expect(simulation.inspect(0) { $0.wokenCalls } == 1)
    simulation.perform(on: 0) { _, _, sink in
      var accepted = 0
      for i in 0..<5 where sink.reply(to: address(i == 2 ? 99 : 1), capacity: 10, { _ in 10 }) { accepted += 1 }
      #expect(accepted == 3)
    }
    simulation.inject([UInt8](repeating: 9, count: 40), from: address(77), to: 1)
    simulation.run(until: milliseconds(100))
    let arrivals = simulation.inspect(1) { $0.arrivals } ?? []
    #expect(arrivals.map(\.link) == [-1, 0, 0])
    #expect(arrivals.first?.length == 40)
    #expect(simulation.counters(of: 0).nowhere == 1)
    #expect(simulation.counters(of: 0).repliesRefused == 2)
  }

  @Test func aSeedReplaysARun() {
    func run(_ seed: UInt64) -> UInt64 {
      let path = PathModel(
        delay: .microseconds(3_000), jitter: .microseconds(100), loss: LossModel(rate: 0.02, meanBurst: 4),
        reorder: 0.01,
        reorderDelay: .microseconds(500), duplicate: 0.01)
      let simulation = mesh(4, seed: seed, model: NetworkModel(), rate: gigabit, uplink: gigabit, path: path) {
        i, core in
        core.echoes = true
        core.keepsArrivals = false
      }
      for i in 0..<4 {
        simulation.perform(on: i) { core, _, sink in
          for link in 0..<3 { for _ in 0..<50 { core.send(link, bytes: 700, into: &sink) } }
        }
      }
      simulation.at(milliseconds(40)) { $0.crash(2) }
      simulation.at(milliseconds(60)) { $0.start(2) }
      simulation.run(until: milliseconds(150))
      return simulation.traceHash
    }
    #expect(run(5) == run(5))
    #expect(run(5) != run(6))
  }
}
