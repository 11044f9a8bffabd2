import ArgumentParser
import Bitcoin
import Foundation
import Ground
import Simulation
import Synchronization
import Topology

struct Simulate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs the relay core over a simulated network and says how far behind light it is.",
    discussion: """
      Every block is submitted at one relay, drawn at random, and timed until each other relay has it complete and \
      checked. The light path is the least sum of the topology's one-way delays. One seed gives one outcome, on any \
      machine. Progress goes to standard error.

      Exit status: 0 done, 1 some relay never got some block, 2 the topology or a block can't be read, 64 wrong usage.
      """)

  @Argument(help: "Topology file (topology/six-continents.toml, for one).", completion: .file(extensions: ["toml"]))
  var topology: String

  @Option(
    name: .long, help: "A serialised block; repeat for several. Its transactions fill the simulated blocks.",
    completion: .file())
  var block: [String]

  @Option(help: "Blocks to relay, one after another. More than there are files: re-mined on regtest, all distinct.")
  var blocks: Int?

  @Option(help: "Share of datagrams lost, 0 to 0.9; 0.01 is 1%.")
  var loss: Double = 0

  @Option(help: "Mean number of datagrams lost in a row.")
  var burst: Double = 1

  @Option(help: "Mean of the random extra delay, in microseconds.")
  var jitterUs: Double = 0

  @Option(help: "Share of each block's transactions that each relay lacks, 0 to 1.")
  var missing: Double = 0.01

  @Option(name: .long, help: "Name of a relay whose mempool is empty; repeat for several.")
  var cold: [String] = []

  @Option(help: "Decides everything that is random.")
  var seed: UInt64 = 1

  @Option(help: "Virtual milliseconds from one block to the next.")
  var spacingMs: Double = 2_000

  @Option(
    help:
      "Threads; each runs its share of the blocks in a network of its own. Part of the seed: another number gives another run."
  )
  var shards: Int = 2

  @Flag(help: "Also run FIBRE's published policy over the same network, blocks and losses.")
  var baseline = false

  @Option(help: "Blocks for the baseline, which sends much more: at most as many as --blocks.")
  var baselineBlocks: Int = 40

  @Flag(help: "One JSON object instead of a table.")
  var json = false

  @Flag(
    help: """
      Also when blocks came to each stage, over the light path: first packet, gate passed, sketch complete, matched, last \
      chunk needed, decoded, verified. In JSON under "stages". Not of the baseline.
      """)
  var stages = false

  @Flag(help: "Also the traffic of every link.")
  var links = false

  func validate() throws {
    guard !block.isEmpty else { throw ValidationError("which block? --block FILE") }
    guard (0...0.9).contains(loss) else { throw ValidationError("--loss must lie between 0 and 0.9") }
    guard burst >= 1 && burst <= 1e6 else { throw ValidationError("--burst must be 1 or more") }
    guard (0...1).contains(missing) else { throw ValidationError("--missing must lie between 0 and 1") }
    guard (blocks ?? 1) >= 1 && (blocks ?? 1) <= 10_000_000 else { throw ValidationError("--blocks must be 1 or more") }
    guard (1...64).contains(shards) else { throw ValidationError("--shards must lie between 1 and 64") }
    guard (10...1e7).contains(spacingMs) else {
      throw ValidationError("--spacing-ms must lie between 10 and 10,000,000")
    }
    guard (0...1e6).contains(jitterUs) else { throw ValidationError("--jitter-us must lie between 0 and 1,000,000") }
    guard baselineBlocks >= 1 else { throw ValidationError("--baseline-blocks must be 1 or more") }
  }

  func run() throws {
    let plan = try makePlan()
    let own = try Self.sharded("relaying", plan, shards) { plan, shard, shards, progress in
      try RelayRun.run(plan, shard: shard, of: shards, progress: progress)
    }
    var fibre: SimulationTally?
    if baseline {
      var fewer = plan
      fewer.blockCount = min(plan.blockCount, baselineBlocks)
      fibre = try Self.sharded("baseline", fewer, shards) { plan, shard, shards, progress in
        try FibreRun.run(plan, shard: shard, of: shards, progress: progress)
      }
    }
    if json { try printJSON(own, fibre) } else { printTable(plan, own, fibre) }
    for pair in own.incomplete.prefix(10) {
      say("block \(pair.block) never reached \(plan.topology.relays[pair.relay].name) (seed \(seed))")
    }
    if own.completed < own.blocks { throw ExitCode(1) }
  }

  private func makePlan() throws -> SimulationPlan {
    let overlay: OverlayTopology
    do {
      overlay = try OverlayTopology(contentsOf: URL(filePath: topology))
    } catch {
      for mistake in error.mistakes { say("\(topology):\(mistake)") }
      throw ExitCode(2)
    }
    var files: [[UInt8]] = []
    for file in block {
      do {
        let bytes = [UInt8](try Data(contentsOf: URL(filePath: file)))
        _ = try ParsedBlock(parsing: bytes.span.bytes)
        files.append(bytes)
      } catch {
        say("\(file): \(error)")
        throw ExitCode(2)
      }
    }
    var plan = SimulationPlan(topology: overlay, blocks: files, blockCount: blocks ?? files.count)
    plan.loss = LossModel(rate: loss, meanBurst: burst)
    plan.jitter = .milliseconds(jitterUs / 1_000)
    plan.missing = missing
    plan.seed = seed
    plan.spacing = .milliseconds(spacingMs)
    for name in cold {
      guard let relay = overlay.relayIndex(named: name) else {
        say("--cold \(name): no relay of \(topology) has that name")
        throw ExitCode(2)
      }
      plan.coldRelays.insert(relay)
    }
    return plan
  }

  /// Runs the shards on as many threads, with a line of progress every two seconds.
  static func sharded(
    _ what: String, _ plan: SimulationPlan, _ shards: Int,
    _ run: @Sendable (SimulationPlan, Int, Int, () -> Void) throws -> SimulationTally
  ) throws -> SimulationTally {
    let shards = max(1, min(shards, plan.blockCount))
    let results = Mutex<[Result<SimulationTally, any Error>?]>(Array(repeating: nil, count: shards))
    let begin = Date()
    let progress = Mutex<(done: Int, shown: Date)>((0, begin))
    DispatchQueue.concurrentPerform(iterations: shards) { shard in
      let result = Result {
        try run(plan, shard, shards) {
          progress.withLock { state in
            state.done += 1
            let now = Date()
            if now.timeIntervalSince(state.shown) < 2 { return }
            state.shown = now
            let left = now.timeIntervalSince(begin) / Double(state.done) * Double(plan.blockCount - state.done)
            say("\(what): \(state.done) of \(plan.blockCount) blocks, about \(Int(left.rounded(.up))) s left")
          }
        }
      }
      results.withLock { $0[shard] = result }
    }
    var tally = SimulationTally(plan.topology)
    for result in results.withLock({ $0 }) {
      if let result { tally.merge(try result.get()) }
    }
    return tally
  }
}
