import Foundation
import Testing
import Uring

/// `topology/ops` put in place for real, below a folder.
@Suite struct OpsTests {
  static let repository = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  private func run(_ program: String, _ arguments: [String], environment: [String: String] = [:]) throws -> (
    status: Int32, text: String
  ) {
    let process = Process()
    process.executableURL = URL(filePath: program)
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    let out = Pipe()
    (process.standardOutput, process.standardError) = (out, out)
    try process.run()
    let text = String(decoding: out.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return (process.terminationStatus, text)
  }

  @Test func installPutsEverythingInPlaceAndKeepsConfiguration() throws {
    let root = FileManager.default.temporaryDirectory.appending(path: "lightpath-root-\(UUID().uuidString.prefix(8))")
      .path
    defer { try? FileManager.default.removeItem(atPath: root) }
    let install = OpsTests.repository.appending(path: "topology/ops/install").path
    let result = try run(
      install, ["--prefix", "/opt/lightpath", "--program", Program.url.path], environment: ["DESTDIR": root])
    #expect(result.status == 0, "\(result.text)")
    let expected: [(String, Int)] = [
      ("opt/lightpath/bin/lightpath", 0o755), ("etc/systemd/system/lightpath@.service", 0o644),
      ("etc/sysctl.d/60-lightpath.conf", 0o644), ("etc/lightpath/topology.toml", 0o644),
      ("opt/lightpath/share/lightpath/six-continents.toml", 0o644),
      ("opt/lightpath/share/lightpath/grafana.json", 0o644), ("opt/lightpath/share/lightpath/README.md", 0o644),
    ]
    for (path, mode) in expected {
      let attributes = try? FileManager.default.attributesOfItem(atPath: "\(root)/\(path)")
      #expect(attributes?[.posixPermissions] as? Int == mode, "\(path)")
    }
    // What was installed runs, and the example topology passes its check.
    let check = try run("\(root)/opt/lightpath/bin/lightpath", ["check", "\(root)/etc/lightpath/topology.toml"])
    #expect(check.status == 0, "\(check.text)")
    let dashboard = try Data(contentsOf: URL(filePath: "\(root)/opt/lightpath/share/lightpath/grafana.json"))
    #expect(try JSONSerialization.jsonObject(with: dashboard) is [String: Any])
    let unit = try String(contentsOfFile: "\(root)/etc/systemd/system/lightpath@.service", encoding: .utf8)
    #expect(unit.contains("ExecStart=/opt/lightpath/bin/lightpath ") && !unit.contains("/usr/local"))
    // What the engine asks for, the settings allow.
    let settings = try String(contentsOfFile: "\(root)/etc/sysctl.d/60-lightpath.conf", encoding: .utf8)
    let engine = EngineConfiguration(listen: [])
    #expect(settings.contains("net.core.rmem_max = \(engine.receiveSocketBytes)\n"))
    #expect(settings.contains("net.core.wmem_max = \(engine.sendSocketBytes)\n"))
    // What `--realtime` and `--cpu` call, and the kernel's word about the clock: the last filter gives back what the groups
    // before it took away.
    let lines = unit.split(separator: "\n")
    let calls = lines.last { $0.hasPrefix("SystemCallFilter=") }?.dropFirst(17).split(separator: " ") ?? []
    for call in ["sched_setscheduler", "sched_setaffinity", "adjtimex", "clock_adjtime"] {
      #expect(calls.contains(Substring(call)), "\(call)")
    }
    #expect(!lines.contains("ProtectClock=yes"))
    try verify(unit.replacingOccurrences(of: "ExecStart=/opt", with: "ExecStart=\(root)/opt"), in: root)
    // A second time: what the operator wrote stays.
    try "mine".write(toFile: "\(root)/etc/lightpath/topology.toml", atomically: true, encoding: .utf8)
    #expect(try run(install, ["--root", root, "--program", Program.url.path]).status == 0)
    #expect(try String(contentsOfFile: "\(root)/etc/lightpath/topology.toml", encoding: .utf8) == "mine")
    #expect(try run(install, ["--nonsense"]).status == 64)
  }

  /// By systemd's own word, where it is installed: every line of the unit is known to it.
  private func verify(_ unit: String, in root: String) throws {
    let systemd = "/usr/bin/systemd-analyze"
    guard FileManager.default.isExecutableFile(atPath: systemd) else { return }
    let file = "\(root)/lightpath@test.service"
    try unit.write(toFile: file, atomically: true, encoding: .utf8)
    let result = try run(systemd, ["verify", "--man=no", file])
    #expect(result.status == 0 && !result.text.contains("lightpath@"), "\(result.text)")
  }
}
