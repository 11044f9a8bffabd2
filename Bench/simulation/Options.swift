import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-simulation",
    abstract: "What the simulator costs, and its model of CPU time against a real clock.",
    discussion: """
      Run it on a quiet machine.
      """)

  @Option(help: ArgumentHelp("One of the repository's real blocks; may be given again.", valueName: "name"))
  var block = ["702861"]
  @Option(help: "Blocks to relay while calls are timed.") var blocks = 12
  @Flag(help: "Also print the prices that fit best (RelayCosts).") var fit = false

  func validate() throws { if blocks < 1 { throw ValidationError("--blocks is at least 1") } }
}
