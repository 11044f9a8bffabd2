import Ground

/// A block's structure: its header, where each transaction lies, and, once hashed, the transactions' ids. The block's
/// bytes are borrowed by each call that needs them and never kept: they must be the ones that were parsed.
///
/// Memory: 24 bytes a transaction for layouts, 65 more for hashes; a transaction takes 51 bytes or more on the wire, so
/// a hostile block costs at most 1.8 times its size.
public struct ParsedBlock: Sendable {
  public let header: BlockHeader
  /// In block order.
  public let transactions: [TransactionLayout]
  /// Bytes of the whole block.
  public let byteCount: Int
  /// Ids in block order; `.zero` where not hashed yet.
  public private(set) var txids: [Hash256]
  public private(set) var wtxids: [Hash256]

  private var isHashed: [Bool]
  /// All transactions before this one are hashed.
  private var firstUnhashed = 0
  private var large: SlicedTransactionHash?

  /// Parses structure only: 80-byte header, count, transactions, nothing after them. Throws naming field and offset.
  public init(parsing bytes: RawSpan) throws(DecodeError) {
    var reader = ByteReader(bytes)
    try self.init(from: &reader)
    try reader.end("block")
  }

  @_lifetime(reader: copy reader)
  public init(from reader: inout ByteReader) throws(DecodeError) {
    let start = reader.offset
    header = try BlockHeader(from: &reader)
    let count = try reader.count(itemBytes: TransactionLayout.leastByteCount, "block.vtx")
    var layouts: [TransactionLayout] = []
    layouts.reserveCapacity(count)
    for _ in 0..<count { layouts.append(try TransactionLayout(from: &reader)) }
    transactions = layouts
    byteCount = reader.offset - start
    txids = Array(repeating: .zero, count: count)
    wtxids = Array(repeating: .zero, count: count)
    isHashed = Array(repeating: false, count: count)
  }

  /// A block whose transactions are already known to lie at `transactions` of some message. Offsets must ascend.
  public init(header: BlockHeader, transactions: [TransactionLayout], byteCount: Int) {
    self.header = header
    self.transactions = transactions
    self.byteCount = byteCount
    txids = Array(repeating: .zero, count: transactions.count)
    wtxids = txids
    isHashed = Array(repeating: false, count: transactions.count)
  }

  /// The same with the ids of all transactions but `unhashed`. Trusted.
  package init(
    header: BlockHeader, transactions: [TransactionLayout], byteCount: Int, txids: [Hash256], wtxids: [Hash256],
    unhashed: [Int]
  ) {
    precondition(txids.count == transactions.count && wtxids.count == transactions.count)
    self.header = header
    self.transactions = transactions
    self.byteCount = byteCount
    self.txids = txids
    self.wtxids = wtxids
    isHashed = Array(repeating: true, count: transactions.count)
    for index in unhashed { isHashed[index] = false }
    skipHashed()
  }

  public var hash: Hash256 { header.hash }

  /// Bytes of the header and the transaction count.
  private var overhead: Int { BlockHeader.byteCount + compactSizeByteCount(transactions.count) }

  /// Bytes without any witness.
  public var strippedByteCount: Int { transactions.reduce(overhead) { $0 + $1.strippedByteCount } }

  /// BIP141.
  public var weight: Int { transactions.reduce(4 * overhead) { $0 + $1.weight } }

  public var hasWitness: Bool { transactions.contains { $0.hasWitness } }

  // MARK: Hashing

  public var isFullyHashed: Bool { firstUnhashed == transactions.count }

  /// States the ids of a transaction that the caller has hashed before (it came from the mempool, say). Trusted.
  public mutating func setHashes(of index: Int, txid: Hash256, wtxid: Hash256) {
    txids[index] = txid
    wtxids[index] = wtxid
    isHashed[index] = true
    skipHashed()
  }

  /// Hashes every transaction not hashed yet.
  public mutating func hashAll(in bytes: RawSpan, kernel: SHA256.Kernel = .best) {
    _ = hashSome(in: bytes, budget: .max, kernel: kernel)
  }

  /// Hashes the transactions `range` that are not hashed yet, for callers that learn the block piece by piece: only
  /// these transactions' bytes must be in place.
  public mutating func hash(_ range: Range<Int>, in bytes: RawSpan, kernel: SHA256.Kernel = .best) {
    hashBatch(range.filter { !isHashed[$0] }, in: bytes, kernel)
  }

  /// Hashes about `budget` bytes' worth, in order, also within a large transaction; returns the bytes that went through
  /// SHA-256. With SHA extensions 100 µs are good for about 128 KiB.
  @discardableResult
  public mutating func hashSome(in bytes: RawSpan, budget: Int, kernel: SHA256.Kernel = .best) -> Int {
    var spent = 0
    var indexes: [Int] = []
    indexes.reserveCapacity(min(transactions.count - firstUnhashed, budget / 64))
    while firstUnhashed < transactions.count && spent < budget {
      if var hashing = large {
        large = nil
        spent += hashing.advance((budget - spent) / 2, in: bytes)
        if !hashing.isDone {
          large = hashing
          break
        }
        let (txid, wtxid) = hashing.result
        setHashes(of: firstUnhashed, txid: txid, wtxid: wtxid)
        continue
      }
      // As many whole transactions as fit; then a large one by slices.
      indexes.removeAll(keepingCapacity: true)
      var index = firstUnhashed
      while index < transactions.count {
        if !isHashed[index] {
          let cost = transactions[index].hashedByteCount
          if spent + cost > budget && (!indexes.isEmpty || cost > ParsedBlock.sliceAbove) { break }
          indexes.append(index)
          spent += cost
          if spent >= budget { break }
        }
        index += 1
      }
      if indexes.isEmpty {
        large = SlicedTransactionHash(transactions[firstUnhashed], kernel: kernel)
      } else {
        hashBatch(indexes, in: bytes, kernel)
        if spent < budget && index < transactions.count && transactions[index].hashedByteCount <= ParsedBlock.sliceAbove
        {
          break
        }
      }
    }
    return spent
  }

  /// Transactions that cost no more than this are hashed whole.
  private static let sliceAbove = 16 << 10

  private mutating func hashBatch(_ indexes: [Int], in bytes: RawSpan, _ kernel: SHA256.Kernel) {
    unsafe txids.withUnsafeMutableBufferPointer { txids in
      unsafe wtxids.withUnsafeMutableBufferPointer { wtxids in
        unsafe transactions.withUnsafeBufferPointer { layouts in
          unsafe TransactionHashing.hash(indexes.count, in: bytes, kernel) { i in
            let index = indexes[i]
            return (layouts[index], txids.baseAddress! + index, wtxids.baseAddress! + index)
          }
        }
      }
    }
    for index in indexes { isHashed[index] = true }
    skipHashed()
  }

  private mutating func skipHashed() {
    while firstUnhashed < transactions.count && isHashed[firstUnhashed] {
      firstUnhashed += 1
      large = nil
    }
  }
}

extension TransactionLayout {
  /// Bytes that go through SHA-256 for both ids.
  @inlinable var hashedByteCount: Int { byteCount + (hasWitness ? strippedByteCount : 0) }
}

/// Bytes that a CompactSize takes.
@inlinable public func compactSizeByteCount(_ value: Int) -> Int {
  value < 0xFD ? 1 : value < 0x1_0000 ? 3 : value < 0x1_0000_0000 ? 5 : 9
}
