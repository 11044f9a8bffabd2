import Bitcoin
import Ground
import RealBlocks
import Testing

@Suite struct CompactBlockTests {
  /// The payloads that another implementation made: they decode, encode again to the same bytes, name the transactions
  /// of the block that belongs to them, and are what is encoded here from that block.
  @Test(arguments: ["426884", "898352"])
  func recordedPayloads(name: String) throws {
    let payload = try RealBlocks.bytes("compact" + name)
    let compact = try CompactBlock(parsing: payload.span.bytes)
    let block = try #require(Real.blocks[name])
    var again = ByteWriter()
    compact.write(to: &again, payload: payload.span.bytes)
    #expect(again.bytes == payload)

    #expect(compact.hash == block.parsed.hash)
    #expect(compact.transactionCount == block.parsed.transactions.count)
    #expect(compact.prefilled.map(\.index) == [0])
    let key = compact.key
    #expect(compact.shortIDs == block.parsed.txids.dropFirst().map(key.shortID))
    let coinbase = compact.prefilled[0].layout.bytes(in: payload.span.bytes)
    let same = coinbase.withUnsafeBytes { prefilled in
      block.parsed.transactions[0].bytes(in: block.bytes.span.bytes).withUnsafeBytes { $0.elementsEqual(prefilled) }
    }
    #expect(same)

    for version in CompactBlockVersion.allCases {
      var encoded = ByteWriter()
      CompactBlock.encode(
        block.parsed, in: block.bytes.span.bytes, nonce: compact.nonce, version: version, to: &encoded)
      #expect(encoded.bytes == payload)
    }
  }

  /// Both versions over a segwit block, with any set of prefilled transactions.
  @Test func versionsAndPrefilledSets() throws {
    let block = try #require(Real.blocks["702861"])
    let span = block.bytes.span.bytes
    var random = SeededRandom(seed: 6)
    for version in CompactBlockVersion.allCases {
      for prefill in [[0], [], [0, 1, 2, 2499], (0..<2500).filter { _ in random.chance(0.3) }, Array(0..<2500)] {
        var writer = ByteWriter()
        CompactBlock.encode(
          block.parsed, in: span, nonce: random.next(), prefill: prefill, version: version, to: &writer)
        let payload = writer.bytes
        let compact = try CompactBlock(parsing: payload.span.bytes)
        #expect(compact.prefilled.map(\.index) == prefill)
        #expect(compact.transactionCount == 2500)
        let ids = version == .one ? block.parsed.txids : block.parsed.wtxids
        let named = Set(prefill)
        #expect(compact.shortIDs == ids.indices.filter { !named.contains($0) }.map { compact.key.shortID(ids[$0]) })
        for entry in compact.prefilled {
          let (txid, wtxid) = entry.layout.hashes(in: payload.span.bytes)
          #expect(txid == block.parsed.txids[entry.index])
          #expect(wtxid == (version == .one ? txid : block.parsed.wtxids[entry.index]))
        }
      }
    }
  }

  /// A key by hand: SHA-256 of header and nonce, its first 16 bytes.
  @Test func keysAreTheStartOfTheDigest() throws {
    let header = try #require(Real.blocks["702861"]).parsed.header
    let key = ShortIDKey(header: header, nonce: 0x0807_0605_0403_0201)
    let message = header.bytes + [1, 2, 3, 4, 5, 6, 7, 8]
    let digest = SHA256.hash(message.span.bytes, kernel: .portable).bytes
    let k0 = digest[..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    let k1 = digest[8..<16].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    #expect(key.k0 == k0 && key.k1 == k1)
    let id = Hash256(w0: 1, w1: 2, w2: 3, w3: 4)
    #expect(key.shortID(id) == SipHash(k0: k0, k1: k1).hash(id.bytes.span.bytes) & 0xFFFF_FFFF_FFFF)
  }

  private func payload(short: Int, prefilled: [(UInt64, [UInt8])]) -> [UInt8] {
    var writer = ByteWriter()
    Network.regtest.genesis.write(to: &writer)
    writer.integer(UInt64(1))
    writer.compactSize(short)
    writer.append([UInt8](repeating: 7, count: 6 * short))
    writer.compactSize(prefilled.count)
    for (difference, transaction) in prefilled {
      writer.compactSize(difference)
      writer.append(transaction)
    }
    return writer.bytes
  }

  private func refusal(_ payload: [UInt8]) -> DecodeError.Reason? {
    let error = thrown { () throws(DecodeError) in _ = try CompactBlock(parsing: payload.span.bytes) }
    if let error { #expect(error.field.hasPrefix("cmpctblock")) }
    return error?.reason
  }

  @Test func prefilledIndexesLeaveNoGap() {
    let transaction = TransactionParsingTests.plain.bytes
    #expect(refusal(payload(short: 2, prefilled: [(0, transaction), (0, transaction)])) == nil)
    #expect(refusal(payload(short: 2, prefilled: [(2, transaction), (0, transaction)])) == nil)
    #expect(refusal(payload(short: 2, prefilled: [(3, transaction)])) == .outOfRange(value: 3, limit: 2))
    #expect(
      refusal(payload(short: 2, prefilled: [(2, transaction), (1, transaction)])) == .outOfRange(value: 4, limit: 3))
    #expect(refusal(payload(short: 2, prefilled: [(.max, transaction)])) == .outOfRange(value: .max, limit: 2))
    // Differences that run over 64 bits.
    #expect(
      refusal(payload(short: 2, prefilled: [(0, transaction), (.max, transaction)]))
        == .outOfRange(value: .max, limit: 3))
  }

  @Test func sixteenBitsOfIndexes() {
    #expect(refusal(payload(short: 65_535, prefilled: [])) == nil)
    #expect(refusal(payload(short: 65_536, prefilled: [])) == .outOfRange(value: 65_536, limit: 65_535))
    let transaction = TransactionParsingTests.plain.bytes
    #expect(
      refusal(payload(short: 65_535, prefilled: [(0, transaction)])) == .outOfRange(value: 1, limit: 0))
  }

  @Test func requestsAndAnswers() throws {
    let block = try #require(Real.blocks["702861"])
    let span = block.bytes.span.bytes
    for indexes in [[], [0], [2499], [0, 1, 2], [5, 9, 1000, 1001, 2498]] {
      let request = BlockTransactionsRequest(block: block.parsed.hash, indexes: indexes)
      var writer = ByteWriter()
      request.write(to: &writer)
      let bytes = writer.bytes
      var reader = ByteReader(bytes.span.bytes)
      let decodedRequest = try BlockTransactionsRequest(from: &reader)
      try reader.end("getblocktxn")
      #expect(decodedRequest == request)
      for version in CompactBlockVersion.allCases {
        var answer = ByteWriter()
        try BlockTransactions.encode(request, from: block.parsed, in: span, version: version, to: &answer)
        let payload = answer.bytes
        let decoded = try BlockTransactions(parsing: payload.span.bytes)
        #expect(decoded.block == block.parsed.hash)
        #expect(decoded.transactions.map { $0.txid(in: payload.span.bytes) } == indexes.map { block.parsed.txids[$0] })
        let witness = decoded.transactions.map(\.hasWitness)
        #expect(witness == indexes.map { version == .two && block.parsed.transactions[$0].hasWitness })
        var again = ByteWriter()
        decoded.write(to: &again, payload: payload.span.bytes)
        #expect(again.bytes == payload)
      }
    }
    let beyond = BlockTransactionsRequest(block: block.parsed.hash, indexes: [2500])
    let error = thrown { () throws(DecodeError) in
      var writer = ByteWriter()
      try BlockTransactions.encode(beyond, from: block.parsed, in: span, to: &writer)
    }
    #expect(error?.reason == .outOfRange(value: 2500, limit: 2500))
  }

  @Test func requestIndexesStayInSixteenBits() {
    func refusal(_ differences: [UInt64]) -> DecodeError.Reason? {
      var writer = ByteWriter()
      writer.hash(.zero)
      writer.compactSize(differences.count)
      for difference in differences { writer.compactSize(difference) }
      let bytes = writer.bytes
      return thrown { () throws(DecodeError) in
        var reader = ByteReader(bytes.span.bytes)
        _ = try BlockTransactionsRequest(from: &reader)
      }?.reason
    }
    #expect(refusal([65_535]) == nil)
    #expect(refusal([65_536]) == .outOfRange(value: 65_536, limit: 65_535))
    #expect(refusal([65_535, 0]) == .outOfRange(value: 65_536, limit: 65_535))
    #expect(refusal([1, .max]) == .outOfRange(value: .max, limit: 65_535))
  }
}
