import Foundation
import RegtestNode
import Testing

/// What programs that start others leave behind: nothing.
@Suite struct ChildrenTests {
  /// Processes whose arguments name a folder.
  private func users(of folder: String) -> [Int32] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
    return names.compactMap { Int32($0) }.filter { pid in
      let line = (try? String(contentsOfFile: "/proc/\(pid)/cmdline", encoding: .utf8)) ?? ""
      return line.contains(folder + "/")
    }
  }

  /// Whatever ends the demonstration, its relays, its nodes and the folder with the keys go.
  @Test(
    arguments: [SIGINT, SIGTERM, SIGHUP, SIGKILL], RegtestNode.binary(.core).map { [nil, $0] } ?? [nil])
  func theDemonstrationLeavesNothing(_ signal: Int32, _ bitcoind: String?) throws {
    let process = Process()
    process.executableURL = Program.url
    process.arguments = ["demo", "--relays", "2", "--json"]
    if let bitcoind {
      process.arguments! += ["--bitcoind", bitcoind]
    } else {
      // So slow that it is not done before the signal.
      process.arguments! += ["--delay", "1000", "--block", TestOverlay.block("426884"), TestOverlay.block("898352")]
    }
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    let pid = process.processIdentifier
    Reaper.add(pid)
    let folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-demo-\(pid)").path
    #expect(eventually { users(of: folder).count == 2 }, "two relays, or two nodes")
    kill(pid, signal)
    #expect(eventually { !process.isRunning })
    Reaper.remove(pid)
    if signal != SIGKILL {
      #expect(process.terminationReason == .exit && process.terminationStatus == 128 + signal)
    }
    #expect(eventually { users(of: folder).isEmpty && !FileManager.default.fileExists(atPath: folder) })
  }

  /// The helper that runs commands for these tests takes more than a pipe holds, and has a limit.
  @Test func commandsEnd() throws {
    let shell = URL(filePath: "/bin/sh")
    let much = try Program.run(
      ["-c", "head -c 300000 /dev/zero >&2; head -c 200000 /dev/zero; exit 3"], of: shell)
    #expect(much.status == 3 && much.error.utf8.count == 300_000 && much.out.utf8.count == 200_000)
    let never = try Program.run(["-c", "echo begun; exec sleep 100"], of: shell, seconds: 0.5)
    #expect(never.status == -1 && never.out == "begun\n")
  }
}
