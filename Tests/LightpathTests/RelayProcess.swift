import Foundation
import Ground
import RealBlocks
import RegtestNode
import Session

/// The built program.
enum Program {
  static let url = URL(filePath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent()
    .appending(path: "lightpath")

  /// Runs a command to its end: exit status, standard output and standard error. One that takes longer than `seconds` is
  /// killed, and its status is -1.
  static func run(
    _ arguments: [String], of program: URL = url, input: String? = nil, seconds: Double = 60
  ) throws -> (status: Int32, out: String, error: String) {
    let process = Process()
    process.executableURL = program
    process.arguments = arguments
    // Files, which take as much as is written however slowly it is read.
    let folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-run-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let files = ["out", "error"].map { folder.appending(path: $0) }
    for file in files { _ = FileManager.default.createFile(atPath: file.path, contents: nil) }
    if let input { process.standardInput = try FileHandle(forReadingFrom: URL(filePath: input)) }
    process.standardOutput = try FileHandle(forWritingTo: files[0])
    process.standardError = try FileHandle(forWritingTo: files[1])
    try process.run()
    Reaper.add(process.processIdentifier)
    let isDone = eventually(seconds: seconds) { !process.isRunning }
    if !isDone { kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
    Reaper.remove(process.processIdentifier)
    let texts = try files.map { String(decoding: try Data(contentsOf: $0), as: UTF8.self) }
    return (isDone ? process.terminationStatus : -1, texts[0], texts[1])
  }
}

/// A folder with keys and a topology of relays on loopback.
final class TestOverlay {
  let folder: URL
  let names: [String]
  let ports: [UInt16]
  private var keys: [String: String] = [:]
  private var relays: [RelayProcess] = []

  init(_ names: [String] = ["alice", "bob", "carol"]) throws {
    self.names = names
    folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-test-\(UUID().uuidString.prefix(8))")
    Reaper.add(folder)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    ports = TestOverlay.freePorts(names.count)
    for name in names {
      let identity = Identity(generatedFrom: .system)
      try identity.write(to: path("\(name).key"))
      keys[name] = "\(identity.publicKey)"
    }
    try OverlaySecret(generatedFrom: .system).write(to: path("overlay.key"))
    try writeTopology(links: pairs)
  }

  deinit {
    for relay in relays { relay.kill() }
    try? FileManager.default.removeItem(at: folder)
    Reaper.remove(folder)
  }

  func path(_ name: String) -> String { folder.appending(path: name).path }
  var topology: String { path("topology.toml") }
  var pairs: [(String, String)] {
    names.indices.flatMap { a in names.indices.filter { $0 > a }.map { (names[a], names[$0]) } }
  }

  /// - Parameter site: what else is said of a relay: pool, watched peers.
  func writeTopology(links: [(String, String)], site: [String: String] = [:]) throws {
    var text = "[overlay]\nname = \"test\"\nnetwork = \"regtest\"\n[defaults]\nrate_mbit = 1000\nuplink_mbit = 4000\n"
    for (name, port) in zip(names, ports) {
      text += "[[relay]]\nname = \"\(name)\"\npublic_key = \"\(keys[name]!)\"\naddresses = [\"127.0.0.1:\(port)\"]\n"
      text += "position = [50.11, 8.68]\n" + (site[name] ?? "")
    }
    for (a, b) in links { text += "[[link]]\nbetween = [\"\(a)\", \"\(b)\"]\n" }
    try text.write(toFile: topology, atomically: true, encoding: .utf8)
  }

  func arguments(_ name: String) -> [String] {
    [
      "relay", "--topology", topology, "--as", name, "--key", path("\(name).key"), "--overlay-key",
      path("overlay.key"), "--control", path("\(name).sock"), "--http", "off", "--embedded-node",
      RealBlocks.folder.appending(path: "426884.raw").path, "--embedded-node",
      RealBlocks.folder.appending(path: "898352.raw").path, "--embedded-seed", "\(names.firstIndex(of: name)! + 1)",
    ]
  }

  /// Adds an epoch to the overlay secret, in place.
  func rotateSecret() throws -> Int32 {
    try Program.run(["keygen", "--overlay", "--rotate", path("overlay.key")]).status
  }

  /// Starts a relay with an embedded node.
  func start(_ name: String, _ extra: [String] = []) throws -> RelayProcess {
    let relay = try RelayProcess(arguments(name) + extra, socket: path("\(name).sock"))
    relays.append(relay)
    return relay
  }

  func startAll(_ extra: [String] = []) throws -> [RelayProcess] {
    let all = try names.map { try start($0, extra) }
    guard eventually({ all.allSatisfy { $0.peersUp == names.count - 1 } }) else {
      throw RelayProcess.Failure(text: "no links: " + all.map(\.log).joined(separator: "\n"))
    }
    return all
  }

  /// A bundled block's file.
  static func block(_ name: String) -> String { RealBlocks.folder.appending(path: name + ".raw").path }

  static func freePorts(_ count: Int) -> [UInt16] {
    var held: [Int32] = []
    defer { for descriptor in held { close(descriptor) } }
    return (0..<count).map { _ in
      let (descriptor, port) = bindUDP(0)
      held.append(descriptor)
      return port
    }
  }

  static func bindUDP(_ port: UInt16) -> (Int32, UInt16) {
    let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_port = port.bigEndian
    name.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    _ = withUnsafeMutablePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
      }
    }
    return (descriptor, UInt16(bigEndian: name.sin_port))
  }
}

/// A relay as a process.
final class RelayProcess {
  struct Failure: Error { var text: String }

  let process = Process()
  private let socketPath: String
  private let logFile: URL

  /// - Parameter standardError: an existing file instead of one of its own.
  init(_ arguments: [String], socket: String, standardError: String? = nil) throws {
    socketPath = socket
    logFile = URL(filePath: standardError ?? socket + ".\(UUID().uuidString.prefix(4)).stderr")
    if standardError == nil { _ = FileManager.default.createFile(atPath: logFile.path, contents: nil) }
    process.executableURL = Program.url
    process.arguments = arguments
    process.standardError = try FileHandle(forWritingTo: logFile)
    try process.run()
    Reaper.add(process.processIdentifier)
  }

  var log: String { (try? String(contentsOf: logFile, encoding: .utf8)) ?? "" }
  func kill() {
    if process.isRunning { Foundation.kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
    Reaper.remove(process.processIdentifier)
  }
  func signal(_ number: Int32) { Foundation.kill(process.processIdentifier, number) }

  /// Asks over the control socket; nil when nobody answers.
  func ask(_ request: [String: Any]) -> [String: Any]? {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var time = timeval(tv_sec: 20, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(socketPath.utf8)) }
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard connected == 0, let line = try? JSONSerialization.data(withJSONObject: request) else { return nil }
    let bytes = [UInt8](line) + [0x0A]
    guard send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else { return nil }
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while answer.last != 0x0A {
      let n = recv(descriptor, &buffer, buffer.count, 0)
      if n <= 0 { return nil }
      answer += buffer[..<n]
    }
    return (try? JSONSerialization.jsonObject(with: Data(answer))) as? [String: Any]
  }

  var status: [String: Any]? { ask(["command": "status"])?["status"] as? [String: Any] }
  var peers: [[String: Any]] { status?["peers"] as? [[String: Any]] ?? [] }
  var peersUp: Int { peers.count { $0["up"] as? Bool == true } }
  var blocks: [String] { (status?["blocks"] as? [[String: Any]] ?? []).compactMap { $0["hash"] as? String } }
  func mine(_ block: Int) -> String? { ask(["command": "mine", "block": block])?["hash"] as? String }
}

func eventually(seconds: Double = 15, _ condition: () -> Bool) -> Bool {
  let end = Date(timeIntervalSinceNow: seconds)
  while !condition() {
    if Date() > end { return false }
    usleep(20_000)
  }
  return true
}
