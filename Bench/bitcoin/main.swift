import ArgumentParser
import Bitcoin
import CKernels
import Foundation
import Ground
import Harness
import RealBlocks

// Parsing and hashing a whole block, and BIP152 encoding, against the bare compression function in the same run.

let options = Options.parseOrExit()

func run(_ name: String, _ bytes: [UInt8]) {
  let span = bytes.span.bytes
  let kernel = SHA256.Kernel.best
  guard let probe = try? ParsedBlock(parsing: span) else { Harness.fail("\(name): not a block") }

  // What the work costs in compressions: each id is a hash of its bytes and one of 32 bytes, each Merkle node three.
  func compressions(_ count: Int) -> Int { (count + 9 + 63) / 64 + 1 }
  func tree(_ leaves: Int) -> Int {
    var nodes = 0
    var level = leaves
    while level > 1 {
      level = (level + 1) / 2
      nodes += level
    }
    return 3 * nodes
  }
  let hasCommitment = probe.hasWitness
  var total = compressions(80) + tree(probe.transactions.count)
  for transaction in probe.transactions {
    total += compressions(transaction.byteCount)
    if transaction.hasWitness { total += compressions(transaction.strippedByteCount) }
  }
  if hasCommitment { total += tree(probe.transactions.count) + 3 }

  var whole: [Double] = []
  var parse: [Double] = []
  var ids: [Double] = []
  var plain: [Double] = []
  var ratio: [Double] = []
  var withCompact: [Double] = []
  let ballast = SeededBallast.bytes
  // Alternating, so that both meet the same machine; the ratio is the median of the rounds' ratios.
  for round in 0..<120 {
    let a = Harness.now()
    guard var block = try? ParsedBlock(parsing: span) else { Harness.fail("\(name): not a block") }
    let b = Harness.now()
    block.hashAll(in: span, kernel: kernel)
    let i = Harness.now()
    let isWhole = checkBody(of: block, in: span, rules: BodyRules(statedHeight: nil, segwit: hasCommitment))
    Harness.keep(block.hash)
    let c = Harness.now()
    guard isWhole == .valid else { Harness.fail("\(name): \(isWhole)") }
    var compact = ByteWriter(reserving: 8 * block.transactions.count + 100_000)
    CompactBlock.encode(block, in: span, nonce: UInt64(round), to: &compact)
    let e = Harness.now()
    compress(total, ballast, kernel)
    let d = Harness.now()
    if round >= 20 {
      parse.append((b - a).milliseconds)
      ids.append((i - b).milliseconds)
      whole.append((c - a).milliseconds)
      plain.append((d - e).milliseconds)
      ratio.append((c - a).milliseconds / (d - e).milliseconds)
      withCompact.append((e - a).milliseconds / (d - e).milliseconds)
    }
  }
  parse.sort()
  ids.sort()
  whole.sort()
  plain.sort()
  ratio.sort()
  withCompact.sort()
  Harness.report("bitcoin", "block_bytes", Double(bytes.count), "B")
  Harness.report("bitcoin", "block_transactions", Double(probe.transactions.count), "1")
  Harness.report("bitcoin", "block_compressions", Double(total), "1")
  Harness.report("bitcoin", "block_parse_ms", Harness.median(parse), "ms")
  Harness.report("bitcoin", "block_ids_ms", Harness.median(ids), "ms")
  Harness.report("bitcoin", "block_hash_ms", Harness.median(whole), "ms")
  Harness.report("bitcoin", "plain_hash_ms", Harness.median(plain), "ms")
  Harness.report("bitcoin", "block_hash_ratio", Harness.median(ratio), "1")
  Harness.report("bitcoin", "block_hash_and_cmpct_ratio", Harness.median(withCompact), "1")

  // The same work in slices, as a relay's thread does it between packets.
  var slices: [Double] = []
  for _ in 0..<40 {
    var check = BodyCheck(probe, rules: BodyRules(statedHeight: nil, segwit: hasCommitment))
    while check.verdict == nil {
      let start = Harness.now()
      check.advance(in: span, budget: 64 << 10)
      slices.append(1000 * (Harness.now() - start).milliseconds)
    }
  }
  slices.sort()
  Harness.report("bitcoin", "slice_p50_us", Harness.median(slices), "us")
  Harness.report("bitcoin", "slice_p99_us", Harness.percentile(slices, 0.99), "us")

  var hashed = probe
  hashed.hashAll(in: span)
  var writer = ByteWriter(reserving: 8 * probe.transactions.count + 100_000)
  let encode = Harness.times(least: 50, seconds: 0.5) {
    writer = ByteWriter(reserving: 8 * probe.transactions.count + 100_000)
    CompactBlock.encode(hashed, in: span, nonce: 7, to: &writer)
  }
  let payload = writer.bytes
  let decode = Harness.times(least: 50, seconds: 0.5) {
    Harness.keep(try! CompactBlock(parsing: payload.span.bytes).transactionCount)
  }
  Harness.report("bitcoin", "cmpct_bytes", Double(payload.count), "B")
  Harness.report("bitcoin", "cmpct_encode_ms", Harness.median(encode), "ms")
  Harness.report("bitcoin", "cmpct_decode_ms", Harness.median(decode), "ms")
}

/// The fastest SHA-256 here on nothing but itself: two runs of blocks through the compression function.
func compress(_ count: Int, _ ballast: [UInt8], _ kernel: SHA256.Kernel) {
  ballast.withUnsafeBufferPointer { bytes in
    withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 16) { states in
      states.initialize(repeating: 1)
      let state = states.baseAddress!
      let half = bytes.count / 128
      var left = (count + 1) / 2
      while left > 0 {
        let now = min(left, half)
        lp_sha256_compress_pair(
          kernel.code, state, bytes.baseAddress!, state + 8, bytes.baseAddress! + 64 * half, now)
        left -= now
      }
      Harness.keep(states[0])
    }
  }
}

enum SeededBallast {
  /// As much as a block, so that it comes from the same caches.
  static let bytes: [UInt8] = {
    var random = SeededRandom(seed: 1)
    return random.bytes(1 << 20)
  }()
}

if options.block.isEmpty {
  run("702861", try RealBlocks.bytes("702861"))
} else {
  for file in options.block {
    guard let data = try? Data(contentsOf: URL(fileURLWithPath: file)) else { Harness.fail("can't read \(file)") }
    run(file, [UInt8](data))
  }
}
