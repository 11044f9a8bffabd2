import Bitcoin
import Ground
import Mempool

/// What is known of a block's transactions while it is put together. Arrays are made once a block, when its sketch is
/// decoded or enough of it is there to begin.
struct Assembly {
  var sketch: Sketch?
  /// Where the work on a sketch that is still coming in stands.
  var ahead: SketchAhead?
  /// Where each transaction begins in the body, and the body's end.
  var offsets: [UInt32] = []
  /// The store's entry that transaction i is taken to be; nil: not matched, or withdrawn.
  var matches: [EntryHandle?] = []
  /// Where transaction i lies in the body, once its bytes are told.
  var layouts: [TransactionLayout?] = []
  var txids: [Hash256] = []
  var wtxids: [Hash256] = []
  /// The next transaction to work on, in the stage at hand.
  var next = 0
  /// Transactions whose bytes came from the mempool, and these bytes.
  var matchedCount = 0
  var matchedBytes = 0
  var check: BodyCheck?
  /// The ids' trees, worked out as far as the matches go while chunks are still to come.
  var txidTree: MerkleTree?
  var wtxidTree: MerkleTree?

  /// Room for a sketch's transactions.
  mutating func begin(_ sketch: Sketch) {
    begin(offsets: sketch.offsets)
    self.sketch = sketch
  }

  /// The same before the sketch is whole.
  mutating func begin(_ ahead: SketchAhead) {
    begin(offsets: ahead.layout.offsets)
    self.ahead = ahead
  }

  private mutating func begin(offsets: [UInt32]) {
    let count = offsets.count - 1
    self = Assembly()
    self.offsets = offsets
    matches = Array(repeating: nil, count: count)
    layouts = Array(repeating: nil, count: count)
    txids = Array(repeating: .zero, count: count)
    wtxids = txids
  }

  /// Where a transaction lies in the body.
  func range(_ index: Int) -> Range<Int> { Int(offsets[index])..<Int(offsets[index + 1]) }

  mutating func reset() { self = Assembly() }

  /// States the ids of all matches.
  mutating func beginTrees() {
    let count = layouts.count
    txidTree = MerkleTree(leafCount: count)
    // Most blocks commit to witnesses; one without any has no use for the other tree.
    let hasWitness = layouts.contains { $0?.hasWitness ?? false }
    wtxidTree = hasWitness ? MerkleTree(leafCount: count) : nil
    // BIP141: the coinbase's.
    if count > 0 { wtxidTree?.set(0, .zero) }
    for index in layouts.indices where layouts[index] != nil {
      txidTree!.set(index, txids[index])
      if index > 0 { wtxidTree?.set(index, wtxids[index]) }
    }
  }

  /// Works out up to so many inner nodes; returns how many. 0: no more can be, for now.
  mutating func advanceTrees(pairs: Int) -> Int {
    let done = txidTree?.advance(pairs: pairs) ?? 0
    return done > 0 ? done : wtxidTree?.advance(pairs: pairs) ?? 0
  }

  mutating func takeTrees() -> (txids: MerkleTree?, wtxids: MerkleTree?) {
    defer { (txidTree, wtxidTree) = (nil, nil) }
    return (txidTree, wtxidTree)
  }
}

/// Where a block stands that has failed its checks; PROTOCOL.md, section 6.
struct RepairState {
  enum Step: UInt8 {
    case none
    /// The list of txids was asked for.
    case txids
    /// The list of wtxids was asked for.
    case wtxids
    /// Body chunks of one neighbour only.
    case single
  }
  var step = Step.none
  /// The body waits for a list of ids to say which matches are false.
  var awaitsList: Bool { step == .txids || step == .wtxids }
  /// The neighbour that is relied on in step `single`.
  var source = RelayEvent.noLink
  /// Neighbours that were relied on and failed.
  var tried = LinkSet.none
  var attempts = 0
  /// The header's own list of ids was compared with the matches.
  var isListed = false
  /// How often one neighbour was relied on, and requests to the present one.
  var singles = 0
  var asks = 0
  /// The next log entry to compare with the truth, by object slot; -1: nothing to compare.
  var nextBlame = -1
  var blameObject = 0
}
