import ErasureCode
import Ground
import Testing

@Suite struct RoundTripTests {
  struct Case: Sendable, CustomTestStringConvertible {
    var bytes: Int
    var chunkSize: Int
    var missing: Double
    var testDescription: String { "\(bytes) bytes in \(chunkSize), \(missing) missing" }
  }

  static let cases: [Case] = {
    var cases: [Case] = []
    for (bytes, size) in [
      (1, 64), (2, 64), (63, 64), (64, 64), (65, 64), (129, 64), (1_000, 64), (1_151, 1_152), (1_152, 1_152),
      (1_153, 1_152), (5_001, 1_408), (30_000, 1_152), (46_080, 1_152), (46_081, 1_152), (70_001, 1_088),
      (100_000, 1_024), (262_144, 64), (300_007, 1_152), (1_382_399, 1_152),
    ] {
      for missing in [0.01, 0.2, 0.7, 1.0] { cases.append(Case(bytes: bytes, chunkSize: size, missing: missing)) }
    }
    return cases
  }()

  /// Any known ranges and exactly `needed` repair chunks, from anywhere in the index space and in any order, give the
  /// object back; with one fewer, one is said to be needed.
  @Test(arguments: cases) func exactlyNeeded(_ c: Case) throws {
    for seed in 0..<UInt64(c.bytes > 200_000 ? 2 : 6) {
      var random = SeededRandom(seed: seed &* 7919 &+ UInt64(c.bytes) &+ UInt64(c.missing * 100))
      let object = random.bytes(c.bytes)
      var encoder = try Encoder(object, c.chunkSize)
      var decoder = Decoder(encoder.shape)
      let mean = max(1, min(c.bytes / 3, 20 + random.below(1_500)))
      var (known, _) = randomRanges(c.bytes, mean: mean, missing: c.missing, &random)
      random.shuffle(&known)
      // Some repair chunks come before the known ranges are told.
      let late = known.isEmpty ? 0 : random.below(known.count + 1)
      for range in known.dropLast(late) { try decoder.addKnown(range, of: object) }
      let start = random.below(encoder.shape.repairCount - encoder.shape.sourceCount)
      var order = Array(start..<start + encoder.shape.sourceCount)
      if seed % 2 == 0 { random.shuffle(&order) }
      var next = order.makeIterator()
      for _ in 0..<random.below(min(4, encoder.shape.sourceCount) + 1) {
        let index = next.next()!
        try decoder.addRepair(index, try encoder.repair(index))
      }
      for range in known.suffix(late) { try decoder.addKnown(range, of: object) }
      while decoder.needed > 0 {
        let before = decoder.needed
        let early = decoder.isComplete
        #expect(!early)
        if before == 1 { #expect(refusal { () throws(ErasureError) in try decoder.finish() } == .needsMore(1)) }
        let index = next.next()!
        try decoder.addRepair(index, try encoder.repair(index))
        let now = decoder.needed
        #expect(now == before - 1)
        if random.chance(0.5) { _ = decoder.work(1 + random.below(60_000)) }
      }
      try decoder.finish()
      let done = decoder.isComplete
      let isSame = decoder.array() == object
      #expect(done)
      #expect(isSame, "seed \(seed)")
    }
  }
  /// Many neighbouring chunks unknown, as a large transaction leaves them, and single ones elsewhere; repair chunks from
  /// several runs of indexes. This is where sums go by groups of 32.
  @Test(arguments: KernelTests.all) func manyNeighbouringChunksUnknown(kernel name: String) throws {
    let kernel = try #require(Kernel.available.first { $0.name == name })
    for seed in 0..<UInt64(2) {
      var random = SeededRandom(seed: 4_711 + seed)
      let object = random.bytes(1_382_399)
      var encoder = try Encoder(object, 1_152)
      var decoder = Decoder(encoder.shape, kernel: kernel)
      let begin = 40_000 + random.below(900_000)
      var gaps = [begin..<begin + 60_000 + random.below(200_000)]
      for _ in 0..<25 {
        let at = random.below(object.count - 600)
        if gaps.allSatisfy({ $0.upperBound < at || $0.lowerBound > at + 600 }) {
          gaps.append(at..<at + 100 + random.below(500))
        }
      }
      gaps.sort { $0.lowerBound < $1.lowerBound }
      var at = 0
      for gap in gaps {
        try decoder.addKnown(at..<gap.lowerBound, of: object)
        at = gap.upperBound
      }
      try decoder.addKnown(at..<object.count, of: object)
      var run = random.below(1_000)
      while decoder.needed > 0 {
        for index in run * 32..<run * 32 + 32 where decoder.needed > 0 && !random.chance(0.05) {
          try decoder.addRepair(index, try encoder.repair(index))
          if seed % 2 == 0 { _ = decoder.work() }
        }
        run += 1 + random.below(9)
      }
      try decoder.finish()
      let isSame = decoder.array() == object
      #expect(isSame, "seed \(seed)")
      // The memory serves another object.
      decoder.reset(encoder.shape)
      let zeros = decoder.array().allSatisfy { $0 == 0 }
      #expect(zeros)
    }
  }
}
