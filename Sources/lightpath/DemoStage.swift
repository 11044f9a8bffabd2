import ArgumentParser
import Bitcoin
import Foundation
import Ground
import Measurement
import RegtestNode
import Session

/// The demonstration's relays, from keys to farewell.
final class DemoStage {
  static let names = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
  private let demo: Demo
  private let folder: URL
  private var processes: [Process] = []
  private var sockets: [String] = []
  private var nodes: DemoNodes?
  private var relayed = 0

  init(_ demo: Demo) {
    self.demo = demo
    folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-demo-\(getpid())")
  }

  private func tell(_ text: String) { if !demo.json { print(text) } else { complain(text) } }

  func leave(keep: Bool) {
    endRelays()
    nodes?.remove()
    if keep {
      tell("kept: \(folder.path)")
    } else {
      try? FileManager.default.removeItem(at: folder)
      Reaper.remove(folder)
    }
  }

  private func endRelays() {
    for process in processes where process.isRunning { process.terminate() }
    let end = Date(timeIntervalSinceNow: 2)
    for process in processes {
      while process.isRunning && Date() < end { usleep(5_000) }
      if process.isRunning { kill(process.processIdentifier, SIGKILL) }
      Reaper.remove(process.processIdentifier)
    }
  }

  /// Ends the relays, so that all is written, and makes a page of what the first one measured and heard.
  func report(to file: String) throws {
    let store = folder.appending(path: "\(DemoStage.names[0]).sqlite").path
    // A journey is told half a second after its block at the earliest.
    let end = Date(timeIntervalSinceNow: 12)
    while Date() < end {
      if let database = try? JourneyStore(path: store, readOnly: true),
        let report = try? ReportBuilder(
          store: database, range: 0...Int64.max / 2, block: nil
        ).build(), report.arrivals >= relayed * (demo.relays - 1)
      {
        break
      }
      usleep(200_000)
    }
    endRelays()
    do {
      let database = try JourneyStore(path: store, readOnly: true)
      let newest = try database.newest() ?? 0
      let first = try database.journeys(in: 0...newest, limit: 1).first?.firstUnix ?? newest
      let report = try ReportBuilder(
        store: database, range: first - 1_000_000_000...newest, block: nil
      ).build()
      try ReportPage.render(report).write(toFile: file, atomically: true, encoding: .utf8)
    } catch { throw failure(Exit.failed, "\(file): \(error)") }
    tell("report of what \(DemoStage.names[0]) measured: \(file)")
  }

  func play() throws -> Demo.Outcome {
    if !demo.keep { Reaper.add(folder) }
    try FileManager.default.createDirectory(
      at: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    let files = try blockFiles()
    if let bitcoind = demo.bitcoind {
      tell("Starting \(demo.relays) nodes (\(bitcoind)) and making coins …")
      nodes = try DemoNodes(bitcoind, count: demo.relays, folder: folder)
    }
    try startRelays(files)
    try waitForLinks()
    var outcome = Demo.Outcome(
      completed: true, relays: demo.relays, loss_pct: demo.loss, missing_pct: demo.missing, delay_ms: demo.delay,
      blocks: [])
    let count = nodes == nil ? files.count : DemoNodes.blocks
    let width = DemoStage.names.prefix(demo.relays).map(\.count).max() ?? 5
    header(width)
    for index in 0..<count {
      let row = try nodes == nil ? relay(index, name: label(files[index])) : relayFromNode(index)
      if !row.completed { outcome.completed = false }
      outcome.blocks.append(row)
      relayed += 1
      show(row, width)
    }
    return outcome
  }

  // MARK: Setting up

  private func blockFiles() throws -> [String] {
    let files: [String]
    if !demo.block.isEmpty {
      files = demo.block
    } else {
      let folder = ProcessInfo.processInfo.environment["LIGHTPATH_BLOCKS"] ?? "Tests/RealBlocks/blocks"
      files = ["898352", "426884", "702861", "928831", "mainnet-0021868c2c"].map { "\(folder)/\($0).raw" }
    }
    for file in files {
      guard let data = FileManager.default.contents(atPath: file) else {
        throw failure(
          Exit.input, "\(file): can't be read (set --block FILE, or LIGHTPATH_BLOCKS to the bundled blocks' folder)")
      }
      let bytes = BlockFile.decode([UInt8](data))
      do { _ = try ParsedBlock(parsing: bytes.span.bytes) } catch { throw failure(Exit.input, "\(file): \(error)") }
    }
    return files
  }

  private func label(_ file: String) -> String {
    let name = URL(filePath: file).deletingPathExtension().lastPathComponent
    return name.count > 14 ? "…" + name.suffix(10) : name
  }

  /// UDP ports that nothing uses now.
  private func freePorts(_ count: Int) throws -> [UInt16] {
    var held: [Int32] = []
    defer { for descriptor in held { close(descriptor) } }
    var ports: [UInt16] = []
    for _ in 0..<count {
      let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
      var name = sockaddr_in()
      name.sin_family = sa_family_t(AF_INET)
      name.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
      var length = socklen_t(MemoryLayout<sockaddr_in>.size)
      let bound = withUnsafeMutablePointer(to: &name) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
        }
      }
      if descriptor < 0 || !bound { throw failure(Exit.address, "no free UDP port on loopback") }
      held.append(descriptor)
      ports.append(UInt16(bigEndian: name.sin_port))
    }
    return ports
  }

  private func startRelays(_ files: [String]) throws {
    let names = Array(DemoStage.names.prefix(demo.relays))
    let ports = try freePorts(demo.relays)
    var text = "[overlay]\nname = \"demo\"\nnetwork = \"regtest\"\n\n[defaults]\nrate_mbit = 1000\nuplink_mbit = 2000\n"
    for (index, name) in names.enumerated() {
      let identity = Identity(generatedFrom: .system)
      try identity.write(to: folder.appending(path: "\(name).key").path)
      text += """

        [[relay]]
        name = "\(name)"
        public_key = "\(identity.publicKey)"
        addresses = ["127.0.0.1:\(ports[index])"]
        position = [50.11, 8.68]

        """
      if let nodes {
        text += "[[relay.node]]\np2p = \"127.0.0.1:\(nodes.nodes[index].p2pPort)\"\n"
      }
    }
    text += "\n[[group]]\nname = \"all\"\nrelays = [\(names.map { "\"\($0)\"" }.joined(separator: ", "))]\n"
    let topology = folder.appending(path: "demo.toml").path
    try text.write(toFile: topology, atomically: true, encoding: .utf8)
    try OverlaySecret(generatedFrom: .system).write(to: folder.appending(path: "overlay.key").path)
    let program =
      (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
    tell(
      "Starting \(demo.relays) relays (\(names.joined(separator: ", "))); \(number(demo.loss, 1))% of packets lost between "
        + "\(names[0]) and \(names[names.count - 1])"
        + (demo.delay > 0 ? ", \(number(demo.delay, 1)) ms each way on every link" : "")
        + "; each mempool lacks \(number(demo.missing, 1))% of the transactions …")
    for (index, name) in names.enumerated() {
      let control = folder.appending(path: "\(name).sock").path
      var arguments = [
        "relay", "--topology", topology, "--as", name, "--key", folder.appending(path: "\(name).key").path,
        "--overlay-key", folder.appending(path: "overlay.key").path, "--control", control, "--http", "off", "--log",
        folder.appending(path: "\(name).log").path, "--store", folder.appending(path: "\(name).sqlite").path,
      ]
      if nodes == nil {
        for file in files { arguments += ["--embedded-node", file] }
        arguments += ["--embedded-missing", "\(demo.missing / 100)", "--embedded-seed", "\(index + 1)"]
      }
      for (other, otherName) in names.enumerated() where other != index {
        let isLossy = Set([index, other]) == Set([0, names.count - 1])
        let loss = isLossy ? demo.loss / 100 : 0
        if loss > 0 || demo.delay > 0 { arguments += ["--impair", "\(otherName):\(loss):\(demo.delay)"] }
      }
      let process = Process()
      process.executableURL = URL(filePath: program)
      process.arguments = arguments
      process.standardError = FileHandle.standardError
      try process.run()
      Reaper.add(process.processIdentifier)
      processes.append(process)
      sockets.append(control)
    }
  }

  private func status(_ index: Int) throws -> StatusReport? {
    try? ControlClient.ask(ControlRequest(command: "status"), at: sockets[index]).status
  }

  private func waitForLinks() throws {
    let end = Date(timeIntervalSinceNow: 20)
    while Date() < end {
      for process in processes where !process.isRunning {
        throw failure(Exit.failed, "a relay ended at its start; its log is in \(folder.path) (with --keep)")
      }
      let up = (0..<demo.relays).map { index -> Bool in
        guard let status = try? status(index) else { return false }
        let nodesReady = nodes == nil || status.nodes.allSatisfy { $0.ready && $0.mempool_listed }
        return status.peers.allSatisfy(\.up) && status.peers.count == demo.relays - 1 && nodesReady
      }
      if up.allSatisfy({ $0 }) {
        // The neighbours' STATUS, which tells how full mempools are, comes once a second.
        usleep(300_000)
        return
      }
      usleep(50_000)
    }
    throw failure(Exit.failed, "the relays found no way to each other within 20 s; logs: \(folder.path) (with --keep)")
  }

  // MARK: Blocks

  private func relay(_ index: Int, name: String) throws -> Demo.Row {
    let origin = index % demo.relays
    let reply = try ControlClient.ask(
      ControlRequest(command: "mine", block: index), at: sockets[origin], seconds: 25)
    guard let hash = reply.hash else { throw failure(Exit.failed, "block \(name): \(reply.error ?? "refused")") }
    return collect(hash, name: name, origin: origin)
  }

  private func relayFromNode(_ index: Int) throws -> Demo.Row {
    let mined = try nodes!.mine(index, missing: demo.missing / 100) { [self] counts in
      // Every mirror holds what its node holds.
      let end = Date(timeIntervalSinceNow: 20)
      while Date() < end {
        let have = (0..<demo.relays).map { (try? status($0))?.mempool.transactions ?? -1 }
        if zip(have, counts).allSatisfy({ $0 >= $1 }) { return }
        usleep(20_000)
      }
    }
    var row = collect(mined.hash, name: "\(mined.transactions) spends", origin: 0)
    for position in row.relays.indices {
      guard let node = DemoStage.names.firstIndex(of: row.relays[position].relay) else { continue }
      guard nodes!.nodes[node].waitForTip(mined.hash, seconds: 10) else {
        row.completed = false
        continue
      }
    }
    return row
  }

  /// Waits until every relay has the block, then reads what it took.
  private func collect(_ hash: String, name: String, origin: Int) -> Demo.Row {
    var row = Demo.Row(
      block: name, hash: hash, size: 0, transactions: 0, origin: DemoStage.names[origin], completed: false, relays: [])
    let end = Date(timeIntervalSinceNow: 15)
    var found: [StatusReport.Block?] = []
    while Date() < end {
      found = (0..<demo.relays).map { index in
        (try? status(index))?.blocks.last { $0.hash == hash }
      }
      if found.allSatisfy({ $0 != nil }) { break }
      usleep(10_000)
    }
    // Packets that were on their way when the block was complete are counted too.
    usleep(80_000 + UInt32(demo.delay * 2_000))
    for index in 0..<demo.relays {
      if let late = (try? status(index))?.blocks.last(where: { $0.hash == hash }) { found[index] = late }
    }
    guard found.count > origin, let source = found[origin] else { return row }
    row.size = source.bytes
    row.transactions = source.transactions
    row.completed = found.allSatisfy { $0 != nil }
    for (index, block) in found.enumerated() where index != origin {
      guard let block else { continue }
      // One machine, one monotonic clock: the two instants compare.
      let announced = source.announced_ns
      func since(_ instant: UInt64) -> Double { (Double(instant) - Double(announced)) / 1e6 }
      row.relays.append(
        Demo.Hop(
          relay: DemoStage.names[index], from: block.from, delivered_ms: since(block.delivered_ns),
          header_ms: block.header_ms.map { $0 + since(block.announced_ns) }, bytes: block.bytes_in,
          packets: block.packets_in, repair_packets: block.repair_packets, mempool_pct: block.mempool_pct,
          extra_rounds: block.extra_rounds))
    }
    return row
  }

  // MARK: The table

  private func header(_ width: Int) {
    guard !demo.json else { return }
    print("")
    print(
      line("block", "size", "tx", "hop", width, "header", "delivered", "received", "packets", "repair", "from mempool"))
    print("  " + String(repeating: "─", count: 104 + 2 * width))
  }

  private func line(
    _ block: String, _ size: String, _ count: String, _ hop: String, _ width: Int, _ header: String,
    _ delivered: String, _ bytes: String, _ packets: String, _ repair: String, _ mempool: String
  ) -> String {
    func left(_ text: String, _ width: Int) -> String {
      text + String(repeating: " ", count: max(0, width - text.count))
    }
    func right(_ text: String, _ width: Int) -> String {
      String(repeating: " ", count: max(0, width - text.count)) + text
    }
    return "  " + left(block, 14) + right(size, 9) + right(count, 7) + "   " + left(hop, 2 * width + 3)
      + right(header, 10) + right(delivered, 12) + right(bytes, 11) + right(packets, 9) + right(repair, 8)
      + right(mempool, 14)
  }

  private func show(_ row: Demo.Row, _ width: Int) {
    guard !demo.json else { return }
    for (index, hop) in row.relays.enumerated() {
      print(
        line(
          index == 0 ? row.block : "", index == 0 ? amount(row.size) : "", index == 0 ? "\(row.transactions)" : "",
          "\(row.origin) → \(hop.relay)", width, hop.header_ms.map { number($0, 2) + " ms" } ?? "–",
          number(hop.delivered_ms, 2) + " ms", amount(hop.bytes), "\(hop.packets)", "\(hop.repair_packets)",
          number(hop.mempool_pct, 1) + "%"))
    }
    if !row.completed { print("  \(row.block): NOT complete at every relay") }
    fflush(nil)
  }
}
