import Bitcoin
import Ground
import Topology

/// What `lightpath simulate` runs: an overlay, blocks, and what goes wrong.
public struct SimulationPlan: Sendable {
  public var topology: OverlayTopology
  /// Serialised blocks whose transactions the simulated blocks are made of, in turn.
  public var blocks: [[UInt8]]
  public var blockCount: Int
  /// Of each direction of each link.
  public var loss = LossModel.none
  public var jitter = Interval.zero
  /// Share of a block's transactions that each relay's mempool lacks, drawn anew for each relay and block.
  public var missing = 0.0
  /// Relays that begin with an empty mempool, and never get one.
  public var coldRelays: Set<Int> = []
  public var seed: UInt64 = 1
  /// From one block to the next.
  public var spacing = Interval.microseconds(2_000_000)

  public init(topology: OverlayTopology, blocks: [[UInt8]], blockCount: Int) {
    self.topology = topology
    self.blocks = blocks
    self.blockCount = blockCount
  }

  /// A seed of its own for each question that is drawn.
  func seed(_ parts: UInt64...) -> UInt64 {
    var value = seed
    for part in parts {
      value = (value ^ part) &* 0x9E37_79B9_7F4A_7C15
      value ^= value >> 29
    }
    return value
  }

  /// The relay at whose site a block is found.
  public func origin(of block: Int) -> Int {
    var random = SeededRandom(seed: seed(1, UInt64(block)))
    return random.below(topology.relays.count)
  }

  /// Which of a block's transactions a relay's mempool lacks, ascending; the coinbase is not among them.
  public func missing(block: Int, relay: Int, transactions: Int) -> [Int] {
    if transactions < 2 { return [] }
    if coldRelays.contains(relay) { return Array(1..<transactions) }
    let count = min(transactions - 1, Int((missing * Double(transactions - 1)).rounded()))
    if count == 0 { return [] }
    var random = SeededRandom(seed: seed(2, UInt64(block), UInt64(relay)))
    var chosen: Set<Int> = []
    while chosen.count < count { chosen.insert(1 + random.below(transactions - 1)) }
    return chosen.sorted()
  }

  /// Block numbers of one of several shards: each shard is a run of its own.
  public func blocks(shard: Int, of shards: Int) -> Range<Int> {
    blockCount * shard / shards..<blockCount * (shard + 1) / shards
  }

  /// Describes the topology's links to a simulation whose nodes are its relays.
  func lay<Core>(_ simulation: Simulation<Core>) where Core: ~Copyable {
    for link in topology.links {
      let path = PathModel(delay: link.delay, jitter: jitter, loss: loss)
      simulation.setPath(from: link.a, to: link.b, path)
      simulation.setPath(from: link.b, to: link.a, path)
    }
  }

  /// Addresses inside the simulation: one for each relay, whatever the topology says.
  static func address(_ relay: Int) -> PeerAddress {
    PeerAddress(ipv4: 10, 0, UInt8(relay >> 8), UInt8(relay & 255), port: 8335)
  }
}

/// What came out of a run, or of several shards together.
public struct SimulationTally: Sendable {
  public struct LinkTally: Hashable, Sendable {
    public var a, b: Int
    /// Both directions; bytes are UDP payload.
    public var datagrams: UInt64 = 0
    public var bytes: UInt64 = 0
    public var lost: UInt64 = 0
  }
  public var relays: Int
  public var blocks = 0
  /// Blocks that every relay completed.
  public var completed = 0
  /// Blocks for which some relay had to ask, or never completed.
  public var extraRounds = 0
  /// Time over the light path, nanoseconds, of each block and relay but its origin.
  public var overLight: [Int64] = []
  public var links: [LinkTally]
  /// Pairs of block and relay that never met, with the seeds' block numbers.
  public var incomplete: [(block: Int, relay: Int)] = []
  /// The first request of each relay for each block that it had to ask for.
  public var requests: [Request] = []
  public struct Request: Hashable, Sendable {
    public var block: Int
    public var relay: Int
    /// `ObjectKind`.
    public var kind: Int
    public var chunks: Int
    /// When, nanoseconds over the light path.
    public var overLight: Int64
  }
  /// Where the time went, of the relay core's runs.
  public var stages = StageTimes()
  /// Hash of the shards' traces.
  public var trace: UInt64 = 0

  public init(_ topology: OverlayTopology) {
    relays = topology.relays.count
    links = topology.links.map { LinkTally(a: $0.a, b: $0.b) }
  }

  public mutating func merge(_ other: SimulationTally) {
    blocks += other.blocks
    completed += other.completed
    extraRounds += other.extraRounds
    overLight += other.overLight
    incomplete += other.incomplete
    requests += other.requests
    stages.merge(other.stages)
    trace = trace &* 31 &+ other.trace
    for i in links.indices {
      links[i].datagrams += other.links[i].datagrams
      links[i].bytes += other.links[i].bytes
      links[i].lost += other.links[i].lost
    }
  }

  mutating func addTraffic<Core>(_ simulation: Simulation<Core>, sign: Bool) where Core: ~Copyable {
    for i in links.indices {
      for (from, to) in [(links[i].a, links[i].b), (links[i].b, links[i].a)] {
        let counters = simulation.pathCounters(from: from, to: to)
        if sign {
          links[i].datagrams &+= counters.datagrams
          links[i].bytes &+= counters.bytes
          links[i].lost &+= counters.lost
        } else {
          links[i].datagrams &-= counters.datagrams
          links[i].bytes &-= counters.bytes
          links[i].lost &-= counters.lost
        }
      }
    }
  }

  /// Nearest rank, in milliseconds; nil when nothing arrived.
  public func overLightMs(_ share: Double) -> Double? {
    if overLight.isEmpty { return nil }
    let sorted = overLight.sorted()
    let rank = max(0, min(sorted.count - 1, Int((share * Double(sorted.count)).rounded(.up)) - 1))
    return Double(sorted[rank]) / 1e6
  }

  public var extraRoundShare: Double { blocks == 0 ? 0 : Double(extraRounds) / Double(blocks) }

  /// UDP payload per link and block, both directions.
  public var bytesPerLink: Double {
    if blocks == 0 || links.isEmpty { return 0 }
    return Double(links.reduce(0) { $0 + $1.bytes }) / Double(links.count) / Double(blocks)
  }
  public var datagramsPerLink: Double {
    if blocks == 0 || links.isEmpty { return 0 }
    return Double(links.reduce(0) { $0 + $1.datagrams }) / Double(links.count) / Double(blocks)
  }
}

/// What one block cost whom: filled while a run goes on.
struct BlockRace {
  let block: Int
  let origin: Int
  let submitted: UInt64
  var delivered: [UInt64?]
  var asked = false

  init(block: Int, origin: Int, submitted: UInt64, relays: Int) {
    self.block = block
    self.origin = origin
    self.submitted = submitted
    delivered = [UInt64?](repeating: nil, count: relays)
  }

  var isOver: Bool { delivered.indices.allSatisfy { $0 == origin || delivered[$0] != nil } }

  func score(_ light: [[Interval]], into tally: inout SimulationTally) {
    tally.blocks += 1
    if isOver { tally.completed += 1 }
    if asked || !isOver { tally.extraRounds += 1 }
    for relay in delivered.indices where relay != origin {
      if let at = delivered[relay] {
        tally.overLight.append(Int64(at) - Int64(submitted) - light[origin][relay].nanoseconds)
      } else {
        tally.incomplete.append((block, relay))
      }
    }
  }
}
