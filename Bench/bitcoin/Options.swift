import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-bitcoin",
    abstract: "Parsing and hashing a whole block, and BIP152 encoding, against the bare compression function.")

  @Option(
    help: ArgumentHelp("A block, raw network serialisation; may be given again (default: 702861).", valueName: "file"))
  var block: [String] = []
}
