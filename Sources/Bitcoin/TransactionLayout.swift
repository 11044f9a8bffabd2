import Ground

/// Where a transaction's parts lie among the bytes of a message. Flat and trivial; the bytes stay where they are.
///
/// Serialised (BIP144): version 4 ‖ [marker 0, flag 1] ‖ inputs ‖ outputs ‖ [witnesses] ‖ lock time 4.
public struct TransactionLayout: Hashable, Sendable, BitwiseCopyable {
  // Held in 24 bytes: a block's layouts are written and read as a whole, and messages end far below 4 GiB.
  @usableFromInline var _offset, _byteCount, _coreByteCount, _inputCount, _outputCount: UInt32
  public private(set) var hasWitness: Bool
  /// One input, which spends the null outpoint.
  public private(set) var isCoinbase: Bool

  /// From the start of the parsed message.
  @inlinable public var offset: Int { Int(_offset) }
  /// Bytes with witnesses.
  @inlinable public var byteCount: Int { Int(_byteCount) }
  /// Bytes of inputs and outputs with their counts: what version and lock time enclose in the stripped form.
  @inlinable public var coreByteCount: Int { Int(_coreByteCount) }
  @inlinable public var inputCount: Int { Int(_inputCount) }
  @inlinable public var outputCount: Int { Int(_outputCount) }

  /// From the start of the parsed message.
  @inlinable public var end: Int { offset + byteCount }
  /// Where the input count starts.
  @inlinable public var coreOffset: Int { offset + (hasWitness ? 6 : 4) }
  /// Bytes without witnesses, marker and flag: what the txid covers.
  @inlinable public var strippedByteCount: Int { coreByteCount + 8 }
  /// BIP141: three times the stripped size plus the full size.
  @inlinable public var weight: Int { 3 * strippedByteCount + byteCount }

  /// The transaction's bytes within the message that was parsed.
  @_lifetime(copy message)
  @inlinable public func bytes(in message: RawSpan) -> RawSpan { message.extracting(offset..<end) }

  /// Parses the transaction at the reader's position and moves past it.
  ///
  /// Follows Bitcoin Core: an input count of 0 is the marker of the witness form, whose flag must be 1 and in which at
  /// least one witness must not be empty. Throws on truncation, on counts that the bytes left can't hold, on unknown
  /// flags and on superfluous witnesses. Allocates nothing; takes time in proportion to the bytes read.
  @_lifetime(reader: copy reader)
  public init(from reader: inout ByteReader) throws(DecodeError) {
    let start = reader.offset
    if reader.bytes.byteCount > Int(UInt32.max) {
      throw DecodeError(
        "tx", at: start, .outOfRange(value: UInt64(reader.bytes.byteCount), limit: UInt64(UInt32.max)))
    }
    try reader.skip(4, "tx.version")
    hasWitness = false
    var core = reader.offset
    var inputs = try reader.count(itemBytes: 41, "tx.vin")
    if inputs == 0 {
      let at = reader.offset
      let flag = try reader.byte("tx.flag")
      if flag != 1 {
        // Flag 0 would be a transaction without inputs and outputs, which Core reads and then finds invalid.
        throw DecodeError("tx.flag", at: at, .outOfRange(value: UInt64(flag), limit: 1))
      }
      hasWitness = true
      core = reader.offset
      inputs = try reader.count(itemBytes: 41, "tx.vin")
    }
    isCoinbase = false
    if inputs == 1 {
      try reader.require(36, "tx.vin.prevout")
      let index = unsafe reader.bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: reader.offset + 32, as: UInt32.self)
      isCoinbase = index == .max && Hash256(reader.bytes, at: reader.offset) == .zero
    }
    for _ in 0..<inputs {
      try reader.skip(36, "tx.vin.prevout")
      try reader.skip(try reader.count(itemBytes: 1, "tx.vin.scriptSig"), "tx.vin.scriptSig")
      try reader.skip(4, "tx.vin.nSequence")
    }
    let outputs = try reader.count(itemBytes: 9, "tx.vout")
    for _ in 0..<outputs {
      try reader.skip(8, "tx.vout.nValue")
      try reader.skip(try reader.count(itemBytes: 1, "tx.vout.scriptPubKey"), "tx.vout.scriptPubKey")
    }
    let coreEnd = reader.offset
    if hasWitness {
      var items = 0
      for _ in 0..<inputs {
        let count = try reader.count(itemBytes: 1, "tx.witness")
        items += count
        for _ in 0..<count {
          try reader.skip(try reader.count(itemBytes: 1, "tx.witness.item"), "tx.witness.item")
        }
      }
      if items == 0 {
        throw DecodeError("tx.witness", at: coreEnd, .invalid("witness form without a witness"))
      }
    }
    try reader.skip(4, "tx.nLockTime")
    _offset = UInt32(start)
    _byteCount = UInt32(reader.offset - start)
    _coreByteCount = UInt32(coreEnd - core)
    _inputCount = UInt32(inputs)
    _outputCount = UInt32(outputs)
  }

  /// Parses the transaction that starts at `offset` of `message`; what follows it is not looked at.
  public init(at offset: Int, in message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(message)
    try reader.skip(offset, "tx")
    try self.init(from: &reader)
  }

  /// Of a transaction that was parsed before and lies at `offset` now: its facts are trusted.
  package init(offset: Int, byteCount: Int, strippedByteCount: Int, inputCount: Int, outputCount: Int) {
    _offset = UInt32(offset)
    _byteCount = UInt32(byteCount)
    _coreByteCount = UInt32(strippedByteCount - 8)
    _inputCount = UInt32(inputCount)
    _outputCount = UInt32(outputCount)
    hasWitness = byteCount != strippedByteCount
    isCoinbase = false
  }

  /// The same transaction at another place of another message.
  public func moved(to offset: Int) -> TransactionLayout {
    var copy = self
    copy._offset = UInt32(offset)
    return copy
  }

  /// Parses a message that is one transaction and nothing else, such as a `tx` payload.
  public init(parsing bytes: RawSpan) throws(DecodeError) {
    var reader = ByteReader(bytes)
    try self.init(from: &reader)
    try reader.end("tx")
  }
}

extension TransactionLayout {
  /// The fewest bytes a transaction that parses can have: version, one input with an empty script, no output, lock time.
  public static let leastByteCount = 4 + 1 + 41 + 1 + 4

  /// Calls `body` with each output's value and script, in order, until it returns false. The layout must have been
  /// parsed from `message`.
  package func forEachOutput(in message: RawSpan, _ body: (_ value: UInt64, _ script: RawSpan) -> Bool)
    throws(DecodeError)
  {
    var reader = ByteReader(message.extracting(coreOffset..<coreOffset + coreByteCount))
    let inputs = try reader.count(itemBytes: 41, "tx.vin")
    for _ in 0..<inputs {
      try reader.skip(36, "tx.vin.prevout")
      try reader.skip(try reader.count(itemBytes: 1, "tx.vin.scriptSig"), "tx.vin.scriptSig")
      try reader.skip(4, "tx.vin.nSequence")
    }
    let outputs = try reader.count(itemBytes: 9, "tx.vout")
    for _ in 0..<outputs {
      let value = try reader.integer(UInt64.self, "tx.vout.nValue")
      let length = try reader.count(itemBytes: 1, "tx.vout.scriptPubKey")
      let script = try reader.take(length, "tx.vout.scriptPubKey")
      if !body(value, script) { return }
    }
  }
}
