import Bitcoin
import Ground
import Mempool
import Relay
import Topology

/// Runs scenarios and checks what must always hold: no bad block is delivered; every honest relay that honest relays
/// connect gets every block, so no good one was refused for good; memory stays within its bounds.
public struct ChaosRun: Sendable {
  public struct Failure: Error, Hashable, Sendable, CustomStringConvertible {
    public var seed: UInt64
    public var what: String
    public var description: String { "seed \(seed): \(what)" }
  }

  /// What a good run did, for the sweep's statistics.
  public struct Outcome: Hashable, Sendable {
    public var trace: UInt64 = 0
    public var deliveries = 0
    /// Of all liars together, and of their earlier lives; likewise demotions.
    public var lies = 0
    public var demotions = 0
    public var mostHeldBytes = 0
    public var virtualSeconds = 0.0
  }

  private let source: BlockSource
  /// How long after the last fault everybody must have everything.
  static let grace = Interval.seconds(20)

  /// - Parameter block: a real block whose first transactions the runs' blocks are made of.
  public init(block: [UInt8]) throws { source = try BlockSource(block, limit: 120) }

  /// What one relay may hold, by the limits that it is given here.
  private static func limits() -> RelayMemoryLimits {
    var limits = RelayMemoryLimits()
    limits.blocksKept = 8
    limits.logBytes = 4 << 20
    limits.events = 1_024
    return limits
  }

  public func run(_ scenario: ChaosScenario) throws(Failure) -> Outcome {
    let race = ChaosRace(scenario, source, limits: Self.limits())
    race.prepare()
    let calm = Instant.zero + ChaosRace.settling + scenario.calmAt
    race.simulation.run(until: calm, step: .microseconds(100_000)) {
      race.check()
      return race.failure != nil
    }
    race.calmDown()
    race.simulation.run(until: calm + Self.grace, step: .microseconds(100_000)) {
      race.check()
      return race.failure != nil || race.isComplete
    }
    race.check()
    if let failure = race.failure { throw Failure(seed: scenario.seed, what: failure) }
    if let missing = race.missingDelivery { throw Failure(seed: scenario.seed, what: missing) }
    return race.outcome
  }
}

/// One scenario under way.
final class ChaosRace {
  static let settling = Interval.seconds(2)
  /// A thousand hashes a block: enough that a header changed by a liar is none any more.
  static let bits: UInt32 = 0x1F3F_FFFF
  let scenario: ChaosScenario
  let world: RelayWorld
  let simulation: Simulation<ChaosCore>
  let limits: RelayMemoryLimits
  var failure: String?
  /// The blocks in order of submission, nil where the site was down at its moment.
  var blocks: [(hash: Hash256, bytes: [UInt8])?]
  /// What each block stands on; -1: the anchor.
  var parents: [Int]
  private let genuine: Genuine
  private let forgeries = Forgeries()
  var got: [Set<Hash256>]
  /// When a site's relay took its block.
  var offeredAt: [Instant?]
  /// Blocks whose sketch went first, or might have.
  var sketched: Set<Int> = []
  /// Links with sessions when a block was offered, and a second later: a first handshake may take long on a bad line.
  var joined: [Set<[Int]>]
  private let source: BlockSource
  var outcome = ChaosRun.Outcome()

  /// The true blocks, for the relays' judges.
  private final class Genuine {
    var blocks: [Hash256: [UInt8]] = [:]

    /// A submitted block must be that very block. A liar may also change a header and find proof of work for it, which
    /// regtest makes cheap: then header and body must be valid by themselves.
    func judge(_ hash: Hash256, _ bytes: RawSpan) -> Bool {
      if let known = blocks[hash] {
        return known.count == bytes.byteCount && bytes.withUnsafeBytes { $0.elementsEqual(known) }
      }
      guard let parsed = try? ParsedBlock(parsing: bytes), parsed.hash == hash,
        parsed.header.hasProofOfWork(limit: Network.regtest.powLimit)
      else { return false }
      return checkBody(of: parsed, in: bytes, rules: BodyRules(statedHeight: nil)) == .valid
    }
  }

  init(_ scenario: ChaosScenario, _ source: BlockSource, limits: RelayMemoryLimits) {
    self.scenario = scenario
    self.source = source
    self.limits = limits
    var world = RelayWorld(scenario.topology, seed: scenario.seed, bits: Self.bits)
    world.limits = limits
    world.store.nodeCount = 1_000
    world.store.nodeBytes = 2 << 20
    world.store.nodeInputs = 4_000
    world.store.sideCount = 1_000
    world.store.sideBytes = 2 << 20
    world.store.orphanCount = 100
    self.world = world
    simulation = Simulation(seed: scenario.seed, defaultPath: PathModel(delay: .zero, loss: LossModel(rate: 1)))
    blocks = Array(repeating: nil, count: scenario.submissions.count)
    parents = scenario.submissions.map(\.parent)
    offeredAt = Array(repeating: nil, count: scenario.submissions.count)
    joined = Array(repeating: [], count: scenario.submissions.count)
    got = Array(repeating: [], count: scenario.topology.relays.count)
    genuine = Genuine()
  }

  func prepare() {
    let count = scenario.topology.relays.count
    for relay in 0..<count {
      let address = SimulationPlan.address(relay)
      let uplink = scenario.topology.relays[relay].uplink
      let attacks = scenario.liars[relay]
      let world = world
      let genuine = genuine
      let source = source
      let forgeries = forgeries
      let fill = MempoolFill(source: source)
      let missing = missing(relay)
      simulation.addNode(address: address, uplink: uplink, clock: scenario.clocks[relay]) { incarnation in
        if let attacks {
          return ChaosCore(
            LyingRelay(
              identity: world.identities[relay], overlay: world.overlay, links: world.links(of: relay),
              network: .regtest, attacks: attacks, forgeries: forgeries,
              seed: world.seed &+ UInt64(relay * 1_000 + incarnation)))
        }
        var node = world.makeNode(relay, incarnation: incarnation) { hash, bytes in
          genuine.judge(hash, bytes)
        }
        node.core.withMempool { fill.apply(missing: missing, to: &$0) }
        return ChaosCore(node)
      }
    }
    for path in scenario.paths {
      simulation.setPath(from: path.a, to: path.b, path.there)
      simulation.setPath(from: path.b, to: path.a, path.back)
    }
    for relay in 0..<count { simulation.start(relay) }
    let begin = Instant.zero + Self.settling
    for (number, submission) in scenario.submissions.enumerated() {
      simulation.at(begin + submission.at) { [weak self] _ in self?.submit(number, submission) }
    }
    for (at, fault) in scenario.faults { simulation.at(begin + at) { [weak self] _ in self?.strike(fault) } }
  }

  private func missing(_ relay: Int) -> [Int] {
    var random = SeededRandom(seed: scenario.seed &+ UInt64(relay) &* 0x9E37)
    let share = scenario.missing[relay]
    return (1..<source.transactionCount).filter { _ in random.chance(share) }
  }

  // MARK: Events

  /// A block at its site. If the site is down, or doesn't have the parent yet, it waits there; when the parent doesn't
  /// come (it may have lost a race that this site never heard of), the block stands on the best that the site has.
  private func submit(_ number: Int, _ submission: ChaosScenario.Submission) {
    collect()
    var parent = submission.parent
    if parent >= 0 && !(blocks[parent].map { got[submission.relay].contains($0.hash) } ?? false) {
      if simulation.now < Instant.zero + Self.settling + submission.at + Self.undisturbed {
        simulation.at(simulation.now + .microseconds(50_000)) { [weak self] _ in self?.submit(number, submission) }
        return
      }
      parent = -1
      for other in blocks.indices {
        guard let block = blocks[other], got[submission.relay].contains(block.hash) else { continue }
        if parent < 0 || depth(other) > depth(parent) { parent = other }
      }
    }
    parents[number] = parent
    let height = parent < 0 ? world.anchor.height : world.anchor.height + 1 + depth(parent)
    let bytes = source.make(
      number: number, height: height + 1, previous: parent < 0 ? world.anchor.hash : blocks[parent]!.hash,
      time: RelayWorld.unixSeconds + UInt32(number), transactions: submission.transactions, bits: Self.bits)
    let hash = SHA256.double(bytes.span.bytes.extracting(0..<80))
    blocks[number] = (hash, bytes)
    genuine.blocks[hash] = bytes
    offer(number, submission.relay)
  }

  func depth(_ block: Int) -> Int {
    var depth = 0
    var at = block
    while parents[at] >= 0 {
      at = parents[at]
      depth += 1
    }
    return depth
  }

  private func offer(_ number: Int, _ relay: Int) {
    guard let block = blocks[number] else { return }
    guard simulation.isUp(relay) else { return again(number, relay) }
    // The bridge tells its relay the node's headers before a block on top of them.
    let ancestors = branch(to: parents[number]).reversed().compactMap { blocks[$0]?.bytes }
    // In half of the blocks the sketch goes first; in one of eight of these it is wrong.
    var random = SeededRandom(seed: scenario.seed &+ UInt64(number) &* 0x5EED)
    if sketched.insert(number).inserted && random.chance(0.5) {
      let isWrong = random.chance(0.125)
      let gap = Interval.microseconds(Int64(random.below(3_000)))
      var isTaken = false
      simulation.perform(on: relay) { core, now, sink in
        isTaken = core.submitSketch(block.bytes, on: ancestors, isWrong: isWrong, now: now, into: &sink)
      }
      if isTaken {
        simulation.at(simulation.now + gap) { [weak self] _ in self?.follow(number, relay, isWrong: isWrong) }
        return
      }
    }
    simulation.perform(on: relay) { [weak self] core, now, sink in
      guard let self else { return }
      if !core.submit(block.bytes, on: ancestors, now: now, into: &sink) { return self.again(number, relay) }
      if self.offeredAt[number] == nil { self.wasOffered(number) }
    }
  }

  private func follow(_ number: Int, _ relay: Int, isWrong: Bool) {
    guard let block = blocks[number], simulation.isUp(relay) else { return again(number, relay) }
    simulation.perform(on: relay) { [weak self] core, now, sink in
      guard let self else { return }
      if !core.follow(block.bytes, isWrong: isWrong, now: now, into: &sink) { return self.again(number, relay) }
      if self.offeredAt[number] == nil { self.wasOffered(number) }
    }
  }

  private func wasOffered(_ number: Int) {
    offeredAt[number] = simulation.now
    simulation.at(simulation.now) { [weak self] _ in
      guard let self else { return }
      self.joined[number] = self.linksUp()
    }
    simulation.at(simulation.now + .seconds(1)) { [weak self] _ in
      guard let self else { return }
      self.joined[number] = self.joined[number].intersection(self.linksUp())
    }
  }

  private func again(_ number: Int, _ relay: Int) {
    simulation.at(simulation.now + .microseconds(100_000)) { [weak self] _ in self?.offer(number, relay) }
  }

  private func strike(_ fault: ChaosScenario.Fault) {
    switch fault {
    case .crash(let relay, let back):
      collect()
      simulation.crash(relay)
      restart(relay, after: back)
    case .stop(let relay, let back):
      collect()
      simulation.stop(relay, grace: .microseconds(10_000))
      restart(relay, after: back)
    case .cut(let a, let b, let heal):
      cut([(a, b)], heal)
    case .partition(let side, let heal):
      let pairs = scenario.topology.links.filter { side.contains($0.a) != side.contains($0.b) }.map { ($0.a, $0.b) }
      cut(pairs, heal)
    case .clock(let relay, let clock):
      // The offset stays: a monotonic clock doesn't jump.
      let now = simulation.localTime(of: relay)
      var changed = clock
      changed.offset = .zero
      simulation.setClock(of: relay, changed)
      changed.offset = now - simulation.localTime(of: relay)
      simulation.setClock(of: relay, changed)
    }
  }

  private func restart(_ relay: Int, after back: Interval) {
    simulation.at(simulation.now + max(back, .microseconds(20_000))) { [weak self] simulation in
      guard let self, !simulation.isUp(relay) else { return }
      simulation.start(relay)
      // What its node has, its relay is told again by the bridge.
      for (number, submission) in self.scenario.submissions.enumerated()
      where submission.relay == relay && self.blocks[number] != nil { self.offer(number, relay) }
    }
  }

  private func cut(_ pairs: [(Int, Int)], _ heal: Interval) {
    for (a, b) in pairs {
      simulation.setCut(from: a, to: b, true)
      simulation.setCut(from: b, to: a, true)
    }
    simulation.at(simulation.now + heal) { simulation in
      for (a, b) in pairs {
        simulation.setCut(from: a, to: b, false)
        simulation.setCut(from: b, to: a, false)
      }
    }
  }

  /// Faults are over: everything is joined, everybody is up.
  func calmDown() {
    for link in scenario.topology.links {
      simulation.setCut(from: link.a, to: link.b, false)
      simulation.setCut(from: link.b, to: link.a, false)
    }
    for relay in scenario.topology.relays.indices where !simulation.isUp(relay) { simulation.start(relay) }
  }
}
