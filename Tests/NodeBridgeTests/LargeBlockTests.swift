import Bitcoin
import BridgeSite
import Foundation
import Ground
import NodeBridge
import RegtestNode
import Testing

/// Blocks of 1, 2 and 4 MB with Bitcoin Core at both ends: told by one node and put together from the mirror, handed to
/// another one. What is above 1 MB is witness.
@Suite(.serialized, .enabled(if: RealNodes.core != nil, "set BITCOIND")) struct LargeBlockTests {
  struct Size: CustomTestStringConvertible, Sendable {
    var transactions: Int
    /// Of each transaction, without the lock's script.
    var plainBytes: Int
    var lock: CoinLock
    /// Serialised; of the block.
    var least: Int
    var testDescription: String { "\(transactions) transactions, \(least) bytes and more" }
  }

  static let sizes = [
    Size(transactions: 2_300, plainBytes: 340, lock: .padded(bytes: 120), least: 1_000_000),
    // 2,000 × (4 × 110 + 1,240) = 3.4 M of weight.
    Size(transactions: 1_600, plainBytes: 0, lock: .padded(bytes: 1_240), least: 2_000_000),
    // 385 × (4 × 110 + 9,900) = 3.98 M of weight, as much as a node puts into a block.
    Size(transactions: 385, plainBytes: 0, lock: .padded(bytes: 9_900), least: 3_850_000),
  ]

  /// Which of the block's transactions are known where, and the form of delivery.
  struct Way: Sendable {
    /// Share that the mirror at the near node lacks.
    var mirrorLacks: Double
    var farIsWarm: Bool
    var method: DeliveryMethod
  }
  static let ways = [
    Way(mirrorLacks: 0, farIsWarm: true, method: .compactBlock),
    Way(mirrorLacks: 1, farIsWarm: false, method: .compactBlock),
    Way(mirrorLacks: 0.6, farIsWarm: true, method: .block),
    Way(mirrorLacks: 0, farIsWarm: false, method: .block),
  ]

  @Test(arguments: sizes) func goBothWays(_ size: Size) throws {
    let extra = ["-acceptnonstdtxn=1"]
    let (a, b) = (try RealNodes.start(.core, extra), try RealNodes.start(.core, extra))
    defer {
      a.remove()
      b.remove()
    }
    var coins = try a.makeCoins(size.transactions, lock: size.lock)
    try b.copyChain(of: a)
    // Not listed again: that would bring back what the mirror is made to forget.
    let near = try Site(network: .regtest, nodes: [a.configuration], reconciliationInterval: .seconds(36_000))
    defer { near.stop() }
    let feed = (try NodeFeed(port: a.p2pPort, network: .regtest), try NodeFeed(port: b.p2pPort, network: .regtest))
    for way in LargeBlockTests.ways {
      var configuration = b.configuration
      configuration.deliveryMethods = [way.method]
      let far = try Site(network: .regtest, nodes: [configuration])
      defer { far.stop() }
      let spends = coins.map { a.spend($0, bytes: size.plainBytes, fee: 20_000) }
      coins = spends.map(\.next)
      let raws = spends.map(\.raw)

      // The first ones are forgotten by the mirror as soon as it has them.
      let forgotten = Int(Double(raws.count) * way.mirrorLacks)
      try feed.0.send(Array(raws[..<forgotten]))
      try #require(eventually { near.log.read { $0.mempool } == forgotten })
      if forgotten > 0 {
        near.order(.reset)
        try #require(eventually { near.log.read { $0.mempool } == 0 })
      }
      try feed.0.send(Array(raws[forgotten...]))
      try #require(eventually { near.log.read { $0.mempool } == raws.count - forgotten })
      if way.farIsWarm {
        try feed.1.send(raws)
        try #require(eventually { far.log.read { $0.mempool } == raws.count })
      }
      try #require(eventually { far.log.count { if case .mempoolListed = $0 { true } else { false } } > 0 })

      let text = try a.mine(1, to: try a.miningAddress())[0]
      let hash = Hash256(text)!
      try #require(eventually { near.log.read { $0.blocks.contains { $0.hash == hash } } }, "\(way)")
      let block = near.log.read { $0.blocks.first { $0.hash == hash }! }
      #expect(block.form == .compactBlock && block.bytes.count >= size.least, "\(block.bytes.count) bytes")
      #expect(block.block.transactions.count == raws.count + 1)
      // Ids with and without witness differ in every transaction, so those found were found by wtxid.
      #expect(zip(block.block.txids, block.block.wtxids).allSatisfy { $0 != $1 })
      #expect(Hex.encode(block.bytes) == (try a.rpc.call("getblock", [text, 0]) as? String))
      let missing = near.log.first { event -> Int? in
        if case .reconstructed(_, hash, _, let missing, _) = event { missing } else { nil }
      }
      #expect(missing == forgotten)

      far.order(.relay(block))
      #expect(b.waitForTip(text), "\(way)")
      let written = far.log.first { event -> (DeliveryMethod, Int)? in
        if case .written(_, hash, let method, _, let prefilled, _) = event { (method, prefilled) } else { nil }
      }
      // All that the node lacks goes along, or nothing but the coinbase; and never by another way than the one allowed.
      let prefilled = way.method == .block ? 0 : way.farIsWarm ? 1 : raws.count + 1
      #expect(written?.0 == way.method && written?.1 == prefilled, "\(way): \(String(describing: written))")
      #expect(eventually { far.log.count { if case .tipUpdated(_, hash, _, _, _) = $0 { true } else { false } } == 1 })
      #expect(far.log.count { if case .deliveryFailed = $0 { true } else { false } } == 0)
      // It comes back as the far node's own announcement, and is not taken for news.
      #expect(far.log.read { $0.blocks.contains { $0.hash == hash } } == false)
    }
  }
}

@Suite struct CoinLockTests {
  /// The transaction maker's locks are as long as they say, at every length at which another way to push begins.
  @Test func locksHaveTheLengthAskedFor() {
    for length in Array(1...1_100) + [3_600, 9_999, 10_000] {
      #expect(CoinLock.padded(bytes: length).scriptByteCount == length)
    }
  }
}
