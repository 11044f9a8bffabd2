import Bitcoin
import Foundation
import Ground
import RegtestNode

/// Where coins, transactions and blocks come from: a node that mines the chain's beginning, and nothing of the network
/// under test. Blocks are put together here and handed to all systems alike.
final class Mint {
  private let node: RegtestNode
  private var coins: [Coin]
  private var random = SeededRandom(seed: 9)
  private(set) var height: Int
  private var previous: Hash256
  private var time: UInt32
  /// The chain so far, in hexadecimal.
  let chain: [String]

  /// One block's transactions, and which of them only the origin has.
  struct Draft {
    let block: [UInt8]
    let hash: String
    let transactions: Int
    /// `tx` messages.
    let known: [[UInt8]]
    let withheld: [[UInt8]]
  }

  init(binary: String, folder: URL, coins count: Int) throws {
    node = try RegtestNode(
      binary: binary, kind: .core, folder: folder, p2pPort: RegtestNode.freePort(), rpcPort: RegtestNode.freePort())
    coins = try node.makeCoins(count)
    height = try node.blockCount()
    var chain: [String] = []
    for height in 1...height {
      let hash = try node.rpc.call("getblockhash", [height])
      chain.append(try node.rpc.call("getblock", [hash, 0]) as? String ?? "")
    }
    self.chain = chain
    previous = Hash256(try node.bestBlockHash()) ?? .zero
    // A chain mined in a moment runs ahead of the clock.
    let tip = try node.rpc.call("getblockheader", [node.bestBlockHash()]) as? [String: Any]
    time = UInt32(clamping: tip?["time"] as? Int ?? 0)
    node.kill()
  }

  /// A block of `count` transactions of 150 to 550 bytes, `missing` of them withheld, drawn at random. At 2,500 the
  /// block has 0.9 MB and nearly the weight that is allowed: what fills them is not witness.
  func draft(_ count: Int, missing: Double) throws -> Draft {
    coins.shuffle(using: &random)
    time = max(time + 1, UInt32(Foundation.time(nil)))
    var builder = BlockBuilder(height: height + 1, previous: previous, time: time)
    // Less than any subsidy that the heights here allow.
    builder.reward = 0
    var known: [[UInt8]] = []
    var withheld: [[UInt8]] = []
    let lacking = Set(Array(0..<count).shuffled(using: &random).prefix(Int((Double(count) * missing).rounded())))
    for index in 0..<count {
      let (raw, next) = node.spend(coins[index], bytes: 150 + Int(random.next() % 401), fee: 5_000)
      coins[index] = next
      try builder.append(raw.span.bytes)
      let frame = Message.tx(raw).framed(on: .regtest)
      if lacking.contains(index) { withheld.append(frame) } else { known.append(frame) }
    }
    let block = builder.build()
    let parsed = try ParsedBlock(parsing: block.span.bytes)
    height += 1
    previous = parsed.header.hash
    return Draft(block: block, hash: "\(previous)", transactions: count, known: known, withheld: withheld)
  }
}
