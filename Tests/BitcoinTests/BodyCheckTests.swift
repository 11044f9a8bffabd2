import Bitcoin
import Ground
import Testing

/// Every verdict, provoked on real blocks and on blocks mined here.
@Suite struct BodyCheckTests {
  private func verdict(_ bytes: [UInt8], rules: BodyRules = BodyRules(statedHeight: nil)) throws -> BodyVerdict {
    let span = bytes.span.bytes
    let block = try ParsedBlock(parsing: span)
    let whole = checkBody(of: block, in: span, rules: rules)
    // In slices, and with the portable kernel, the same.
    for (budget, kernel) in [(777, SHA256.Kernel.best), (40_000, .portable)] {
      var check = BodyCheck(block, rules: rules, kernel: kernel)
      while check.verdict == nil { check.advance(in: span, budget: budget) }
      #expect(check.verdict == whole)
    }
    return whole
  }

  /// A block of `transactions` with the given header fields kept right or not.
  private func assemble(_ transactions: [[UInt8]], fixRoot: Bool = true, header: BlockHeader? = nil) throws -> [UInt8] {
    var header = header ?? Network.regtest.genesis
    if fixRoot {
      header.merkleRoot = Merkle.root(try transactions.map { try ids($0).txid }).root
    }
    var writer = ByteWriter()
    header.write(to: &writer)
    writer.compactSize(transactions.count)
    for transaction in transactions { writer.append(transaction) }
    return writer.bytes
  }

  private func transactions(_ bytes: [UInt8]) throws -> [[UInt8]] {
    let block = try parse(bytes)
    return block.transactions.map { Array(bytes[$0.offset..<$0.end]) }
  }

  private func coinbase(
    height: Int = 7, script: [UInt8]? = nil, outputs: [Transaction.Output]? = nil
  ) -> Transaction {
    Transaction(
      inputs: [.init(txid: .zero, index: .max, script: script ?? BIP34.script(for: height) + [0, 0])],
      outputs: outputs ?? [.init(value: 1, script: [0x51])])
  }

  private func plain(_ n: UInt64) -> Transaction {
    Transaction(
      inputs: [.init(txid: Hash256(w0: n, w1: 1, w2: 2, w3: 3), index: 0, script: [1])],
      outputs: [.init(value: n, script: [0x51, 0x51])])
  }

  @Test func aWrongTransactionIsAMutation() throws {
    var bytes = try #require(Real.blocks["482683"]).bytes
    bytes[bytes.count - 1] ^= 1  // the last lock time
    #expect(try verdict(bytes) == .mutated(.merkleRoot))
  }

  @Test func aTamperedWitnessIsAMutation() throws {
    let real = try #require(Real.blocks["702861"])
    let layout = try #require(real.parsed.transactions.last { $0.hasWitness })
    var bytes = real.bytes
    bytes[layout.end - 5] ^= 1  // the last byte of its witness
    #expect(try verdict(bytes, rules: Real.rules("702861")) == .mutated(.witnessCommitment))
    // Without segwit's rules any witness is one too many.
    #expect(try verdict(real.bytes, rules: BodyRules(statedHeight: nil, segwit: false)) == .mutated(.unexpectedWitness))
  }

  @Test func tamperedCoinbaseWitnesses() throws {
    let real = try #require(Real.blocks["482683"])
    var parts = try transactions(real.bytes)
    let header = real.parsed.header
    let first = parts[0]
    var coinbase = try Transaction(parsing: first.span.bytes)
    let nonce = coinbase.inputs[0].witness
    #expect(nonce.map(\.count) == [32])
    for witness in [[], [[UInt8](repeating: 0, count: 31)], nonce + nonce, [nonce[0] + [0]]] as [[[UInt8]]] {
      coinbase.inputs[0].witness = witness
      parts[0] = coinbase.bytes
      #expect(try verdict(assemble(parts, fixRoot: false, header: header)) == .mutated(.witnessNonce))
    }
    coinbase.inputs[0].witness = [[UInt8](repeating: 9, count: 32)]
    parts[0] = coinbase.bytes
    #expect(try verdict(assemble(parts, fixRoot: false, header: header)) == .mutated(.witnessCommitment))
    // All witnesses stripped: the commitment still asks for the nonce.
    let stripped = try parts.map { part in
      var transaction = try Transaction(parsing: part.span.bytes)
      for i in transaction.inputs.indices { transaction.inputs[i].witness = [] }
      return transaction.bytes
    }
    #expect(try verdict(assemble(stripped, fixRoot: false, header: header)) == .mutated(.witnessNonce))
  }

  /// CVE-2012-2459: the last transactions repeated give the same Merkle root.
  @Test func repeatedTransactionsAreAMutation() throws {
    for count in [3, 5, 6, 11] {
      var parts = [coinbase().bytes] + (1..<UInt64(count)).map { plain($0).bytes }
      let honest = try assemble(parts)
      #expect(try verdict(honest) == .valid)
      // Repeat the odd tail of the first level that has one.
      var group = 1
      while (count / group) % 2 == 0 { group *= 2 }
      parts.append(contentsOf: parts.suffix(group))
      let mutated = try assemble(parts)
      #expect(
        try parse(mutated).header.merkleRoot == parse(honest).header.merkleRoot)
      #expect(try verdict(mutated) == .mutated(.duplicatedNodes))
    }
  }

  @Test func sixtyFourByteTransactions() throws {
    // 4 + 1 + 41 + 1 + 8 + 1 + 4 + 4 script bytes.
    var small = plain(1)
    small.outputs[0].script = [1, 2, 3]
    #expect(small.bytes.count == 64)
    #expect(try verdict(assemble([small.bytes, plain(2).bytes])) == .mutated(.sixtyFourByteTransaction))
    #expect(try verdict(assemble([coinbase().bytes, small.bytes])) == .valid)
    #expect(try verdict(assemble([plain(1).bytes, plain(2).bytes])) == .invalid(.firstIsNoCoinbase))
  }

  @Test func theLastCommitmentCounts() throws {
    func block(_ order: [Int]) throws -> [UInt8] {
      var spend = plain(1)
      spend.inputs[0].witness = [[1, 2, 3]]
      let nonce = [UInt8](repeating: 7, count: 32)
      let wtxid = try ids(spend.bytes).wtxid
      let hash = SHA256.double(Merkle.root([.zero, wtxid]).root, Hash256(nonce.span.bytes))
      let scripts = [
        Commitment.prefix + hash.bytes, Commitment.prefix + [UInt8](repeating: 0, count: 32),
        Commitment.prefix + hash.bytes.dropLast(),
      ]
      var coinbase = self.coinbase(outputs: order.map { .init(value: 0, script: scripts[$0]) })
      coinbase.inputs[0].witness = [nonce]
      return try assemble([coinbase.bytes, spend.bytes])
    }
    #expect(try verdict(block([0])) == .valid)
    #expect(try verdict(block([1, 0])) == .valid)
    #expect(try verdict(block([0, 1])) == .mutated(.witnessCommitment))
    #expect(try verdict(block([0, 2])) == .valid)  // too short to be one
    #expect(try verdict(block([2])) == .mutated(.unexpectedWitness))
  }

  @Test func coinbaseRules() throws {
    let rules = BodyRules(statedHeight: 7)
    #expect(try verdict(assemble([coinbase().bytes]), rules: rules) == .valid)
    #expect(try verdict(assemble([coinbase(height: 8).bytes]), rules: rules) == .invalid(.height))
    #expect(try verdict(assemble([coinbase(script: [0x57]).bytes]), rules: rules) == .invalid(.coinbaseScriptLength))
    let long = coinbase(script: [UInt8](repeating: 0x57, count: 101))
    #expect(try verdict(assemble([long.bytes]), rules: rules) == .invalid(.coinbaseScriptLength))
    #expect(try verdict(assemble([coinbase(outputs: []).bytes]), rules: rules) == .invalid(.noOutputs))
    #expect(
      try verdict(assemble([coinbase().bytes, coinbase(height: 9).bytes]), rules: rules) == .invalid(.severalCoinbases))
    var none = ByteWriter()
    var header = Network.regtest.genesis
    header.merkleRoot = .zero
    header.write(to: &none)
    none.compactSize(0)
    #expect(try verdict(none.bytes) == .invalid(.noTransactions))
  }

  @Test func sizeLimits() throws {
    // A stripped size of 1,000,000 passes; one byte more doesn't.
    func block(_ filler: Int, witness: Int = 0) throws -> [UInt8] {
      var builder = BlockBuilder(height: 7, previous: .zero, time: 1)
      var big = plain(1)
      big.outputs[0].script = [UInt8](repeating: 0x51, count: filler)
      if witness > 0 { big.inputs[0].witness = [[UInt8](repeating: 1, count: witness)] }
      let bytes = big.bytes
      try builder.append(bytes.span.bytes)
      return builder.build()
    }
    let probe = try parse(block(900_000))
    let fits = 900_000 + 1_000_000 - probe.strippedByteCount
    // The commitment's nonce weighs 36 on top of four times the stripped size.
    #expect(try verdict(block(fits - 9)) == .valid)
    #expect(try verdict(block(fits - 8)) == .invalid(.weight))
    #expect(try verdict(block(fits + 1)) == .invalid(.tooLarge))
    let half = try parse(block(500_000, witness: 1_000_000))
    let witness = 1_000_000 + 4_000_000 - half.weight
    #expect(try verdict(block(500_000, witness: witness)) == .valid)
    #expect(try verdict(block(500_000, witness: witness + 1)) == .invalid(.weight))
  }

  @Test(
    arguments: [
      (0, [0x00]), (1, [0x51]), (16, [0x60]), (17, [1, 0x11]), (127, [1, 0x7F]), (128, [2, 0x80, 0]),
      (255, [2, 0xFF, 0]), (256, [2, 0, 1]), (32_767, [2, 0xFF, 0x7F]), (32_768, [3, 0, 0x80, 0]),
      (702_861, [3, 0x8D, 0xB9, 0x0A]), (8_388_608, [4, 0, 0, 0x80, 0]),
    ] as [(Int, [UInt8])])
  func heightScripts(height: Int, script: [UInt8]) throws {
    #expect(BIP34.script(for: height) == script)
    let bytes = coinbase(script: script + [0xAA]).bytes
    let layout = try TransactionLayout(parsing: bytes.span.bytes)
    #expect(BIP34.height(of: layout, in: bytes.span.bytes) == height)
  }

  @Test func realCoinbasesStateTheirHeight() throws {
    for name in ["413567", "426884", "482683", "702861", "898352", "928831"] {
      let block = try #require(Real.blocks[name])
      #expect(BIP34.height(of: block.parsed.transactions[0], in: block.bytes.span.bytes) == Int(name))
    }
  }

  @Test func builtBlocksAreValidAndDistinct() throws {
    let real = try #require(Real.blocks["702861"])
    var chain = HeaderChain(network: .regtest)
    var seen = Set<Hash256>()
    for number in 0..<20 {
      var builder = BlockBuilder(on: chain.tip)
      builder.extraNonce = UInt64(number)
      for layout in real.parsed.transactions[(1 + number * 100)..<(101 + number * 100)] {
        builder.append(layout, in: real.bytes.span.bytes)
      }
      let bytes = builder.build()
      let block = try ParsedBlock(parsing: bytes.span.bytes)
      let accepted = try chain.accept(block.header, now: 2_000_000_000)
      #expect(accepted.isTip && accepted.entry.height == number + 1)
      #expect(try verdict(bytes, rules: Network.regtest.bodyRules(height: number + 1)) == .valid)
      #expect(block.transactions.count == 101 && seen.insert(block.hash).inserted)
    }
  }
}
