import Bitcoin
import Ground

/// Why a store holds a transaction, and what it may be used for.
public enum TransactionClass: UInt8, Sendable, CaseIterable {
  /// The site's own node has it in its mempool.
  case node = 0
  /// Kept for reconstruction only, never counted as known to the node: from peers, of recent blocks, recently removed or
  /// conflicting.
  case side = 1
  /// Some of its parents are missing.
  case orphan = 2
}

/// Names an entry beyond the next change of the store: a slot that was freed and used again has another generation.
public struct EntryHandle: Hashable, Sendable, BitwiseCopyable {
  public let slot: UInt32
  public let generation: UInt32
  init(slot: UInt32, generation: UInt32) {
    self.slot = slot
    self.generation = generation
  }
}

/// The bounds of a store. All tables are sized from the counts when the store is made and never grow; memory that has
/// not been used costs nothing.
public struct StoreLimits: Sendable, Hashable {
  /// Transactions and their serialised bytes, by class. Past them the store evicts: `node` the oldest of the lowest
  /// feerate band, `side` and `orphan` the oldest.
  public var nodeCount, nodeBytes: Int
  public var sideCount, sideBytes: Int
  public var orphanCount, orphanBytes: Int
  /// Outpoints spent by transactions of class `node`, evicted for like its bytes.
  public var nodeInputs: Int

  public init(
    nodeCount: Int = 300_000, nodeBytes: Int = 100 << 20, nodeInputs: Int = 1_000_000,
    sideCount: Int = 30_000, sideBytes: Int = 20 << 20,
    orphanCount: Int = 1_000, orphanBytes: Int = 4 << 20
  ) {
    precondition(nodeCount > 0 && sideCount > 0 && orphanCount > 0 && nodeInputs > 0)
    precondition(nodeCount + sideCount + orphanCount < 1 << 24 - 2, "a slot's number has 24 bits in the index")
    self.nodeCount = nodeCount
    self.nodeBytes = nodeBytes
    self.nodeInputs = nodeInputs
    self.sideCount = sideCount
    self.sideBytes = sideBytes
    self.orphanCount = orphanCount
    self.orphanBytes = orphanBytes
  }

  public func count(_ kind: TransactionClass) -> Int {
    switch kind {
    case .node: nodeCount
    case .side: sideCount
    case .orphan: orphanCount
    }
  }

  public func bytes(_ kind: TransactionClass) -> Int {
    switch kind {
    case .node: nodeBytes
    case .side: sideBytes
    case .orphan: orphanBytes
    }
  }
}

public enum StoreError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Not one well-formed transaction.
  case malformed(DecodeError)
  /// Coinbases are never relayed loose.
  case coinbase
  /// Larger than the whole class may be.
  case tooLarge(bytes: Int, limit: Int)
  /// An orphan must miss 1 to `TransactionStore.missingParentsMax` parents.
  case missingParents(count: Int)

  public var description: String {
    switch self {
    case .malformed(let error): "malformed transaction: \(error)"
    case .coinbase: "a coinbase transaction outside a block"
    case .tooLarge(let bytes, let limit): "a transaction of \(bytes) bytes; at most \(limit) fit its class"
    case .missingParents(let count):
      "an orphan with \(count) missing parents; 1 to \(TransactionStore.missingParentsMax) can be tracked"
    }
  }
}

/// What became of an insertion.
public struct Insertion: Sendable {
  public enum Outcome: Sendable, Hashable {
    case added
    /// Was there under another class and has changed to the one asked for.
    case moved(from: TransactionClass)
    /// Was there as that class, or one that is worth more (`node` over `side` over `orphan`).
    case known
    /// Would have been the first to be evicted: the class is full of better ones.
    case dropped
  }
  public var outcome: Outcome
  /// `nil` when dropped.
  public var handle: EntryHandle?
  /// Transactions of class `node` that spent the same outpoints, or spent from those that did: now class `side`.
  public var conflicts: [EntryHandle] = []
}

/// What a store holds now.
public struct StoreCounts: Sendable, Hashable {
  public var transactions = 0
  /// Serialised bytes.
  public var bytes = 0
}
