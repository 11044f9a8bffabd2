import Bitcoin
import Ground
import Mempool
import Relay

/// A stand-in for a Bitcoin node, inside the relay's process: for the demonstration on a machine that has none. It holds
/// a mempool made of real blocks' transactions, of which it misses a share, finds blocks by wrapping a real block's
/// transactions in a header and coinbase of its own on top of the relay's tip (regtest: the nonce takes two tries), and
/// takes delivered blocks, checking each as a node checks a body.
public struct EmbeddedNode: Sendable {
  public struct Configuration: Sendable {
    /// Serialised blocks whose transactions are in the mempools.
    public var blocks: [[UInt8]]
    /// Share of the transactions that this node's mempool lacks, 0 to 1.
    public var missing: Double
    /// Decides which those are.
    public var seed: UInt64

    public init(blocks: [[UInt8]], missing: Double, seed: UInt64) {
      self.blocks = blocks
      self.missing = missing
      self.seed = seed
    }
  }

  public enum Refusal: Error, Hashable, Sendable, CustomStringConvertible {
    case noBlock(Int, count: Int)
    /// A delivered block fails a check: the relay must never let that happen.
    case invalid(String)

    public var description: String {
      switch self {
      case .noBlock(let number, let count): "the embedded node has no block \(number); it has \(count)"
      case .invalid(let why): "the embedded node refuses a delivered block: \(why)"
      }
    }
  }

  private let configuration: Configuration
  private let parsed: [ParsedBlock]
  private var mined: UInt64 = 0
  private var refills: UInt64 = 0
  public private(set) var accepted: UInt64 = 0

  /// Throws when a block can't be parsed.
  public init(_ configuration: Configuration) throws(DecodeError) {
    var parsed: [ParsedBlock] = []
    for block in configuration.blocks {
      var structure = try ParsedBlock(parsing: block.span.bytes)
      structure.hashAll(in: block.span.bytes)
      parsed.append(structure)
    }
    self.parsed = parsed
    self.configuration = configuration
  }

  /// Fills a mempool with what this node has.
  public func fill(_ store: inout TransactionStore) {
    for number in configuration.blocks.indices { put(number, seed: configuration.seed &+ UInt64(number), into: &store) }
  }

  /// After a block: the mempool holds the transactions of block `number` again but for the missing share, drawn anew.
  /// Nothing happens for a number that isn't.
  public mutating func refill(_ store: inout TransactionStore, with number: Int) {
    guard configuration.blocks.indices.contains(number) else { return }
    refills += 1
    put(number, seed: configuration.seed &+ refills << 32, into: &store)
  }

  private func put(_ number: Int, seed: UInt64, into store: inout TransactionStore) {
    var random = SeededRandom(seed: seed)
    let block = parsed[number]
    let source = configuration.blocks[number]
    for index in block.transactions.indices.dropFirst() {
      if random.chance(configuration.missing) {
        if let slot = store.slot(wtxid: block.wtxids[index]) { store.remove(slot) }
        continue
      }
      _ = try? store.insert(
        block.transactions[index], in: source.span.bytes, txid: block.txids[index], wtxid: block.wtxids[index],
        as: .node)
    }
  }

  /// A block of the transactions of block `number`, on top of `tip`.
  public mutating func mine(
    _ number: Int, on tip: HeaderChain.Entry, network: Network
  ) throws(Refusal) -> (bytes: [UInt8], block: ParsedBlock) {
    guard configuration.blocks.indices.contains(number) else {
      throw .noBlock(number, count: configuration.blocks.count)
    }
    let source = configuration.blocks[number]
    var builder = BlockBuilder(on: tip)
    builder.network = network
    // No two sites find the same block.
    builder.extraNonce = configuration.seed << 20 | mined
    mined += 1
    for layout in parsed[number].transactions.dropFirst() { builder.append(layout, in: source.span.bytes) }
    let bytes = builder.build()
    guard var block = try? ParsedBlock(parsing: bytes.span.bytes) else { throw .invalid("mined block unreadable") }
    block.hashAll(in: bytes.span.bytes)
    return (bytes, block)
  }

  /// Takes a delivered block as a node does: proof of work, then the whole body against the header.
  public mutating func accept(
    _ block: borrowing ParsedBlock, _ bytes: RawSpan, height: Int, network: Network
  ) throws(Refusal) {
    guard block.header.hasProofOfWork(limit: network.powLimit) else { throw .invalid("no proof of work") }
    let verdict = checkBody(of: copy block, in: bytes, rules: network.bodyRules(height: height))
    guard verdict == .valid else { throw .invalid("\(verdict)") }
    accepted += 1
  }
}
