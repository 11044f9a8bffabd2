import Foundation

/// Where a relay's measurements are, for those who name no file.
enum StorePath {
  static let folder = "/var/lib/lightpath"

  /// For the relay: nil when there is no folder for it.
  static func standard(_ relay: String) -> String? {
    var folders = [StorePath.folder]
    // systemd's, several separated by colons.
    let stated = ProcessInfo.processInfo.environment["STATE_DIRECTORY"] ?? ""
    if let first = stated.split(separator: ":").first { folders.insert(String(first), at: 0) }
    for folder in folders where access(folder, W_OK | X_OK) == 0 {
      return "\(folder)/\(relay).sqlite"
    }
    return nil
  }

  /// For the report: of the relay that runs, else the only file in the folder.
  static func find(_ control: String?) throws -> String {
    if let path = try? ControlPath.find(control),
      let status = try? ControlClient.ask(ControlRequest(command: "status"), at: path).status
    {
      if let store = status.store { return store }
      throw failure(Exit.input, "the relay '\(status.relay)' keeps no measurements: start it with --store FILE")
    }
    if let control { throw failure(Exit.noRelay, "no relay answers at \(control); say --store FILE") }
    let files = ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [])
      .filter { $0.hasSuffix(".sqlite") }.sorted()
    if files.count == 1 { return "\(folder)/\(files[0])" }
    throw failure(
      Exit.input,
      files.isEmpty
        ? "no relay runs here and \(folder) holds no measurements: say --store FILE"
        : "several relays' measurements are in \(folder) (\(files.joined(separator: ", "))): say --store FILE")
  }
}
