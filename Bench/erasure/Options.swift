import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-erasure",
    abstract:
      "Making repair chunks, how many a receiver needs that lacks some transactions, and its work after the last.",
    discussion: """
      Without --kernel, a second pass with AVX2 prints the same metrics with the prefix avx2_.
      """)

  @Option(help: ArgumentHelp("A raw block instead of 702861.", valueName: "file")) var block: String?
  @Option(help: ArgumentHelp("The kernel to use (default: the best here).", valueName: "name")) var kernel: String?
}
