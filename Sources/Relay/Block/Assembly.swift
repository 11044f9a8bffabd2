import Bitcoin
import Ground
import Mempool

/// What is known of a block's transactions while it is put together. Arrays are made once a block, when its sketch is
/// decoded.
struct Assembly {
  var sketch: Sketch?
  /// The store's entry that transaction i is taken to be; nil: not matched, or withdrawn.
  var matches: [EntryHandle?] = []
  /// Where transaction i lies in the body, once its bytes are told.
  var layouts: [TransactionLayout?] = []
  var txids: [Hash256] = []
  var wtxids: [Hash256] = []
  /// The next transaction to work on, in the stage at hand.
  var next = 0
  /// Transactions whose bytes came from the mempool.
  var matchedCount = 0
  var check: BodyCheck?

  /// Room for a sketch's transactions.
  mutating func begin(_ sketch: Sketch) {
    let count = sketch.transactionCount
    matches = Array(repeating: nil, count: count)
    layouts = Array(repeating: nil, count: count)
    txids = Array(repeating: .zero, count: count)
    wtxids = txids
    next = 0
    matchedCount = 0
    self.sketch = sketch
  }

  mutating func reset() { self = Assembly() }
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
