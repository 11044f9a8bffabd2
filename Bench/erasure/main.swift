import ArgumentParser
import Bitcoin
import ErasureCode
import Foundation
import Ground
import Harness
import RealBlocks

// How long making repair chunks takes, how many a receiver needs that lacks some transactions, and how long it works
// after the last of them.

let options = Options.parseOrExit()
let chunkSize = 1_152
let firstIndex = 20_000  // not 0: peers begin where their key says

/// Bytes with the places of the transactions in them.
struct Sample {
  var bytes: [UInt8]
  var transactions: [Range<Int>]

  init(block bytes: [UInt8]) throws {
    let block = try ParsedBlock(parsing: bytes.span.bytes)
    self.bytes = bytes
    transactions = block.transactions.map { $0.offset..<$0.end }
  }

  /// Real blocks one after the other, cut at `byteCount`.
  init(joining names: [String], byteCount: Int) throws {
    bytes = []
    transactions = []
    for name in names {
      let part = try Sample(block: RealBlocks.bytes(name))
      let start = bytes.count
      bytes += part.bytes
      transactions += part.transactions.map { $0.lowerBound + start..<$0.upperBound + start }
    }
    guard bytes.count >= byteCount else { Harness.fail("the real blocks have only \(bytes.count) bytes together") }
    bytes.removeLast(bytes.count - byteCount)
    transactions.removeAll { $0.upperBound > byteCount }
  }

  var shape: ObjectShape { get throws { try ObjectShape(byteCount: bytes.count, chunkSize: chunkSize) } }

  /// A draw of missing transactions; the coinbase is always new to a receiver, but small: drawn like the others.
  func missing(_ fraction: Double, _ random: inout SeededRandom) -> [Bool] {
    let count = max(1, Int((Double(transactions.count) * fraction).rounded()))
    var missing = [Bool](repeating: false, count: transactions.count)
    var left = count
    while left > 0 {
      let i = random.below(transactions.count)
      if missing[i] { continue }
      missing[i] = true
      left -= 1
    }
    return missing
  }

  /// What a receiver knows: every transaction that is not missing, one range each, and what lies between them.
  func known(_ missing: [Bool]) -> [Range<Int>] {
    var ranges: [Range<Int>] = []
    var at = 0
    for (range, gone) in zip(transactions, missing) {
      if at < range.lowerBound { ranges.append(at..<range.lowerBound) }
      if !gone { ranges.append(range) }
      at = range.upperBound
    }
    if at < bytes.count { ranges.append(at..<bytes.count) }
    return ranges
  }

  /// Unknown symbols in the worst column, counted anew and plainly: a check on `needed`.
  func mostUnknown(_ known: [Range<Int>]) throws -> Int {
    var told = [Bool](repeating: false, count: try shape.sourceCount * chunkSize)
    for i in bytes.count..<told.count { told[i] = true }
    for range in known { for i in range { told[i] = true } }
    var most = 0
    for column in 0..<chunkSize / 2 {
      var count = 0
      for at in stride(from: 2 * column, to: told.count, by: chunkSize) where !(told[at] && told[at + 1]) { count += 1 }
      most = max(most, count)
    }
    return most
  }
}

struct Timing {
  var afterLast: Double
  var total: Double
}

func milliseconds(_ body: () throws -> Void) rethrows -> Double {
  let start = Harness.now()
  try body()
  return (Harness.now() - start).milliseconds
}

/// One reception: the known ranges, then repair chunks with `work` after each, then the end.
func receive(
  _ decoder: inout Decoder, _ sample: Sample, _ known: [Range<Int>], _ repairs: [UInt8], _ count: Int
) throws -> Timing {
  let shape = try sample.shape
  let all = sample.bytes.span.bytes
  let chunks = repairs.span.bytes
  var start = Harness.now()
  decoder.reset(shape)
  for range in known { try decoder.addKnown(range, all.extracting(range)) }
  while decoder.work() == .more {}
  for i in 0..<count - 1 {
    try decoder.addRepair(firstIndex + i, chunks.extracting(i * chunkSize..<(i + 1) * chunkSize))
    while decoder.work() == .more {}
  }
  let inFlight = (Harness.now() - start).milliseconds
  let last = count - 1
  guard decoder.needed == 1 else { Harness.fail("needs \(decoder.needed) instead of 1") }
  start = Harness.now()
  try decoder.addRepair(firstIndex + last, chunks.extracting(last * chunkSize..<(last + 1) * chunkSize))
  try decoder.finish()
  let afterLast = (Harness.now() - start).milliseconds
  let isRight = decoder.bytes.withUnsafeBytes { got in
    all.withUnsafeBytes { memcmp(got.baseAddress!, $0.baseAddress!, got.count) == 0 }
  }
  if !isRight { Harness.fail("decoded to other bytes") }
  return Timing(afterLast: afterLast, total: inFlight + afterLast)
}

func repairs(_ sample: Sample, _ count: Int, _ kernel: Kernel) throws -> [UInt8] {
  var encoder = try Encoder(sample.bytes.span.bytes, shape: sample.shape, kernel: kernel)
  var chunks: [UInt8] = []
  for i in 0..<count { chunks += try encoder.repair(firstIndex + i) }
  return chunks
}

func writeAll(_ encoder: inout Encoder, _ count: Int, _ out: inout [UInt8]) throws {
  for i in 0..<count {
    var mutable = out.mutableSpan
    var bytes = mutable.mutableBytes
    var chunk = bytes._mutatingExtracting(i * chunkSize..<(i + 1) * chunkSize)
    try encoder.writeRepair(firstIndex + i, into: &chunk)
  }
}

/// `count` runs, medians of both parts.
func measure(_ count: Int, _ body: () throws -> Timing) rethrows -> Timing {
  _ = try body()
  var runs: [Timing] = []
  for _ in 0..<count { runs.append(try body()) }
  return Timing(
    afterLast: Harness.median(runs.map(\.afterLast).sorted()), total: Harness.median(runs.map(\.total).sorted()))
}

struct Pass {
  let kernel: Kernel
  let prefix: String
  let memcpyMS: [String: Double]

  func report(_ metric: String, _ value: Double, over object: String) {
    Harness.report("erasure", prefix + metric, value, "ms")
    Harness.report(
      "erasure", prefix + String(metric.dropLast(3)) + "_per_memcpy", value / memcpyMS[object]!, "ratio")
  }

  /// The draw to time: the first with the median number of packets.
  func missing(_ name: String, _ sample: Sample, _ fraction: Double, object: String, packetsToo: Bool) throws {
    var random = SeededRandom(seed: UInt64(fraction * 1e6))
    var decoder = Decoder(try sample.shape, kernel: kernel)
    var packets: [Int] = []
    var draws: [[Bool]] = []
    for draw in 0..<1_000 {
      let gone = sample.missing(fraction, &random)
      let known = sample.known(gone)
      decoder.reset(try sample.shape)
      for range in known { try decoder.addKnown(range, sample.bytes.span.bytes.extracting(range)) }
      packets.append(decoder.needed)
      draws.append(gone)
      if draw % 100 == 0, try sample.mostUnknown(known) != packets[draw] { Harness.fail("needed is not exact") }
    }
    let sorted = packets.map(Double.init).sorted()
    let median = Harness.median(sorted)
    if packetsToo {
      Harness.report("erasure", prefix + name + "_packets_p50", median, "packets")
      Harness.report(
        "erasure", prefix + name + "_packets_mean", sorted.reduce(0, +) / Double(sorted.count), "packets")
      Harness.report("erasure", prefix + name + "_packets_p99", Harness.percentile(sorted, 0.99), "packets")
    }
    let known = sample.known(draws[packets.firstIndex(of: Int(median))!])
    let chunks = try repairs(sample, Int(median), kernel)
    let timing = try measure(200) { try receive(&decoder, sample, known, chunks, Int(median)) }
    report(name + "_after_last_ms", timing.afterLast, over: object)
    report(name + "_total_ms", timing.total, over: object)
  }

  func run(_ block: Sample, _ large: Sample) throws {
    var encoder = try Encoder(block.bytes.span.bytes, shape: block.shape, kernel: kernel)
    let count = try block.shape.sourceCount
    var out = [UInt8](repeating: 0, count: 1_200 * chunkSize)
    for (metric, chunks) in [("first64_ms", 64), ("repair1200_ms", 1_200)] {
      let times = try Harness.times(least: 50, seconds: 0.5) {
        try encoder.reset(block.bytes.span.bytes, shape: block.shape)
        try writeAll(&encoder, chunks, &out)
      }
      report(metric, Harness.median(times), over: "block")
    }
    try missing("missing1pct", block, 0.01, object: "block", packetsToo: true)
    try missing("missing3pct", block, 0.03, object: "block", packetsToo: true)
    var decoder = Decoder(try block.shape, kernel: kernel)
    let chunks = try repairs(block, count, kernel)
    let cold = try measure(50) { try receive(&decoder, block, [], chunks, count) }
    report("cold_after_last_ms", cold.afterLast, over: "block")
    report("cold_total_ms", cold.total, over: "block")
    try missing("4mb_1pct", large, 0.01, object: "4mb", packetsToo: true)
  }
}

let block = try Sample(
  block: options.block.map { [UInt8](try Data(contentsOf: URL(filePath: $0))) } ?? RealBlocks.bytes("702861"))
let large = try Sample(joining: ["702861", "482683", "898352", "928831", "426884", "413567"], byteCount: 4_000_000)

var memcpyMS: [String: Double] = [:]
for (name, sample) in [("block", block), ("4mb", large)] {
  var copy = sample.bytes
  let times = Harness.times(least: 100, seconds: 0.2) {
    copy.withUnsafeMutableBytes { to in
      sample.bytes.withUnsafeBytes { _ = memcpy(to.baseAddress!, $0.baseAddress!, $0.count) }
    }
  }
  memcpyMS[name] = Harness.median(times)
  Harness.report("erasure", name == "block" ? "memcpy_ms" : "4mb_memcpy_ms", memcpyMS[name]!, "ms")
}

if let name = options.kernel {
  guard let kernel = Kernel.named(name) else {
    Harness.fail("no kernel '\(name)' here; there are: \(Kernel.available.map(\.name).joined(separator: " "))")
  }
  try Pass(kernel: kernel, prefix: "", memcpyMS: memcpyMS).run(block, large)
} else {
  try Pass(kernel: .best, prefix: "", memcpyMS: memcpyMS).run(block, large)
  if let avx2 = Kernel.named("avx2"), Kernel.best.name != "avx2" {
    try Pass(kernel: avx2, prefix: "avx2_", memcpyMS: memcpyMS).run(block, large)
  }
}
