import Foundation
import Ground
import RealBlocks
import Simulation
import Testing
import Topology

/// `count` relays at the corners of a mesh, 10 ms apart, 1 Gbit/s a link.
func meshTopology(_ count: Int, delay: Interval = .microseconds(10_000)) -> OverlayTopology {
  let relays = (0..<count).map {
    OverlayTopology.Relay(
      name: "r\($0)", publicKey: [], addresses: [], latitude: 0, longitude: 0, uplink: .unlimited)
  }
  var links: [OverlayTopology.Link] = []
  for a in 0..<count {
    for b in (a + 1)..<max(count, a + 1) {
      links.append(
        OverlayTopology.Link(
          a: a, b: b, rate: LinkRate(bitsPerSecond: 1_000_000_000), trustInA: .trusted, trustInB: .trusted,
          delay: delay, isDelayConfigured: true))
    }
  }
  return OverlayTopology(
    name: "mesh", network: .regtest, pathFactor: 1.5, relays: relays, groups: [], links: links)
}

@Suite struct FibreTests {
  @Test func aBlockIsCutAsFibreDoes() {
    // Coinbase, four small ones that share a chunk, a large one over three, a small one in the rest of that.
    let block = FibreBlock(transactionBytes: [200, 280, 280, 280, 280, 3_000, 400])
    #expect(block.bodyChunks == 4)
    #expect(block.headerChunks == 1)
    #expect(block.missingChunks([1, 2]).count == 1)
    #expect(block.missingChunks([5]).count == 3)
    // The last one lies in the large one's third chunk.
    #expect(block.missingChunks([6]).bits == [0b1000])
    #expect(block.missingChunks([1, 6]).count == 2)
    #expect(block.missingChunks([]).count == 0)
  }

  @Test func theScheduleIsThePublishedOne() throws {
    var plan = SimulationPlan(topology: meshTopology(2), blocks: [try RealBlocks.bytes("702861")], blockCount: 1)
    plan.missing = 0.01
    let tally = try FibreRun.run(plan)
    #expect(tally.completed == 1)
    // 1,381,836 bytes are 1,200 chunks, 2,500 transactions' header object is
    // about 18. One millisecond of 1 Gbit/s is 105 datagrams.
    let datagrams = Int(tally.links[0].datagrams)
    let expected = 18 + 115 + 2 * 1_200 + 10
    #expect(abs(datagrams - expected) < 10, "\(datagrams) against \(expected)")
    #expect(tally.links[0].bytes == UInt64(datagrams * FibreBlock.datagramBytes))
    // Fast, but not faster than the code: matching, decoding 1,200 chunks, encoding them.
    let over = try #require(tally.overLightMs(1))
    #expect((2...8).contains(over), "\(over)")
  }

  @Test func whatIsMissingCostsChunksButNotTheSchedule() throws {
    let block = try RealBlocks.bytes("702861")
    var traffic: [Double] = []
    var over: [Double] = []
    for missing in [0, 0.1, 1] {
      var plan = SimulationPlan(topology: meshTopology(2), blocks: [block], blockCount: 1)
      plan.missing = missing
      let tally = try FibreRun.run(plan)
      #expect(tally.completed == 1)
      traffic.append(tally.bytesPerLink)
      over.append(try #require(tally.overLightMs(1)))
    }
    // Fixed redundancy: the same bytes whether nothing or all is missing; the cold one waits for 1,200 chunks.
    #expect(traffic[0] == traffic[2])
    #expect(over[0] < over[1] && over[1] < over[2])
    #expect(over[2] > 12)
  }

  @Test func lossesAreRepairedByTheFixedRedundancy() throws {
    var plan = SimulationPlan(topology: meshTopology(4), blocks: [try RealBlocks.bytes("413567")], blockCount: 2)
    plan.loss = LossModel(rate: 0.05, meanBurst: 4)
    plan.missing = 0.02
    let tally = try FibreRun.run(plan)
    #expect(tally.completed == 2)
    #expect(tally.links.allSatisfy { $0.lost > 0 })
    #expect(try FibreRun.run(plan).trace == tally.trace)
    plan.seed = 2
    #expect(try FibreRun.run(plan).trace != tally.trace)
  }
}
