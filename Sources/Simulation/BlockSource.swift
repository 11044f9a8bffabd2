import Bitcoin
import Ground

/// Makes as many distinct valid blocks as a run needs out of one real block's transactions: regtest, a coinbase of their
/// own, one on top of the other.
struct BlockSource: Sendable {
  /// What `append` would have to parse and hash again for each block.
  private let template: BlockBuilder
  let transactions: [TransactionLayout]
  let txids: [Hash256]
  let wtxids: [Hash256]
  let bytes: [UInt8]
  let transactionCount: Int

  /// - Parameters:
  ///   - block: serialised; its coinbase is left out.
  ///   - limit: at most this many transactions, from the front.
  init(_ block: [UInt8], limit: Int = .max) throws {
    var parsed = try ParsedBlock(parsing: block.span.bytes)
    parsed.hashAll(in: block.span.bytes)
    bytes = block
    let count = min(parsed.transactions.count, limit == .max ? .max : limit + 1)
    transactions = Array(parsed.transactions[1..<max(1, count)])
    txids = (1..<max(1, count)).map { parsed.txids[$0] }
    wtxids = (1..<max(1, count)).map { parsed.wtxids[$0] }
    transactionCount = transactions.count + 1
    var builder = BlockBuilder(height: 1, previous: .zero, time: 1)
    for layout in transactions { builder.append(layout, in: block.span.bytes) }
    template = builder
  }

  /// The `number`th block of a run.
  func make(number: Int, height: Int, previous: Hash256, time: UInt32) -> [UInt8] {
    var builder = template
    builder.height = height
    builder.previous = previous
    builder.time = time
    builder.extraNonce = UInt64(number)
    return builder.build()
  }

  /// The same with only the first so many transactions.
  func make(
    number: Int, height: Int, previous: Hash256, time: UInt32, transactions count: Int, bits: UInt32
  ) -> [UInt8] {
    var builder = BlockBuilder(height: height, previous: previous, time: time)
    builder.extraNonce = UInt64(number)
    for layout in transactions.prefix(count) { builder.append(layout, in: bytes.span.bytes) }
    return builder.build(bits: bits)
  }

  /// A transaction's bytes; `index` counts the coinbase as 0.
  func withTransaction<R>(_ index: Int, _ body: (RawSpan) -> R) -> R {
    body(transactions[index - 1].bytes(in: bytes.span.bytes))
  }
}
