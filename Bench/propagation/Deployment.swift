import CNamespace
import Foundation
import Ground

/// Where the sites are, and how long their packets travel.
struct Shape: Sendable {
  enum Kind: String, Sendable { case chain, mesh }
  var kind: Kind
  var sites: Int
  var delay: Interval

  var links: [(Int, Int)] {
    var links: [(Int, Int)] = []
    for a in 0..<sites { for b in a + 1..<sites where kind == .mesh || b == a + 1 { links.append((a, b)) } }
    return links
  }

  /// From the first site, in milliseconds.
  func pathDelay(to site: Int) -> Double { delay.milliseconds * Double(kind == .chain ? site : min(site, 1)) }

  /// Sites at which a block's arrival counts: the far end, or in a mesh all but the first.
  var far: [Int] { kind == .chain ? [sites - 1] : Array(1..<sites) }

  /// Each link with the end that opens it first; nobody opens more than two, which is Core's limit of connections that
  /// carry blocks only.
  var opened: [(from: Int, to: Int)] {
    if kind == .chain { return links.map { ($0.1, $0.0) } }
    return links.map { a, b in b - a <= sites / 2 ? (a, b) : (b, a) }
  }
}

/// One block through one system. Times in microseconds since 1970.
struct Passage {
  var hash: String
  var transactions: Int
  var submitted: Double
  /// When the origin node told of it first, by the system's own account.
  var announced: Double?
  /// By site; nil: it did not come in time.
  var handed: [Int: Double] = [:]
  /// By site: when the node's log has it that the whole block was read; where `handed` is another's account.
  var read: [Int: Double] = [:]
  var tip: [Int: Double] = [:]
  /// Milliseconds, by name, towards the last site.
  var stages: [(name: String, ms: Double)] = []
}

/// A system under test: a node at every site, and what joins them. Its nodes are its own; all systems get the same
/// transactions and the same blocks.
class Deployment {
  let name: String
  let nodes: [SiteNode]
  /// Whether nodes other than the first get the transactions that are held back elsewhere.
  var knowsAll: Bool { false }

  init(name: String, nodes: [SiteNode]) {
    self.name = name
    self.nodes = nodes
  }

  var origin: SiteNode { nodes[0] }
  func connect() throws {}
  /// Waits until what stands between the nodes knows the mempools, too.
  func settle(transactions: [Int]) throws {}
  /// Fills in what the system itself says of a block.
  func complete(_ passage: inout Passage) throws {}
  func stop() { for node in nodes { node.stop() } }

  /// When a node had read the last message that its block was made of, by its log.
  static func read(_ node: SiteNode, before tip: Double) -> Double? {
    node.log.last(before: tip) { line in
      ["cmpctblock", "blocktxn", "block"].contains { line.contains("received: \($0) (") }
    }
  }

}

/// Bitcoin Core's own relay: high-bandwidth compact blocks. The connections carry blocks only, so that the transactions
/// that the bench holds back are not passed on before the block.
final class PlainP2P: Deployment {
  private let shape: Shape

  init(nodes: [SiteNode], shape: Shape) {
    self.shape = shape
    super.init(name: "p2p", nodes: nodes)
  }

  override func connect() throws {
    for link in shape.opened {
      try nodes[link.from].rpc.call(
        "addconnection", ["\(Emulator.text(link.to)):\(nodes[link.to].port)", "block-relay-only", true])
    }
    let end = Date(timeIntervalSinceNow: 10)
    for (site, node) in nodes.enumerated() {
      let degree = shape.links.count { $0.0 == site || $0.1 == site }
      while true {
        let peers = try node.rpc.call("getpeerinfo") as? [[String: Any]] ?? []
        if peers.count(where: { $0["version"] as? Int ?? 0 > 0 }) >= degree { break }
        if Date() > end { throw BenchFailure("the nodes of plain P2P found no way to each other") }
        usleep(50_000)
      }
    }
  }

  override func complete(_ passage: inout Passage) {
    let submitted = passage.submitted
    passage.announced = origin.announcement(since: submitted)
    for (site, node) in nodes.enumerated().dropFirst() {
      guard let tip = passage.tip[site] else { continue }
      passage.handed[site] = Deployment.read(node, before: tip)
    }
    guard let announced = passage.announced else { return }
    passage.stages.append(("submit_to_announced", (announced - submitted) / 1e3))
    if let last = nodes.indices.last, let handed = passage.handed[last], let tip = passage.tip[last] {
      passage.stages.append(("announced_to_handed", (handed - announced) / 1e3 - shape.pathDelay(to: last)))
      passage.stages.append(("handed_to_tip", (tip - handed) / 1e3))
    }
  }
}

/// What every system needs: two nodes as far apart as the shape's ends, joined directly over a path that loses nothing,
/// neither lacking a transaction. The origin announces blocks unasked (BIP152's high bandwidth), so from `submitblock` at one
/// to `UpdateTip` at the other there is the path once and nothing to repair: else only the nodes' own work. And like every
/// other system's, the far node connects the block when the origin's is done with it, not beside it on the same cores.
final class Floor: Deployment {
  private let pathDelay: Double

  init(nodes: [SiteNode], shape: Shape) {
    pathDelay = shape.pathDelay(to: shape.far.last!)
    super.init(name: "floor", nodes: nodes)
  }

  override var knowsAll: Bool { true }

  /// A compact block of 2,500 transactions is more than TCP sends at once on a connection that was idle, and one that paces
  /// (BBR) spreads it over 25 ms: in this namespace it sends at once what it once could, or it would be in the figures.
  static func widen(_ namespace: Int32) throws {
    try inside(namespace) {
      for (name, value) in [("tcp_slow_start_after_idle", "0"), ("tcp_congestion_control", "reno")] {
        try Data((value + "\n").utf8).write(to: URL(filePath: "/proc/sys/net/ipv4/\(name)"))
      }
    }
  }

  override func connect() throws {
    try nodes[1].rpc.call(
      "addconnection", ["\(Emulator.text(nodes[0].site)):\(nodes[0].port)", "block-relay-only", true])
  }

  override func complete(_ passage: inout Passage) {
    let submitted = passage.submitted
    guard let tip = passage.tip[1],
      let announced = origin.announcement(since: submitted),
      let handed = Deployment.read(nodes[1], before: tip)
    else { return }
    passage.announced = announced
    passage.handed[1] = handed
    passage.stages = [
      ("submit_to_announced", (announced - submitted) / 1e3),
      ("announced_to_handed", (handed - announced) / 1e3 - pathDelay), ("handed_to_tip", (tip - handed) / 1e3),
      ("count_asked", Double(nodes[1].asked(since: submitted, before: tip))),
    ]
  }
}

/// FIBRE between patched nodes: UDP, every neighbour ultimately trusted (that is what its cut-through needs), and no
/// other connection. A link may use 1,024 Mbit/s, its default.
final class Fibre: Deployment {
  private let shape: Shape

  init(nodes: [SiteNode], shape: Shape) {
    self.shape = shape
    super.init(name: "fibre", nodes: nodes)
  }

  /// Options of the node at `site`; `port` is every such node's UDP port.
  static func options(_ site: Int, shape: Shape, port: UInt16) -> [String] {
    var options = ["-udpport=\(port),0,1024", "-debug=udpnet"]
    for (a, b) in shape.links where a == site || b == site {
      options.append("-addtrustedudpnode=\(Emulator.text(a == site ? b : a)):\(port),lightpath,lightpath")
    }
    return options
  }

  override func connect() throws {
    // FIBRE leaves its receive buffers at the system's 208 kB: a hundred packets, a millisecond at its own rate. Here it
    // gets what Lightpath asks for itself.
    for node in nodes where cn_widen_udp(node.process.pid, 8 << 20) <= 0 {
      throw BenchFailure("the FIBRE node at site \(node.site) has no UDP socket: is it FIBRE?")
    }
    let end = Date(timeIntervalSinceNow: 20)
    for (site, node) in nodes.enumerated() {
      let degree = shape.links.count { $0.0 == site || $0.1 == site }
      while true {
        let log = (try? String(contentsOf: node.folder.appending(path: "regtest/debug.log"), encoding: .utf8)) ?? ""
        if log.components(separatedBy: "UDP: Successfully connected to").count > degree { break }
        if Date() > end { throw BenchFailure("the FIBRE nodes found no way to each other") }
        usleep(50_000)
      }
    }
  }

  override func complete(_ passage: inout Passage) {
    // The line comes when all is sent; its figures say how long ago that began.
    if let built = origin.log.lines.first(where: {
      $0.text.contains("UDP: Built all FEC chunks for block \(passage.hash) in ")
    }), let figures = built.text.components(separatedBy: " in ").last {
      let took = figures.split(separator: " ").prefix { $0 != "ms" }.compactMap { Double($0) }.reduce(0, +)
      passage.announced = built.time - took * 1e3
    }
    for (site, node) in nodes.enumerated().dropFirst() {
      passage.handed[site] = node.log.first { $0.contains("UDP: Block \(passage.hash) reconstructed") }
    }
    guard let announced = passage.announced else { return }
    passage.stages.append(("submit_to_announced", (announced - passage.submitted) / 1e3))
    if let last = nodes.indices.last, let handed = passage.handed[last], let tip = passage.tip[last] {
      passage.stages.append(("announced_to_handed", (handed - announced) / 1e3 - shape.pathDelay(to: last)))
      passage.stages.append(("handed_to_tip", (tip - handed) / 1e3))
    }
  }
}
