import Bitcoin
import Ground
import Topology

/// The baseline: the same overlay, losses, origins and missing transactions, with FIBRE's policy.
public enum FibreRun {
  /// Runs one shard. `progress` hears of each block.
  public static func run(
    _ plan: SimulationPlan, shard: Int = 0, of shards: Int = 1, costs: FibreCosts = FibreCosts(),
    progress: () -> Void = {}
  ) throws -> SimulationTally {
    let topology = plan.topology
    let shapes = try plan.blocks.map { bytes in
      FibreBlock(transactionBytes: try ParsedBlock(parsing: bytes.span.bytes).transactions.map(\.byteCount))
    }
    let simulation = Simulation<FibreLikeCore>(
      seed: plan.seed(3, UInt64(shard)), defaultPath: PathModel(delay: .zero, loss: LossModel(rate: 1)))
    for (index, relay) in topology.relays.enumerated() {
      let peers = topology.neighbours(of: index).enumerated().map { number, neighbour in
        FibreLikeCore.Peer(
          link: LinkID(UInt16(number)), address: SimulationPlan.address(neighbour.relay), rate: neighbour.link.rate,
          isTrusted: neighbour.trust == .trusted)
      }
      simulation.addNode(address: SimulationPlan.address(index), uplink: relay.uplink) { _ in
        FibreLikeCore(node: index, peers: peers, costs: costs) { block in
          let shape = shapes[Int(block) % shapes.count]
          let missing = plan.missing(block: Int(block), relay: index, transactions: shape.transactions)
          let chunks = shape.missingChunks(missing)
          return (shape, chunks.bits, chunks.count)
        }
      }
    }
    plan.lay(simulation)
    for node in topology.relays.indices { simulation.start(node) }
    let light = topology.lightPaths()
    var tally = SimulationTally(topology)
    simulation.run(until: Instant(nanoseconds: 1_000_000))
    for block in plan.blocks(shard: shard, of: shards) {
      let origin = plan.origin(of: block)
      let begin = simulation.now
      var race = BlockRace(
        block: block, origin: origin, submitted: begin.nanoseconds, relays: topology.relays.count)
      simulation.perform(on: origin) { core, now, _ in core.submit(UInt64(block), now: now) }
      simulation.run(until: begin + plan.spacing)
      for node in topology.relays.indices {
        let delivery = simulation.inspect(node) { core in core.deliveries.last { $0.block == block } }
        race.delivered[node] = (delivery ?? nil).map { simulation.trueTime(of: $0.at, at: node).nanoseconds }
      }
      race.score(light, into: &tally)
      progress()
    }
    tally.addTraffic(simulation, sign: true)
    tally.trace = simulation.traceHash
    return tally
  }
}
