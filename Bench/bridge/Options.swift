import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-bridge",
    abstract: "From one node to another through two bridges, beside the nodes' own compact blocks.",
    discussion: """
      Needs BITCOIND: the path of a Bitcoin Core bitcoind (v30 or newer).
      """)

  @Option(help: "Blocks timed at each of the two receiving nodes.") var blocks = 9
  @Option(help: "Transactions in a block.") var transactions = 2_500
  @Option(help: "Transactions in the near bridge's mirror.") var mirror = 150_000

  @Option(help: ArgumentHelp("Everything is ended after this.", valueName: "seconds")) var limit = 120

  func validate() throws {
    if blocks < 1 || transactions < 1 || limit < 1 || mirror < transactions {
      throw ValidationError("--blocks, --transactions and --limit are at least 1, --mirror at least --transactions")
    }
  }
}
