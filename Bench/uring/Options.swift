import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-uring",
    abstract: "The engine against plain system calls on loopback, in the same run and taking turns.",
    discussion: """
      Two cores: sender and receiver have one each, in every method.
      """)

  @Option(help: "How often each method has its turn.") var rounds = 3
  @Option(help: "How long a turn takes.") var seconds = 0.7
  @Option(help: "Only throughput, rtt, cpu, pacing or engine; may be given again.") var only: [Part] = []
  @Option(help: ArgumentHelp("Bytes that an unlimited link may queue.", valueName: "bytes")) var room: Int?
  @Option(help: "Receive buffers of the engine.") var buffers: Int?
  @Option(help: ArgumentHelp("How long the engine looks before it sleeps.", valueName: "us")) var patience: Int64?
  @Flag(help: "Tell what the engines counted.") var verbose = false

  enum Part: String, ExpressibleByArgument, CaseIterable { case throughput, rtt, cpu, pacing, engine }

  func validate() throws {
    if rounds < 1 || seconds <= 0 { throw ValidationError("--rounds and --seconds are above 0") }
  }
}
