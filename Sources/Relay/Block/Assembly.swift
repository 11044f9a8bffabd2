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

/// Where a block stands that has failed its checks, or doesn't come any further; PROTOCOL.md, section 6.
struct RepairState {
  enum Step: UInt8 {
    case none
    /// The list of txids was asked for.
    case txids
    /// The list of wtxids was asked for.
    case wtxids
    /// The body of one neighbour alone, each in its turn.
    case turns
  }
  var step = Step.none
  /// The body waits for a list of ids to say which matches are false.
  var awaitsList: Bool { step == .txids || step == .wtxids }
  /// Bodies that failed their checks.
  var attempts = 0
  /// Rounds of requests before turns began, and when another one would count.
  var plainAsks = 0
  var nextPlain = Instant.zero

  // MARK: The turn at hand

  /// Whose it is; `noLink`: everyone's.
  var source = RelayEvent.noLink
  var turnEnds = Instant.never
  /// All had theirs: nobody's, until `turnEnds`.
  var isPausing = false
  /// Matches of the mempool are told too.
  var isAssisted = false
  /// Requests, and of the last ones in a row those that brought less than half of what lacked.
  var asks = 0
  var unanswered = 0
  /// Chunks that lacked at the last request, and chunks asked for that have not come.
  var lacking = 0
  var outstanding = 0
  /// When the last request went out, or the last useful chunk came.
  var heard = Instant.zero

  // MARK: All turns

  /// By link, the last entry for everyone's; empty before the first.
  private var counts: [Int] = []
  /// Neighbours whose chunks alone failed the checks.
  var failed = LinkSet.none
  /// All that the log held failed the checks.
  var isLogSpent = false
  /// Turns at lists, and neighbours that had one.
  var listTurns = 0
  var listed = LinkSet.none
  /// The header's own list of ids was compared with the matches.
  var isListed = false
  /// A body with the matches failed although nothing spoke against them.
  var isAssistSpent = false

  /// Turns that a neighbour had at the body; nil: everyone's together.
  func turns(of link: LinkID?) -> Int {
    let index = link.map { Int($0.index) } ?? LinkSet.capacity
    return index < counts.count ? counts[index] : 0
  }

  mutating func countTurn(of link: LinkID?) {
    if counts.isEmpty { counts = Array(repeating: 0, count: LinkSet.capacity + 1) }
    counts[link.map { Int($0.index) } ?? LinkSet.capacity] += 1
  }

  // MARK: Blame

  /// The next log entry to compare with the truth, by object slot; -1: nothing to compare.
  var nextBlame = -1
  var blameObject = 0
}
