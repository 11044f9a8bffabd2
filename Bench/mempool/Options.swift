import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-mempool",
    abstract: "A mempool of 150,000 transactions: its memory, and how long matching a block takes.")
}
