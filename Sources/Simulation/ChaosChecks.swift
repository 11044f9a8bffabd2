import Bitcoin
import Ground
import Relay
import Topology

/// What must always hold in a run.
extension ChaosRace {
  func collect() {
    for relay in scenario.topology.relays.indices {
      simulation.inspect(relay) { core in
        _ = core.withHonest { node in
          for delivery in node.deliveries {
            if !delivery.isGenuine { failure = "r\(relay) delivered a bad block, \(delivery.block)" }
            if got[relay].insert(delivery.block).inserted { outcome.deliveries += 1 }
          }
          outcome.demotions += node.demotions
          outcome.mostHeldBytes = max(outcome.mostHeldBytes, node.mostHeld)
          node.forget()
        }
        outcome.lies += core.takeLies()
      }
    }
  }

  func check() {
    collect()
    // Log, kept blocks, and what blocks in hand may decode; twice the body for each, and tables.
    let bound =
      limits.logBytes + min(limits.blockBytesKept, limits.blocksKept * 4_000_000) + limits.blocksInHand * 12_000_000
    if outcome.mostHeldBytes > bound { failure = "a relay held \(outcome.mostHeldBytes) bytes, bound \(bound)" }
    for relay in scenario.topology.relays.indices {
      let overflowed = simulation.inspect(relay) { core in core.withHonest { $0.core.eventsDropped } ?? 0 } ?? 0
      if overflowed > 0 { failure = "r\(relay) lost \(overflowed) events" }
    }
    outcome.trace = simulation.traceHash
    outcome.virtualSeconds = (simulation.now - .zero).seconds
  }

  /// The first block that a relay lacks although it should have it.
  ///
  /// Relays are connected when links between honest relays lead from one to the other. At the end, when nothing has been
  /// broken for a while, every relay has every block of a branch of most work that was found at a relay connected to it.
  /// (A liar may have passed on a child honestly and kept its parent back: a relay that only liars join to the others can
  /// find the next block on that child, and nobody whom it can hear has the parent.) Blocks that lost a race are
  /// nobody's to fetch once the race is over: those must be with every relay to which honest relays and links lead that no
  /// fault touches from the block's submission on for `undisturbed`, and whose sessions are up then, if the chain gets no
  /// two blocks higher meanwhile.
  var missingDelivery: String? {
    guard let (number, relay) = firstMissing else { return nil }
    guard let block = blocks[number] else { return "block \(number) was never submitted" }
    return
      "r\(relay) never got block \(number) (+\(depth(number) + 1)), found at r\(scenario.submissions[number].relay)"
      + situation(of: relay, block.hash)
  }

  static let undisturbed = Interval.seconds(5)

  private var firstMissing: (block: Int, relay: Int)? {
    for (number, submission) in scenario.submissions.enumerated()
    where blocks[number] == nil || offeredAt[number] == nil {
      return (number, submission.relay)
    }
    let depths = blocks.indices.map { depth($0) }
    let highest = depths.max() ?? 0
    let tips = blocks.indices.filter { depths[$0] == highest }
    let reached = blocks.indices.map { Set(reachable(from: scenario.submissions[$0].relay)) }
    for relay in scenario.topology.relays.indices {
      // The lowest block of a best branch that it lacks, of the branch of which it has most.
      let lacking = tips.filter { reached[$0].contains(relay) }.map { tip in
        branch(to: tip).filter { reached[$0].contains(relay) && !got[relay].contains(blocks[$0]!.hash) }
      }
      if let least = lacking.min(by: { $0.count < $1.count }), let block = least.last { return (block, relay) }
    }
    for (number, submission) in scenario.submissions.enumerated() {
      let begin = offeredAt[number]!
      let isOverrun = blocks.indices.contains { other in
        depths[other] >= depths[number] + 2 && offeredAt[other]! < begin + Self.undisturbed
      }
      if isOverrun { continue }
      for relay in reachable(from: submission.relay, undisturbedFrom: begin, over: joined[number])
      where !got[relay].contains(blocks[number]!.hash) { return (number, relay) }
    }
    return nil
  }

  /// The blocks from the lowest up to one, by number.
  func branch(to tip: Int) -> [Int] {
    var branch: [Int] = []
    var at = tip
    while at >= 0 {
      branch.append(at)
      at = parents[at]
    }
    return branch
  }

  /// What a relay knows of a block that it lacks, for the one who reads the failure.
  private func situation(of relay: Int, _ hash: Hash256) -> String {
    simulation.inspect(relay) { core in
      core.withHonest { node in
        let links = scenario.topology.neighbours(of: relay).enumerated().map { number, neighbour in
          "r\(neighbour.relay)" + (node.core.status(of: LinkID(UInt16(number)))?.isUp == true ? "" : " down")
        }
        let entry = node.core.chain.entry(hash)
        let header =
          entry == nil ? "header unknown" : node.core.chain.isOnBestBranch(hash) ? "header best" : "header stale"
        let report = node.core.report(of: hash).map { "in hand: \($0)" } ?? "not in hand"
        return "; \(header), tip at +\(node.core.chain.tip.height - world.anchor.height), \(report), links \(links)"
      } ?? ""
    } ?? "; down"
  }

  var isComplete: Bool { firstMissing == nil }

  /// Relays to which honest ones lead, a relay itself among them; with `begin` only over relays and links that no fault
  /// touches from then on for a while.
  private func reachable(
    from start: Int, undisturbedFrom begin: Instant? = nil, over joined: Set<[Int]>? = nil
  ) -> [Int] {
    var broken: Set<Int> = []
    var cut: Set<[Int]> = []
    if let begin {
      for (at, fault) in scenario.faults {
        let time = Instant.zero + Self.settling + at
        // A restarted relay's sessions take a while.
        if time > begin + Self.undisturbed || time + fault.lasting + Self.settling < begin { continue }
        switch fault {
        case .crash(let relay, _), .stop(let relay, _): broken.insert(relay)
        case .cut(let a, let b, _): cut.insert([a, b].sorted())
        case .partition(let side, _):
          for link in scenario.topology.links where side.contains(link.a) != side.contains(link.b) {
            cut.insert([link.a, link.b].sorted())
          }
        case .clock: break
        }
      }
      if broken.contains(start) { return [] }
    }
    var reached: Set<Int> = [start]
    var edge = [start]
    while let relay = edge.popLast() {
      for neighbour in scenario.topology.neighbours(of: relay)
      where scenario.liars[neighbour.relay] == nil && !broken.contains(neighbour.relay)
        && !cut.contains([relay, neighbour.relay].sorted())
        && joined?.contains([relay, neighbour.relay].sorted()) ?? true && reached.insert(neighbour.relay).inserted
      {
        edge.append(neighbour.relay)
      }
    }
    return reached.sorted()
  }

  /// Pairs of honest relays that both hold a session with each other.
  func linksUp() -> Set<[Int]> {
    var up: Set<[Int]> = []
    for link in scenario.topology.links where isUp(link.a, link.b) && isUp(link.b, link.a) {
      up.insert([link.a, link.b].sorted())
    }
    return up
  }

  private func isUp(_ relay: Int, _ other: Int) -> Bool {
    guard simulation.isUp(relay),
      let number = scenario.topology.neighbours(of: relay).firstIndex(where: { $0.relay == other })
    else { return false }
    return simulation.inspect(relay) { core in
      core.withHonest { $0.core.status(of: LinkID(UInt16(number)))?.isUp == true } ?? false
    } ?? false
  }
}
