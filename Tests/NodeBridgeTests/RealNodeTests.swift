import Bitcoin
import BridgeSite
import Foundation
import Ground
import NodeBridge
import RegtestNode
import Testing

/// The real nodes that these tests run against.
enum RealNodes {
  static let core = RegtestNode.binary(.core)
  /// Fetched by Tests/run.
  static let bitcoinSV = RegtestNode.binary(.bitcoinSV)
  static let all: [RegtestNode.Kind] = [.core, .bitcoinSV].filter { RegtestNode.binary($0) != nil }

  static func start(_ kind: RegtestNode.Kind, _ extra: [String] = []) throws -> RegtestNode {
    try .temporary(kind, extra)
  }

  static func network(_ kind: RegtestNode.Kind) -> Network {
    var network = Network.regtest
    if kind == .bitcoinSV { network.magic = Network.Magic(0xDA, 0xB5, 0xBF, 0xFA) }
    return network
  }
}

extension RegtestNode {
  var configuration: NodeConfiguration {
    NodeConfiguration(name: "node", address: PeerAddress("127.0.0.1:\(p2pPort)")!)
  }
}

@Suite(.serialized) struct RealNodeTests {
  @Test func saysWhichNodes() {
    print(
      "NodeBridge tests: Bitcoin Core: \(RealNodes.core ?? "none (set BITCOIND to test against it)"); Bitcoin SV: "
        + "\(RealNodes.bitcoinSV ?? "none (Tests/run fetches it)")")
  }

  /// Handshake, headers, mempool, a mined block seen and rebuilt, delivery by each method, restart.
  @Test(arguments: RealNodes.all)
  func blocksBothWays(kind: RegtestNode.Kind) throws {
    let node = try RealNodes.start(kind)
    defer { node.remove() }
    let coins = try node.makeCoins(2_000)
    let network = RealNodes.network(kind)
    let site = try Site(network: network, nodes: [node.configuration])
    defer { site.stop() }
    let height = try node.blockCount()
    #expect(eventually { site.log.read { $0.height } == height })
    #expect(site.log.count { if case .headersSynced = $0 { true } else { false } } == 1)

    // The mempool is mirrored as it fills.
    try node.send(all: coins.map { node.spend($0, bytes: 300).raw })
    #expect(eventually { site.log.read { $0.mempool } == coins.count })

    // A block of 2,001 transactions, told as a compact block and rebuilt from the mirror.
    let hash = Hash256(try node.mine(1, to: try node.miningAddress())[0])!
    try #require(eventually { site.log.read { $0.blocks.contains { $0.hash == hash } } })
    let block = site.log.read { $0.blocks.first { $0.hash == hash } }!
    #expect(block.form == .compactBlock)
    #expect(block.block.transactions.count == 2_001)
    let told = try node.rpc.call("getblock", [hash.description, 0]) as? String
    #expect(Hex.encode(block.bytes) == told)
    let rebuilt = site.log.first { event -> (Int, Int)? in
      if case .reconstructed(_, hash, let count, let missing, _) = event { (count, missing) } else { nil }
    }
    #expect(rebuilt?.0 == 2_001 && rebuilt?.1 == 0)
  }
}

extension RealNodeTests {
  /// Two nodes that know each other only through two bridges: blocks of one become the other's tip by every method, warm
  /// and cold; a mutated block is refused without harm; a reorganisation is followed; a restart is survived.
  @Test(arguments: RealNodes.all)
  func deliveryByEveryMethod(kind: RegtestNode.Kind) throws {
    let (a, b) = (try RealNodes.start(kind), try RealNodes.start(kind))
    defer {
      a.remove()
      b.remove()
    }
    let coins = try a.makeCoins(300)
    let network = RealNodes.network(kind)
    try b.copyChain(of: a)
    #expect(try b.bestBlockHash() == a.bestBlockHash())
    let siteA = try Site(network: network, nodes: [a.configuration])
    defer { siteA.stop() }
    var next = coins[...]

    func deliver(_ methods: [DeliveryMethod], warm: Bool, _ site: Site) throws -> (DeliveryMethod, prefilled: Int)? {
      let batch = next.prefix(50)
      next = next.dropFirst(50)
      let raws = batch.map { a.spend($0, bytes: 250).raw }
      try a.send(all: raws)
      if warm { try b.send(all: raws) }
      #expect(eventually { siteA.log.read { $0.mempool } == 50 })
      if warm { #expect(eventually { site.log.read { $0.mempool } >= 50 }) }
      let text = try a.mine(1, to: try a.miningAddress())[0]
      let hash = Hash256(text)!
      try #require(eventually { siteA.log.read { $0.blocks.contains { $0.hash == hash } } })
      site.order(.deliver(siteA.log.read { $0.blocks.first { $0.hash == hash }!.bytes }))
      #expect(b.waitForTip(text), "\(methods) warm \(warm)")
      #expect(
        eventually {
          site.log.count { if case .tipUpdated(_, hash, _, _, _) = $0 { true } else { false } } == 1
        })
      return site.log.first { event in
        if case .written(_, hash, let method, _, let prefilled, _) = event { (method, prefilled) } else { nil }
      }
    }

    for (methods, warm): ([DeliveryMethod], Bool) in [
      ([.block], false), ([.block], true), ([.compactBlock, .block], true), ([.compactBlock, .block], false),
    ] {
      var configuration = b.configuration
      configuration.deliveryMethods = methods
      let site = try Site(network: network, nodes: [configuration])
      defer { site.stop() }
      #expect(eventually { site.log.count { if case .mempoolListed = $0 { true } else { false } } > 0 })
      let first = try deliver(methods, warm: warm, site)
      if methods == [.block] { #expect(first?.0 == .block) }
      // Core v30 takes compact blocks unasked; warm, nothing but the coinbase is prefilled.
      if kind == .core && methods.count == 2 && warm {
        #expect(first?.0 == .compactBlock)
        #expect(first?.prefilled == 1)
      }
    }

    // A mutated body: refused, the connection lives (noban), and the true block is taken from the same hash.
    let site = try Site(network: network, nodes: [b.configuration])
    defer { site.stop() }
    #expect(eventually { site.log.count { if case .mempoolListed = $0 { true } else { false } } > 0 })
    try a.send(all: next.prefix(50).map { a.spend($0, bytes: 250).raw })
    next = next.dropFirst(50)
    let text = try a.mine(1, to: try a.miningAddress())[0]
    let hash = Hash256(text)!
    try #require(eventually { siteA.log.read { $0.blocks.contains { $0.hash == hash } } })
    let good = siteA.log.read { $0.blocks.first { $0.hash == hash }!.bytes }
    var bad = good
    bad[good.count - 10] ^= 1
    site.order(.deliver(bad))
    #expect(eventually { site.log.count { if case .deliveryFailed(_, hash) = $0 { true } else { false } } == 1 })
    #expect(try b.bestBlockHash() != text)
    site.order(.deliver(good))
    #expect(b.waitForTip(text))

    // A reorganisation at the near node is followed to the far one.
    try a.rpc.call("invalidateblock", [text])
    // Paid elsewhere, or the same block would come out again.
    let longer =
      kind == .core
      ? try a.rpc.call("generatetodescriptor", [2, "raw(51)"]) as? [String] ?? []
      : try a.mine(2, to: try a.miningAddress())
    try #require(longer.count == 2)
    for hash in longer.map({ Hash256($0)! }) {
      try #require(eventually { siteA.log.read { $0.blocks.contains { $0.hash == hash } } })
      site.order(.deliver(siteA.log.read { $0.blocks.first { $0.hash == hash }!.bytes }))
    }
    #expect(b.waitForTip(longer[1]))
    #expect(eventually { site.log.read { $0.tip } == Hash256(longer[1])! })

    // The node restarts; the bridge finds it again and blocks flow as before.
    b.stop()
    try b.start()
    #expect(eventually { site.log.count { if case .connected = $0 { true } else { false } } == 2 })
    let last = try a.mine(1, to: try a.miningAddress())[0]
    try #require(eventually { siteA.log.read { $0.blocks.contains { $0.hash == Hash256(last)! } } })
    site.order(.deliver(siteA.log.read { $0.blocks.last!.bytes }))
    #expect(b.waitForTip(last))
  }

  /// Another real node connects to the bridge as to any peer, syncs headers, fetches the block and makes it its tip.
  /// (Bitcoin SV asks only peers that claim the whole chain, which a bridge does not.)
  @Test(arguments: RealNodes.all.filter { $0 == .core })
  func aNodeConnectsToTheBridge(kind: RegtestNode.Kind) throws {
    let (a, b) = (try RealNodes.start(kind), try RealNodes.start(kind))
    defer {
      a.remove()
      b.remove()
    }
    let port = RegtestNode.freePort()
    let site = try Site(
      network: RealNodes.network(kind), nodes: [a.configuration], listen: PeerAddress("127.0.0.1:\(port)")!)
    defer { site.stop() }
    #expect(eventually { site.log.count { if case .connected = $0 { true } else { false } } == 1 })
    for _ in 0..<3 {
      let count = site.log.read { $0.blocks.count }
      try a.mine(1, to: try a.miningAddress())
      #expect(eventually { site.log.read { $0.blocks.count } == count + 1 })
    }
    // Out of initial download, in which a node asks only peers that have all blocks.
    let first = try a.rpc.call("getblockhash", [1]) as? String ?? ""
    try b.rpc.call("submitblock", [try a.rpc.call("getblock", [first, 0])])
    try b.rpc.call("addnode", ["127.0.0.1:\(port)", "onetry"])
    let tip = try a.bestBlockHash()
    #expect(b.waitForTip(tip), "headers, then blocks by getdata")
    // The next one is announced without being asked for.
    let next = try a.mine(1, to: try a.miningAddress())[0]
    try #require(eventually { site.log.read { $0.blocks.contains { $0.hash == Hash256(next)! } } })
    site.order(.deliver(site.log.read { $0.blocks.last!.bytes }))
    #expect(b.waitForTip(next))
  }
}
