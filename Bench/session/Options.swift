import ArgumentParser

struct Options: ParsableCommand, Sendable {
  static let configuration = CommandConfiguration(
    commandName: "bench-session",
    abstract: "Sealing, opening, handshakes and rejecting, against plain libsodium calls.")
}
