import Bitcoin
import Ground
import Mempool
import Testing

/// What is looked through first where no fees are known: what is new, then what the node lists first, each with the
/// ancestors that a miner takes along.
@Suite struct LikelyOrderTests {
  private struct World: ~Copyable {
    var store = TransactionStore(seed: 1)
    var random = SeededRandom(seed: 2)

    mutating func insert(spending parent: TestTransaction? = nil) throws -> TestTransaction {
      let input = TestTransaction.Outpoint(
        txid: parent?.txid ?? Hash256(random.bytes(32).span.bytes), output: parent == nil ? 7 : 0)
      let transaction = TestTransaction(spending: [input], outputs: 1, padding: 10, witness: 5, random: &random)
      _ = try store.insert(transaction.bytes.span.bytes, as: .node)
      return transaction
    }

    mutating func list(_ all: [TestTransaction]) {
      store.beginReconciliation()
      for transaction in all { _ = store.listed(wtxid: transaction.wtxid) }
      _ = store.sweep()
    }

    /// The place of each in the order of the search.
    var places: [Hash256: Int] {
      var places: [Hash256: Int] = [:]
      store.forEachLikely(.node) { slot in
        places[store.wtxid(slot)] = places.count
        return true
      }
      return places
    }
  }

  @Test func theNodesListSaysWhichAreLikely() throws {
    var world = World()
    // Listed by feerate; arrived in another order.
    var alone = try (0..<5_000).map { _ in try world.insert() }
    for index in alone.indices.reversed() { alone.swapAt(index, world.random.below(index + 1)) }
    // Children of the last ones in the list: the first child pays best of all children.
    let children = try (0..<2_000).map { try world.insert(spending: alone[4_999 - $0]) }
    world.list(alone + children)
    let places = world.places
    #expect(places.count == 7_000)
    // Half of the first band of each depth is 512, and a child's parent stands with it.
    for index in 0..<1_024 {
      #expect(places[alone[index].wtxid]! < 3 * 1_024, "\(index)")
      #expect(places[children[index].wtxid]! < 3 * 1_024, "child \(index)")
      #expect(places[alone[4_999 - index].wtxid]! < 3 * 1_024, "parent of \(index)")
    }
    // Those that nothing speaks for come last.
    #expect((2_500..<2_900).allSatisfy { places[alone[$0].wtxid]! >= 5_000 })

    // What came since is looked at before, the newest first; and with a child that pays for it, what it spends from.
    let old = alone[2_700]
    let grandparent = alone[2_800]
    let parent = try world.insert(spending: grandparent)
    let fresh = try (0..<20).map { _ in try world.insert() }
    let bump = try world.insert(spending: old)
    let after = world.places
    for transaction in [old, grandparent, parent, bump] + fresh { #expect(after[transaction.wtxid]! < 24) }

    // The next list has the last word.
    world.list(alone + fresh + [parent] + children + [bump])
    #expect(world.places[fresh[3].wtxid]! > 3 * 1_024)
  }

  /// A stated fee counts for more than a place in the list, and a chain without end costs a bounded look.
  @Test func feesGoBeforePlaces() throws {
    var world = World()
    var all = try (0..<100).map { _ in try world.insert() }
    world.store.setFee(of: world.store.slot(wtxid: all[99].wtxid)!, to: 1_000_000)
    world.list(all)
    #expect(world.places[all[99].wtxid] == 0)
    for _ in 0..<2_000 { all.append(try world.insert(spending: all.last!)) }
    world.list(all)
    #expect(world.places.count == 2_100)
  }
}
