import Ground

/// What a block's body turned out to be, once its header is known to be good.
public enum BodyVerdict: Hashable, Sendable {
  /// Every check of `BodyCheck` passed.
  case valid
  /// These bytes are not the body that the header commits to, or can't be told from a tampered copy of it. That says
  /// nothing about the block's hash: drop the bytes, never blacklist the hash.
  case mutated(Mutation)
  /// The header commits to this very body, and the body breaks a consensus rule: the hash is bad for good.
  case invalid(Violation)

  public enum Mutation: Hashable, Sendable {
    /// The txids' Merkle root is not the header's.
    case merkleRoot
    /// An identical adjacent pair in the Merkle tree (CVE-2012-2459).
    case duplicatedNodes
    /// A 64-byte transaction in a block without coinbase: transactions and inner nodes can't be told apart.
    case sixtyFourByteTransaction
    /// The coinbase's witness is not one item of 32 bytes.
    case witnessNonce
    /// The witness commitment is not that of these witnesses.
    case witnessCommitment
    /// Witnesses in a block that commits to none.
    case unexpectedWitness
  }

  public enum Violation: Hashable, Sendable {
    case noTransactions
    /// Stripped size above 1,000,000 bytes, or too many transactions for the weight limit.
    case tooLarge
    case firstIsNoCoinbase
    case severalCoinbases
    /// A coinbase script outside 2 … 100 bytes.
    case coinbaseScriptLength
    /// A transaction without outputs.
    case noOutputs
    /// BIP34: the coinbase script doesn't start with the block's height.
    case height
    /// Weight above 4,000,000.
    case weight
  }
}

/// Which rules hold at a block's height.
public struct BodyRules: Hashable, Sendable {
  /// The height that the coinbase must state (BIP34); `nil`: not checked.
  public var statedHeight: Int?
  /// Witness commitments count (BIP141). Where not, any witness is unexpected.
  public var segwit: Bool

  public init(statedHeight: Int?, segwit: Bool = true) {
    self.statedHeight = statedHeight
    self.segwit = segwit
  }
}

/// The checks of a body that need no other block: Merkle root, tampering, witness commitment, weight, coinbase, height.
/// In Bitcoin Core's order: all that tells a mutated body from the real one comes before any rule of consensus.
/// Scripts, amounts, lock times and signature operations are left to the node.
///
/// It can be advanced in slices of bounded work, so that a relay's thread never stops for long.
public struct BodyCheck: Sendable {
  public static let maxWeight = 4_000_000

  /// The block, hashed as far as the check has come.
  public private(set) var block: ParsedBlock
  public let rules: BodyRules
  public private(set) var verdict: BodyVerdict?

  private enum Phase: Sendable {
    case hashing, txids
    case wtxids(Commitment)
  }
  private var phase = Phase.hashing
  /// Trees of txids and wtxids, as far as they were worked out before.
  private var txids: MerkleTree?
  private var wtxids: MerkleTree?
  private let kernel: SHA256.Kernel
  /// Bytes of plain hashing that the calls so far were worth.
  public private(set) var bytesHashed = 0

  /// - Parameters:
  ///   - txids: a tree of the block's txids that was begun before, while some were lacking; its leaves are compared with
  ///     the block's, so that it saves work but can't change the verdict.
  ///   - wtxids: the same of the wtxids, the coinbase's being zero.
  public init(
    _ block: ParsedBlock, rules: BodyRules, txids: MerkleTree? = nil, wtxids: MerkleTree? = nil,
    kernel: SHA256.Kernel = .best
  ) {
    self.block = block
    self.rules = rules
    self.kernel = kernel
    let count = block.transactions.count
    self.txids = txids?.leafCount == count ? txids : nil
    self.wtxids = wtxids?.leafCount == count ? wtxids : nil
  }

  /// Does about `budget` bytes of hashing; `bytes` are the block that was parsed. Returns the verdict once there is one.
  @discardableResult
  public mutating func advance(in bytes: RawSpan, budget: Int = .max) -> BodyVerdict? {
    var left = budget
    defer { bytesHashed += budget - left }
    while verdict == nil && left > 0 {
      switch phase {
      case .hashing:
        left -= hashSome(in: bytes, budget: left)
      case .txids:
        left -= BodyCheck.bytesPerPair * txids!.advance(pairs: max(1, left / BodyCheck.bytesPerPair))
        if txids!.isDone { finishTxids(txids!, bytes) }
      case .wtxids(let commitment):
        left -= BodyCheck.bytesPerPair * wtxids!.advance(pairs: max(1, left / BodyCheck.bytesPerPair))
        if wtxids!.isDone {
          let matches = SHA256.double(wtxids!.root, commitment.nonce, kernel: kernel) == commitment.hash
          verdict = matches ? consensusVerdict(bytes) : .mutated(.witnessCommitment)
        }
      }
    }
    return verdict
  }

  /// Only works out the ids, no tree: about `budget` bytes of it. True when all are known (`block.isFullyHashed`).
  public mutating func hash(in bytes: RawSpan, budget: Int = .max) -> Bool {
    guard case .hashing = phase else { return true }
    bytesHashed += hashSome(in: bytes, budget: budget)
    return block.isFullyHashed
  }

  private mutating func hashSome(in bytes: RawSpan, budget: Int) -> Int {
    let spent = block.hashSome(in: bytes, budget: budget, kernel: kernel)
    if block.isFullyHashed {
      if txids == nil { txids = MerkleTree(leafCount: block.txids.count, kernel: kernel) }
      txids!.set(block.txids)
      phase = .txids
    }
    return spent
  }

  /// A Merkle pair's compressions in bytes of plain hashing.
  public static let bytesPerPair = 192

  private mutating func finishTxids(_ tree: MerkleTree, _ bytes: RawSpan) {
    if tree.root != block.header.merkleRoot {
      verdict = .mutated(.merkleRoot)
    } else if tree.isMutated {
      verdict = .mutated(.duplicatedNodes)
    } else if !(block.transactions.first?.isCoinbase ?? false) {
      let suspicious = block.transactions.contains { $0.strippedByteCount == 64 }
      verdict = suspicious ? .mutated(.sixtyFourByteTransaction) : consensusVerdict(bytes)
    } else if rules.segwit, let place = Commitment.find(in: block, bytes) {
      guard let nonce = Commitment.nonce(in: block, bytes) else {
        verdict = .mutated(.witnessNonce)
        return
      }
      if wtxids == nil { wtxids = MerkleTree(leafCount: block.wtxids.count, kernel: kernel) }
      wtxids!.set(0, .zero)
      wtxids!.set(block.wtxids, from: 1)
      phase = .wtxids(Commitment(hash: place, nonce: nonce))
    } else {
      verdict = block.hasWitness ? .mutated(.unexpectedWitness) : consensusVerdict(bytes)
    }
  }

  private func consensusVerdict(_ bytes: RawSpan) -> BodyVerdict {
    let transactions = block.transactions
    guard let coinbase = transactions.first else { return .invalid(.noTransactions) }
    if 4 * max(transactions.count, block.strippedByteCount) > BodyCheck.maxWeight { return .invalid(.tooLarge) }
    if !coinbase.isCoinbase { return .invalid(.firstIsNoCoinbase) }
    if transactions.dropFirst().contains(where: { $0.isCoinbase }) { return .invalid(.severalCoinbases) }
    if transactions.contains(where: { $0.outputCount == 0 }) { return .invalid(.noOutputs) }
    let (script, length) = coinbase.coinbaseScript(in: bytes)
    if !(2...100).contains(length) { return .invalid(.coinbaseScriptLength) }
    if let height = rules.statedHeight {
      let expected = BIP34.script(for: height)
      let states = length >= expected.count && expected.indices.allSatisfy { bytes.byte(script + $0) == expected[$0] }
      if !states { return .invalid(.height) }
    }
    if block.weight > BodyCheck.maxWeight { return .invalid(.weight) }
    return .valid
  }
}

/// All of `BodyCheck` in one call.
public func checkBody(
  of block: ParsedBlock, in bytes: RawSpan, rules: BodyRules, kernel: SHA256.Kernel = .best
) -> BodyVerdict {
  var check = BodyCheck(block, rules: rules, kernel: kernel)
  check.advance(in: bytes)
  return check.verdict!
}

/// BIP141's commitment to the witnesses, in the coinbase.
package struct Commitment: Sendable {
  package var hash: Hash256
  /// The coinbase's witness, the 'reserved value'.
  package var nonce: Hash256

  /// OP_RETURN, push of 36 bytes, and the header aa21a9ed.
  package static let prefix: [UInt8] = [0x6A, 0x24, 0xAA, 0x21, 0xA9, 0xED]

  /// The hash in the last output that starts like a commitment.
  package static func find(in block: ParsedBlock, _ bytes: RawSpan) -> Hash256? {
    guard let coinbase = block.transactions.first else { return nil }
    var found: Hash256?
    try? coinbase.forEachOutput(in: bytes) { _, script in
      if script.byteCount >= 38 && prefix.indices.allSatisfy({ script.byte($0) == prefix[$0] }) {
        found = Hash256(script, at: 6)
      }
      return true
    }
    return found
  }

  /// The coinbase's witness, when it is one item of 32 bytes.
  static func nonce(in block: ParsedBlock, _ bytes: RawSpan) -> Hash256? {
    guard let coinbase = block.transactions.first, coinbase.hasWitness, coinbase.inputCount == 1 else { return nil }
    let start = coinbase.coreOffset + coinbase.coreByteCount
    // Item count 1, length 32, the item; then the lock time.
    guard coinbase.end - 4 - start == 34, bytes.byte(start) == 1, bytes.byte(start + 1) == 32 else { return nil }
    return Hash256(bytes, at: start + 2)
  }
}

/// Heights in coinbase scripts.
public enum BIP34 {
  /// What the coinbase's script must start with: the height pushed as the smallest script number.
  public static func script(for height: Int) -> [UInt8] {
    precondition(height >= 0)
    if height == 0 { return [0x00] }
    if height <= 16 { return [UInt8(0x50 + height)] }
    var number: [UInt8] = []
    var rest = height
    while rest > 0 {
      number.append(UInt8(rest & 0xFF))
      rest >>= 8
    }
    // The top bit is the sign.
    if number.last! & 0x80 != 0 { number.append(0) }
    return [UInt8(number.count)] + number
  }

  /// The height that a coinbase states, or `nil` when its script starts with no small number.
  public static func height(of coinbase: TransactionLayout, in bytes: RawSpan) -> Int? {
    let (start, length) = coinbase.coinbaseScript(in: bytes)
    guard coinbase.isCoinbase, length > 0 else { return nil }
    let first = bytes.byte(start)
    if first == 0 { return 0 }
    if (0x51...0x60).contains(first) { return Int(first) - 0x50 }
    guard (1...5).contains(first), length > Int(first) else { return nil }
    var height = 0
    for i in 0..<Int(first) { height |= Int(bytes.byte(start + 1 + i)) << (8 * i) }
    return script(for: height) == (0...Int(first)).map { bytes.byte(start + $0) } ? height : nil
  }
}

extension TransactionLayout {
  /// Start and length of the first input's script. Traps unless the layout was parsed from `message`.
  package func coinbaseScript(in message: RawSpan) -> (start: Int, length: Int) {
    var reader = ByteReader(message.extracting(coreOffset..<coreOffset + coreByteCount))
    do throws(DecodeError) {
      _ = try reader.compactSize("tx.vin")
      try reader.skip(36, "tx.vin.prevout")
      let length = try reader.count(itemBytes: 1, "tx.vin.scriptSig")
      return (coreOffset + reader.offset, length)
    } catch {
      preconditionFailure("not the bytes that were parsed: \(error)")
    }
  }
}

extension RawSpan {
  /// The byte at `offset`, checked.
  @inlinable package func byte(_ offset: Int) -> UInt8 { unsafe unsafeLoad(fromByteOffset: offset, as: UInt8.self) }
}
