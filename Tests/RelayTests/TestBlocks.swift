import Bitcoin
import Ground
import Mempool
import RealBlocks
import Relay
import Session
import Wire

/// A block with everything that tests need of it.
struct TestBlock {
  let bytes: [UInt8]
  let parsed: ParsedBlock
  let height: Int
  var hash: Hash256 { parsed.hash }

  init(_ name: String) throws {
    let raw = try RealBlocks.bytes(name)
    var block = try ParsedBlock(parsing: raw.span.bytes)
    block.hashAll(in: raw.span.bytes)
    height = BIP34.height(of: block.transactions[0], in: raw.span.bytes)!
    (bytes, parsed) = (raw, block)
  }
}

extension TestBlock {
  init(_ raw: [UInt8]) throws {
    var block = try ParsedBlock(parsing: raw.span.bytes)
    block.hashAll(in: raw.span.bytes)
    self.init(bytes: raw, parsed: block, height: BIP34.height(of: block.transactions[0], in: raw.span.bytes)!)
  }

  init(bytes: [UInt8], parsed: ParsedBlock, height: Int) {
    (self.bytes, self.parsed, self.height) = (bytes, parsed, height)
  }
}

/// A few re-mined blocks of real transactions on regtest's genesis.
struct Regtest {
  let source: TestBlock
  var blocks: [TestBlock] = []
  /// Ten minutes after the last of them.
  var time: UInt32

  init(blocks count: Int, of name: String = "413567", transactions: Int = 100) throws {
    source = try TestBlock(name)
    time = Network.regtest.genesis.time + 600
    for index in 0..<count {
      let first = 1 + index * transactions
      blocks.append(try block(on: blocks.last, transactions: first..<first + transactions))
      time += 600
    }
  }

  /// A block of some of the source's transactions (counted round) on another, or on the first; equal ones differ by
  /// `extra`.
  func block(on parent: TestBlock?, transactions: Range<Int>, extra: UInt64 = 0) throws -> TestBlock {
    var builder = BlockBuilder(
      height: (parent?.height ?? 0) + 1, previous: parent?.hash ?? Network.regtest.genesis.hash,
      time: (parent?.parsed.header.time ?? Network.regtest.genesis.time) + 600)
    builder.extraNonce = extra
    let all = source.parsed.transactions.count - 1
    for index in transactions {
      builder.append(source.parsed.transactions[1 + (index - 1) % all], in: source.bytes.span.bytes)
    }
    return try TestBlock(builder.build())
  }
}

/// Headers of so many blocks upon one that a regtest chain knows; others for another `salt`.
func minedHeaders(_ count: Int, on chain: HeaderChain, from parent: Hash256, salt: UInt64 = 0) -> [BlockHeader] {
  var chain = chain
  var headers: [BlockHeader] = []
  var tip = parent
  for _ in 0..<count {
    let entry = chain.entry(tip)!
    var header = BlockHeader(
      version: 4, previous: tip, merkleRoot: Hash256(w0: salt, w1: 0, w2: 0, w3: 0), time: entry.time + 600,
      bits: 0x207F_FFFF, nonce: 0)
    while !header.hasProofOfWork(limit: Network.regtest.powLimit) { header.nonce += 1 }
    tip = try! chain.accept(header, now: .max - 10_000).entry.hash
    headers.append(header)
  }
  return headers
}

// MARK: Messages

/// A message's bytes, as `write` lays them out.
func encoded(_ write: (inout MutableRawSpan) -> Int) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: RelayLimits.messageBytes)
  let count = bytes.withUnsafeMutableBytes { buffer in
    var out = MutableRawSpan(_unsafeBytes: buffer)
    return write(&out)
  }
  precondition(count > 0)
  return Array(bytes.prefix(count))
}

extension TestBlock {
  /// A SKETCH packet with this block's header and a chunk of noise.
  func sketchPacket(
    bodyBytes: Int? = nil, sketchBytes: Int = 5_000, sketchID: UInt32, epoch: UInt32 = 1, flags: ChunkFlags = [],
    index: UInt32 = 0
  ) -> [UInt8] {
    let noise = [UInt8](repeating: 7, count: RelayLimits.sketchChunkBytes)
    let head = SketchHead(
      flags: flags, header: HeaderBytes(bytes.span.bytes), bodyBytes: UInt32(bodyBytes ?? bytes.count),
      sketchBytes: UInt32(sketchBytes), sketchID: sketchID, transactionCount: UInt32(parsed.transactions.count),
      bodyChunkBytes: 1_152, epoch: epoch, maker: sketchID, more: 0, moreBody: 0, age: 0, index: index)
    return encoded { SketchMessage(head, chunk: noise.span.bytes).write(into: &$0) }
  }
}

/// A CHUNK packet of a body.
func chunkPacket(of id8: UInt64, index: UInt32, _ chunk: [UInt8]) -> [UInt8] {
  encoded {
    ChunkMessage(kind: .body, flags: [], block: id8, maker: 9, more: 0, index: index, chunk: chunk.span.bytes)
      .write(into: &$0)
  }
}

/// The key of short ids, as SKETCH.md and PROTOCOL.md have it.
func shortIDKey(_ secret: OverlaySecret, epoch: UInt32, parent: Hash256) -> OverlayIDKey {
  var writer = ByteWriter()
  writer.append(secret.derive("lightpath short ids", epoch: epoch)!)
  writer.hash(parent)
  let digest = SHA256.hash(writer.bytes.span.bytes)
  return OverlayIDKey(k0: digest.w0, k1: digest.w1)
}
