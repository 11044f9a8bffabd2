import Ground

/// Makes whole blocks out of given transactions: coinbase with height and witness commitment, Merkle root, proof of
/// work. For regtest, where a nonce is found in two tries on average: simulator, tests and demo get as many distinct
/// valid blocks of real transactions as they like. (`checkBody` finds them valid; a node that looks at inputs and
/// amounts would not, unless the transactions spend what is there.)
public struct BlockBuilder: Sendable {
  public var network = Network.regtest
  public var height: Int
  public var previous: Hash256
  /// Seconds since 1970; must be after the chain's median time.
  public var time: UInt32
  public var version: Int32 = 0x2000_0000
  /// In the coinbase: makes otherwise equal blocks differ.
  public var extraNonce: UInt64 = 0
  /// What the coinbase pays, in satoshi.
  public var reward: UInt64 = 50 * 100_000_000
  /// What it pays to; OP_TRUE unless told otherwise.
  public var script: [UInt8] = [0x51]

  private var body = ByteWriter()
  private var txids: [Hash256] = []
  private var wtxids: [Hash256] = []

  public init(height: Int, previous: Hash256, time: UInt32) {
    self.height = height
    self.previous = previous
    self.time = time
  }

  /// On top of a header chain's tip.
  public init(on entry: HeaderChain.Entry) {
    self.init(height: entry.height + 1, previous: entry.hash, time: max(entry.time, entry.medianTimePast) + 1)
  }

  public var transactionCount: Int { txids.count + 1 }
  /// Bytes of the transactions appended so far.
  public var byteCount: Int { body.count }

  /// Adds one transaction after those that are there.
  public mutating func append(_ layout: TransactionLayout, in message: RawSpan) {
    let (txid, wtxid) = layout.hashes(in: message)
    txids.append(txid)
    wtxids.append(wtxid)
    body.append(layout.bytes(in: message))
  }

  /// Adds one transaction. Throws when `bytes` are not one whole transaction.
  public mutating func append(_ bytes: RawSpan) throws(DecodeError) {
    append(try TransactionLayout(parsing: bytes), in: bytes)
  }

  /// The block, serialised and mined. Traps when no nonce satisfies `bits`, which on regtest can't happen in practice.
  public func build() -> [UInt8] { build(bits: Target.bits(of: network.powLimit)) }

  public func build(bits: UInt32) -> [UInt8] {
    let commitsToWitness = height >= network.segwitHeight
    let coinbase = self.coinbase(witness: commitsToWitness)
    let layout = try! TransactionLayout(parsing: coinbase.span.bytes)
    let root = Merkle.root([layout.txid(in: coinbase.span.bytes)] + txids).root
    var header = BlockHeader(
      version: version, previous: previous, merkleRoot: root, time: time, bits: bits, nonce: 0)
    while !header.hasProofOfWork(limit: network.powLimit) {
      precondition(header.nonce < .max, "no nonce for target \(bits)")
      header.nonce += 1
    }
    var writer = ByteWriter(reserving: body.count + coinbase.count + BlockHeader.byteCount + 9)
    header.write(to: &writer)
    writer.compactSize(transactionCount)
    writer.append(coinbase.span.bytes)
    writer.append(body.bytes.span.bytes)
    return writer.bytes
  }

  private func coinbase(witness: Bool) -> [UInt8] {
    // BIP34's height, then the extra nonce as a push of eight bytes.
    var script = ByteWriter()
    script.append(BIP34.script(for: height))
    script.byte(8)
    script.integer(extraNonce)
    var coinbase = Transaction(
      inputs: [Transaction.Input(txid: .zero, index: .max, script: script.bytes)],
      outputs: [Transaction.Output(value: reward, script: self.script)])
    if witness {
      let nonce = Hash256.zero
      var commitment = ByteWriter()
      commitment.append(Commitment.prefix)
      commitment.hash(SHA256.double(Merkle.root([.zero] + wtxids).root, nonce))
      coinbase.inputs[0].witness = [nonce.bytes]
      coinbase.outputs.append(Transaction.Output(value: 0, script: commitment.bytes))
    }
    return coinbase.bytes
  }
}
