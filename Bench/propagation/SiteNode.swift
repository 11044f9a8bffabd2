import Bitcoin
import Foundation
import Ground
import Harness

/// A process inside a site's namespace that dies with the bench, whatever ends the bench.
final class SiteProcess {
  private let process = Process()
  private let log: URL

  /// Call on the bench's first thread: the child's life is tied to the thread that made it.
  init(_ namespace: Int32, _ arguments: [String], nice: Int = 0, log: URL) throws {
    self.log = log
    _ = FileManager.default.createFile(atPath: log.path, contents: nil)
    let handle = try FileHandle(forWritingTo: log)
    process.executableURL = URL(filePath: "/usr/bin/setpriv")
    process.arguments = ["--pdeathsig", "KILL", "nice", "-n", "\(nice)"] + arguments
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = handle
    process.standardError = handle
    try inside(namespace) { try process.run() }
    Children.add(process.processIdentifier)
  }

  var pid: Int32 { process.processIdentifier }
  var isRunning: Bool { process.isRunning }
  var output: String { (try? String(contentsOf: log, encoding: .utf8)) ?? "" }

  /// At once: nothing that it keeps is wanted again.
  func stop() {
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
    Children.remove(process.processIdentifier)
  }
}

/// A node at a site, on a regtest chain that the bench gives it.
final class SiteNode {
  let site: Int
  let namespace: Int32
  let folder: URL
  /// Between sites; the port after it is for the site itself, with every permission; then RPC.
  let port: UInt16
  var localPort: UInt16 { port + 1 }
  var rpcPort: UInt16 { port + 2 }
  var udpPort: UInt16 { port + 3 }
  let rpc: SiteRPC
  let log: NodeLog
  let process: SiteProcess
  private var feeder: SiteSocket?
  private var incoming = MessageStream(network: .regtest)
  private var pings: UInt64 = 0

  init(_ binary: String, site: Int, namespace: Int32, folder: URL, port: UInt16, extra: [String] = []) throws {
    self.site = site
    self.namespace = namespace
    self.folder = folder
    self.port = port
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    rpc = SiteRPC(namespace, port: port + 2, cookie: folder.appending(path: "regtest/.cookie").path)
    log = NodeLog(folder.appending(path: "regtest/debug.log"))
    process = try SiteProcess(
      namespace,
      [
        binary, "-regtest", "-datadir=\(folder.path)", "-server=1", "-rpcport=\(port + 2)", "-listen=1",
        "-bind=\(Emulator.text(site)):\(port)", "-whitebind=noban,mempool,relay,download@127.0.0.1:\(port + 1)",
        "-dnsseed=0", "-fixedseeds=0", "-discover=0", "-listenonion=0", "-natpmp=0", "-printtoconsole=0",
        // Regtest's own: a look at the whole mempool after each transaction, at all headers after each block.
        "-checkmempool=0", "-checkblockindex=0", "-persistmempool=0", "-datacarriersize=100000", "-maxsendbuffer=20000",
        "-dbcache=300",
        "-logtimemicros=1", "-debug=net", "-debug=bench", "-debug=cmpctblock",
      ] + extra, log: folder.appending(path: "output.log"))
  }

  func waitUntilReady() throws {
    let end = Date(timeIntervalSinceNow: 60)
    while Date() < end {
      if !process.isRunning { throw BenchFailure("a node ended at its start: \(process.output.suffix(500))") }
      if (try? rpc.call("getblockcount")) != nil { return }
      usleep(50_000)
    }
    throw BenchFailure("a node was not ready in 60 s: \(folder.path)")
  }

  func stop() {
    feeder = nil
    process.stop()
  }

  /// When the node began to send a compact block of its own accord.
  func announcement(since time: Double) -> Double? {
    log.lines.first { $0.time >= time && $0.text.contains("sending cmpctblock") }?.time
  }

  /// How often it asked for a block or for transactions of one.
  func asked(since time: Double, before end: Double) -> Int {
    log.lines.count { line in
      time <= line.time && line.time <= end
        && ["getdata", "getblocktxn", "getheaders"].contains { line.text.contains("sending \($0) (") }
    }
  }

  /// Hands transactions over as a peer does, and returns when the node has looked at all of them. A node that
  /// leaves its connection without an answer (seen once, cause unknown) is fed by another, and ignores what it has
  /// already.
  func feed(_ frames: [[UInt8]]) throws {
    do {
      try feedOnce(frames)
    } catch {
      FileHandle.standardError.write(Data("propagation: site \(site): \(error); connecting anew\n".utf8))
      feeder = nil
      try feedOnce(frames)
    }
  }

  private func feedOnce(_ frames: [[UInt8]]) throws {
    if feeder == nil { try connectFeeder() }
    guard let feeder else { return }
    pings += 1
    var batch: [UInt8] = []
    for frame in frames {
      batch += frame
      if batch.count > 1 << 18 {
        try feeder.write(batch)
        batch.removeAll(keepingCapacity: true)
      }
    }
    try feeder.write(batch + Message.ping(pings).framed(on: .regtest))
    let nonce = pings
    try listen { if case .pong(nonce) = $0 { true } else { false } }
  }

  private func connectFeeder() throws {
    let socket = try SiteSocket(namespace, port: localPort)
    feeder = socket
    incoming = MessageStream(network: .regtest)
    let version = Version(
      services: [.network, .witness], time: Int64(time(nil)), nonce: UInt64.random(in: 1...(.max)),
      userAgent: "/propagation/", startHeight: 0, relay: false)
    try socket.write(Message.version(version).framed(on: .regtest))
    try listen { if case .version = $0 { true } else { false } }
    try socket.write(Message.verack.framed(on: .regtest))
    try listen { if case .verack = $0 { true } else { false } }
  }

  /// Reads messages, answering pings, until one satisfies `isLast`.
  private func listen(until isLast: (Message) -> Bool) throws {
    guard let feeder else { return }
    while true {
      while let message = try incoming.next({ command, payload in try? Message(command, payload: payload) }) {
        guard let message else { continue }
        if case .ping(let nonce?) = message { try feeder.write(Message.pong(nonce).framed(on: .regtest)) }
        if isLast(message) { return }
      }
      let bytes = Array(try feeder.read())
      incoming.receive(bytes.span.bytes)
    }
  }
}
