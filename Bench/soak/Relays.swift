import Foundation
import Ground
import Harness
import RealBlocks
import Session
import Synchronization

/// One relay of the soak, a process, as its control socket shows it.
final class SoakRelay {
  let name: String
  let process = Process()
  private let socketPath: String
  private let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))

  init(name: String, program: URL, arguments: [String], socketPath: String, log: URL) throws {
    self.name = name
    self.socketPath = socketPath
    _ = FileManager.default.createFile(atPath: log.path, contents: nil)
    // A relay dies with the bench, whatever ends the bench. It is the life of this thread that counts: the first.
    process.executableURL = URL(filePath: "/usr/bin/setpriv")
    process.arguments = ["--pdeathsig", "KILL", program.path] + arguments
    process.standardError = try FileHandle(forWritingTo: log)
    try process.run()
    Children.add(process.processIdentifier)
  }

  private func fields(_ path: String) -> [Substring] {
    let text = (try? String(contentsOfFile: "/proc/\(process.processIdentifier)/\(path)", encoding: .utf8)) ?? ""
    // The name in parentheses may hold spaces.
    return text.split(separator: ")").last?.split(separator: " ") ?? []
  }

  var residentMegabytes: Double {
    let fields = fields("statm")
    return fields.count > 1 ? Double(Int(fields[1])! * Int(getpagesize())) / 1e6 : 0
  }
  var descriptors: Int {
    (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(process.processIdentifier)/fd").count) ?? 0
  }
  /// Seconds of processor time so far.
  var processorSeconds: Double {
    let fields = fields("stat")
    return fields.count > 12 ? (Double(fields[11])! + Double(fields[12])!) / ticks : 0
  }

  private func connect() -> Int32? {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(socketPath.utf8)) }
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Foundation.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    if result == 0 { return descriptor }
    close(descriptor)
    return nil
  }

  /// One request, one answer; nil when nobody answers within 20 s.
  func ask(_ request: [String: Any]) -> [String: Any]? {
    guard let descriptor = connect(), let line = try? JSONSerialization.data(withJSONObject: request) else {
      return nil
    }
    defer { close(descriptor) }
    var time = timeval(tv_sec: 20, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    let bytes = [UInt8](line) + [0x0A]
    guard send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else { return nil }
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while answer.last != 0x0A {
      let count = recv(descriptor, &buffer, buffer.count, 0)
      if count <= 0 { return nil }
      answer += buffer[..<count]
    }
    return (try? JSONSerialization.jsonObject(with: Data(answer))) as? [String: Any]
  }

  var status: [String: Any]? { ask(["command": "status"])?["status"] as? [String: Any] }

  /// Tells of each block handed to the node, by its hash and the instant (ns, CLOCK_MONOTONIC), on a thread of its own
  /// until the relay ends.
  func subscribe(_ body: @escaping @Sendable (String, UInt64) -> Void) {
    guard let descriptor = connect() else { return }
    let request = Array("{\"command\":\"subscribe\"}\n".utf8)
    _ = send(descriptor, request, request.count, Int32(MSG_NOSIGNAL))
    Thread.detachNewThread {
      var rest: [UInt8] = []
      var buffer = [UInt8](repeating: 0, count: 65_536)
      while true {
        let count = recv(descriptor, &buffer, buffer.count, 0)
        if count <= 0 { break }
        rest += buffer[..<count]
        while let end = rest.firstIndex(of: 0x0A) {
          let object = try? JSONSerialization.jsonObject(with: Data(rest[..<end])) as? [String: Any]
          rest.removeSubrange(...end)
          if let object, object["event"] as? String == "block", let hash = object["hash"] as? String,
            let at = object["at_ns"] as? NSNumber
          {
            body(hash, at.uint64Value)
          }
        }
      }
      close(descriptor)
    }
  }

  func end() {
    if process.isRunning { process.terminate() }
    let limit = Date(timeIntervalSinceNow: 3)
    while process.isRunning && Date() < limit { usleep(10_000) }
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
  }
}

/// Three relays in a full mesh on loopback, with keys and topology in a folder of their own.
struct SoakOverlay {
  static let names = ["alice", "bob", "carol"]
  let folder: URL
  let relays: [SoakRelay]

  init(program: URL, blocks: [String], loss: Double, missing: Double) throws {
    folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-soak-\(getpid())")
    try FileManager.default.createDirectory(
      at: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    Children.keep(folder)
    let folder = folder
    func path(_ name: String) -> String { folder.appending(path: name).path }
    let ports = SoakOverlay.freePorts(SoakOverlay.names.count)
    var text = "[overlay]\nname = \"soak\"\nnetwork = \"regtest\"\n[defaults]\nrate_mbit = 1000\nuplink_mbit = 4000\n"
    for (name, port) in zip(SoakOverlay.names, ports) {
      let identity = Identity(generatedFrom: .system)
      try identity.write(to: path("\(name).key"))
      text += "[[relay]]\nname = \"\(name)\"\npublic_key = \"\(identity.publicKey)\"\n"
      text += "addresses = [\"127.0.0.1:\(port)\"]\nposition = [50.11, 8.68]\n"
    }
    text += "[[group]]\nname = \"all\"\nrelays = [\(SoakOverlay.names.map { "\"\($0)\"" }.joined(separator: ", "))]\n"
    try text.write(toFile: path("soak.toml"), atomically: true, encoding: .utf8)
    try OverlaySecret(generatedFrom: .system).write(to: path("overlay.key"))
    relays = try SoakOverlay.names.enumerated().map { index, name in
      var arguments = [
        "relay", "--topology", path("soak.toml"), "--as", name, "--key", path("\(name).key"), "--overlay-key",
        path("overlay.key"), "--control", path("\(name).sock"), "--http", "off", "--store", path("\(name).sqlite"),
        "--log", path("\(name).log"), "--embedded-missing", "\(missing)", "--embedded-seed", "\(index + 1)",
        "--impair", "all:\(loss):0",
      ]
      for block in blocks { arguments += ["--embedded-node", RealBlocks.folder.appending(path: block + ".raw").path] }
      return try SoakRelay(
        name: name, program: program, arguments: arguments, socketPath: path("\(name).sock"),
        log: folder.appending(path: "\(name).stderr"))
    }
  }

  /// True when all are linked with all.
  func waitForLinks(seconds: Double) -> Bool {
    let limit = Date(timeIntervalSinceNow: seconds)
    while Date() < limit {
      let up = relays.allSatisfy { relay in
        let peers = relay.status?["peers"] as? [[String: Any]] ?? []
        return peers.count == relays.count - 1 && peers.allSatisfy { $0["up"] as? Bool == true }
      }
      if up { return true }
      usleep(100_000)
    }
    return false
  }

  /// - Parameter keep: the logs are of interest.
  func end(keep: Bool = false) {
    for relay in relays { relay.end() }
    if keep { Children.keep(nil) }
    Children.end()
    if keep { FileHandle.standardError.write(Data("logs are kept in \(folder.path)\n".utf8)) }
  }

  private static func freePorts(_ count: Int) -> [UInt16] {
    var held: [Int32] = []
    defer { for descriptor in held { close(descriptor) } }
    return (0..<count).map { _ in
      let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
      var name = sockaddr_in()
      name.sin_family = sa_family_t(AF_INET)
      name.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
      var length = socklen_t(MemoryLayout<sockaddr_in>.size)
      _ = withUnsafeMutablePointer(to: &name) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
        }
      }
      held.append(descriptor)
      return UInt16(bigEndian: name.sin_port)
    }
  }
}
