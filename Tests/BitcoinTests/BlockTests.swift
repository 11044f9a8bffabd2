import Bitcoin
import Ground
import RealBlocks
import Testing

@Suite struct RealBlockTests {
  @Test(arguments: RealBlocks.names)
  func idsAndSizesAgreeWithAnIndependentImplementation(name: String) throws {
    let expected = try #require(Expected.blocks[name])
    let block = try #require(Real.blocks[name])
    #expect(block.parsed.hash.description == expected.hash)
    #expect(block.bytes.count == expected.bytes)
    #expect(block.parsed.byteCount == expected.bytes)
    #expect(block.parsed.weight == expected.weight)
    #expect(4 * block.parsed.strippedByteCount <= block.parsed.weight)
    #expect(block.parsed.txids.map(\.description) == expected.txids)
    #expect(block.parsed.wtxids.map(\.description) == zip(expected.wtxids, expected.txids).map { $0 ?? $1 })
    #expect(block.parsed.transactions.map(\.weight) == expected.weights)
    #expect(block.parsed.transactions.map(\.hasWitness) == expected.wtxids.map { $0 != nil })
    #expect(Merkle.root(block.parsed.txids).root.description == expected.merkleRoot)
    #expect(block.parsed.header.merkleRoot.description == expected.merkleRoot)
    let commitment = Commitment.find(in: block.parsed, block.bytes.span.bytes)
    if let hash = expected.commitment { #expect(commitment?.bytes == Hash256(hash)?.bytes) }
    #expect(checkBody(of: block.parsed, in: block.bytes.span.bytes, rules: Real.rules(name)) == .valid)
  }

  @Test(arguments: RealBlocks.names)
  func reserialisesToTheSameBytes(name: String) throws {
    let block = try #require(Real.blocks[name])
    let span = block.bytes.span.bytes
    // Once from slices, once from every transaction taken apart into values.
    var slices = ByteWriter()
    var values = ByteWriter()
    block.parsed.header.write(to: &slices)
    slices.compactSize(block.parsed.transactions.count)
    block.parsed.header.write(to: &values)
    values.compactSize(block.parsed.transactions.count)
    for layout in block.parsed.transactions {
      layout.write(in: span, to: &slices)
      let transaction = try Transaction(layout, in: span)
      #expect(transaction.inputs.count == layout.inputCount && transaction.outputs.count == layout.outputCount)
      transaction.write(to: &values)
      // The stripped form is what the txid covers.
      var stripped = ByteWriter()
      layout.write(in: span, witness: false, to: &stripped)
      #expect(stripped.count == layout.strippedByteCount)
    }
    #expect(slices.bytes == block.bytes)
    #expect(values.bytes == block.bytes)
  }

  @Test(arguments: SHA256.Kernel.available)
  func hashingInSlicesGivesTheSame(kernel: SHA256.Kernel) throws {
    for name in ["702861", "482683", "413567"] {
      let block = try #require(Real.blocks[name])
      for budget in [1, 1000, 20_000, 131_072] where kernel != .portable || budget > 1000 {
        var parsed = try ParsedBlock(parsing: block.bytes.span.bytes)
        var steps = 0
        while !parsed.isFullyHashed {
          let spent = parsed.hashSome(in: block.bytes.span.bytes, budget: budget, kernel: kernel)
          #expect(spent > 0 && spent <= budget + 32 << 10)
          steps += 1
        }
        #expect(parsed.txids == block.parsed.txids && parsed.wtxids == block.parsed.wtxids)
        #expect(steps >= block.bytes.count / (budget + 32 << 10))
      }
    }
  }

  @Test func piecesInAnyOrderAndKnownIDsAreTaken() throws {
    let block = try #require(Real.blocks["702861"])
    let span = block.bytes.span.bytes
    var parsed = try ParsedBlock(parsing: span)
    parsed.hash(2000..<2500, in: span)
    #expect(!parsed.isFullyHashed)
    for index in 0..<700 {
      parsed.setHashes(of: index, txid: block.parsed.txids[index], wtxid: block.parsed.wtxids[index])
    }
    parsed.hashSome(in: span, budget: 100_000)
    parsed.hash(1000..<2100, in: span)
    parsed.hash(600..<1000, in: span)
    #expect(parsed.isFullyHashed)
    #expect(parsed.txids == block.parsed.txids && parsed.wtxids == block.parsed.wtxids)
  }

  @Test func singleTransactions() throws {
    let block = try #require(Real.blocks["702861"])
    let span = block.bytes.span.bytes
    for index in stride(from: 0, to: 2500, by: 97) {
      let layout = block.parsed.transactions[index]
      let (txid, wtxid) = layout.hashes(in: span)
      #expect(txid == block.parsed.txids[index] && wtxid == block.parsed.wtxids[index])
      let alone = try TransactionLayout(parsing: layout.bytes(in: span))
      #expect(alone.txid(in: layout.bytes(in: span)) == txid)
      #expect(alone.byteCount == layout.byteCount && alone.offset == 0)
      #expect(alone.moved(to: layout.offset) == layout)
      #expect(try TransactionLayout(at: layout.offset, in: span) == layout)
    }
  }
}

@Suite struct TransactionParsingTests {
  static let plain = Transaction(
    inputs: [.init(txid: Hash256(w0: 1, w1: 2, w2: 3, w3: 4), index: 7, script: [1, 2, 3])],
    outputs: [.init(value: 5, script: [0x51])])

  static var witness: Transaction {
    var transaction = plain
    transaction.inputs[0].witness = [[], [9, 9]]
    return transaction
  }

  /// Every proper prefix is refused as truncated, naming a field and an offset within the bytes.
  @Test func everyTruncationIsRefused() throws {
    for bytes in [TransactionParsingTests.plain.bytes, TransactionParsingTests.witness.bytes] {
      for length in 0..<bytes.count {
        let prefix = [UInt8](bytes[..<length])
        let error = thrown { () throws(DecodeError) in _ = try TransactionLayout(parsing: prefix.span.bytes) }
        let refusal = try #require(error, "prefix of \(length)")
        #expect(refusal.field.hasPrefix("tx") && refusal.offset <= length)
      }
      let trailing = bytes + [0]
      let error = thrown { () throws(DecodeError) in _ = try TransactionLayout(parsing: trailing.span.bytes) }
      #expect(error == DecodeError("tx", at: bytes.count, .trailing(1)))
    }
  }

  private func error(_ bytes: [UInt8]) -> DecodeError? {
    thrown { () throws(DecodeError) in _ = try TransactionLayout(parsing: bytes.span.bytes) }
  }

  @Test func witnessFormRules() {
    var bytes = TransactionParsingTests.witness.bytes
    #expect(error(bytes) == nil)
    // Unknown flags.
    bytes[5] = 2
    #expect(error(bytes) == DecodeError("tx.flag", at: 5, .outOfRange(value: 2, limit: 1)))
    bytes[5] = 0
    #expect(error(bytes) == DecodeError("tx.flag", at: 5, .outOfRange(value: 0, limit: 1)))
    // The witness form with nothing but empty stacks.
    var superfluous = TransactionParsingTests.plain.bytes
    superfluous.insert(contentsOf: [0, 1], at: 4)
    superfluous.insert(0, at: superfluous.count - 4)
    #expect(error(superfluous)?.reason == .invalid("witness form without a witness"))
  }

  @Test func hugeCountsAreRefusedAtTheirOffset() {
    var bytes = TransactionParsingTests.plain.bytes
    bytes.replaceSubrange(4..<5, with: [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])
    #expect(error(bytes) == DecodeError("tx.vin", at: 4, .outOfRange(value: .max, limit: 1)))
    bytes = TransactionParsingTests.plain.bytes
    bytes.replaceSubrange(4..<5, with: [0xFD, 1, 0])
    #expect(error(bytes) == DecodeError("tx.vin", at: 4, .notCanonical))
  }

  @Test func coinbases() throws {
    var transaction = TransactionParsingTests.plain
    transaction.inputs[0].txid = .zero
    transaction.inputs[0].index = .max
    #expect(try TransactionLayout(parsing: transaction.bytes.span.bytes).isCoinbase)
    transaction.inputs[0].index = 0
    #expect(try !TransactionLayout(parsing: transaction.bytes.span.bytes).isCoinbase)
    transaction.inputs[0].index = .max
    transaction.inputs.append(transaction.inputs[0])
    #expect(try !TransactionLayout(parsing: transaction.bytes.span.bytes).isCoinbase)
  }
}
