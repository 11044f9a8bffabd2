import ArgumentParser
import Bitcoin
import CKernels
import Foundation
import Ground
import Harness
import Mempool
import RealBlocks

// A mainnet mempool: 150,000 transactions of real lengths (702861's, each with other inputs), the block's
// own among them.

_ = Options.parseOrExit()

func residentBytes() -> Double {
  let text = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
  return Double(text.split(separator: " ").dropFirst().first ?? "0")! * Double(sysconf(Int32(_SC_PAGESIZE)))
}

/// What a machine without AVX-512 would need, measured on one that may have it; nil where there is not even AVX2.
func onAVX2<R>(_ store: inout TransactionStore, _ body: (inout TransactionStore) -> R) -> R? {
  let best = lp_siphash_best()
  if best.rawValue < LP_SIPHASH_AVX2.rawValue { return nil }
  store.use(LP_SIPHASH_AVX2)
  defer { store.use(best) }
  return body(&store)
}

func run() throws {
  let count = 150_000
  let bytes = try RealBlocks.bytes("702861")
  var block = try ParsedBlock(parsing: bytes.span.bytes)
  block.hashAll(in: bytes.span.bytes)
  var random = SeededRandom(seed: 150_000)
  let before = residentBytes()
  var store = TransactionStore(seed: random.next())
  let key = OverlayIDKey(k0: random.next(), k1: random.next())
  store.prepareShortIDs(OverlayIDKey(k0: 1, k1: 2))
  store.prepareShortIDs(key)
  store.pinShortIDs(OverlayIDKey(k0: 3, k1: 4))
  while !store.advanceShortIDs() {}

  let missing = Set((0..<25).map { _ in 1 + random.below(block.transactions.count - 1) })
  let gap = count / block.transactions.count
  var insertSeconds = 0.0
  for index in block.transactions.indices.dropFirst() {
    let layout = block.transactions[index]
    for number in 0...gap {
      if number == gap && missing.contains(index) { continue }
      let own = bytes[layout.offset..<layout.end]
      let twin =
        number == gap
        ? Array(own) : RealBlocks.withFreshInputs(own, inputCount: layout.coreOffset, using: &random)
      let rate = UInt64(1 + random.below(100))
      let start = Harness.now()
      _ = try store.insert(twin.span.bytes, as: .node, fee: rate * UInt64(layout.weight) / 4)
      insertSeconds += (Harness.now() - start).seconds
    }
  }
  let after = residentBytes()
  let raw = Double(store.counts(.node).bytes)
  Harness.report("mempool", "transactions", Double(store.count), "transactions")
  Harness.report("mempool", "raw_mb", raw / 1e6, "MB")
  // What a mirror of a mainnet mempool takes of the machine's memory: at most 250.
  Harness.report("mempool", "mirror_mb", (after - before) / 1e6, "MB")
  Harness.report("mempool", "held_mb", Double(store.heldBytes) / 1e6, "MB")
  Harness.report("mempool", "insert_us", insertSeconds * 1e6 / Double(store.count), "µs")

  // BIP152: keys of a block, the store looked through. With everything there the search ends early when the order is
  // good; here 25 are missing, so all of it is looked through.
  var writer = ByteWriter()
  CompactBlock.encode(block, in: bytes.span.bytes, nonce: 7, to: &writer)
  let compact = try CompactBlock(parsing: writer.bytes.span.bytes)
  var slots: [UInt32] = []
  let search = Harness.times(least: 50, seconds: 0.5) {
    store.match(compactIDs: compact.shortIDs.span, key: compact.key, into: &slots)
  }
  for (index, slot) in slots.enumerated() where slot != TransactionStore.missing {
    if store.wtxid(slot) != block.wtxids[index + 1] { Harness.fail("a false match") }
  }
  if slots.count(where: { $0 == TransactionStore.missing }) != missing.count { Harness.fail("missed an entry") }
  onAVX2(&store) { store in
    Harness.times(least: 50, seconds: 0.5) {
      store.match(compactIDs: compact.shortIDs.span, key: compact.key, into: &slots)
    }
  }.map { Harness.report("mempool", "match_compact2500_avx2_ms", Harness.median($0), "ms") }
  Harness.report("mempool", "match_compact2500_ms", Harness.median(search), "ms")
  Harness.report("mempool", "match_compact2500_best_ms", search[0], "ms")

  // All of the block there and its feerates high: the search is over after the top bands.
  for index in missing { _ = try store.insert(block.transactions[index].bytes(in: bytes.span.bytes), as: .node) }
  for index in block.transactions.indices.dropFirst() {
    store.setFee(of: store.slot(wtxid: block.wtxids[index])!, to: UInt64(block.transactions[index].weight) * 100)
  }
  let early = Harness.times(least: 50, seconds: 0.3) {
    store.match(compactIDs: compact.shortIDs.span, key: compact.key, into: &slots)
  }
  Harness.report("mempool", "match_compact2500_likely_ms", Harness.median(early), "ms")

  // As a bridge mirrors it: no fees, but the node's list, and what has come since.
  var listed = try ListedMempool()
  let next = try listed.block(2_500, on: HeaderChain(network: .regtest).tip)
  var nextBlock = try ParsedBlock(parsing: next.span.bytes)
  nextBlock.hashAll(in: next.span.bytes)
  var nextWriter = ByteWriter()
  CompactBlock.encode(nextBlock, in: next.span.bytes, nonce: 9, to: &nextWriter)
  let nextCompact = try CompactBlock(parsing: nextWriter.bytes.span.bytes)
  func matchListed(_ store: inout TransactionStore) -> Double {
    let times = Harness.times(least: 50, seconds: 0.3) {
      store.match(compactIDs: nextCompact.shortIDs.span, key: nextCompact.key, into: &slots)
    }
    if slots.contains(TransactionStore.missing) { Harness.fail("missed an entry of the listed mempool") }
    return Harness.median(times)
  }
  Harness.report("mempool", "match_listed2500_ms", matchListed(&listed.store), "ms")
  onAVX2(&listed.store, matchListed).map { Harness.report("mempool", "match_listed2500_avx2_ms", $0, "ms") }

  // The tip changes: the index is rebuilt in slices.
  var slices: [Double] = []
  var fresh = key
  for _ in 0..<5 {
    fresh.k0 += 1
    store.prepareShortIDs(fresh)
    var done = false
    while !done {
      let start = Harness.now()
      done = store.advanceShortIDs()
      slices.append((Harness.now() - start).milliseconds)
    }
  }
  slices.sort()
  Harness.report("mempool", "rebuild_ms", slices.reduce(0, +) / 5, "ms")
  Harness.report("mempool", "rebuild_slice_p50_ms", Harness.median(slices), "ms")
  Harness.report("mempool", "rebuild_slice_p99_ms", Harness.percentile(slices, 0.99), "ms")

  // A sketch while nothing is indexed for its key yet.
  let ids = block.wtxids.indices.map { $0 == 0 ? TransactionStore.noID : store.shortID(block.wtxids[$0], fresh) }
  let lengths = block.transactions.map { UInt32($0.byteCount) }
  let indexed = Harness.times(least: 50, seconds: 0.3) {
    store.match(ids: ids.span, byteCounts: lengths.span, key: fresh, into: &slots)
  }
  Harness.report("mempool", "match_indexed_ms", Harness.median(indexed), "ms")
  let strange = OverlayIDKey(k0: 5, k1: 6)
  let otherIDs = block.wtxids.indices.map { $0 == 0 ? TransactionStore.noID : store.shortID(block.wtxids[$0], strange) }
  let unindexed = Harness.times(least: 50, seconds: 0.3) {
    store.match(ids: otherIDs.span, byteCounts: lengths.span, key: strange, into: &slots)
  }
  Harness.report("mempool", "match_unindexed_ms", Harness.median(unindexed), "ms")

  // The block connects.
  let start = Harness.now()
  store.confirm(0..<block.transactions.count, of: block, in: bytes.span.bytes)
  Harness.report("mempool", "confirm_us_per_tx", (Harness.now() - start).milliseconds * 1e3 / 2_500, "µs")
}

try run()
