import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-chaos",
    abstract: "The long sweep: random overlays, faults, losses and liars, each from one seed.",
    discussion: """
      Every failure prints its seed. Status: 0 all runs hold, 1 some failed, 2 the replayed run failed.
      """)

  @Option(help: "How many seeds.") var runs = 10_000
  @Option(help: "The first seed.") var first: UInt64 = 1
  @Option(help: "Runs at once.") var threads = 2
  @Option(help: "Replay this one run and tell about it.") var seed: UInt64?
  @Flag(help: "Leave the liars out.") var honest = false

  func validate() throws {
    if runs < 1 || threads < 1 { throw ValidationError("--runs and --threads are at least 1") }
  }
}
