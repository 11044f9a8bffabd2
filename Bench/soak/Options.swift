import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-soak",
    abstract: "Three relay processes pass blocks for twenty minutes, losing packets on purpose.",
    discussion: """
      Nothing may be missed, and memory and descriptors must stay flat. Status: 0 held; 1 a block was missed, a relay died,
      more descriptors were open at the end than after the warm-up, or memory grew by more than --most-growth; 2 it could
      not run. Memory is judged in runs of ten minutes and more: caches and tables fill in the first two.
      """)

  @Option(help: "How long.") var minutes = 20.0
  @Option(help: ArgumentHelp("Blocks a second, at most.", valueName: "blocks")) var rate = 2.5
  @Option(help: ArgumentHelp("Packets lost on every link.", valueName: "percent")) var loss = 3.0
  @Option(help: ArgumentHelp("Transactions missing at each site.", valueName: "percent")) var missing = 1.0
  @Option(help: ArgumentHelp("Memory that a relay may grow by after the warm-up.", valueName: "MB"))
  var mostGrowth = 50.0
  @Option(help: ArgumentHelp("The program (default: the one beside this bench).", valueName: "path"))
  var lightpath: String?
  @Flag(help: "Print a line each ten seconds.") var trace = false

  func validate() throws {
    if minutes <= 0 || rate <= 0 { throw ValidationError("--minutes and --rate are above 0") }
    if mostGrowth < 0 { throw ValidationError("--most-growth is not negative") }
    if !(0...50).contains(loss) || !(0...100).contains(missing) {
      throw ValidationError("--loss is 0 to 50 percent, --missing 0 to 100")
    }
  }
}
