import Ground

/// A transaction taken apart into values of its own: for building and inspecting, not for hot paths, where
/// `TransactionLayout` looks at the bytes where they lie.
public struct Transaction: Hashable, Sendable {
  public struct Input: Hashable, Sendable {
    public var txid: Hash256
    public var index: UInt32
    public var script: [UInt8]
    public var sequence: UInt32
    /// The witness stack; empty for none.
    public var witness: [[UInt8]]

    public init(
      txid: Hash256, index: UInt32, script: [UInt8] = [], sequence: UInt32 = .max, witness: [[UInt8]] = []
    ) {
      self.txid = txid
      self.index = index
      self.script = script
      self.sequence = sequence
      self.witness = witness
    }
  }

  public struct Output: Hashable, Sendable {
    /// Satoshi.
    public var value: UInt64
    public var script: [UInt8]

    public init(value: UInt64, script: [UInt8]) {
      self.value = value
      self.script = script
    }
  }

  public var version: UInt32
  public var inputs: [Input]
  public var outputs: [Output]
  public var lockTime: UInt32

  public init(version: UInt32 = 2, inputs: [Input], outputs: [Output], lockTime: UInt32 = 0) {
    self.version = version
    self.inputs = inputs
    self.outputs = outputs
    self.lockTime = lockTime
  }

  /// Reads what `layout` found in `message`.
  public init(_ layout: TransactionLayout, in message: RawSpan) throws(DecodeError) {
    var reader = ByteReader(layout.bytes(in: message))
    version = try reader.integer(UInt32.self, "tx.version")
    if layout.hasWitness { try reader.skip(2, "tx.flag") }
    inputs = []
    outputs = []
    for _ in 0..<(try reader.count(itemBytes: 41, "tx.vin")) {
      let txid = try reader.hash("tx.vin.prevout.hash")
      let index = try reader.integer(UInt32.self, "tx.vin.prevout.n")
      let script = try reader.byteString("tx.vin.scriptSig")
      inputs.append(
        Input(txid: txid, index: index, script: script, sequence: try reader.integer(UInt32.self, "tx.vin.nSequence")))
    }
    for _ in 0..<(try reader.count(itemBytes: 9, "tx.vout")) {
      let value = try reader.integer(UInt64.self, "tx.vout.nValue")
      outputs.append(Output(value: value, script: try reader.byteString("tx.vout.scriptPubKey")))
    }
    if layout.hasWitness {
      for index in inputs.indices {
        for _ in 0..<(try reader.count(itemBytes: 1, "tx.witness")) {
          inputs[index].witness.append(try reader.byteString("tx.witness.item"))
        }
      }
    }
    lockTime = try reader.integer(UInt32.self, "tx.nLockTime")
    try reader.end("tx")
  }

  /// Parses one whole transaction.
  public init(parsing bytes: RawSpan) throws(DecodeError) {
    try self.init(try TransactionLayout(parsing: bytes), in: bytes)
  }

  public var hasWitness: Bool { inputs.contains { !$0.witness.isEmpty } }

  /// Serialises, in the witness form when there is a witness (BIP144).
  public func write(to writer: inout ByteWriter) {
    writer.integer(version)
    let hasWitness = self.hasWitness
    if hasWitness { writer.append([0, 1] as [UInt8]) }
    writer.compactSize(inputs.count)
    for input in inputs {
      writer.hash(input.txid)
      writer.integer(input.index)
      writer.byteString(input.script)
      writer.integer(input.sequence)
    }
    writer.compactSize(outputs.count)
    for output in outputs {
      writer.integer(output.value)
      writer.byteString(output.script)
    }
    if hasWitness {
      for input in inputs {
        writer.compactSize(input.witness.count)
        for item in input.witness { writer.byteString(item) }
      }
    }
    writer.integer(lockTime)
  }

  public var bytes: [UInt8] {
    var writer = ByteWriter()
    write(to: &writer)
    return writer.bytes
  }
}
