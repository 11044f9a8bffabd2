import Bitcoin
import Ground
import Harness
import Mempool
import RealBlocks
import Relay

/// `match2500_ms`: the sketch of a block against an indexed store of 150,000 transactions that holds 99% of it.
func benchMatch(block name: String = "702861") throws {
  let bytes = try RealBlocks.bytes(name)
  var block = try ParsedBlock(parsing: bytes.span.bytes)
  block.hashAll(in: bytes.span.bytes)
  var random = SeededRandom(seed: 702861)
  var store = TransactionStore(seed: random.next())
  // Real transactions with other inputs: the lengths, and how often they occur, stay real.
  let others = 150_000 - block.transactions.count
  let gap = others / block.transactions.count
  for index in block.transactions.indices.dropFirst() {
    let layout = block.transactions[index]
    if !random.chance(0.01) {
      _ = try store.insert(
        layout, in: bytes.span.bytes, txid: block.txids[index], wtxid: block.wtxids[index], as: .node)
    }
    for _ in 0..<gap {
      let twin = RealBlocks.withFreshInputs(
        bytes[layout.offset..<layout.end], inputCount: layout.coreOffset, using: &random)
      _ = try store.insert(twin.span.bytes, as: .node)
    }
  }
  let key = OverlayIDKey(k0: random.next(), k1: random.next())
  store.prepareShortIDs(key)
  while !store.advanceShortIDs() {}
  let encoded = Sketch.encode(block, in: bytes.span.bytes, key: key)
  let sketch = try Sketch(
    parsing: encoded.span.bytes, transactionCount: block.transactions.count, bodyByteCount: bytes.count)
  var slots: [UInt32] = []
  // A block comes once in ten minutes: nothing of the index is in the caches then. So they are filled with other things
  // before each run.
  var elsewhere = [UInt64](repeating: 1, count: 8 << 20)
  var times: [Double] = []
  for _ in 0..<50 {
    for index in stride(from: 0, to: elsewhere.count, by: 8) { elsewhere[index] &+= 1 }
    let start = Harness.now()
    sketch.match(in: store, key: key, into: &slots)
    times.append((Harness.now() - start).milliseconds)
  }
  times.sort()
  let warm = Harness.times(least: 50, seconds: 0.3) { sketch.match(in: store, key: key, into: &slots) }
  for (index, slot) in slots.enumerated() where slot != TransactionStore.missing {
    if store.wtxid(slot) != block.wtxids[index] { Harness.fail("a false match") }
  }
  Harness.report("relay", "match2500_ms", Harness.median(times), "ms")
  Harness.report("relay", "match2500_warm_ms", Harness.median(warm), "ms")
  Harness.report("relay", "match2500_store_transactions", Double(store.count), "transactions")
  Harness.report(
    "relay", "match2500_missing", Double(slots.count { $0 == TransactionStore.missing } - 1), "transactions")
  let encoding = Harness.times(least: 50, seconds: 0.3) {
    Harness.keep(Sketch.encode(block, in: bytes.span.bytes, key: key))
  }
  Harness.report("relay", "sketch_encode_ms", Harness.median(encoding), "ms")
  let parsing = try Harness.times(least: 50, seconds: 0.3) {
    Harness.keep(
      try Sketch(
        parsing: encoded.span.bytes, transactionCount: block.transactions.count, bodyByteCount: bytes.count))
  }
  Harness.report("relay", "sketch_parse_ms", Harness.median(parsing), "ms")
  let inline = sketch.explicit.reduce(0) { $0 + $1.bytes.count }
  Harness.report(
    "relay", "sketch_bytes_per_tx", Double(encoded.count - inline) / Double(block.transactions.count), "bytes")
}
