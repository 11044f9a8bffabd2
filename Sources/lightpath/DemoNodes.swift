import Bitcoin
import Foundation
import Ground
import RegtestNode

/// Real nodes for the demonstration: one for each relay, all on the same regtest chain, none connected with another.
final class DemoNodes {
  static let blocks = 3
  static let transactionsPerBlock = 1_500

  private(set) var nodes: [RegtestNode] = []
  private var coins: [Coin] = []

  init(_ binary: String, count: Int, folder: URL) throws {
    do {
      for index in 0..<count {
        nodes.append(
          try RegtestNode(
            binary: binary, kind: .core, folder: folder.appending(path: "node\(index)"),
            p2pPort: RegtestNode.freePort(), rpcPort: RegtestNode.freePort()))
      }
      coins = try nodes[0].makeCoins(DemoNodes.blocks * DemoNodes.transactionsPerBlock)
      // The others learn the chain so far by hand: nothing connects them.
      for height in 1...(try nodes[0].blockCount()) {
        let hash = try nodes[0].rpc.call("getblockhash", [height])
        let block = try nodes[0].rpc.call("getblock", [hash, 0])
        for node in nodes.dropFirst() { try node.rpc.call("submitblock", [block]) }
      }
    } catch {
      remove()
      throw failure(Exit.failed, "\(binary): \(error)")
    }
  }

  /// Fills the mempools, waits with `ready` until the relays mirror that many, and mines at the first node.
  func mine(_ index: Int, missing: Double, ready: ([Int]) -> Void) throws -> (hash: String, transactions: Int) {
    let batch = coins.dropFirst(index * DemoNodes.transactionsPerBlock).prefix(DemoNodes.transactionsPerBlock)
    let raws = batch.map { nodes[0].spend($0, bytes: 300).raw }
    var random = SeededRandom(seed: UInt64(index) + 7)
    try nodes[0].send(all: raws)
    for node in nodes.dropFirst() {
      try node.send(all: raws.filter { _ in Double(random.next() >> 11) / Double(1 << 53) >= missing })
    }
    ready(try nodes.map { try ($0.rpc.call("getrawmempool") as? [Any])?.count ?? 0 })
    let hash = try nodes[0].mine(1, to: try nodes[0].miningAddress())[0]
    return (hash, raws.count)
  }

  func remove() { for node in nodes { node.remove() } }
}
