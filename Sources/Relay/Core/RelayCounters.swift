/// Work done since the core was made: for metrics, and for the simulator's model of CPU time. All only ever grow.
public struct RelayCounters: Hashable, Sendable {
  public var packetsOpened: UInt64 = 0
  public var packetsSealed: UInt64 = 0
  public var bytesOpened: UInt64 = 0
  public var bytesSealed: UInt64 = 0
  /// Chunks received that were new and of use, known already, or for a block that is complete.
  public var chunksUseful: UInt64 = 0
  public var chunksDuplicate: UInt64 = 0
  public var chunksLate: UInt64 = 0
  /// Chunks passed on out of the log, and chunks of this relay's own making that were sent.
  public var chunksForwarded: UInt64 = 0
  public var chunksOwn: UInt64 = 0
  /// What encoders and decoders did, in the units of `ErasureCode.Work`.
  public var workEncoded: UInt64 = 0
  public var workDecoded: UInt64 = 0
  /// Of what decoders did, the solving at the end.
  public var workSolved: UInt64 = 0
  public var bytesHashed: UInt64 = 0
  public var bytesCopied: UInt64 = 0
  /// Short ids looked up; short ids computed.
  public var idsMatched: UInt64 = 0
  public var idsComputed: UInt64 = 0
  /// Transactions told to a body's decoder out of the mempool and their bytes; parsed or gone over for a body's checks;
  /// confirmed in the mempool.
  public var transactionsFilled: UInt64 = 0
  public var bytesFilled: UInt64 = 0
  public var transactionsChecked: UInt64 = 0
  public var transactionsLearned: UInt64 = 0
  /// Blocks that passed the gate, or were submitted: state set aside. Their bytes when the state is given up again.
  public var blocksOpened: UInt64 = 0
  public var bytesSettled: UInt64 = 0
  /// Budgets reckoned.
  public var budgets: UInt64 = 0
  public var messagesMalformed: UInt64 = 0
  public var penned: UInt64 = 0
  public var penDropped: UInt64 = 0
  public var needsSent: UInt64 = 0
  public var needsReceived: UInt64 = 0
  public var havesSent: UInt64 = 0
  public var havesReceived: UInt64 = 0
  public var blocksVerified: UInt64 = 0
  public var blocksSubmitted: UInt64 = 0
  public var blocksAbandoned: UInt64 = 0
  public var blocksEvicted: UInt64 = 0
  public var gateRefusals: UInt64 = 0
  public var failedChecks: UInt64 = 0
  public var falseMatches: UInt64 = 0
  public var wrongChunks: UInt64 = 0
  public var demotions: UInt64 = 0
  public var chunksNotStored: UInt64 = 0
  /// JOURNEY messages sent; of a neighbour that tells too many, not taken; of the owner's, not sent as too many waited.
  public var journeysSent: UInt64 = 0
  public var journeysRefused: UInt64 = 0
  public var journeysDropped: UInt64 = 0

  public init() {}
}
