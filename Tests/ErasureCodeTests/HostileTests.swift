import ErasureCode
import Ground
import Testing

/// What a peer can send wrong: a typed error, nothing stored, no crash.
@Suite struct HostileTests {
  @Test func absurdShapes() {
    func error(_ bytes: Int, _ chunk: Int) -> ShapeError? {
      do {
        _ = try ObjectShape(byteCount: bytes, chunkSize: chunk)
        return nil
      } catch { return error }
    }
    #expect(error(0, 64) == .byteCountNotPositive(0))
    #expect(error(-5, 64) == .byteCountNotPositive(-5))
    #expect(error(.min, 64) == .byteCountNotPositive(.min))
    for size in [0, -64, 1, 63, 65, 1_500, 1_536, .max, .min] { #expect(error(10, size) == .chunkSizeInvalid(size)) }
    #expect(error(.max, 64) == .tooManyChunks(1 << 57))
    #expect(error(4_096 * 64 + 1, 64) == .tooManyChunks(4_097))
    #expect(error(4_096 * 64, 64) == nil)
    #expect(error(4_096 * 1_472, 1_472) == nil)
    #expect(error(1, 64) == nil)
  }

  @Test(arguments: [5_000, 100_000]) func badChunks(_ bytes: Int) throws {
    var random = SeededRandom(seed: 1)
    let object = random.bytes(bytes)
    var encoder = try Encoder(object, 128)
    let shape = encoder.shape
    var decoder = Decoder(shape)
    func expect(_ expected: ErasureError, _ body: (inout Decoder) throws(ErasureError) -> Void) {
      let before = (decoder.needed, decoder.repairsHeld)
      var error: ErasureError?
      do { try body(&decoder) } catch let thrown { error = thrown }
      let after = (decoder.needed, decoder.repairsHeld)
      #expect(error == expected)
      #expect(before == after)
    }
    let chunk = [UInt8](object[128..<256])
    for index in [-1, shape.sourceCount, .max, .min] {
      let error = ErasureError.indexOutOfRange(index: index, limit: shape.sourceCount)
      expect(error) { d throws(ErasureError) in try d.addSource(index, chunk) }
      expect(error) { d throws(ErasureError) in try d.addPartialSource(index, at: 0, chunk.span.bytes) }
    }
    for index in [-1, shape.repairCount, 65_535, .max, .min] {
      expect(.indexOutOfRange(index: index, limit: shape.repairCount)) { d throws(ErasureError) in
        try d.addRepair(index, chunk)
      }
    }
    for size in [0, 1, 127, 129] {
      let wrong = [UInt8](repeating: 1, count: size)
      expect(.wrongSize(bytes: size, expected: 128)) { d throws(ErasureError) in try d.addSource(1, wrong) }
      expect(.wrongSize(bytes: size, expected: 128)) { d throws(ErasureError) in try d.addRepair(1, wrong) }
    }
    expect(.rangeOutOfBounds(lower: 1, upper: 129, limit: 128)) { d throws(ErasureError) in
      try d.addPartialSource(1, at: 1, chunk.span.bytes)
    }
    expect(.rangeOutOfBounds(lower: -1, upper: 127, limit: 128)) { d throws(ErasureError) in
      try d.addPartialSource(1, at: -1, chunk.span.bytes)
    }
    expect(.rangeOutOfBounds(lower: .max, upper: .max &+ 128, limit: 128)) { d throws(ErasureError) in
      try d.addPartialSource(1, at: .max, chunk.span.bytes)
    }
    for range in [-1..<127, bytes - 1..<bytes + 127, Int.max - 128..<Int.max, 0..<127] {
      expect(.rangeOutOfBounds(lower: range.lowerBound, upper: range.upperBound, limit: bytes)) {
        d throws(ErasureError) in try d.addKnown(range, chunk.span.bytes)
      }
    }
    for range in [-1..<5, 0..<bytes + 1, Int.min..<Int.max] {
      expect(.rangeOutOfBounds(lower: range.lowerBound, upper: range.upperBound, limit: bytes)) {
        d throws(ErasureError) in try d.withdraw(range)
      }
    }
    // The last chunk is padded with zeros, and only with zeros.
    let last = shape.sourceCount - 1
    var padded = [UInt8](object[shape.range(ofChunk: last)])
    let used = padded.count
    padded += [UInt8](repeating: 0, count: 128 - used)
    padded[127] = 1
    expect(.paddingNotZero(byte: 127)) { d throws(ErasureError) in try d.addSource(last, padded) }
    padded[127] = 0
    try decoder.addSource(last, padded)
    expect(.duplicateSource(index: last)) { d throws(ErasureError) in try d.addSource(last, padded) }
    // Contradictions name the byte; nothing of the range is taken, not even what is new.
    try decoder.addKnown(200..<300, of: object)
    var wrong = object
    wrong[250] ^= 1
    expect(.contradictsKnown(byte: 250)) { d throws(ErasureError) in try d.addKnown(100..<400, of: wrong) }
    expect(.contradictsKnown(byte: 250)) { d throws(ErasureError) in try d.addSource(1, [UInt8](wrong[128..<256])) }
    let repair = try encoder.repair(40)
    try decoder.addRepair(40, repair)
    expect(.duplicateRepair(index: 40)) { d throws(ErasureError) in try d.addRepair(40, repair) }
    var contrary = repair
    contrary[127] ^= 0x80
    expect(.contradictsRepair(index: 40)) { d throws(ErasureError) in try d.addRepair(40, contrary) }
    // No more repair chunks are stored than there are source chunks.
    var index = 41
    while decoder.repairsHeld < shape.sourceCount {
      try decoder.addRepair(index, try encoder.repair(index))
      index += 1
    }
    expect(.repairStoreFull(limit: shape.sourceCount)) { d throws(ErasureError) in try d.addRepair(3, repair) }
    try decoder.finish()
    let isRight = decoder.array() == object
    #expect(isRight)
  }

  @Test func badRequests() throws {
    let object = [UInt8](repeating: 7, count: 1_000)
    let shape = try ObjectShape(byteCount: 1_000, chunkSize: 64)
    var encoder = try Encoder(object, 64)
    for index in [-1, shape.repairCount, .max, .min] {
      var error: ErasureError?
      do { _ = try encoder.repair(index) } catch let thrown { error = thrown }
      #expect(error == .indexOutOfRange(index: index, limit: shape.repairCount))
    }
    for size in [0, 63, 65] {
      var bytes = [UInt8](repeating: 0, count: size)
      var error: ErasureError?
      var span = bytes.mutableSpan
      var raw = span.mutableBytes
      do { try encoder.writeRepair(0, into: &raw) } catch let thrown { error = thrown }
      #expect(error == .wrongSize(bytes: size, expected: 64))
    }
    var error: ErasureError?
    do { _ = try Encoder([UInt8](repeating: 0, count: 999).span.bytes, shape: shape) } catch let thrown {
      error = thrown
    }
    #expect(error == .wrongSize(bytes: 999, expected: 1_000))
  }

  /// Garbage of every kind at a high rate: whatever happens, calls return and counts stay in bounds.
  @Test(arguments: 0..<12) func garbage(_ seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let shape = try ObjectShape(byteCount: 1 + random.below(40_000), chunkSize: 64 * (1 + random.below(3)))
    var decoder = Decoder(shape)
    for _ in 0..<1_500 {
      let bytes = random.bytes(random.chance(0.8) ? shape.chunkSize : random.below(300))
      let index = random.chance(0.9) ? random.below(shape.sourceCount + 2) - 1 : Int(bitPattern: UInt(random.next()))
      do {
        switch random.below(6) {
        case 0: try decoder.addSource(index, bytes)
        case 1: try decoder.addRepair(index, bytes)
        case 2: try decoder.addPartialSource(index, at: random.below(200) - 10, bytes.span.bytes)
        case 3:
          let from = random.below(shape.byteCount + 10)
          try decoder.addKnown(from..<from + bytes.count, bytes.span.bytes)
        case 4:
          let from = random.below(shape.byteCount + 10)
          try decoder.withdraw(from..<from + random.below(500))
        default:
          _ = decoder.work(random.below(2_000))
          try decoder.finish()
        }
      } catch {}
      let (needed, held) = (decoder.needed, decoder.repairsHeld)
      #expect(needed >= 0 && needed <= shape.sourceCount && held <= shape.sourceCount)
    }
    let blame = try decoder.wrongChunks([UInt8](repeating: 0, count: shape.byteCount).span.bytes)
    let held = decoder.repairsHeld
    #expect(blame.repairs.count == held)
  }
}
