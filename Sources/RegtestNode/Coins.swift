import Bitcoin
import Ground

/// An output that anyone may spend, and how much it is worth.
public struct Coin: Sendable, Hashable {
  public var txid: Hash256
  public var output: UInt32
  /// Satoshi.
  public var value: UInt64
  public var lock = CoinLock.anyone
}

/// What whoever spends a coin has to show: a script that anyone can write, and no signature.
public enum CoinLock: Sendable, Hashable {
  /// On Core P2WSH of OP_TRUE; on Bitcoin SV bare OP_TRUE.
  case anyone
  /// On Core only: P2WSH of a script of so many bytes, 1 to 10,000, that pushes and drops data before OP_TRUE. The
  /// witness of the spending transaction is that much longer at a quarter of the weight: blocks of 2 to 4 MB are made of
  /// these. Above 3,600 bytes the node needs `-acceptnonstdtxn=1`.
  case padded(bytes: Int)

  /// P2WSH's script.
  var witnessScript: [UInt8] {
    guard case .padded(let bytes) = self else { return [0x51] }
    precondition((1...10_000).contains(bytes))
    var script: [UInt8] = []
    /// Pushes `count` bytes in the shortest way, the only one that nodes pass on, and drops them.
    func push(_ count: Int) {
      switch count {
      case ...75: script.append(UInt8(count))
      case ...255: script += [0x4C, UInt8(count)]
      default: script += [0x4D, UInt8(count & 255), UInt8(count >> 8)]
      }
      script += [UInt8](repeating: 0xA5, count: count) + [0x75]
    }
    while bytes - 1 - script.count >= 524 { push(520) }
    var rest = bytes - 1 - script.count
    // Lengths that no push and drop has.
    while rest < 3 && rest > 0 || rest == 78 || rest == 259 {
      script.append(0x61)  // OP_NOP
      rest -= 1
    }
    if rest > 0 { push(rest < 78 ? rest - 2 : rest < 259 ? rest - 3 : rest - 4) }
    return script + [0x51]
  }

  package var scriptByteCount: Int { witnessScript.count }

  var outputScript: [UInt8] {
    var hash = ByteWriter()
    hash.hash(SHA256.hash(witnessScript.span.bytes))
    return [0x00, 0x20] + hash.bytes
  }
}

/// Coins without keys (`CoinLock`), so that blocks of thousands of transactions are made without a wallet's signing.
extension RegtestNode {
  /// P2WSH of OP_TRUE on regtest.
  static let anyoneAddress = "bcrt1qft5p2uhsdcdc3l2ua4ap5qqfg4pjaqlp250x7us7a8qqhrxrxfsqseac85"

  /// Where mined coins go.
  public func miningAddress() throws -> String {
    switch kind {
    case .core: return RegtestNode.anyoneAddress
    case .bitcoinSV:
      let address = try rpc.call("getnewaddress") as? String ?? ""
      return address
    }
  }

  private func outputScript(_ lock: CoinLock) -> [UInt8] {
    precondition(kind == .core || lock == .anyone, "Bitcoin SV has no witness")
    return kind == .core ? lock.outputScript : [0x51]
  }

  /// Makes `count` coins: mines until coinbases mature, splits them, mines the split. At most 2,000 coins a coinbase.
  public func makeCoins(_ count: Int, lock: CoinLock = .anyone) throws -> [Coin] {
    let address = try miningAddress()
    let splits = (count + 1_999) / 2_000
    let blocks = try mine(splits + 100, to: address)
    var coins: [Coin] = []
    for index in 0..<splits {
      let outputs = min(2_000, count - index * 2_000)
      let coinbase = try firstTransaction(of: blocks[index])
      let raw = try split(coinbase.txid, value: coinbase.value, into: outputs, lock)
      let txid = try send(raw)
      let each = (coinbase.value - 1_000_000) / UInt64(outputs)
      for output in 0..<outputs { coins.append(Coin(txid: txid, output: UInt32(output), value: each, lock: lock)) }
    }
    try mine(1, to: address)
    return coins
  }

  private func firstTransaction(of block: String) throws -> (txid: Hash256, value: UInt64) {
    let hex = try rpc.call("getblock", [block, 0]) as? String ?? ""
    let bytes = Hex.decode(hex) ?? []
    var parsed = try ParsedBlock(parsing: bytes.span.bytes)
    parsed.hashAll(in: bytes.span.bytes)
    var value: UInt64 = 0
    try parsed.transactions[0].forEachOutput(in: bytes.span.bytes) { amount, _ in
      value = amount
      return false
    }
    return (parsed.txids[0], value)
  }

  private func split(_ txid: Hash256, value: UInt64, into outputs: Int, _ lock: CoinLock) throws -> [UInt8] {
    let each = (value - 1_000_000) / UInt64(outputs)
    let script = outputScript(lock)
    var raw = ByteWriter()
    raw.integer(UInt32(2))
    if kind == .core { raw.append([0, 1]) }
    raw.compactSize(1)
    raw.hash(txid)
    raw.integer(UInt32(0))
    raw.compactSize(0)
    raw.integer(UInt32.max)
    raw.compactSize(outputs)
    for _ in 0..<outputs {
      raw.integer(each)
      raw.compactSize(script.count)
      raw.append(script)
    }
    if kind == .core { raw.append([1, 1, 0x51]) }
    raw.integer(UInt32(0))
    if kind == .core { return raw.bytes }
    // The coinbase pays to the wallet, which signs.
    let signed = try rpc.call("signrawtransaction", [Hex.encode(raw.bytes)]) as? [String: Any]
    return Hex.decode(signed?["hex"] as? String ?? "") ?? []
  }

  /// Spends a coin into another of the same kind, in a transaction of about `bytes` bytes (at least some 100) and the
  /// lock's; the fee is `fee` satoshi. The extra bytes go into an OP_RETURN output.
  public func spend(_ coin: Coin, bytes: Int = 0, fee: UInt64 = 2_000) -> (raw: [UInt8], next: Coin) {
    let script = outputScript(coin.lock)
    var raw = ByteWriter()
    raw.integer(UInt32(2))
    if kind == .core { raw.append([0, 1]) }
    raw.compactSize(1)
    raw.hash(coin.txid)
    raw.integer(coin.output)
    raw.compactSize(0)
    raw.integer(UInt32.max)
    let padding = max(0, bytes - 110)
    raw.compactSize(padding > 0 ? 2 : 1)
    raw.integer(coin.value - fee)
    raw.compactSize(script.count)
    raw.append(script)
    if padding > 0 {
      // OP_RETURN PUSHDATA2; Core v30 carries up to 100,000 bytes of it.
      var data: [UInt8] = [0x6A, 0x4D, UInt8(padding & 255), UInt8(padding >> 8 & 255)]
      data.append(contentsOf: (0..<padding).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ Int(coin.output)) })
      raw.integer(UInt64(0))
      raw.compactSize(data.count)
      raw.append(data)
    }
    if kind == .core {
      let witness = coin.lock.witnessScript
      raw.compactSize(1)
      raw.compactSize(witness.count)
      raw.append(witness)
    }
    raw.integer(UInt32(0))
    let bytes = raw.bytes
    let layout = try! TransactionLayout(parsing: bytes.span.bytes)
    let txid = layout.hashes(in: bytes.span.bytes).txid
    return (bytes, Coin(txid: txid, output: 0, value: coin.value - fee, lock: coin.lock))
  }

  /// Hands many transactions over as a peer does, and returns when the node has dealt with them. Throws when its
  /// mempool did not grow by that many: `send(all:)` says which is refused, and why.
  public func feed(_ raws: [[UInt8]]) throws {
    let before = try mempoolCount()
    try NodeFeed(port: p2pPort, network: network).send(raws)
    let grown = try mempoolCount() - before
    if grown != raws.count { throw Failure.mempool(fed: raws.count, taken: grown) }
  }

  public func mempoolCount() throws -> Int { (try rpc.call("getmempoolinfo") as? [String: Any])?["size"] as? Int ?? -1 }

  /// Hands many transactions over in a few calls. Throws the first refusal.
  public func send(all raws: [[UInt8]]) throws {
    for start in stride(from: 0, to: raws.count, by: 200) {
      try rpc.batch(raws[start..<min(raws.count, start + 200)].map { ("sendrawtransaction", [Hex.encode($0)]) })
    }
  }

  /// Hands a transaction to the node's mempool.
  @discardableResult
  public func send(_ raw: [UInt8]) throws -> Hash256 {
    let text = try rpc.call("sendrawtransaction", [Hex.encode(raw)]) as? String ?? ""
    return Hash256(text) ?? .zero
  }
}
