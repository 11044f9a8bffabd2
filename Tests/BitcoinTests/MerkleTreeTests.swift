import Bitcoin
import Ground
import Testing

@Suite struct MerkleTreeTests {
  private func leaves(_ count: Int, _ random: inout SeededRandom) -> [Hash256] {
    (0..<count).map { _ in Hash256(random.bytes(32).span.bytes) }
  }

  /// In whatever order the leaves come, and worked on between them in slices of any size.
  @Test func anyOrderGivesTheRoot() {
    var random = SeededRandom(seed: 11)
    for count in Array(0..<40) + [63, 64, 65, 127, 1_000, 2_501] {
      let leaves = leaves(count, &random)
      let (root, isMutated) = Merkle.root(leaves)
      var order = Array(leaves.indices)
      random.shuffle(&order)
      var tree = MerkleTree(leafCount: count)
      var pairs = 0
      for leaf in order {
        #expect(!tree.isDone)
        tree.set(leaf, leaves[leaf])
        if random.chance(0.1) { pairs += tree.advance(pairs: 1 + random.below(50)) }
      }
      while !tree.isDone {
        let done = tree.advance(pairs: 1 + random.below(300))
        pairs += done
        #expect(done > 0)
      }
      #expect(tree.root == root && tree.isMutated == isMutated)
      // Each inner node once.
      var nodes = 0
      var level = count
      while level > 1 {
        level = (level + 1) / 2
        nodes += level
      }
      #expect(pairs == nodes)
      #expect(tree.advance(pairs: 10) == 0)
    }
  }

  @Test func aFewLackingLeavesLeaveLittleToDo() {
    var random = SeededRandom(seed: 12)
    let leaves = leaves(2_500, &random)
    var tree = MerkleTree(leafCount: leaves.count)
    for leaf in leaves.indices where leaf % 100 != 50 { tree.set(leaf, leaves[leaf]) }
    var before = 0
    while true {
      let done = tree.advance(pairs: 100)
      if done == 0 { break }
      before += done
    }
    #expect(!tree.isDone)
    tree.set(leaves)
    let after = tree.advance(pairs: .max)
    #expect(tree.root == Merkle.root(leaves).root)
    #expect(before > 2_200 && after < 260)
  }

  /// Identical neighbours on any level are seen (CVE-2012-2459), the odd one out is no mutation, and a leaf that is
  /// stated anew takes what was worked out from it along.
  @Test func mutationsAndChangesOfMind() {
    var random = SeededRandom(seed: 13)
    for count in [2, 3, 5, 6, 11, 12, 24, 100] {
      var leaves = leaves(count, &random)
      // A copy of the last two, or four, at the end: a twin one or two levels up.
      for size in [1, 2, 4] where count % size == 0 && (count / size) % 2 == 1 && count > size {
        let twins = leaves + leaves.suffix(size)
        var tree = MerkleTree(leafCount: twins.count)
        tree.set(twins)
        tree.advance(pairs: .max)
        #expect(tree.isMutated && tree.root == Merkle.root(leaves).root)
      }
      var tree = MerkleTree(leafCount: count)
      tree.set(leaves)
      tree.advance(pairs: .max)
      #expect(!tree.isMutated)
      let (was, wrong) = (leaves[0], leaves[1])
      leaves[0] = wrong
      tree.set(leaves)
      tree.advance(pairs: .max)
      #expect(tree.isMutated && tree.root == Merkle.root(leaves).root)
      leaves[0] = was
      tree.set(0, was)
      #expect(!tree.isDone || count == 1)
      tree.advance(pairs: .max)
      #expect(!tree.isMutated && tree.root == Merkle.root(leaves).root)
    }
  }

  /// A tree that was begun with a wrong id, or is another block's, doesn't change a verdict.
  @Test func aBodyCheckBelievesNoTree() throws {
    var builder = BlockBuilder(height: 1, previous: Network.regtest.genesis.hash, time: 1_600_000_000)
    builder.extraNonce = 5
    let bytes = builder.build()
    let block = try ParsedBlock(parsing: bytes.span.bytes)
    let rules = BodyRules(statedHeight: 1)
    for count in [1, 2] {
      var wrong = MerkleTree(leafCount: count)
      for leaf in 0..<count { wrong.set(leaf, Hash256(w0: 9, w1: 9, w2: 9, w3: 9)) }
      wrong.advance(pairs: .max)
      var check = BodyCheck(block, rules: rules, txids: wrong, wtxids: wrong)
      #expect(check.advance(in: bytes.span.bytes) == checkBody(of: block, in: bytes.span.bytes, rules: rules))
    }
  }
}
