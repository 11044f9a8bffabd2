import Bitcoin
import Ground

/// One block's way through this relay, for `status`, journeys and the simulator. Trivial. Instants that have not come
/// are `.never`.
public struct BlockReport: Hashable, Sendable {
  public var hash = Hash256.zero
  public var height = 0
  public var bodyBytes = 0
  public var sketchBytes = 0
  public var transactionCount = 0
  /// It was submitted at this site.
  public var isSubmitted = false
  public var isComplete = false
  /// The neighbour that delivered the first packet.
  public var firstLink = RelayEvent.noLink
  /// key4 of the relay that made the first packet.
  public var maker: UInt32 = 0
  /// Kernel receive time of the first packet; the submission's arrival for a submitted block.
  public var firstPacket = Instant.never
  public var gatePassed = Instant.never
  public var sketchComplete = Instant.never
  public var matched = Instant.never
  /// Kernel receive time of the packet that made the body solvable.
  public var lastNeeded = Instant.never
  public var decoded = Instant.never
  public var verified = Instant.never
  /// The first datagram of the block that went out.
  public var firstForwarded = Instant.never
  /// Body bytes that were known from the mempool, with header and coinbase.
  public var knownBytes = 0
  public var missingTransactions = 0
  public var missingBytes = 0
  /// Body chunks that were needed when the matches were told.
  public var neededChunks = 0
  /// Packets of the block, both ways, and their plaintext bytes.
  public var packetsIn = 0
  public var packetsOut = 0
  public var bytesIn = 0
  public var bytesOut = 0
  /// Of `packetsIn`, those with repair chunks: made by the erasure code, not cut out of the object.
  public var repairIn = 0
  /// Packets that brought nothing new.
  public var packetsUseless = 0
  /// Requests for more: above 0, this relay needed an extra round.
  public var requests = 0
  public var failedChecks = 0

  public init() {}
}
