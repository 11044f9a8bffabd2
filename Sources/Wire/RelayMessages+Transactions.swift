import Ground

// The messages that pass transactions along between blocks: TXINV, TXGET, TX.

/// TXINV (10), "I have these", and TXGET (11), "send me these": six-byte ids keyed by the overlay secret of the epoch
/// named. Borrows the datagram.
public struct TransactionIDsMessage: ~Escapable {
  public static let headBytes = 6

  /// The epoch of the overlay secret that keys the ids.
  public var epoch: UInt32
  @usableFromInline var ids: RawSpan

  /// `type` is `.transactionInventory` or `.getTransactions`.
  @_lifetime(copy message)
  public init(parsing message: RawSpan, as type: RelayMessageType) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(type)
    epoch = try reader.integer(UInt32.self, "txids.epoch")
    let count = try reader.number(UInt8.self, in: 1...RelayLimits.transactionIDs, "txids.count")
    ids = try reader.take(6 * Int(count), "txids.ids")
    try reader.end("txids")
  }

  public var count: Int { ids.byteCount / 6 }

  /// An id in the low 48 bits. Traps outside 0 ..< `count`.
  @inlinable public func id(_ i: Int) -> UInt64 {
    precondition(i >= 0 && i < count)
    return unsafe UInt64(
      UInt32(littleEndian: ids.unsafeLoadUnaligned(fromUncheckedByteOffset: 6 * i, as: UInt32.self)))
      | UInt64(UInt16(littleEndian: ids.unsafeLoadUnaligned(fromUncheckedByteOffset: 6 * i + 4, as: UInt16.self))) << 32
  }

  /// Writes the message and returns its length; 0 when `out` is too small or there is no id. Ids beyond 190 are left
  /// out, bits above the 48th dropped.
  public static func write(
    as type: RelayMessageType, epoch: UInt32, ids: Span<UInt64>, into out: inout MutableRawSpan
  ) -> Int {
    precondition(type == .transactionInventory || type == .getTransactions)
    let count = min(ids.count, RelayLimits.transactionIDs)
    let total = headBytes + 6 * count
    if count == 0 || out.byteCount < total { return 0 }
    out.put(type.rawValue, at: 0)
    out.put(epoch, at: 1)
    out.put(UInt8(count), at: 5)
    for i in 0..<count {
      out.put(UInt32(truncatingIfNeeded: ids[i]), at: headBytes + 6 * i)
      out.put(UInt16(truncatingIfNeeded: ids[i] >> 32), at: headBytes + 6 * i + 4)
    }
    return total
  }
}

/// Up to four inputs of a transaction, by index, whose parents are unconfirmed in the sender's mempool: without them a
/// receiver, which knows no coins, could not tell an orphan.
public struct ParentInputs: Hashable, Sendable {
  public static let none = ParentInputs()
  /// `UInt16.max` where there is none.
  public var indexes: SIMD4<UInt16>

  public init(indexes: SIMD4<UInt16> = SIMD4(repeating: .max)) { self.indexes = indexes }
}

/// TX (12): a fragment of a transaction with its witness. Borrows the datagram.
public struct TransactionMessage: ~Escapable {
  public static let headBytes = 25

  /// The first eight bytes of the wtxid.
  public var wtxid8: UInt64
  /// Bytes of the whole transaction, 51 to 400,000.
  public var total: UInt32
  /// A multiple of 1,144.
  public var offset: UInt32
  public var parents: ParentInputs
  /// 1,144 bytes, or what is left of the transaction.
  public var fragment: RawSpan

  @_lifetime(copy message)
  public init(parsing message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.expect(.transaction)
    wtxid8 = try reader.integer(UInt64.self, "tx.wtxid8")
    total = try reader.number(
      UInt32.self, in: RelayLimits.transactionBytesMin...RelayLimits.transactionBytes, "tx.total")
    offset = try reader.number(UInt32.self, in: 0...Int(total) - 1, "tx.offset")
    if Int(offset) % RelayLimits.fragmentBytes != 0 {
      throw DecodeError("tx.offset", at: 13, .invalid("not a multiple of the fragment length"))
    }
    var indexes = SIMD4<UInt16>(repeating: .max)
    for i in 0..<4 { indexes[i] = try reader.integer(UInt16.self, "tx.parents") }
    parents = ParentInputs(indexes: indexes)
    fragment = try reader.take(
      Swift.min(RelayLimits.fragmentBytes, Int(total) - Int(offset)), "tx.fragment")
    try reader.end("tx")
  }

  /// Writes the fragment of `transaction` at `offset` and returns the message's length; 0 when `out` is too small, or for
  /// an offset or a transaction that the format doesn't have.
  public static func write(
    wtxid8: UInt64, transaction: RawSpan, offset: Int, parents: ParentInputs, into out: inout MutableRawSpan
  ) -> Int {
    let whole = transaction.byteCount
    if !(RelayLimits.transactionBytesMin...RelayLimits.transactionBytes ~= whole) { return 0 }
    if !(0..<whole ~= offset) || offset % RelayLimits.fragmentBytes != 0 { return 0 }
    let count = min(RelayLimits.fragmentBytes, whole - offset)
    if out.byteCount < headBytes + count { return 0 }
    out.put(RelayMessageType.transaction.rawValue, at: 0)
    out.put(wtxid8, at: 1)
    out.put(UInt32(whole), at: 9)
    out.put(UInt32(offset), at: 13)
    for i in 0..<4 { out.put(parents.indexes[i], at: 17 + 2 * i) }
    out.put(transaction.extracting(offset..<offset + count), at: headBytes)
    return headBytes + count
  }
}
