import Ground
import Topology

/// One run of the sweep, drawn from its seed: an overlay, its losses, its liars, and what breaks when.
public struct ChaosScenario: Sendable, CustomStringConvertible {
  enum Fault: Sendable {
    case crash(relay: Int, back: Interval)
    case stop(relay: Int, back: Interval)
    case cut(a: Int, b: Int, heal: Interval)
    case partition(side: Set<Int>, heal: Interval)
    case clock(relay: Int, ClockModel)

    /// How long it is broken.
    var lasting: Interval {
      switch self {
      case .crash(_, let back), .stop(_, let back): back
      case .cut(_, _, let heal), .partition(_, let heal): heal
      case .clock: .zero
      }
    }
  }

  struct Submission: Sendable {
    var at: Interval
    var relay: Int
    /// Number of the block it stands on; -1: the anchor.
    var parent: Int
    var transactions: Int
  }

  public let seed: UInt64
  let topology: OverlayTopology
  let liars: [Int: LyingRelay.Attack]
  let paths: [(a: Int, b: Int, there: PathModel, back: PathModel)]
  let clocks: [ClockModel]
  let submissions: [Submission]
  let faults: [(at: Interval, fault: Fault)]
  /// By relay: the share of transactions that its mempool lacks.
  let missing: [Double]
  /// When the last fault is healed.
  let calmAt: Interval

  /// - Parameter withLiars: false makes every relay honest; all else is drawn as before.
  public init(seed: UInt64, withLiars: Bool = true) {
    self.seed = seed
    var random = SeededRandom(seed: seed)
    let count = 3 + random.below(6)
    topology = Self.overlay(count, &random)
    var liars: [Int: LyingRelay.Attack] = [:]
    if random.chance(0.5) {
      for _ in 0...random.below(max(1, count / 3)) {
        var attacks = LyingRelay.Attack(rawValue: UInt32(truncatingIfNeeded: random.next()))
          .intersection(.all)
        if random.chance(0.2) { attacks = .all }
        liars[random.below(count)] = attacks
      }
    }
    // Somebody honest must have something to say to somebody honest.
    while liars.count > count - 2 { liars.remove(at: liars.startIndex) }
    if !withLiars { liars = [:] }
    self.liars = liars
    paths = topology.links.map { link in
      let there = Self.path(link.delay, &random)
      return (link.a, link.b, there, random.chance(0.7) ? there : Self.path(link.delay, &random))
    }
    clocks = (0..<count).map { _ in
      random.chance(0.5)
        ? .exact
        : ClockModel(
          offset: Interval(nanoseconds: Int64(random.below(1_000_000_000))),
          driftPpb: Int64(random.below(200_001)) - 100_000)
    }
    let everywhere = random.chance(0.5)
    let share = random.unit() * random.unit()
    missing = (0..<count).map { _ in
      random.chance(0.1) ? 1 : everywhere ? share : random.unit() * random.unit()
    }
    let honest = (0..<count).filter { liars[$0] == nil }
    submissions = Self.submissions(honest, &random)
    var faults: [(Interval, Fault)] = []
    var calm = submissions.map(\.at).max() ?? .zero
    if random.chance(0.6) {
      for _ in 0...random.below(4) {
        let at = Interval(nanoseconds: Int64(random.below(4_000_000_000)))
        let lasting = Interval(nanoseconds: 20_000_000 + Int64(random.below(3_000_000_000)))
        faults.append((at, Self.fault(topology, lasting, &random)))
        calm = max(calm, at + lasting)
      }
    }
    self.faults = faults
    calmAt = calm
  }

  private static func overlay(_ count: Int, _ random: inout SeededRandom) -> OverlayTopology {
    func rate() -> LinkRate {
      LinkRate(bitsPerSecond: [20_000_000, 100_000_000, 1_000_000_000, 10_000_000_000, 0][random.below(5)])
    }
    func trust() -> OverlayTopology.Trust { random.chance(0.2) ? .verifiedOnly : .trusted }
    let relays = (0..<count).map { i in
      OverlayTopology.Relay(
        name: "r\(i)", publicKey: [], addresses: [], latitude: 0, longitude: 0,
        uplink: random.chance(0.7) ? .unlimited : LinkRate(bitsPerSecond: 50_000_000 + UInt64(random.below(1 << 30))),
        nodes: [])
    }
    var links: [OverlayTopology.Link] = []
    let density = random.unit()
    for b in 1..<count {
      // A tree, so that all are connected, and more.
      let parent = random.below(b)
      for a in 0..<b where a == parent || random.chance(density) {
        let local = random.chance(0.3)
        let microseconds = local ? 50 + random.below(2_000) : 2_000 + random.below(150_000)
        links.append(
          OverlayTopology.Link(
            a: a, b: b, rate: rate(), trustInA: trust(), trustInB: trust(), delay: .microseconds(Int64(microseconds)),
            isDelayConfigured: true))
      }
    }
    return OverlayTopology(
      name: "chaos", network: .regtest, pathFactor: 1.5, relays: relays, groups: [],
      links: links.sorted { ($0.a, $0.b) < ($1.a, $1.b) })
  }

  private static func path(_ delay: Interval, _ random: inout SeededRandom) -> PathModel {
    var path = PathModel(delay: delay)
    if random.chance(0.6) {
      path.loss = LossModel(rate: 0.1 * random.unit() * random.unit(), meanBurst: 1 + 7 * random.unit())
    }
    if random.chance(0.03) { path.loss = LossModel(rate: 0.3, meanBurst: 3) }
    if random.chance(0.3) { path.jitter = .microseconds(Int64(random.below(3_000))) }
    if random.chance(0.3) {
      path.reorder = 0.1 * random.unit()
      path.reorderDelay = .microseconds(Int64(random.below(20_000)))
    }
    if random.chance(0.2) { path.duplicate = 0.1 * random.unit() }
    return path
  }

  private static func submissions(_ honest: [Int], _ random: inout SeededRandom) -> [Submission] {
    var result: [Submission] = []
    var at = Int64(500_000_000)
    for i in 0...random.below(4) {
      // Mostly one on top of the other; sometimes a race on the same parent.
      let isRace = i > 0 && random.chance(0.25)
      let parent = isRace ? result[i - 1].parent : i - 1
      at += Int64(random.below(isRace ? 20_000_000 : 1_200_000_000))
      result.append(
        Submission(
          at: Interval(nanoseconds: at), relay: honest[random.below(honest.count)], parent: parent,
          transactions: [0, 1, 5, 40, 120][random.below(5)]))
    }
    return result
  }

  private static func fault(_ topology: OverlayTopology, _ lasting: Interval, _ random: inout SeededRandom) -> Fault {
    let count = topology.relays.count
    switch random.below(5) {
    case 0: return .crash(relay: random.below(count), back: lasting)
    case 1: return .stop(relay: random.below(count), back: lasting)
    case 2:
      let link = topology.links[random.below(topology.links.count)]
      return .cut(a: link.a, b: link.b, heal: lasting)
    case 3:
      var side: Set<Int> = [random.below(count)]
      for i in 0..<count where random.chance(0.3) { side.insert(i) }
      return .partition(side: side, heal: lasting)
    default:
      return .clock(
        relay: random.below(count), ClockModel(offset: .zero, driftPpb: Int64(random.below(100_001)) - 50_000))
    }
  }

  public var description: String {
    let attacks = liars.sorted { $0.key < $1.key }.map { "r\($0.key) lies (\($0.value.rawValue))" }
    return "seed \(seed): \(topology.relays.count) relays, \(topology.links.count) links, "
      + "\(submissions.count) blocks, \(faults.count) faults" + (attacks.isEmpty ? "" : ", ")
      + attacks.joined(separator: ", ")
  }
}
