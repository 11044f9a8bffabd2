import Bitcoin
import Foundation
import Ground
import Harness

/// One shape of network with all systems on it.
final class Run {
  struct Plan {
    var shape: Shape
    var losses: [Double]
    var blocks: Int
    var warmUps: Int
    var sizes: [Int]
    var missing: Double
    var meanBurst: Double
    var megabits: Double
    /// Tells the stages of each block on standard error.
    var tellsEach = false
  }
  /// A block that has not come by then counts as this late.
  static let patience = 10.0

  let plan: Plan
  private let emulator: Emulator
  private let mint: Mint
  private var deployments: [Deployment] = []
  private var round = 0

  init(
    _ plan: Plan, systems: Set<String>, bitcoind: String, fibre: String?, lightpath: String, folder: URL
  ) throws {
    self.plan = plan
    // The floor has two sites of its own, as far apart as the shape's ends.
    let hasFloor = systems.contains("floor")
    emulator = try Emulator(sites: plan.shape.sites + (hasFloor ? 2 : 0))
    mint = try Mint(
      binary: bitcoind, folder: folder.appending(path: "mint"), coins: plan.sizes.max() ?? 1_000)
    emulator.start()
    setLoss(0)
    let shape = plan.shape
    let emulator = emulator
    func nodes(_ name: String, _ sites: [Int], port: UInt16, _ binary: String, extra: (Int) -> [String] = { _ in [] })
      throws -> [SiteNode]
    {
      try sites.enumerated().map { index, site in
        try SiteNode(
          binary, site: site, namespace: emulator.sites[site].namespace,
          folder: folder.appending(path: "\(name)\(index)"), port: port, extra: extra(site))
      }
    }
    let all = Array(0..<shape.sites)
    if hasFloor {
      let ends = [shape.sites, shape.sites + 1]
      emulator.set(
        ends[0], ends[1],
        Path(delay: .milliseconds(shape.pathDelay(to: shape.far.last!)), bitsPerSecond: plan.megabits * 1e6))
      try Floor.widen(emulator.sites[ends[0]].namespace)
      deployments.append(Floor(nodes: try nodes("floor", ends, port: 20_000, bitcoind), shape: shape))
    }
    if systems.contains("p2p") {
      deployments.append(PlainP2P(nodes: try nodes("p2p", all, port: 20_100, bitcoind), shape: shape))
    }
    if let fibre, systems.contains("fibre") {
      let port: UInt16 = 20_200
      let nodes = try nodes("fibre", all, port: port, fibre) { Fibre.options($0, shape: shape, port: port + 3) }
      deployments.append(Fibre(nodes: nodes, shape: shape))
    }
    if systems.contains("lightpath") {
      deployments.append(
        Lightpath(
          nodes: try nodes("lightpath", all, port: 20_300, bitcoind), shape: shape, program: lightpath, folder: folder,
          namespaces: emulator.sites.map(\.namespace)))
    }
    for node in deployments.flatMap(\.nodes) { try node.waitUntilReady() }
    // The chain's beginning, by hand: nothing is connected yet that would pass it on.
    let chain = mint.chain
    try parallel(deployments.flatMap(\.nodes)) { node in
      for block in chain { try node.rpc.call("submitblock", [block]) }
    }
    for deployment in deployments { try deployment.connect() }
  }

  func stop() {
    for deployment in deployments { deployment.stop() }
    emulator.stop()
  }

  private func setLoss(_ loss: Double) {
    for (a, b) in plan.shape.links {
      emulator.set(
        a, b,
        Path(
          delay: plan.shape.delay, bitsPerSecond: plan.megabits * 1e6, loss: loss, meanBurst: plan.meanBurst))
    }
  }

  /// Two at a time: that is how many cores there may be.
  private func parallel(_ nodes: [SiteNode], _ body: @escaping (SiteNode) throws -> Void) throws {
    nonisolated(unsafe) var failure: (any Error)?
    let lock = NSLock()
    nonisolated(unsafe) let work = body
    nonisolated(unsafe) let list = nodes
    DispatchQueue.concurrentPerform(iterations: list.count) { index in
      do { try work(list[index]) } catch { lock.withLock { failure = failure ?? error } }
    }
    if let failure { throw failure }
  }

  // MARK: Blocks

  func measure() throws -> [Result] {
    var results: [Result] = []
    for loss in plan.losses {
      setLoss(loss / 100)
      usleep(300_000)
      for block in 0..<plan.warmUps { try pass("warm-up \(block + 1) at \(loss)% loss") { _, _ in } }
      _ = emulator.takeLateness()
      let before = emulator.total()
      var passages: [String: [Passage]] = [:]
      for block in 0..<plan.blocks {
        try pass("block \(block + 1) of \(plan.blocks) at \(loss)% loss") { passages[$0, default: []].append($1) }
      }
      let after = emulator.total()
      results.append(
        Result(
          loss: loss, passages: passages, lateness: emulator.takeLateness(), carried: after.carried - before.carried,
          lost: after.lost - before.lost, dropped: after.dropped - before.dropped))
    }
    return results
  }

  /// One block through every system, each in its turn, another one first every time and with every size.
  private func pass(_ what: String, _ take: (String, Passage) -> Void) throws {
    let turn = Turn(round: round, sizes: plan.sizes.count, systems: deployments.count)
    let draft = try mint.draft(plan.sizes[turn.size], missing: plan.missing)
    say("\(plan.shape.kind.rawValue): \(what): \(draft.transactions) transactions, \(draft.block.count) bytes")
    try parallel(deployments.flatMap(\.nodes)) { try $0.feed(draft.known) }
    for deployment in deployments {
      try deployment.settle(transactions: deployment.nodes.map { _ in draft.known.count })
    }
    // The relays have told each other what they have.
    usleep(1_000_000)
    let hex = Hex.encode(draft.block)
    for index in deployments.indices {
      let deployment = deployments[(turn.first + index) % deployments.count]
      let passage = try pass(draft, hex, through: deployment)
      if plan.tellsEach {
        let stages = passage.stages.map { "\($0.name) " + String(format: "%.2f", $0.ms) }.joined(separator: ", ")
        say("  \(deployment.name): \(stages)")
      }
      take(deployment.name, passage)
      usleep(150_000)
    }
    round += 1
  }

  private func pass(_ draft: Mint.Draft, _ hex: String, through deployment: Deployment) throws -> Passage {
    let origin = deployment.origin
    let request = try origin.rpc.request("submitblock", [hex])
    try origin.rpc.connect()
    // Late enough that nobody can have passed them on, early enough that the relay beside the node has them: it looks
    // every 20 ms, and from site to site a transaction takes three one-way delays.
    for node in deployment.knowsAll ? deployment.nodes : [origin] { try node.feed(draft.withheld) }
    usleep(45_000)
    for node in deployment.nodes { node.log.skip() }
    var passage = Passage(
      hash: draft.hash, transactions: draft.transactions, submitted: Double(SystemClock.realtime()) / 1e3)
    let answer = try origin.rpc.result(try origin.rpc.send(request), "submitblock")
    if !(answer is NSNull) { throw BenchFailure("\(deployment.name): the origin refuses the block: \(answer)") }
    let end = Date(timeIntervalSinceNow: Run.patience)
    while Date() < end {
      for node in deployment.nodes { node.log.refresh() }
      if deployment.nodes.allSatisfy({ $0.log.contains(NodeLog.tipLine(draft.hash)) }) { break }
      usleep(10_000)
    }
    usleep(50_000)
    for (index, node) in deployment.nodes.enumerated() {
      node.log.refresh()
      passage.tip[index] = node.log.tipTime(draft.hash)
    }
    try deployment.complete(&passage)
    for (index, node) in deployment.nodes.enumerated() where passage.tip[index] == nil {
      say("\(deployment.name): block \(draft.hash) did not reach site \(node.site) in \(Int(Run.patience)) s")
      _ = try node.rpc.call("submitblock", [hex])
    }
    return passage
  }

  func say(_ text: String) { FileHandle.standardError.write(Data("propagation: \(text)\n".utf8)) }
}

/// What one loss rate gave.
struct Result {
  var loss: Double
  var passages: [String: [Passage]]
  var lateness: [Double]
  var carried: UInt64
  var lost: UInt64
  var dropped: UInt64
}
