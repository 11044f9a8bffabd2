import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-relay",
    abstract: "The relay core in real time: first packets, forwarding, checking, matching.")

  @Option(help: ArgumentHelp("One of the repository's real blocks; may be given again.", valueName: "name"))
  var block = ["702861"]
}
