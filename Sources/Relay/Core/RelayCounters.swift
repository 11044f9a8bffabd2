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
  /// Repair chunks computed, and source bytes that went through the encoder for them.
  public var chunksEncoded: UInt64 = 0
  public var bytesEncoded: UInt64 = 0
  /// Bytes that the decoder's slices went over.
  public var bytesDecoded: UInt64 = 0
  public var bytesHashed: UInt64 = 0
  public var bytesCopied: UInt64 = 0
  /// Short ids looked up; short ids computed.
  public var idsMatched: UInt64 = 0
  public var idsComputed: UInt64 = 0
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

  public init() {}
}
