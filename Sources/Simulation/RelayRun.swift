import Bitcoin
import Ground
import Relay
import Topology

/// The relay core over a simulated overlay: block after block, each at a site drawn at random.
public enum RelayRun {
  /// Sessions and round trips are there before the first block.
  static let settling = Interval.seconds(8)

  /// Runs one shard. `progress` hears of each block, `probe` of each call into a core once the first block comes.
  public static func run(
    _ plan: SimulationPlan, shard: Int = 0, of shards: Int = 1, costs: RelayCosts = RelayCosts(),
    probe: CallProbe? = nil, progress: () -> Void = {}
  ) throws -> SimulationTally {
    let topology = plan.topology
    let relays = topology.relays.indices
    let sources = try plan.blocks.map { try BlockSource($0) }
    var world = RelayWorld(topology, seed: plan.seed(3, UInt64(shard)))
    world.costs = costs
    world.probe = probe
    probe?.isOn = false
    let simulation = Simulation<RelayNode>(
      seed: plan.seed(3, UInt64(shard)), defaultPath: PathModel(delay: .zero, loss: LossModel(rate: 1)))
    for relay in relays {
      let world = world
      simulation.addNode(address: SimulationPlan.address(relay), uplink: topology.relays[relay].uplink) {
        world.makeNode(relay, incarnation: $0)
      }
    }
    plan.lay(simulation)
    let blocks = plan.blocks(shard: shard, of: shards)
    for relay in relays {
      simulation.start(relay)
      fill(simulation, relay, plan, sources, block: blocks.lowerBound)
    }
    simulation.run(until: simulation.now + settling)

    let light = topology.lightPaths()
    var tally = SimulationTally(topology)
    tally.addTraffic(simulation, sign: false)
    probe?.isOn = true
    var tip = (hash: world.anchor.hash, height: world.anchor.height)
    for block in blocks {
      let source = sources[block % sources.count]
      let origin = plan.origin(of: block)
      for relay in relays { fill(simulation, relay, plan, sources, block: block) }
      let bytes = source.make(
        number: block, height: tip.height + 1, previous: tip.hash, time: RelayWorld.unixSeconds + UInt32(block))
      var parsed = try ParsedBlock(parsing: bytes.span.bytes)
      parsed.setHashes(of: 0, txid: parsed.transactions[0].txid(in: bytes.span.bytes), wtxid: .zero)
      for index in 1..<source.transactionCount {
        parsed.setHashes(of: index, txid: source.txids[index - 1], wtxid: source.wtxids[index - 1])
      }
      tip = (parsed.hash, tip.height + 1)
      let begin = simulation.now
      var race = BlockRace(block: block, origin: origin, submitted: begin.nanoseconds, relays: relays.count)
      var isRefused = false
      let whole = parsed
      simulation.perform(on: origin) { node, now, sink in
        isRefused = !node.submit(bytes, parsed: whole, now: now, into: &sink)
      }
      simulation.run(until: begin + plan.spacing)
      precondition(!isRefused, "block \(block) was refused at its origin")
      for relay in relays {
        simulation.inspect(relay) { node in
          if let delivery = node.deliveries.last(where: { $0.block == whole.hash }) {
            race.delivered[relay] = simulation.trueTime(of: delivery.at, at: relay).nanoseconds
          }
          if let request = node.asked[whole.hash] {
            race.asked = true
            let at = Int64(simulation.trueTime(of: request.at, at: relay).nanoseconds) - Int64(begin.nanoseconds)
            tally.requests.append(
              SimulationTally.Request(
                block: block, relay: relay, kind: Int(request.b), chunks: Int(request.a),
                overLight: at - light[origin][relay].nanoseconds))
          }
          if relay != origin, let report = node.core.report(of: whole.hash) {
            tally.stages.note(report, since: begin.nanoseconds, light: light[origin][relay]) {
              simulation.trueTime(of: $0, at: relay).nanoseconds
            }
          }
          node.forget()
        }
      }
      race.score(light, into: &tally)
      progress()
    }
    tally.addTraffic(simulation, sign: true)
    tally.trace = simulation.traceHash
    return tally
  }

  private static func fill(
    _ simulation: Simulation<RelayNode>, _ relay: Int, _ plan: SimulationPlan, _ sources: [BlockSource], block: Int
  ) {
    let source = sources[block % sources.count]
    let missing = plan.missing(block: block, relay: relay, transactions: source.transactionCount)
    let fill = MempoolFill(source: source)
    simulation.inspect(relay) { node in
      // A block's origin has all of it: it was put together there.
      let lacks = plan.origin(of: block) == relay && !plan.coldRelays.contains(relay) ? [] : missing
      node.core.withMempool { store in fill.apply(missing: lacks, to: &store) }
    }
  }
}
