import Bitcoin
import Ground
import Mempool

/// How a node first told of a block.
public enum AnnouncementForm: UInt8, Sendable, Hashable { case compactBlock, headers, inventory, block }

/// How a block was handed to a node.
public enum DeliveryMethod: UInt8, Sendable, Hashable, CaseIterable {
  /// `cmpctblock` with everything prefilled that the mirror says the node lacks.
  case compactBlock
  /// `block`, unasked.
  case block
  /// `submitblock` over RPC, by the daemon.
  case submitBlock
}

/// What the daemon logs, counts and measures. `node` is the index in the configuration.
public enum NodeEvent: Sendable {
  case connected(node: Int, userAgent: String, height: Int32)
  case disconnected(node: Int, errno: Int32)
  case problem(node: Int, NodeProblem)
  /// Something from a node that is no valid message, or no valid header; the connection goes on where it can. At most ten
  /// a minute are told of each node.
  case misbehaved(node: Int, String)
  case headersSynced(node: Int, height: Int)
  case mempoolListed(node: Int, transactions: Int)
  /// A node told of a block for the first time; of a watched one once the header is known, with the moment it was told.
  case announced(node: Int, hash: Hash256, form: AnnouncementForm, at: Instant)
  /// A compact block was completed: from the mirror, `missing` of its transactions from the node.
  case reconstructed(node: Int, hash: Hash256, transactions: Int, missing: Int, took: Interval)
  /// A block was written to a node's connection.
  case written(node: Int, hash: Hash256, method: DeliveryMethod, bytes: Int, prefilled: Int, at: Instant)
  /// What was written of a block before it was checked turned out wrong: the block is written again once it is there.
  case mistaken(node: Int, hash: Hash256)
  /// The node has the block on its best chain; `took` since it was written.
  case tipUpdated(node: Int, hash: Hash256, method: DeliveryMethod, took: Interval, at: Instant)
  /// It did not take it in any form over P2P, or the connection went: the daemon may try `submitblock`.
  case deliveryFailed(node: Int, hash: Hash256)
  /// An inbound peer was refused or cut off.
  case inboundRefused(PeerAddress, String)
}

/// A complete block that came from a node, Merkle root checked, not yet connected by that node.
public struct NodeBlock: Sendable {
  public var node: Int
  /// Network serialisation.
  public var bytes: [UInt8]
  /// Fully hashed.
  public var block: ParsedBlock
  public var hash: Hash256
  /// When the announcement arrived.
  public var announced: Instant
  public var form: AnnouncementForm
}

/// Whom the bridge works for: the owner of mempool, header chain and complete blocks.
public protocol BridgeHost: ~Copyable {
  mutating func withMempool<R>(_ body: (inout TransactionStore) -> R) -> R
  mutating func withChain<R>(_ body: (inout HeaderChain) -> R) -> R
  /// Seconds since 1970.
  func unixTime(at now: Instant) -> UInt32
  /// A complete, checked block, if it is still held.
  mutating func withBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R?
  /// The host has the block, or had it: it need not come from a node.
  func hasBlock(_ hash: Hash256) -> Bool
  /// A block that is put together and still being checked.
  mutating func withAssembledBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R?
  /// A block that the node has and the host may not.
  mutating func blockFromNode(
    _ block: consuming NodeBlock, now: Instant, into sink: inout some DatagramSink & ~Copyable)
  /// A block is about to come from the node: its ids and lengths are known, nothing of it is checked. Its layouts say
  /// where its transactions will lie; `coinbase` are the first one's bytes. True when the host can use that: then the
  /// block itself, or `blockMistaken`, follows with one of the next calls.
  mutating func blockComing(
    _ block: borrowing ParsedBlock, coinbase: RawSpan, announced: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool
  /// What `blockComing` said of this one was wrong: a short id meant another transaction. The block comes otherwise.
  mutating func blockMistaken(_ hash: Hash256, now: Instant)
  /// New headers are in the chain.
  mutating func headersFromNode(now: Instant, into sink: inout some DatagramSink & ~Copyable)
  /// The node has just told a transaction that the store lacked.
  mutating func transactionFromNode(slot: UInt32, now: Instant)
  mutating func note(_ event: NodeEvent)
}

extension BridgeHost where Self: ~Copyable {
  public mutating func blockComing(
    _ block: borrowing ParsedBlock, coinbase: RawSpan, announced: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool { false }
  public mutating func blockMistaken(_ hash: Hash256, now: Instant) {}
}
