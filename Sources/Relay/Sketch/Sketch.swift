import Bitcoin
import Ground
import Mempool

/// A block as its transactions' short ids and lengths: enough for a receiver to lay out the body and to fill in what
/// its mempool has. SKETCH.md has the format, its cost and the probability of false matches.
public struct Sketch: Sendable {
  public enum Source: Hashable, Sendable {
    /// Inline in the sketch, at these of its bytes.
    case explicit(Range<Int>)
    case shortID(UInt64)
  }

  /// Serialised block: header, count and transactions.
  public let bodyByteCount: Int
  /// Of each transaction, witnesses included; in block order.
  public let byteCounts: [UInt32]
  /// Where each transaction begins in the body, and the body's end.
  public let offsets: [UInt32]
  /// `TransactionStore.noID` for explicit transactions.
  public let shortIDs: [UInt64]
  /// Transactions that are inline, ascending; the coinbase is always the first.
  public let explicit: [Explicit]

  /// A transaction of the block and where its bytes are: in the sketch when parsed, in the source given when built.
  public struct Explicit: Hashable, Sendable {
    public var index: Int
    public var bytes: Range<Int>
    public init(index: Int, bytes: Range<Int>) {
      self.index = index
      self.bytes = bytes
    }
  }

  public var transactionCount: Int { byteCounts.count }

  /// Where a transaction lies in the body.
  public func range(_ index: Int) -> Range<Int> { Int(offsets[index])..<Int(offsets[index + 1]) }

  /// Bytes of the body before the first transaction: header and transaction count.
  public var prefixByteCount: Int { Int(offsets[0]) }

  /// Finds the transactions in a store. `slots[i]` becomes the slot of the entry that transaction i is taken to be, or
  /// `TransactionStore.missing` for those that are explicit, absent or ambiguous.
  public func match(in store: borrowing TransactionStore, key: OverlayIDKey, into slots: inout [UInt32]) {
    store.match(ids: shortIDs.span, byteCounts: byteCounts.span, key: key, into: &slots)
  }
}

/// Why bytes are no sketch of the block that was announced.
public enum SketchError: Error, Hashable, Sendable, CustomStringConvertible {
  case unknownVersion(UInt8)
  /// The announcement and the sketch disagree.
  case transactionCount(sketch: UInt64, announced: Int)
  case bodyByteCount(sketch: Int, announced: Int)
  /// The coinbase is not the first explicit transaction.
  case coinbaseNotExplicit
  /// A field is cut off, out of range or left over.
  case field(DecodeError)

  public var description: String {
    switch self {
    case .unknownVersion(let version): "sketch version \(version) is not known"
    case .transactionCount(let sketch, let announced):
      "the sketch has \(sketch) transactions, its announcement says \(announced)"
    case .bodyByteCount(let sketch, let announced):
      "the sketch's lengths make a block of \(sketch) bytes, its announcement says \(announced)"
    case .coinbaseNotExplicit: "the coinbase is not the first explicit transaction"
    case .field(let error): "sketch: \(error)"
    }
  }
}

/// Numbers of the format.
enum SketchFormat {
  static let version: UInt8 = 1
  static let shortIDBytes = 5
  /// BIP141's block weight, and so also the most bytes of a block.
  static let bodyBytesMax = 4_000_000
  /// Nothing shorter parses as a transaction.
  static let transactionBytesMin = TransactionLayout.leastByteCount
  /// More can't be within the weight: each weighs four times its least size.
  static let transactionsMax = (bodyBytesMax - 4 * 81) / (4 * transactionBytesMin)
  /// Lengths that one byte names; the byte values above are the high bytes of two-byte lengths.
  static let dictionaryMax = 208
  /// The byte before a length in three bytes.
  static let longLength: UInt8 = 255
}
