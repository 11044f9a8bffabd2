import ErasureCode
import Ground
import Testing
import UringSupport

/// Calls for a packet allocate nothing: on memory that has served one object of the kind, a whole second one passes
/// through encoder and decoder, the solution included, without a single allocation.
@Suite struct AllocationTests {
  /// What passes through, in calls that succeed.
  struct Pass: CustomStringConvertible {
    var name: String
    var byteCount: Int
    /// Share of the object's ranges that is not known from the start.
    var missing: Double
    /// Repair indexes are this far apart, so that they lie in several cosets.
    var step = 1

    var description: String { name }
  }

  static let passes = [
    Pass(name: "small object", byteCount: 30_000, missing: 0.1),
    Pass(name: "small object, nothing known", byteCount: 30_000, missing: 1),
    Pass(name: "block, a tenth missing", byteCount: 400_000, missing: 0.1),
    Pass(name: "block, nothing known", byteCount: 1_000_000, missing: 1),
    Pass(name: "block, nothing known, scattered indexes", byteCount: 1_000_000, missing: 1, step: 3),
  ]

  @Test(arguments: passes) func packetsAllocateNothing(_ pass: Pass) throws {
    var random = SeededRandom(seed: 9)
    let object = random.bytes(pass.byteCount)
    let shape = try ObjectShape(byteCount: object.count, chunkSize: 1_152)
    let known = pass.missing == 1 ? [] : randomRanges(object.count, mean: 500, missing: pass.missing, &random).known
    var encoder = try Encoder(object.span.bytes, shape: shape)
    var decoder = Decoder(shape)
    var chunk = [UInt8](repeating: 0, count: 1_152)
    var counted: Int64 = -1
    for round in 0..<2 {
      let before = thread_allocations()
      try encoder.reset(object.span.bytes, shape: shape)
      while encoder.prepare() == .more {}
      decoder.reset(shape)
      for range in known { try decoder.addKnown(range, object.span.bytes.extracting(range)) }
      while decoder.work() == .more {}
      try decoder.addPartialSource(2, at: 17, object.span.bytes.extracting(2_321..<2_900))
      try decoder.withdraw(0..<700)
      var index = 777
      while decoder.needed > 0 {
        do {
          var span = chunk.mutableSpan
          var raw = span.mutableBytes
          try encoder.writeRepair(index, into: &raw)
        }
        try decoder.addRepair(index, chunk.span.bytes)
        if index == 780 { try decoder.addKnown(5_000..<5_600, object.span.bytes.extracting(5_000..<5_600)) }
        while decoder.work() == .more {}
        index += pass.step
      }
      try decoder.finish()
      if round == 1 { counted = thread_allocations() - before }
      let isRight = decoder.array() == object
      #expect(isRight)
    }
    #expect(counted == 0 || thread_allocations() == -1)
  }

  /// Refused packets cost no more allocations than `throw` does: none in itself, but the testing library records a
  /// backtrace of every error thrown.
  @Test(arguments: [30_000, 400_000]) func refusalsAllocateNothing(_ bytes: Int) throws {
    var random = SeededRandom(seed: 10)
    let object = random.bytes(bytes)
    var encoder = try Encoder(object, 1_152)
    var decoder = Decoder(encoder.shape)
    let (source, repair) = ([UInt8](object[3_456..<4_608]), try encoder.repair(5))
    var wrong = repair
    wrong[100] ^= 1
    try decoder.addSource(3, source.span.bytes)
    try decoder.addRepair(5, repair.span.bytes)
    var errors = 0
    func count(_ body: () throws(ErasureError) -> Void) -> Int64 {
      let before = thread_allocations()
      for _ in 0..<20 {
        do throws(ErasureError) { try body() } catch { errors += 1 }
      }
      return thread_allocations() - before
    }
    _ = count { () throws(ErasureError) in throw .incomplete }  // the library's own first use
    let bare = count { () throws(ErasureError) in throw .incomplete }
    #expect(bare >= count { () throws(ErasureError) in try decoder.addSource(3, source.span.bytes) })
    #expect(bare >= count { () throws(ErasureError) in try decoder.addRepair(5, repair.span.bytes) })
    #expect(bare >= count { () throws(ErasureError) in try decoder.addRepair(5, wrong.span.bytes) })
    #expect(bare >= count { () throws(ErasureError) in try decoder.addRepair(-1, repair.span.bytes) })
    #expect(bare >= count { () throws(ErasureError) in try decoder.addRepair(6, repair.span.bytes.extracting(0..<64)) })
    #expect(bare >= count { () throws(ErasureError) in try decoder.addSource(3, wrong.span.bytes) })
    #expect(bare >= count { () throws(ErasureError) in try decoder.finish() })
    #expect(errors == 9 * 20)
  }

  /// Large pieces come back as they were given: no page is touched for the first time twice. No two have the same one.
  @Test func largePiecesAreKept() {
    let bytes = 3_000_001
    func base() -> UInt {
      let memory = AlignedBytes(bytes)
      memory.base[bytes - 1] = 1
      return UInt(bitPattern: memory.base)
    }
    // Other tests take and give at the same time: one of a few tries finds its own piece again.
    let places = (0..<50).map { _ in base() }
    #expect(Set(places).count < 50)
    var held: [AlignedBytesBox] = []
    for _ in 0..<100 { held.append(AlignedBytesBox(bytes)) }
    for box in held { box.memory.base[0] = 7 }
    #expect(Set(held.map { UInt(bitPattern: $0.memory.base) }).count == 100)
  }

  /// No more is kept than 64 pieces and 64 MB, and nothing small.
  @Test func whatIsKeptIsBounded() {
    var kept = LargePieces.Kept()
    // Nothing looks into the pieces: one address stands for all.
    let piece = LargePieces.Piece(UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64))
    defer { piece.memory.deallocate() }
    func give(_ bytes: Int, times: Int) -> [Int] {
      let count = (0..<times).count { _ in kept.give(piece, bytes) }
      return [count, kept.count, kept.bytes >> 20]
    }
    func take(_ bytes: Int) -> Int {
      var count = 0
      while kept.take(bytes) != nil { count += 1 }
      return count
    }
    #expect(give(LargePieces.bytesLeast - 1, times: 3) == [0, 0, 0])
    #expect(give(3 << 20, times: 100) == [21, 21, 63])
    #expect(give(2 << 20, times: 1) == [0, 21, 63])
    #expect(give(1 << 20, times: 2) == [1, 22, 64])
    #expect(take(3 << 20) == 21 && take(2 << 20) == 0 && take(1 << 20) == 1)
    #expect(give(LargePieces.bytesLeast, times: 100) == [64, 64, 4])
    #expect(give(1 << 20, times: 1) == [0, 64, 4])
  }

  private final class AlignedBytesBox {
    let memory: AlignedBytes
    init(_ count: Int) { memory = AlignedBytes(count) }
  }
}
