import Bitcoin
import Foundation
import Ground
import Logging
import Site

/// `--on-header`: a command that learns of a block as soon as its header's proof of work, difficulty and parent have been
/// checked: before the block is complete, and before anyone has looked at its transactions. It gets LIGHTPATH_EVENT=header,
/// LIGHTPATH_VALIDATED=0, LIGHTPATH_HASH, LIGHTPATH_HEIGHT, LIGHTPATH_HEADER (80 bytes, hexadecimal) and LIGHTPATH_FROM in
/// its environment.
///
/// At most `runningMax` at a time: further headers are skipped, and that is logged. A command that runs longer than
/// `limit` is ended.
final class HeaderCommand {
  static let runningMax = 4
  static let limit = Interval.seconds(30)

  private let command: String
  private let logger: Logger
  private var running: [(process: Process, started: Instant)] = []

  init?(_ command: String?, logger: Logger) {
    guard let command else { return nil }
    self.command = command
    self.logger = logger
  }

  func tell(_ event: SiteEvent) {
    guard case .header(let header) = event else { return }
    reap()
    if running.count >= HeaderCommand.runningMax {
      logger.warning(
        "--on-header: \(running.count) commands still run; skipped", metadata: ["block": "\(header.hash)"])
      return
    }
    let process = Process()
    process.executableURL = URL(filePath: "/bin/sh")
    process.arguments = ["-c", command]
    var environment = ProcessInfo.processInfo.environment
    environment["LIGHTPATH_EVENT"] = "header"
    environment["LIGHTPATH_VALIDATED"] = "0"
    environment["LIGHTPATH_HASH"] = "\(header.hash)"
    environment["LIGHTPATH_HEIGHT"] = "\(header.height)"
    environment["LIGHTPATH_HEADER"] = header.header.map { Hex.encode($0.bytes) } ?? ""
    environment["LIGHTPATH_FROM"] = header.from ?? ""
    process.environment = environment
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = FileHandle.nullDevice
    do {
      try process.run()
      running.append((process, SystemClock.now()))
    } catch { logger.error("--on-header: \(error.localizedDescription)") }
  }

  /// Forgets commands that have ended, and ends those that take too long. Once a second or so.
  func reap() {
    running.removeAll { !$0.process.isRunning }
    for (process, started) in running where SystemClock.now() - started > HeaderCommand.limit {
      kill(process.processIdentifier, SIGKILL)
    }
  }
}
