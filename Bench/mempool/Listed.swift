import Bitcoin
import Ground
import Harness
import Mempool

/// A mempool as a bridge mirrors it, without fees: 146,000 transactions that the node has listed in its order, then 4,000
/// new ones. One in six spends an unconfirmed one. The next block is what a miner takes of them: the best feerates, each
/// with its ancestors, the oldest of which pay little.
struct ListedMempool: ~Copyable {
  private struct Made {
    var bytes: [UInt8]
    var txid: Hash256
    var wtxid: Hash256
    var rate: Double
    var parent: Int?
    var depth: Int
  }

  var store: TransactionStore
  private var made: [Made] = []
  private var random = SeededRandom(seed: 77)

  init() throws {
    store = TransactionStore(seed: 5)
    for _ in 0..<146_000 { try add() }
    // As Bitcoin Core lists: by depth, then by the transaction's own feerate.
    let order = made.indices.sorted { (made[$0].depth, -made[$0].rate) < (made[$1].depth, -made[$1].rate) }
    store.beginReconciliation()
    for index in order where !store.listed(wtxid: made[index].wtxid) { Harness.fail("not mirrored") }
    _ = store.sweep()
    for _ in 0..<4_000 { try add() }
  }

  private mutating func add() throws {
    let parent = !made.isEmpty && random.chance(1.0 / 6) ? random.below(made.count) : nil
    var raw = ByteWriter()
    raw.append([2, 0, 0, 0, 1])
    raw.hash(parent.map { made[$0].txid } ?? Hash256(random.bytes(32).span.bytes))
    raw.integer(UInt32(made.count))
    raw.append([0, 255, 255, 255, 255, 1] + random.bytes(8))
    let script = random.bytes(20 + random.below(400))
    raw.compactSize(script.count)
    raw.append(script)
    raw.integer(UInt32(0))
    let layout = try TransactionLayout(parsing: raw.bytes.span.bytes)
    let (txid, wtxid) = layout.hashes(in: raw.bytes.span.bytes)
    let bytes = raw.bytes
    _ = try store.insert(bytes.span.bytes, as: .node)
    // New ones pay more than what has been left lying for hours: half of them are worth a place in the next block.
    let isNew = made.count >= 146_000
    let rate = isNew ? Double(1 + random.below(200)) : Double(1 + random.below(10_000)) / 100
    made.append(
      Made(
        bytes: bytes, txid: txid, wtxid: wtxid, rate: rate, parent: parent,
        depth: parent.map { made[$0].depth + 1 } ?? 0))
  }

  /// Of about `count` transactions, ancestors first.
  func block(_ count: Int, on tip: HeaderChain.Entry) throws -> [UInt8] {
    var chosen: [Int] = []
    var taken = Set<Int>()
    for best in made.indices.sorted(by: { made[$0].rate > made[$1].rate }) {
      if chosen.count >= count { break }
      var line: [Int] = []
      var next: Int? = best
      while let index = next, !taken.contains(index) {
        line.append(index)
        next = made[index].parent
      }
      for index in line.reversed() {
        taken.insert(index)
        chosen.append(index)
      }
    }
    var builder = BlockBuilder(on: tip)
    for index in chosen {
      let bytes = made[index].bytes
      try builder.append(bytes.span.bytes)
    }
    return builder.build()
  }
}
