import Foundation
import Ground
import RealBlocks
import Simulation
import Testing
import Topology

@Suite struct RelayRunTests {
  @Test func blocksReachEveryRelayOfAnOverlay() throws {
    var plan = SimulationPlan(topology: meshTopology(5), blocks: [try RealBlocks.bytes("702861")], blockCount: 3)
    plan.missing = 0.01
    plan.loss = LossModel(rate: 0.01, meanBurst: 4)
    let own = try RelayRun.run(plan)
    #expect(own.completed == 3)
    #expect(own.overLight.count == 3 * 4)
    #expect(own.overLight.allSatisfy { $0 > 0 })
    // One seed, one run.
    let again = try RelayRun.run(plan)
    #expect(again.trace == own.trace)
    #expect(again.overLight == own.overLight)
    plan.seed = 99
    #expect(try RelayRun.run(plan).trace != own.trace)
    // Bandwidth follows what receivers lack: at most a quarter of the fixed schedule's.
    plan.seed = 1
    let fibre = try FibreRun.run(plan)
    #expect(fibre.completed == 3)
    #expect(own.bytesPerLink <= fibre.bytesPerLink / 4, "\(own.bytesPerLink) against \(fibre.bytesPerLink)")
  }

  @Test func relaysInALineCutThrough() throws {
    var topology = meshTopology(4)
    topology.links = topology.links.filter { $0.b == $0.a + 1 }
    var plan = SimulationPlan(topology: topology, blocks: [try RealBlocks.bytes("413567")], blockCount: 2)
    plan.missing = 0.02
    let tally = try RelayRun.run(plan)
    #expect(tally.completed == 2)
  }

  @Test func aColdRelayCompletesToo() throws {
    var plan = SimulationPlan(topology: meshTopology(3), blocks: [try RealBlocks.bytes("413567")], blockCount: 2)
    plan.coldRelays = [2]
    let tally = try RelayRun.run(plan)
    #expect(tally.completed == 2)
  }

  @Test func shardsCoverEveryBlockOnce() {
    let plan = SimulationPlan(topology: meshTopology(2), blocks: [[]], blockCount: 103)
    let covered = (0..<7).flatMap { Array(plan.blocks(shard: $0, of: 7)) }
    #expect(covered == Array(0..<103))
  }

  @Test func missingTransactionsAreDrawnAsAsked() {
    var plan = SimulationPlan(topology: meshTopology(4), blocks: [[]], blockCount: 1)
    plan.missing = 0.01
    plan.coldRelays = [3]
    let drawn = plan.missing(block: 5, relay: 1, transactions: 2_501)
    #expect(drawn.count == 25)
    #expect(drawn == drawn.sorted() && drawn.allSatisfy { (1...2_500).contains($0) })
    #expect(drawn == plan.missing(block: 5, relay: 1, transactions: 2_501))
    #expect(drawn != plan.missing(block: 6, relay: 1, transactions: 2_501))
    #expect(drawn != plan.missing(block: 5, relay: 2, transactions: 2_501))
    #expect(plan.missing(block: 5, relay: 3, transactions: 2_501).count == 2_500)
  }
}

@Suite struct ChaosTests {
  /// A short sweep over honest relays; the long one, with liars, is the bench `chaos`. A failure prints its seed:
  /// `bench-chaos --honest --seed N` replays it.
  @Test func nothingBreaksUnderRandomFaults() throws {
    let sweep = try ChaosRun(block: try RealBlocks.bytes("702861"))
    for seed in UInt64(1)...40 {
      do {
        _ = try sweep.run(ChaosScenario(seed: seed, withLiars: false))
      } catch {
        Issue.record("\(error) — \(ChaosScenario(seed: seed, withLiars: false))")
      }
    }
  }

  @Test func aScenarioReplays() throws {
    let sweep = try ChaosRun(block: try RealBlocks.bytes("702861"))
    let first = try? sweep.run(ChaosScenario(seed: 3, withLiars: false))
    let second = try? sweep.run(ChaosScenario(seed: 3, withLiars: false))
    #expect(first == second)
  }
}
