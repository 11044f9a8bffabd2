import Bitcoin
import BridgeSite
import Foundation
import Ground
import Harness
import NodeBridge
import RegtestNode
import Synchronization

// Three real nodes on loopback: A mines blocks of about 2,500 transactions; B hears of them only through two bridges, C
// is connected to A directly and gets compact blocks as nodes do among themselves. Same blocks, same run.
// Needs BITCOIND; `--blocks N` (default 12), `--transactions N` (default 2,500).

guard let binary = ProcessInfo.processInfo.environment["BITCOIND"], !binary.isEmpty else {
  print("{\"bench\":\"bridge\",\"skipped\":\"set BITCOIND to a Bitcoin Core bitcoind\"}")
  exit(0)
}
let blocks = Harness.options("blocks").first.flatMap(Int.init) ?? 12
let count = Harness.options("transactions").first.flatMap(Int.init) ?? 2_500

func start() throws -> RegtestNode {
  try RegtestNode(
    binary: binary, kind: .core,
    folder: FileManager.default.temporaryDirectory.appending(path: "lightpath-bench-\(UUID().uuidString)"),
    p2pPort: RegtestNode.freePort(), rpcPort: RegtestNode.freePort(), extraArguments: ["-debug=bench"])
}

/// Microseconds since 1970 at which a node's log says that `hash` became its tip.
func tipTime(_ node: RegtestNode, _ hash: String) -> Double? {
  guard let log = try? String(contentsOf: node.log, encoding: .utf8),
    let line = log.split(separator: "\n").last(where: { $0.contains("UpdateTip: new best=\(hash)") })
  else { return nil }
  let formatter = ISO8601DateFormatter()
  let stamp = line.prefix(26)  // 2026-01-01T00:00:00.000000
  guard let whole = formatter.date(from: stamp.prefix(19) + "Z"), let fraction = Double("0" + stamp.dropFirst(19))
  else {
    return nil
  }
  return (whole.timeIntervalSince1970 + fraction) * 1e6
}

func configuration(_ node: RegtestNode) -> NodeConfiguration {
  NodeConfiguration(name: "node", address: PeerAddress("127.0.0.1:\(node.p2pPort)")!)
}

let (a, b, c) = (try start(), try start(), try start())
defer { for node in [a, b, c] { node.remove() } }
FileHandle.standardError.write(Data("bridge: making \(count) coins\n".utf8))
var coins = try a.makeCoins(count)
for height in 1...(try a.blockCount()) {
  let hash = try a.rpc.call("getblockhash", [height]) as? String ?? ""
  let block = try a.rpc.call("getblock", [hash, 0])
  for node in [b, c] { try node.rpc.call("submitblock", [block]) }
}
try c.rpc.call("addnode", ["127.0.0.1:\(a.p2pPort)", "add"])
let siteA = try Site(network: .regtest, nodes: [configuration(a)])
let siteB = try Site(network: .regtest, nodes: [configuration(b)])
var announce: [Double] = []
var write: [Double] = []
var direct: [Double] = []
var bridged: [Double] = []
for round in 0..<blocks {
  FileHandle.standardError.write(Data("bridge: block \(round + 1) of \(blocks)\n".utf8))
  let spends = coins.map { a.spend($0, bytes: 350) }
  coins = spends.map(\.next)
  let raws = spends.map(\.raw)
  // Some may have come by the connection before.
  for node in [a, b] { try node.send(all: raws) }
  for start in stride(from: 0, to: raws.count, by: 200) {
    _ = try? c.send(all: Array(raws[start..<min(raws.count, start + 200)]))
  }
  let ready = eventually(seconds: 60) {
    siteA.log.read { $0.mempool } == count && siteB.log.read { $0.mempool } == count
      && ((try? c.rpc.call("getmempoolinfo")) as? [String: Any])?["size"] as? Int == count
  }
  if !ready {
    Harness.fail(
      "bridge: the mempools did not fill: \(siteA.log.read { $0.mempool }) and \(siteB.log.read { $0.mempool }) mirrored, "
        + "\(String(describing: try? c.rpc.call("getmempoolinfo"))) at the third node")
  }
  let text = try a.mine(1, to: try a.miningAddress())[0]
  let hash = Hash256(text)!
  // The overlay's place is taken by this hand-over; its own cost is `bench relay`'s.
  guard eventually(seconds: 20, { siteA.log.read { $0.blocks.last?.hash == hash } }) else {
    Harness.fail("bridge: block \(text) did not reach the near bridge: \(siteA.log.read { $0.events.suffix(6) })")
  }
  siteB.order(.deliver(siteA.log.read { $0.blocks.last!.bytes }))
  guard b.waitForTip(text), c.waitForTip(text) else { Harness.fail("bridge: block \(text) did not arrive") }
  Thread.sleep(forTimeInterval: 0.05)
  guard let at = tipTime(a, text), let atB = tipTime(b, text), let atC = tipTime(c, text) else { continue }
  announce.append(Double(siteA.times.announceToCore.load(ordering: .acquiring)) / 1e6)
  write.append(Double(siteB.times.coreToWrite.load(ordering: .acquiring)) / 1e6)
  bridged.append((atB - at) / 1e3)
  direct.append((atC - at) / 1e3)
}
siteA.stop()
siteB.stop()
func median(_ values: [Double]) -> Double { Harness.median(values.sorted()) }
Harness.report("bridge", "announce_to_core_ms", median(announce), "ms")
Harness.report("bridge", "core_to_node_write_ms", median(write), "ms")
Harness.report("bridge", "tip_after_origin_bridged_ms", median(bridged), "ms")
Harness.report("bridge", "tip_after_origin_direct_ms", median(direct), "ms")
Harness.report("bridge", "tip_vs_direct_ratio", median(bridged) / median(direct), "ratio")
