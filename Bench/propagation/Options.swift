import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-propagation",
    abstract: "Blocks between sites with real nodes: plain P2P, FIBRE and Lightpath over one emulated network.",
    discussion: """
      Needs root, /dev/net/tun and BITCOIND: the path of a Bitcoin Core bitcoind (v30 or newer); FIBRE_BITCOIND: that of
      FIBRE's, without which FIBRE is left out. Status: 0 done or nothing to do without BITCOIND, 2 something is missing
      or went wrong, 3 the limit, 128 + n a signal, 64 a wrong option.
      """)

  @Flag(help: "A chain only, four blocks at each loss: one minute instead of six.") var quick = false
  @Option(help: "chain, mesh, or both (default: chain,mesh; quick: chain).", transform: list)
  var shape: [Shape.Kind] = []
  @Option(help: "Sites, 2 to 5.") var sites = 3
  @Option(help: ArgumentHelp("Of each link, one way.", valueName: "ms")) var delay = 20.0
  @Option(help: ArgumentHelp("Of each link.", valueName: "Mbit/s")) var mbit = 1_000.0
  @Option(
    help: ArgumentHelp("Of packets, in each direction of each link (default: 0,1,3).", valueName: "percent,…"),
    transform: list)
  var loss: [Double] = [0, 1, 3]
  @Option(help: ArgumentHelp("Mean length of a run of lost packets; 1: independent losses.", valueName: "packets"))
  var burst = 1.0
  @Option(help: "A block's transactions, taken in turn (default: 1000,1500,2000,2500).", transform: list)
  var transactions: [Int] = [1_000, 1_500, 2_000, 2_500]
  @Option(help: ArgumentHelp("Of them, that only the origin's node has.", valueName: "percent")) var missing = 1.0
  @Option(help: "Measured at each loss (default: 24; quick: 4).") var blocks: Int?
  @Option(help: "Before them.") var warmUps = 4
  @Option(help: "Of floor,p2p,fibre,lightpath (default: all).", transform: list)
  var systems: [System] = System.allCases
  @Option(help: ArgumentHelp("The program (default: the one beside this bench).", valueName: "path"))
  var lightpath: String?
  @Option(help: ArgumentHelp("Everything is ended after this.", valueName: "seconds")) var limit = 1_800
  @Flag(help: "Tell each block's stages on standard error.") var each = false
  @Flag(help: "Keep the folder with all logs in the temporary directory.") var keep = false

  enum System: String, CaseIterable { case floor, p2p, fibre, lightpath }

  var shapes: [Shape.Kind] { shape.isEmpty ? (quick ? [.chain] : [.chain, .mesh]) : shape }
  var measuredBlocks: Int { blocks ?? (quick ? 4 : 24) }

  func validate() throws {
    func check(_ holds: Bool, _ text: String) throws { if !holds { throw ValidationError(text) } }
    try check((2...5).contains(sites), "--sites 2 to 5")
    try check(loss.allSatisfy { (0..<100).contains($0) } && (0...100).contains(missing), "percent are 0 to 100")
    try check(delay >= 0 && mbit > 0 && burst >= 1, "--delay is not negative, --mbit above 0, --burst at least 1")
    try check(transactions.allSatisfy { $0 > 0 } && warmUps >= 0, "--transactions above 0, --warm-ups not negative")
    try check(measuredBlocks > 0 && limit > 0, "--blocks and --limit are above 0")
  }
}

/// Values with commas between.
private func list<Value>(_ text: String, _ value: (Substring) -> Value?) throws -> [Value] {
  try text.split(separator: ",").map { part in
    guard let value = value(part) else { throw ValidationError("'\(part)' in '\(text)'") }
    return value
  }
}
@Sendable private func list(_ text: String) throws -> [Double] { try list(text) { Double($0) } }
@Sendable private func list(_ text: String) throws -> [Int] { try list(text) { Int($0) } }
@Sendable private func list(_ text: String) throws -> [Shape.Kind] {
  try list(text) { Shape.Kind(rawValue: String($0)) }
}
@Sendable private func list(_ text: String) throws -> [Options.System] {
  try list(text) { Options.System(rawValue: String($0)) }
}
