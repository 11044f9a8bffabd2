import Foundation
import Glibc
import Ground

/// A relay beside every node, none of which is connected with another.
final class Lightpath: Deployment {
  private let shape: Shape
  private let program: String
  private let folder: URL
  private let namespaces: [Int32]
  private var relays: [SiteProcess] = []

  static let port: UInt16 = 8_335

  init(nodes: [SiteNode], shape: Shape, program: String, folder: URL, namespaces: [Int32]) {
    self.shape = shape
    self.program = program
    self.folder = folder
    self.namespaces = namespaces
    super.init(name: "lightpath", nodes: nodes)
  }

  private func path(_ site: Int, _ suffix: String) -> String { folder.appending(path: "relay\(site).\(suffix)").path }

  private func keygen(_ arguments: [String]) throws -> String {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(filePath: program)
    process.arguments = ["keygen"] + arguments
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    if process.terminationStatus != 0 { throw BenchFailure("lightpath keygen ended with \(process.terminationStatus)") }
    return text
  }

  override func connect() throws {
    var text = "[overlay]\nname = \"bench\"\nnetwork = \"regtest\"\n"
    text += "[defaults]\nrate_mbit = 1000\nuplink_mbit = 2000\n"
    for node in nodes {
      text +=
        "\n[[relay]]\nname = \"site\(node.site)\"\n" + (try keygen([path(node.site, "key")]))
        + "addresses = [\"\(Emulator.text(node.site)):\(Lightpath.port)\"]\nposition = [50.0, \(8 + 10 * node.site)]\n"
        // The share that only the origin has is what is measured: it shall not go ahead of the block.
        + "relay_transactions = false\n" + "[[relay.node]]\np2p = \"127.0.0.1:\(node.localPort)\"\n"
    }
    for (a, b) in shape.links { text += "\n[[link]]\nbetween = [\"site\(a)\", \"site\(b)\"]\n" }
    let topology = folder.appending(path: "topology.toml").path
    try text.write(toFile: topology, atomically: true, encoding: .utf8)
    let overlay = folder.appending(path: "overlay.key").path
    _ = try keygen(["--overlay", overlay])
    for node in nodes {
      let site = node.site
      relays.append(
        try SiteProcess(
          namespaces[site],
          [
            program, "relay", "--topology", topology, "--as", "site\(site)", "--key", path(site, "key"),
            "--overlay-key", overlay, "--control", path(site, "sock"), "--http", "off", "--log-level", "debug",
            "--realtime", "5",
          ],
          // As its systemd unit runs it.
          nice: -10, log: URL(filePath: path(site, "log"))))
    }
    let end = Date(timeIntervalSinceNow: 20)
    while true {
      let isUp = nodes.indices.allSatisfy { site in
        guard let status = try? status(site), let peers = status["peers"] as? [[String: Any]],
          let nodes = status["nodes"] as? [[String: Any]]
        else { return false }
        return peers.count == shape.links.count { $0.0 == site || $0.1 == site }
          && peers.allSatisfy { $0["up"] as? Bool == true }
          && nodes.allSatisfy { $0["ready"] as? Bool == true && $0["mempool_listed"] as? Bool == true }
      }
      if isUp { return }
      if Date() > end {
        throw BenchFailure("the relays were not up in 20 s:\n" + relays.map { String($0.output.suffix(600)) }.joined())
      }
      usleep(100_000)
    }
  }

  /// What `lightpath status --json` prints, from the control socket.
  func status(_ site: Int) throws -> [String: Any] {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    defer { close(descriptor) }
    var name = sockaddr_un()
    name.sun_family = sa_family_t(AF_UNIX)
    let path = Array(self.path(site, "sock").utf8)
    guard path.count < 108 else { throw BenchFailure("the folder's path is too long for a socket") }
    withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: path) }
    let code = withUnsafePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    if code != 0 { throw BenchFailure("no relay at site \(site)") }
    var limit = timeval(tv_sec: 5, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    let request = Array("{\"command\":\"status\"}\n".utf8)
    guard send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) == request.count else {
      throw BenchFailure("the relay at site \(site) doesn't listen")
    }
    var data = Data()
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while data.last != 0x0A {
      let n = recv(descriptor, &buffer, buffer.count, 0)
      if n <= 0 { throw BenchFailure("the relay at site \(site) doesn't answer") }
      data.append(contentsOf: buffer[..<n])
    }
    guard let reply = try JSONSerialization.jsonObject(with: data) as? [String: Any],
      let status = reply["status"] as? [String: Any]
    else { throw BenchFailure("the relay at site \(site) answered without a status") }
    return status
  }

  override func settle(transactions: [Int]) throws {
    let end = Date(timeIntervalSinceNow: 30)
    for site in nodes.indices {
      while true {
        let mirrored = (try status(site)["mempool"] as? [String: Any])?["transactions"] as? Int ?? -1
        if mirrored == transactions[site] { break }
        if Date() > end {
          throw BenchFailure("the relay at site \(site) mirrors \(mirrored) of \(transactions[site]) transactions")
        }
        usleep(50_000)
      }
    }
  }

  override func complete(_ passage: inout Passage) throws {
    // The relays' times are CLOCK_MONOTONIC.
    let shift = (Double(SystemClock.realtime()) - Double(SystemClock.now().nanoseconds)) / 1e3
    var blocks: [[String: Any]] = []
    for site in nodes.indices {
      let list = try status(site)["blocks"] as? [[String: Any]] ?? []
      blocks.append(list.last { $0["hash"] as? String == passage.hash } ?? [:])
    }
    func time(_ site: Int, _ name: String) -> Double? {
      let block = blocks[site]
      let value = block[name] ?? (block["stages_ns"] as? [String: Any])?[name]
      return (value as? NSNumber).map { $0.doubleValue / 1e3 + shift }
    }
    passage.announced = origin.announcement(since: passage.submitted)
    for site in nodes.indices.dropFirst() { passage.handed[site] = time(site, "delivered_ns") }
    let last = nodes.count - 1
    for (site, node) in nodes.enumerated().dropFirst() {
      if let tip = passage.tip[site] { passage.read[site] = Deployment.read(node, before: tip) }
    }
    let path = shape.pathDelay(to: last) * 1e3
    // A chain of three has a site half way.
    let next = shape.kind == .chain && last == 2 ? 1 : nil
    let steps: [(String, Double?)] = [
      ("submit_to_announced", passage.announced), ("origin_relay_heard", time(0, "announced_ns")),
      ("next_first_packet_in", next.flatMap { time($0, "announced_ns") }.map { $0 - path / 2 }),
      ("next_first_packet_out", next.flatMap { time($0, "first_sent") }.map { $0 - path / 2 }),
      ("far_first_packet_in", time(last, "announced_ns").map { $0 - path }),
      ("far_gate", time(last, "gate").map { $0 - path }), ("far_sketch", time(last, "sketch").map { $0 - path }),
      ("far_matched", time(last, "matched").map { $0 - path }),
      ("far_last_needed_packet", time(last, "last_needed").map { $0 - path }),
      ("far_decoded", time(last, "decoded").map { $0 - path }),
      ("far_verified", time(last, "verified").map { $0 - path }),
      ("far_handed", passage.handed[last].map { $0 - path }), ("far_node_read", passage.read[last].map { $0 - path }),
      ("far_node_tip", passage.tip[last].map { $0 - path }),
    ]
    var before = passage.submitted
    for (name, time) in steps {
      guard let time else { continue }
      passage.stages.append((name, (time - before) / 1e3))
      before = time
    }
    if let missing = blocks[last]["missing_transactions"] as? Int {
      passage.stages.append(("count_missing_transactions", Double(missing)))
    }
    for name in ["packets_in", "repair_packets", "extra_rounds"] {
      if let value = (blocks[last][name] as? NSNumber)?.doubleValue { passage.stages.append(("count_\(name)", value)) }
    }
  }

  override func stop() {
    for relay in relays { relay.stop() }
    super.stop()
  }
}
