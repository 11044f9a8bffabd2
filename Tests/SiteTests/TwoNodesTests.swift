import Bitcoin
import BridgeSite
import Foundation
import Ground
import Mempool
import NodeBridge
import RegtestNode
import Relay
import Session
import Site
import Testing
import Uring

/// A site as the daemon runs it: the core on an engine's thread, with real sockets to its neighbour and its node.
private final class RunningSite {
  let mailbox = SiteMailbox()
  let outbox = SiteOutbox()
  private let thread: EngineThread

  /// A site that doesn't say where its neighbour is learns it from the first packet.
  init(
    _ name: String, _ identity: Identity, _ overlay: OverlaySecret, neighbour: Identity, at address: PeerAddress? = nil,
    node: RegtestNode
  ) throws {
    let link = RelayLink(id: LinkID(0), peer: neighbour.publicKey, address: address)
    let zero = Int64(SystemClock.realtime()) - Int64(SystemClock.now().nanoseconds)
    var relay = RelayConfiguration(
      identity: identity, overlay: overlay, links: [link], network: .regtest, unixNanosecondsAtZero: zero,
      seed: UInt64.random(in: 1...(.max)))
    relay.relays = [identity.publicKey, neighbour.publicKey]
    let configuration = SiteConfiguration(
      name: name, overlayName: "test", relay: relay, names: [link.id: "neighbour"],
      bridge: BridgeConfiguration(
        network: .regtest,
        nodes: [NodeConfiguration(name: "node", address: PeerAddress("127.0.0.1:\(node.p2pPort)")!)],
        nonce: UInt64.random(in: 1...(.max))))
    let (mailbox, outbox) = (mailbox, outbox)
    thread = try EngineThread.start(EngineConfiguration(listen: [PeerAddress("127.0.0.1:0")!])) { handle in
      mailbox.open(handle.waker)
      return try! SiteCore(configuration, mailbox: mailbox, outbox: outbox)
    }
  }

  deinit { thread.stop() }

  var address: PeerAddress { thread.handle.addresses[0] }
  var snapshot: SiteSnapshot? {
    if case .snapshot(let snapshot) = mailbox.ask(.snapshot) { snapshot } else { nil }
  }
  /// Linked, and in step with a node at this height.
  func isReady(height: Int) -> Bool {
    guard let now = snapshot else { return false }
    return now.peers.allSatisfy(\.status.isUp) && now.tipHeight == height && now.nodes[0].mempoolListed
  }
  func mirrors(_ count: Int) -> Bool { snapshot?.mempool[0].transactions == count }
}

/// Two nodes that know of each other only through two bridges and two relays, all over real sockets.
@Suite(.serialized, .enabled(if: RegtestNode.binary(.core) != nil, "set BITCOIND")) struct TwoNodesTests {
  static let transactions = 1_100
  /// Of each block, those of which the other node has never heard.
  static let unknown = 30

  @Test func blocksCrossBothWaysAndSoDoesAReorganisation() throws {
    let nodes = [try RegtestNode.temporary(.core), try RegtestNode.temporary(.core)]
    defer { for node in nodes { node.remove() } }
    var coins = try nodes[0].makeCoins(TwoNodesTests.transactions)
    try nodes[1].copyChain(of: nodes[0])

    let identities = (0..<2).map { _ in Identity(generatedFrom: .system) }
    let overlay = OverlaySecret(generatedFrom: .system)
    let bob = try RunningSite("bob", identities[1], overlay, neighbour: identities[0], node: nodes[1])
    let alice = try RunningSite(
      "alice", identities[0], overlay, neighbour: identities[1], at: bob.address, node: nodes[0])
    let sites = [alice, bob]
    let height = try nodes[0].blockCount()
    try #require(eventually { sites.allSatisfy { $0.isReady(height: height) } })
    let feeds = try nodes.map { try NodeFeed(port: $0.p2pPort, network: .regtest) }

    // A block of one becomes the other's tip, with transactions that only the first had.
    var last = ""
    for (miner, other) in [(0, 1), (1, 0), (0, 1)] {
      let spends = coins.map { nodes[miner].spend($0, bytes: 400) }
      coins = spends.map(\.next)
      let raws = spends.map(\.raw)
      let common = raws.count - TwoNodesTests.unknown
      try feeds[miner].send(raws)
      try feeds[other].send(Array(raws[..<common]))
      try #require(eventually { sites[miner].mirrors(raws.count) && sites[other].mirrors(common) })
      let news = coins[common...].map(\.txid.description)
      #expect(Set(try mempool(nodes[other])).isDisjoint(with: news))

      last = try nodes[miner].mine(1, to: try nodes[miner].miningAddress())[0]
      #expect(nodes[other].waitForTip(last), "from \(miner)")
      let block = try nodes[other].rpc.call("getblock", [last, 1]) as? [String: Any]
      let txids = Set(block?["tx"] as? [String] ?? [])
      #expect(txids.count == raws.count + 1 && txids.isSuperset(of: news))
      // Confirmed at both: nothing of it is left in a mempool, the node's or its mirror.
      #expect(eventually { sites.allSatisfy { $0.mirrors(0) } })
      #expect(try nodes.allSatisfy { try mempool($0).isEmpty })
    }

    // The first node goes over to another branch, with the same transactions in it, and so does the second.
    let before = try nodes[0].blockCount()
    try nodes[0].rpc.call("invalidateblock", [last])
    let branch = try nodes[0].rpc.call("generatetodescriptor", [2, "raw(51)"]) as? [String] ?? []
    try #require(branch.count == 2)
    #expect(nodes[1].waitForTip(branch[1]), "the branch that is longer")
    #expect(try nodes[1].blockCount() == before + 1)
    #expect(try nodes[1].rpc.call("getblockhash", [before]) as? String == branch[0])
    #expect(eventually { sites.allSatisfy { $0.snapshot?.tipHash == Hash256(branch[1]) } })
    // And the other way: a block of the second on that branch.
    last = try nodes[1].mine(1, to: try nodes[1].miningAddress())[0]
    #expect(nodes[0].waitForTip(last))

    // Nothing else joined them.
    for node in nodes {
      let peers = try node.rpc.call("getpeerinfo") as? [[String: Any]] ?? []
      #expect(Set(peers.compactMap { $0["subver"] as? String }).isSubset(of: ["/Lightpath:1/", "/feed/"]))
    }
  }

  private func mempool(_ node: RegtestNode) throws -> [String] {
    try node.rpc.call("getrawmempool") as? [String] ?? []
  }
}
