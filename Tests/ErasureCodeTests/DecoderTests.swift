import Bitcoin
import ErasureCode
import Ground
import RealBlocks
import Testing

@Suite struct DecoderTests {
  /// A model kept beside the decoder: which bytes were told, and the unknown symbols of each column counted anew.
  struct Model {
    let shape: ObjectShape
    var told: [Bool]

    init(_ shape: ObjectShape) {
      self.shape = shape
      let padded = shape.sourceCount * shape.chunkSize
      told = (0..<padded).map { $0 >= shape.byteCount }
    }

    var mostUnknown: Int {
      (0..<shape.chunkSize / 2).map { column in
        stride(from: 2 * column, to: told.count, by: shape.chunkSize).count { !(told[$0] && told[$0 + 1]) }
      }.max()!
    }
    func isPresent(_ chunk: Int) -> Bool {
      told[chunk * shape.chunkSize..<(chunk + 1) * shape.chunkSize].allSatisfy { $0 }
    }
  }

  /// Everything in any order: ranges, source chunks, parts, repair chunks, withdrawals, work in slices, early ends.
  @Test(arguments: 0..<60) func randomHistories(_ seed: UInt64) throws {
    var random = SeededRandom(seed: seed &+ 1_000)
    let chunkSize = [64, 128, 192][random.below(3)]
    let bytes = 1 + random.below(chunkSize * [3, 40, 41, 90, 300][random.below(5)])
    let object = random.bytes(bytes)
    var encoder = try Encoder(object, chunkSize)
    let shape = encoder.shape
    var decoder = Decoder(shape)
    var model = Model(shape)
    var held: Set<Int> = []
    let base = random.below(shape.repairCount - 3 * shape.sourceCount)
    for step in 0..<160 {
      switch random.below(10) {
      case 0...3:
        let from = random.below(bytes)
        let to = min(bytes, from + 1 + random.below(4 * chunkSize))
        decoder.awaitsKnown = random.chance(0.4)
        if random.chance(0.5) {
          // All or nothing: what was told before is not written again.
          let isNew = !decoder.isComplete && !(from..<to).contains { model.told[$0] }
          let isTaken = try decoder.addKnown(from..<to) { place in
            for i in from..<to { place[i - from] = object[i] }
          }
          #expect(isTaken == isNew)
          if !isTaken { try decoder.addKnown(from..<to, of: object) }
        } else {
          try decoder.addKnown(from..<to, of: object)
        }
        for i in from..<to { model.told[i] = true }
      case 4:
        let chunk = random.below(shape.sourceCount)
        let range = shape.range(ofChunk: chunk)
        let was = model.isPresent(chunk)
        let error = refusal { () throws(ErasureError) in try decoder.addSource(chunk, [UInt8](object[range])) }
        #expect(error == (was ? .duplicateSource(index: chunk) : nil))
        for i in range { model.told[i] = true }
      case 5:
        let chunk = random.below(shape.sourceCount)
        let range = shape.range(ofChunk: chunk)
        let offset = random.below(range.count)
        let part = range.lowerBound + offset..<range.lowerBound + offset + random.below(range.count - offset + 1)
        try decoder.addPartialSource(chunk, at: offset, [UInt8](object[part]).span.bytes)
        for i in part { model.told[i] = true }
      case 6 where random.chance(0.5):
        let from = random.below(bytes)
        let to = min(bytes, from + 1 + random.below(2 * chunkSize))
        try decoder.withdraw(from..<to)
        for i in from..<to { model.told[i] = false }
      case 7...8 where decoder.needed > 0:
        let index = base + random.below(2 * shape.sourceCount)
        let chunk = try encoder.repair(index)
        let error = refusal { () throws(ErasureError) in try decoder.addRepair(index, chunk) }
        #expect(error == (held.contains(index) ? .duplicateRepair(index: index) : nil))
        held.insert(index)
      default: _ = decoder.work(random.below(3_000))
      }
      let (needed, holds) = (decoder.needed, decoder.repairsHeld)
      let wholly = decoder.isComplete
      let unknown = model.mostUnknown
      if !wholly { #expect(needed == max(0, unknown - held.count), "step \(step)") }
      #expect(holds == held.count)
      let chunk = random.below(shape.sourceCount)
      let present = decoder.isPresent(chunk: chunk)
      if !wholly { #expect(present == model.isPresent(chunk)) }
      if needed == 0, random.chance(0.3) {
        try decoder.finish()
        let isRight = decoder.array() == object
        #expect(isRight, "step \(step)")
        decoder.reopen()
      }
    }
    var index = base
    while decoder.needed > 0 {
      if !held.contains(index) { try decoder.addRepair(index, try encoder.repair(index)) }
      index += 1
    }
    try decoder.finish()
    let isRight = decoder.array() == object
    #expect(isRight)
  }

  /// A decoder used for one object after another, of all sizes, with what was left behind.
  @Test func reuse() throws {
    var random = SeededRandom(seed: 5)
    var decoder = Decoder(try ObjectShape(byteCount: 10, chunkSize: 64))
    for _ in 0..<40 {
      let chunkSize = 64 * (1 + random.below(4))
      let object = random.bytes(1 + random.below(60_000))
      var encoder = try Encoder(object, chunkSize)
      decoder.reset(encoder.shape)
      for range in randomRanges(object.count, mean: 300, missing: random.unit(), &random).known {
        try decoder.addKnown(range, of: object)
      }
      if random.chance(0.3) { continue }  // given up half-way
      var index = random.below(1_000)
      while decoder.needed > 0 {
        try decoder.addRepair(index, try encoder.repair(index))
        _ = decoder.work(random.below(20_000))
        index += 1 + random.below(3)
      }
      try decoder.finish()
      let isRight = decoder.array() == object
      #expect(isRight)
    }
  }

  /// More source chunks come while the transform of the known ranges is half done, and after.
  @Test(arguments: [0, 1, 3, 9, 17, 40]) func dataDuringTheTransform(_ slices: Int) throws {
    var random = SeededRandom(seed: UInt64(slices))
    let object = random.bytes(200_000)
    var encoder = try Encoder(object, 1_152)
    var decoder = Decoder(encoder.shape)
    let (known, missing) = randomRanges(object.count, mean: 500, missing: 0.08, &random)
    for range in known { try decoder.addKnown(range, of: object) }
    for _ in 0..<slices { _ = decoder.work(1) }
    for range in missing.prefix(missing.count / 2) {
      try decoder.addKnown(range, of: object)
      _ = decoder.work(1)
    }
    var index = 500
    while decoder.needed > 0 {
      try decoder.addRepair(index, try encoder.repair(index))
      index += 1
    }
    try decoder.finish()
    let isRight = decoder.array() == object
    #expect(isRight)
  }

  /// A false match makes a wrong object; withdrawn and made good by more repair chunks, the right one.
  @Test(arguments: [2_000, 30_000, 400_000]) func withdrawnFalseMatch(_ bytes: Int) throws {
    var random = SeededRandom(seed: UInt64(bytes))
    let object = random.bytes(bytes)
    var encoder = try Encoder(object, 512)
    var decoder = Decoder(encoder.shape)
    let wrong = bytes / 3..<bytes / 3 + bytes / 10
    let missing = bytes / 2..<bytes / 2 + bytes / 7
    try decoder.addKnown(0..<wrong.lowerBound, of: object)
    try decoder.addKnown(wrong, random.bytes(wrong.count).span.bytes)
    try decoder.addKnown(wrong.upperBound..<missing.lowerBound, of: object)
    try decoder.addKnown(missing.upperBound..<bytes, of: object)
    while decoder.work() == .more {}
    var index = 0
    func receive(_ decoder: inout Decoder, _ encoder: inout Encoder) throws {
      while decoder.needed > 0 {
        try decoder.addRepair(index, try encoder.repair(index))
        _ = decoder.work()
        index += 1
      }
      try decoder.finish()
    }
    try receive(&decoder, &encoder)
    let wasRight = decoder.array() == object
    #expect(!wasRight)
    let blame = try decoder.wrongChunks(object.span.bytes)
    #expect(blame.repairs.isEmpty && blame.sources.isEmpty)
    #expect(!blame.ranges.isEmpty && blame.ranges.allSatisfy { wrong.contains($0.lowerBound) })
    try decoder.withdraw(wrong)
    let wholly = decoder.isComplete
    #expect(!wholly)
    try receive(&decoder, &encoder)
    let isRight = decoder.array() == object
    #expect(isRight)
  }

  @Test(arguments: [3_000, 300_000]) func blamesWrongChunks(_ bytes: Int) throws {
    var random = SeededRandom(seed: 77)
    let object = random.bytes(bytes)
    var encoder = try Encoder(object, 256)
    let count = encoder.shape.sourceCount
    var decoder = Decoder(encoder.shape)
    try decoder.addKnown(0..<bytes / 2, of: object)
    var badSource = [UInt8](object[encoder.shape.range(ofChunk: count - 2)])
    badSource[17] ^= 4
    try decoder.addSource(count - 2, badSource)
    try decoder.addSource(count - 3, [UInt8](object[encoder.shape.range(ofChunk: count - 3)]))
    var bad: [Int] = []
    var index = 1_000
    while decoder.needed > 0 {
      var chunk = try encoder.repair(index)
      if index % 5 == 2 {
        chunk[random.below(256)] ^= UInt8(1 + random.below(255))
        bad.append(index)
      }
      try decoder.addRepair(index, chunk)
      index += 1
    }
    try decoder.finish()
    let blame = try decoder.wrongChunks(object.span.bytes)
    #expect(blame.sources == [count - 2])
    let at = encoder.shape.range(ofChunk: count - 2).lowerBound + 17
    #expect(blame.ranges == [at..<at + 1])
    #expect(blame.repairs == bad)
    #expect(!blame.isEmpty)
  }

  /// A finished decoder encodes on, whether its transform covers nearly all, little or nothing of the object.
  @Test(arguments: [(2_000, 0.3), (300_000, 0.01), (300_000, 0.3), (300_000, 1.0)])
  func encodesOn(_ bytes: Int, _ missing: Double) throws {
    var random = SeededRandom(seed: 21)
    let object = random.bytes(bytes)
    var encoder = try Encoder(object, 512)
    var decoder = Decoder(encoder.shape)
    for range in randomRanges(bytes, mean: 400, missing: missing, &random).known {
      try decoder.addKnown(range, of: object)
    }
    while decoder.work() == .more {}
    var index = 7
    while decoder.needed > 0 {
      try decoder.addRepair(index, try encoder.repair(index))
      _ = decoder.work()
      index += 1
    }
    try decoder.finish()
    var next = try Encoder(decoder)
    for index in [0, 1, 2, 8, 64, 5_000, 5_001] {
      let isSame = try next.repair(index) == encoder.repair(index)
      #expect(isSame, "repair \(index)")
    }
    let isSame = next.object.withUnsafeBytes { Array($0) } == object
    #expect(isSame)
  }

  /// Chunks still in flight when the object was solved, right ones and wrong ones, leave it alone.
  @Test(arguments: [2_000, 100_000]) func chunksAfterTheEnd(_ bytes: Int) throws {
    var random = SeededRandom(seed: 31)
    let object = random.bytes(bytes)
    var encoder = try Encoder(object, 128)
    var decoder = Decoder(encoder.shape)
    try decoder.addKnown(0..<bytes - 700, of: object)
    for index in 0..<decoder.needed { try decoder.addRepair(index, try encoder.repair(index)) }
    try decoder.finish()
    let last = encoder.shape.sourceCount - 1
    let range = encoder.shape.range(ofChunk: last)
    let right = [UInt8](object[range])
    var wrong = right
    wrong[3] ^= 1
    #expect(refusal { () throws(ErasureError) in try decoder.addSource(last, right) } == .duplicateSource(index: last))
    #expect(
      refusal { () throws(ErasureError) in try decoder.addSource(last, wrong) }
        == .contradictsKnown(byte: range.lowerBound + 3))
    try decoder.addRepair(5_000, try encoder.repair(5_000))
    let complete = decoder.isComplete
    #expect(complete)
    decoder.reopen()
    let open = decoder.isComplete
    #expect(!open)
    try decoder.addSource(last, right)
    try decoder.finish()
    let isRight = decoder.array() == object
    #expect(isRight)
  }

  @Test func unfinishedDoesNotEncode() throws {
    let decoder = Decoder(try ObjectShape(byteCount: 1_000, chunkSize: 64))
    var refused = false
    do { _ = try Encoder(decoder) } catch { refused = error == .incomplete }
    #expect(refused)
  }

  /// Real blocks, transactions missing at random with their real boundaries.
  @Test(arguments: RealBlocks.names) func realBlocks(_ name: String) throws {
    let bytes = try RealBlocks.bytes(name)
    let block = try ParsedBlock(parsing: bytes.span.bytes)
    let shape = try ObjectShape(byteCount: bytes.count, chunkSize: 1_152)
    var encoder = try Encoder(bytes.span.bytes, shape: shape)
    var decoder = Decoder(shape)
    var random = SeededRandom(seed: UInt64(bytes.count))
    for fraction in [0.01, 0.03, 0.1, 0.5] {
      decoder.reset(shape)
      var at = 0
      for transaction in block.transactions {
        if at < transaction.offset { try decoder.addKnown(at..<transaction.offset, of: bytes) }
        if !random.chance(fraction) { try decoder.addKnown(transaction.offset..<transaction.end, of: bytes) }
        at = transaction.end
      }
      #expect(at == bytes.count)
      while decoder.work() == .more {}
      var index = random.below(60_000)
      while decoder.needed > 0 {
        let before = decoder.needed
        if random.chance(0.9) {  // the others are lost
          try decoder.addRepair(index, try encoder.repair(index))
          let now = decoder.needed
          #expect(now == before - 1)
          while decoder.work() == .more {}
        }
        index += 1
      }
      try decoder.finish()
      let isRight = decoder.array() == bytes
      #expect(isRight, "\(fraction) missing")
    }
  }

  @Test func fourMegabytesColdAndWarm() throws {
    var random = SeededRandom(seed: 4)
    let object = random.bytes(4_000_000)
    var encoder = try Encoder(object, 1_024)
    let shape = encoder.shape
    #expect(shape.sourceCount == 3_907)
    var decoder = Decoder(shape)
    for missing in [0.01, 1.0] {
      decoder.reset(shape)
      for range in randomRanges(object.count, mean: 400, missing: missing, &random).known {
        try decoder.addKnown(range, of: object)
      }
      var index = 30_000
      while decoder.needed > 0 {
        try decoder.addRepair(index, try encoder.repair(index))
        _ = decoder.work()
        index += 1
      }
      try decoder.finish()
      let isRight = decoder.array() == object
      #expect(isRight)
    }
  }

  /// Source and repair chunks mixed and nothing known, as between two relays with much loss; several peers' ranges, and
  /// more of them than batches are kept.
  @Test(arguments: [1, 3, 8, 20, 40]) func coldFromSeveralPeers(_ peers: Int) throws {
    var random = SeededRandom(seed: UInt64(peers))
    let object = random.bytes(500_000)
    var encoder = try Encoder(object, 1_152)
    let shape = encoder.shape
    var decoder = Decoder(shape)
    var cursors = (0..<peers).map { _ in random.below(64_000) }
    var source = 0
    while decoder.needed > 0 {
      if source < shape.sourceCount, random.chance(0.5) {
        let range = shape.range(ofChunk: source)
        if random.chance(0.7) { try decoder.addSource(source, [UInt8](object[range])) }
        source += 1
      } else {
        let peer = random.below(peers)
        if random.chance(0.7) { try decoder.addRepair(cursors[peer], try encoder.repair(cursors[peer])) }
        cursors[peer] += 1
      }
      _ = decoder.work()
    }
    try decoder.finish()
    let isRight = decoder.array() == object
    #expect(isRight)
    let work = decoder.workDone
    #expect(work < 4_000_000)
  }

  /// Indexes that follow each other lie in 240 batches by turns: a batch for each chunk would be 283 million blocks in one
  /// call.
  @Test(arguments: [false, true]) func indexesFarApart(_ works: Bool) throws {
    var random = SeededRandom(seed: 40)
    let object = random.bytes(4_000_000)
    var encoder = try Encoder(object, 1_152)
    let shape = encoder.shape
    var decoder = Decoder(shape)
    let sources = 60
    let indexes = (0..<shape.sourceCount - sources).map { ($0 * 256 + $0 / 240) % 61_440 }
    // Made in order, so that the encoder is spared what the decoder is asked to bear.
    var chunks: [Int: [UInt8]] = [:]
    for index in indexes.sorted() { chunks[index] = try encoder.repair(index) }
    for index in 0..<sources { try decoder.addSource(index, [UInt8](object[shape.range(ofChunk: index)])) }
    for index in indexes {
      try decoder.addRepair(index, chunks[index]!)
      if works { while decoder.work() == .more {} }
    }
    try decoder.finish()
    let isRight = decoder.array() == object
    #expect(isRight)
    let work = decoder.workDone
    #expect(work < 45_000_000)
  }
}
