import ErasureCode
import Ground
import Testing

/// The module against the slow independent implementation.
@Suite struct CodeTests {
  static let sizes: [(bytes: Int, chunk: Int)] = [
    (1, 64), (64, 64), (65, 64), (190, 64), (320, 64), (1_000, 128), (2_111, 64), (2_560, 64), (2_561, 64), (4_096, 64),
    (4_097, 64), (9_001, 64), (16_383, 64),
  ]

  @Test(arguments: sizes.indices) func repairChunksAgree(_ which: Int) throws {
    let (bytes, chunk) = Self.sizes[which]
    var random = SeededRandom(seed: UInt64(bytes))
    let object = random.bytes(bytes)
    let slow = SlowCode(try ObjectShape(byteCount: bytes, chunkSize: chunk))
    for kernel in Kernel.available {
      var encoder = try Encoder(object, chunk, kernel: kernel)
      let last = encoder.shape.repairCount - 1
      #expect(last == 65_535 - slow.points)
      for index in [0, 1, 63, 64, 300, random.below(last), last] {
        let isSame = try encoder.repair(index) == slow.repair(object, index)
        #expect(isSame, "\(kernel) repair \(index)")
      }
    }
  }

  /// Freezes profile 1: these bytes were made by the slow implementation.
  @Test func profileIsFrozen() throws {
    #expect(ErasureProfile.current.id == 1)
    let object = (0..<1_000).map { UInt8(truncatingIfNeeded: $0 &* $0 &+ 7) }
    var encoder = try Encoder(object, 64)
    #expect(Array(try encoder.repair(0).prefix(8)) == Self.frozen0)
    #expect(Array(try encoder.repair(65_519).suffix(8)) == Self.frozenLast)
    var large = try Encoder((0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* $0 &+ 7) }, 64)
    #expect(Array(try large.repair(12_345).prefix(8)) == Self.frozenLarge)
  }
  static let frozen0: [UInt8] = [156, 144, 140, 176, 220, 240, 12, 80]
  static let frozenLast: [UInt8] = [119, 19, 149, 4, 41, 15, 23, 23]
  static let frozenLarge: [UInt8] = [117, 249, 129, 51, 52, 147, 195, 107]

  /// Whatever the order of requests and however they interleave, chunk i is the same.
  @Test func anyOrderOfIndexes() throws {
    var random = SeededRandom(seed: 11)
    let object = random.bytes(100_001)
    var inOrder = try Encoder(object, 256)
    var expected: [Int: [UInt8]] = [:]
    var cursors = (0..<20).map { _ in random.below(60_000) }
    for cursor in cursors { for i in 0..<150 { expected[cursor + i] = try inOrder.repair(cursor + i) } }
    var mixed = try Encoder(object, 256)
    let starts = cursors
    while true {
      let open = cursors.indices.filter { cursors[$0] < starts[$0] + 150 }
      guard let pick = open.isEmpty ? nil : open[random.below(open.count)] else { break }
      if random.chance(0.1) {
        _ = try mixed.prepare(cursors[pick]..<min(cursors[pick] + 200, 60_000), budget: random.below(5_000))
      }
      let isSame = try mixed.repair(cursors[pick]) == expected[cursors[pick]]!
      #expect(isSame)
      cursors[pick] += 1
    }
  }

  @Test func preparingInSlices() throws {
    var random = SeededRandom(seed: 12)
    let object = random.bytes(300_000)
    var whole = try Encoder(object, 1_152)
    var sliced = try Encoder(object, 1_152)
    // A budget of 0 asks and does nothing: all 18 steps are still there afterwards.
    for _ in 0..<40 {
      #expect(sliced.prepare(0) == .more)
      #expect(try sliced.prepare(0..<1, budget: 0) == .more)
    }
    var slices = 0
    while sliced.prepare(1) == .more { slices += 1 }
    #expect(slices == 17)
    slices = 0
    while try sliced.prepare(100..<200, budget: 1) == .more { slices += 1 }
    #expect(slices > 17)
    for index in 100..<200 {
      let isSame = try whole.repair(index) == sliced.repair(index)
      #expect(isSame)
    }
    // An encoder put to another object and size.
    let small = random.bytes(5_000)
    try sliced.reset(small.span.bytes, shape: ObjectShape(byteCount: 5_000, chunkSize: 64))
    var fresh = try Encoder(small, 64)
    for index in [0, 1, 500] {
      let isSame = try fresh.repair(index) == sliced.repair(index)
      #expect(isSame)
    }
  }

  /// In the largest object, two steps would be more work than a slice may have.
  @Test func slicesAreNotOverrun() throws {
    let object = [UInt8](repeating: 7, count: ObjectShape.maxSourceChunks * 1_152)
    var encoder = try Encoder(object, 1_152)
    var slices = 0
    while encoder.prepare() == .more { slices += 1 }
    #expect(slices == 17)
    var decoder = Decoder(encoder.shape)
    try decoder.addKnown(0..<object.count / 2, object.span.bytes.extracting(0..<object.count / 2))
    slices = 0
    while decoder.work() == .more { slices += 1 }
    #expect(slices >= 17)
  }

  /// Both decoders get the same bytes, with byte ranges that begin and end anywhere.
  @Test(arguments: 0..<40) func decodersAgree(_ seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let bytes = 1 + random.below(seed % 4 == 0 ? 6_000 : 2_000)
    let object = random.bytes(bytes)
    let shape = try ObjectShape(byteCount: bytes, chunkSize: 64)
    let slow = SlowCode(shape)
    var known = [Bool](repeating: false, count: bytes)
    var blank = [UInt8](repeating: 0, count: bytes)
    var decoder = Decoder(shape)
    for range in randomRanges(bytes, mean: 1 + random.below(90), missing: random.unit(), &random).known {
      for i in range {
        known[i] = true
        blank[i] = object[i]
      }
      try decoder.addKnown(range, of: object)
    }
    var repairs: [(index: Int, bytes: [UInt8])] = []
    while decoder.needed > 0 {
      let tooFew = slow.decode(blank, known: known, repairs: repairs)
      #expect(tooFew == nil)
      let index = random.below(shape.repairCount)
      if repairs.contains(where: { $0.index == index }) { continue }
      let chunk = slow.repair(object, index)
      repairs.append((index, chunk))
      try decoder.addRepair(index, chunk)
      if random.chance(0.5) { _ = decoder.work() }
    }
    try decoder.finish()
    let slowResult = slow.decode(blank, known: known, repairs: repairs)
    let (fastIsRight, slowIsRight) = (decoder.array() == object, slowResult == object)
    #expect(fastIsRight)
    #expect(slowIsRight)
  }
}
