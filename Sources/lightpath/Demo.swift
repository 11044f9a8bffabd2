import ArgumentParser
import Foundation
import Ground
import Session

struct Demo: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Starts relays on this machine and shows blocks crossing them.",
    discussion: """
      Every relay is a process of its own; they talk over real sockets on loopback. Each has a stand-in for a node inside, \
      with a mempool made of the blocks' transactions, less the share --missing. 'Mined' blocks hold a real block's \
      transactions under a header and coinbase of their own (regtest), so that they follow each other. With --bitcoind, \
      real nodes on regtest take the stand-ins' place, and know each other only through the overlay.

      On the link between the first and the last relay, packets are lost on purpose (--loss).

      Exit status: 0 every block reached every relay, 1 some did not, 2 a block can't be read, 64 wrong usage, \
      128 + n a signal.
      """)

  @Option(
    name: .long, parsing: .upToNextOption, help: "Files of serialised blocks; else the bundled ones.",
    completion: .file())
  var block: [String] = []

  @Option(help: "Per cent of packets lost on the link between the first and the last relay.")
  var loss: Double = 3

  @Option(help: "Per cent of transactions that each mempool lacks.")
  var missing: Double = 1

  @Option(help: "Milliseconds added to each link's way, in each direction.")
  var delay: Double = 0

  @Option(help: "How many relays, 2 to 8.")
  var relays: Int = 3

  @Option(help: "Path of Bitcoin Core's bitcoind: real regtest nodes instead of stand-ins.", completion: .file())
  var bitcoind: String?

  @Option(help: "What the first relay measured, as one HTML page into this file.", completion: .file())
  var report: String?

  @Flag(help: "One JSON object.")
  var json = false

  @Flag(help: "Keep the folder with topology, keys and logs, and say where it is.")
  var keep = false

  func validate() throws {
    guard (0...50).contains(loss) else { throw ValidationError("--loss must lie between 0 and 50") }
    guard (0...100).contains(missing) else { throw ValidationError("--missing must lie between 0 and 100") }
    guard (0...1_000).contains(delay) else { throw ValidationError("--delay must lie between 0 and 1000") }
    guard (2...8).contains(relays) else { throw ValidationError("--relays must lie between 2 and 8") }
  }

  struct Hop: Codable {
    var relay: String
    var from: String?
    var delivered_ms: Double
    var header_ms: Double?
    var bytes: Int
    var packets: Int
    var repair_packets: Int
    var mempool_pct: Double
    var extra_rounds: Int
  }
  struct Row: Codable {
    var block: String
    var hash: String
    var size: Int
    var transactions: Int
    var origin: String
    var completed: Bool
    var relays: [Hop]
  }
  struct Outcome: Codable {
    var completed: Bool
    var relays: Int
    var loss_pct: Double
    var missing_pct: Double
    var delay_ms: Double
    var blocks: [Row]
  }

  func run() throws {
    let stage = DemoStage(self)
    defer { stage.leave(keep: keep) }
    // Who presses ^C or ends this otherwise must not leave relays, nodes or keys behind: the reaper sees to that once this
    // process is gone. Whoever started it may have such signals blocked.
    var set = sigset_t()
    sigemptyset(&set)
    for number in [SIGINT, SIGTERM, SIGHUP] {
      sigaddset(&set, number)
      signal(number) { _exit(128 + $0) }
    }
    pthread_sigmask(SIG_UNBLOCK, &set, nil)
    let outcome = try stage.play()
    if let report { try stage.report(to: report) }
    if json {
      print(lightpath.json(outcome))
    } else if outcome.completed {
      print("\nEvery block reached every relay. Next: topology/README.md tells how to run this between your sites.")
    }
    if !outcome.completed { throw failure(Exit.failed, "some block did not reach every relay") }
  }
}
