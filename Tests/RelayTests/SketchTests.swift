import Bitcoin
import Ground
import Mempool
import RealBlocks
import Relay
import Testing

/// A real block, parsed and hashed.
struct Sample {
  let bytes: [UInt8]
  let block: ParsedBlock

  init(_ name: String) throws {
    let bytes = try RealBlocks.bytes(name)
    var block = try ParsedBlock(parsing: bytes.span.bytes)
    block.hashAll(in: bytes.span.bytes)
    (self.bytes, self.block) = (bytes, block)
  }

  /// A store with the block's transactions, except those that `leavingOut` names.
  func store(leavingOut: (Int) -> Bool = { _ in false }, shortIDBits: Int = 40) throws -> TransactionStore {
    var store = TransactionStore(limits: StoreLimits(), seed: 7, shortIDBits: shortIDBits)
    for index in block.transactions.indices.dropFirst() where !leavingOut(index) {
      let result = try store.insert(
        block.transactions[index], in: bytes.span.bytes, txid: block.txids[index], wtxid: block.wtxids[index],
        as: .node)
      #expect(result.outcome == .added)
    }
    return store
  }
}

@Suite struct SketchTests {
  let key = OverlayIDKey(k0: 0x0123_4567_89AB_CDEF, k1: 0xFEDC_BA98_7654_3210)

  @Test(arguments: RealBlocks.names)
  func realBlocksComeBackWholeFromTheirSketchAndStore(_ name: String) throws {
    let sample = try Sample(name)
    let encoded = Sketch.encode(sample.block, in: sample.bytes.span.bytes, key: key)
    let sketch = try Sketch(
      parsing: encoded.span.bytes, transactionCount: sample.block.transactions.count,
      bodyByteCount: sample.bytes.count)
    for (index, layout) in sample.block.transactions.enumerated() {
      #expect(sketch.range(index) == layout.offset..<layout.end)
    }
    var store = try sample.store()
    store.prepareShortIDs(key)
    while !store.advanceShortIDs() {}
    let isIndexed = store.isIndexed(key)
    #expect(isIndexed)
    var slots: [UInt32] = []
    sketch.match(in: store, key: key, into: &slots)
    var body = [UInt8](repeating: 0, count: sketch.bodyByteCount)
    body.replaceSubrange(0..<sketch.prefixByteCount, with: sample.bytes[0..<sketch.prefixByteCount])
    for transaction in sketch.explicit {
      body.replaceSubrange(sketch.range(transaction.index), with: encoded[transaction.bytes])
    }
    var span = body.mutableSpan
    var raw = span.mutableBytes
    for (index, slot) in slots.enumerated() where slot != TransactionStore.missing {
      store.copy(slot, to: &raw, at: sketch.range(index).lowerBound)
    }
    #expect(slots.count { $0 == TransactionStore.missing } == 1)
    #expect(body == sample.bytes)
  }
}
