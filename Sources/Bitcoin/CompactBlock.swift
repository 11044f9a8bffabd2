import Ground

/// BIP152's two versions: they differ in the id that short ids are cut from, and in whether witnesses are sent.
public enum CompactBlockVersion: UInt64, Sendable, CaseIterable {
  /// Short ids over txids; transactions without witnesses.
  case one = 1
  /// Short ids over wtxids; transactions with witnesses.
  case two = 2
}

/// How one block's short transaction ids are computed: 48 bits of SipHash-2-4 of a txid or wtxid, keyed with the first
/// 16 bytes of SHA-256(header ‖ nonce).
public struct ShortIDKey: Hashable, Sendable {
  public static let byteCount = 6

  public let k0, k1: UInt64

  public init(header: BlockHeader, nonce: UInt64) {
    var writer = ByteWriter(reserving: BlockHeader.byteCount + 8)
    header.write(to: &writer)
    writer.integer(nonce)
    let digest = SHA256.hash(writer.bytes.span.bytes)
    k0 = digest.w0
    k1 = digest.w1
  }

  /// The short id as a number below 2^48.
  @inlinable public func shortID(_ id: Hash256) -> UInt64 {
    SipHash(k0: k0, k1: k1).hash(id) & 0xFFFF_FFFF_FFFF
  }
}

/// A `cmpctblock` payload (BIP152). Prefilled transactions stay where they lie in the payload.
public struct CompactBlock: Sendable {
  /// BIP152 states indexes in 16 bits.
  public static let maxTransactions = 65_535

  public var header: BlockHeader
  public var nonce: UInt64
  /// Of the transactions that are not prefilled, in block order; numbers below 2^48.
  public var shortIDs: [UInt64]
  /// In ascending order of index.
  public var prefilled: [Prefilled]

  public struct Prefilled: Hashable, Sendable {
    /// In the block.
    public var index: Int
    /// In the payload.
    public var layout: TransactionLayout
  }

  public var transactionCount: Int { shortIDs.count + prefilled.count }
  public var hash: Hash256 { header.hash }
  public var key: ShortIDKey { ShortIDKey(header: header, nonce: nonce) }

  /// Throws on truncation, on more than 65,535 transactions, and on prefilled indexes that leave a gap no short id
  /// fills.
  public init(parsing payload: RawSpan) throws(DecodeError) {
    var reader = ByteReader(payload)
    header = try BlockHeader(from: &reader)
    nonce = try reader.integer(UInt64.self, "cmpctblock.nonce")
    let short = try reader.count(
      itemBytes: ShortIDKey.byteCount, max: CompactBlock.maxTransactions, "cmpctblock.shortids")
    shortIDs = []
    shortIDs.reserveCapacity(short)
    for _ in 0..<short {
      let low = try reader.integer(UInt32.self, "cmpctblock.shortid")
      let high = try reader.integer(UInt16.self, "cmpctblock.shortid")
      shortIDs.append(UInt64(low) | UInt64(high) << 32)
    }
    let count = try reader.count(
      itemBytes: 1 + TransactionLayout.leastByteCount, max: CompactBlock.maxTransactions - short,
      "cmpctblock.prefilledtxn")
    prefilled = []
    prefilled.reserveCapacity(count)
    var next = 0
    for number in 0..<count {
      // An index beyond the short ids and the prefilled ones before it would leave transactions that nothing names.
      let index = try reader.differentialIndex(&next, limit: short + number, "cmpctblock.prefilledtxn.index")
      prefilled.append(Prefilled(index: index, layout: try TransactionLayout(from: &reader)))
    }
    try reader.end("cmpctblock")
  }

  /// Serialises again. `payload` is what was parsed.
  public func write(to writer: inout ByteWriter, payload: RawSpan) {
    CompactBlock.writeStart(to: &writer, header: header, nonce: nonce, shortIDs: shortIDs.count)
    for id in shortIDs { CompactBlock.write(shortID: id, to: &writer) }
    writer.compactSize(prefilled.count)
    var next = 0
    for entry in prefilled {
      writer.compactSize(entry.index - next)
      next = entry.index + 1
      writer.append(entry.layout.bytes(in: payload))
    }
  }

  /// Writes the `cmpctblock` payload for a hashed block. `prefill` are indexes into the block in ascending order;
  /// BIP152 wants the coinbase among them. Traps on a block of more than 65,535 transactions, on unsorted indexes and
  /// on a block that isn't hashed.
  public static func encode(
    _ block: ParsedBlock, in bytes: RawSpan, nonce: UInt64, prefill: [Int] = [0], version: CompactBlockVersion = .two,
    to writer: inout ByteWriter
  ) {
    precondition(block.isFullyHashed && block.transactions.count <= maxTransactions)
    let key = ShortIDKey(header: block.header, nonce: nonce)
    let ids = version == .one ? block.txids : block.wtxids
    writeStart(to: &writer, header: block.header, nonce: nonce, shortIDs: ids.count - prefill.count)
    var from = 0
    for index in prefill {
      precondition(index >= from)
      key.write(ids[from..<index], to: &writer)
      from = index + 1
    }
    key.write(ids[from...], to: &writer)
    writer.compactSize(prefill.count)
    var next = 0
    for index in prefill {
      writer.compactSize(index - next)
      next = index + 1
      block.transactions[index].write(in: bytes, witness: version == .two, to: &writer)
    }
  }

  private static func writeStart(to writer: inout ByteWriter, header: BlockHeader, nonce: UInt64, shortIDs: Int) {
    header.write(to: &writer)
    writer.integer(nonce)
    writer.compactSize(shortIDs)
  }

  private static func write(shortID id: UInt64, to writer: inout ByteWriter) {
    writer.integer(UInt32(truncatingIfNeeded: id))
    writer.integer(UInt16(truncatingIfNeeded: id >> 32))
  }
}

extension ShortIDKey {
  /// Short ids of many transactions, six bytes each.
  func write(_ ids: ArraySlice<Hash256>, to writer: inout ByteWriter) {
    let packed = [UInt8](unsafeUninitializedCapacity: 6 * ids.count + 2) { buffer, count in
      let out = UnsafeMutableRawPointer(buffer.baseAddress!)
      var at = 0
      for id in ids {
        // Eight bytes are stored, six count; the next id overwrites the other two.
        unsafe out.storeBytes(of: shortID(id).littleEndian, toByteOffset: at, as: UInt64.self)
        at += 6
      }
      count = at
    }
    writer.append(packed)
  }
}

extension TransactionLayout {
  /// Appends the transaction, or its stripped form.
  public func write(in message: RawSpan, witness: Bool = true, to writer: inout ByteWriter) {
    if witness || !hasWitness {
      writer.append(bytes(in: message))
    } else {
      writer.append(message.extracting(offset..<offset + 4))
      writer.append(message.extracting(coreOffset..<coreOffset + coreByteCount))
      writer.append(message.extracting(end - 4..<end))
    }
  }
}

/// A `getblocktxn` payload: which transactions of a block are wanted.
public struct BlockTransactionsRequest: Hashable, Sendable {
  public var block: Hash256
  /// Ascending, below 65,536.
  public var indexes: [Int]

  public init(block: Hash256, indexes: [Int]) {
    self.block = block
    self.indexes = indexes
  }

  /// Throws on truncation and on indexes of 65,536 or more.
  @_lifetime(reader: copy reader)
  public init(from reader: inout ByteReader) throws(DecodeError) {
    block = try reader.hash("getblocktxn.blockhash")
    let count = try reader.count(itemBytes: 1, max: CompactBlock.maxTransactions + 1, "getblocktxn.indexes")
    indexes = []
    indexes.reserveCapacity(count)
    var next = 0
    for _ in 0..<count {
      indexes.append(
        try reader.differentialIndex(&next, limit: CompactBlock.maxTransactions, "getblocktxn.index"))
    }
  }

  public func write(to writer: inout ByteWriter) {
    writer.hash(block)
    writer.compactSize(indexes.count)
    var next = 0
    for index in indexes {
      precondition(index >= next && index <= CompactBlock.maxTransactions, "indexes ascend")
      writer.compactSize(index - next)
      next = index + 1
    }
  }
}

/// A `blocktxn` payload: the transactions that were asked for. They stay where they lie in the payload.
public struct BlockTransactions: Sendable {
  public var block: Hash256
  public var transactions: [TransactionLayout]

  public init(parsing payload: RawSpan) throws(DecodeError) {
    var reader = ByteReader(payload)
    block = try reader.hash("blocktxn.blockhash")
    let count = try reader.count(
      itemBytes: TransactionLayout.leastByteCount, max: CompactBlock.maxTransactions + 1, "blocktxn.transactions")
    transactions = []
    transactions.reserveCapacity(count)
    for _ in 0..<count { transactions.append(try TransactionLayout(from: &reader)) }
    try reader.end("blocktxn")
  }

  /// Serialises again. `payload` is what was parsed.
  public func write(to writer: inout ByteWriter, payload: RawSpan) {
    writer.hash(block)
    writer.compactSize(transactions.count)
    for layout in transactions { writer.append(layout.bytes(in: payload)) }
  }

  /// Writes the answer to `request` from a block. Throws `outOfRange` when an index is beyond the block.
  public static func encode(
    _ request: BlockTransactionsRequest, from block: ParsedBlock, in bytes: RawSpan,
    version: CompactBlockVersion = .two, to writer: inout ByteWriter
  ) throws(DecodeError) {
    for index in request.indexes where index >= block.transactions.count {
      throw DecodeError(
        "getblocktxn.index", at: 32, .outOfRange(value: UInt64(index), limit: UInt64(block.transactions.count)))
    }
    writer.hash(request.block)
    writer.compactSize(request.indexes.count)
    for index in request.indexes {
      block.transactions[index].write(in: bytes, witness: version == .two, to: &writer)
    }
  }
}

extension ByteReader {
  /// An index stated as its distance from the one after the last; `next` is that one and moves on.
  @_lifetime(self: copy self)
  mutating func differentialIndex(
    _ next: inout Int, limit: Int, _ field: @autoclosure () -> String
  ) throws(DecodeError) -> Int {
    let start = offset
    let difference = try compactSize(field())
    let (index, overflow) = UInt64(next).addingReportingOverflow(difference)
    if overflow || index > UInt64(limit) {
      throw DecodeError(field(), at: start, .outOfRange(value: overflow ? .max : index, limit: UInt64(limit)))
    }
    next = Int(index) + 1
    return Int(index)
  }
}
