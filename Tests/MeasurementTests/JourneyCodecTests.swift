import Ground
import Measurement
import Testing

private func decode(_ bytes: [UInt8]) throws(DecodeError) -> [ToldJourney] { try JourneyCodec.decode(bytes.span.bytes) }

@Suite struct JourneyCodecTests {
  @Test func whatIsWrittenIsRead() throws {
    var random = SeededRandom(seed: 1)
    for _ in 0..<500 {
      let journeys = (0..<random.below(12)).map { _ in randomTold(&random) }
      let (bytes, count) = JourneyCodec.encode(journeys)
      #expect(bytes.count <= JourneyCodec.maxBytes)
      #expect(try decode(bytes) == Array(journeys.prefix(count)))
      #expect(count == journeys.count || bytes.count > JourneyCodec.maxBytes - 350)
    }
  }

  @Test func aFullRecordIsSmallAndSeveralFit() {
    var random = SeededRandom(seed: 2)
    var journey = randomJourney(&random)
    for stage in Journey.Stage.allCases { journey[stage] = .seconds(3_600) }
    let (bytes, count) = JourneyCodec.encode([ToldJourney](repeating: told(journey), count: 20))
    #expect(count >= 3 && bytes.count <= 1_100)
  }

  @Test func everyTruncationAndTrailingByteIsRefused() {
    var random = SeededRandom(seed: 3)
    let (bytes, _) = JourneyCodec.encode([randomTold(&random), randomTold(&random)])
    for length in 0..<bytes.count {
      #expect(throws: DecodeError.self) { try decode(Array(bytes[..<length])) }
    }
    #expect(throws: DecodeError.self) { try decode(bytes + [0]) }
  }

  @Test func liesAreRefusedByName() throws {
    var random = SeededRandom(seed: 4)
    let journey = randomJourney(&random)
    let passage = ToldJourney.Passage(hops: 2, first: Instant(nanoseconds: 7), width: .zero)
    func expect(_ field: String, by journey: ToldJourney, _ change: (inout [UInt8]) -> Void) {
      var (bytes, _) = JourneyCodec.encode([journey])
      change(&bytes)
      #expect { try decode(bytes) } throws: { ($0 as? DecodeError)?.field == field }
    }
    let plain = told(journey)
    let far = told(journey, passage: passage)
    expect("journey.version", by: plain) { $0[0] = 1 }
    expect("journey.count", by: plain) { $0[1] = 200 }
    // Version, count, maker; then hops.
    expect("journey.hops", by: plain) { $0[6] = 17 }
    expect("journey.hops", by: far) { $0[6] = 255 }
    // A claim of ten seconds and one nanosecond, that is of nothing.
    expect("journey.passage.width", by: far) {
      $0.replaceSubrange(15..<16, with: [0xFF] + withUnsafeBytes(of: UInt64(10_000_000_001).littleEndian) { Array($0) })
    }
    // An absurd length, one too short for what is in it, and one that takes from the next.
    let length = 7 + 64
    expect("journey.statement", by: plain) { $0.replaceSubrange(length..<length + 1, with: [0xFD, 0x2D, 0x01]) }
    expect("journey.statement", by: plain) {
      $0.replaceSubrange(length..<length + 1, with: [0xFE, 0xFF, 0xFF, 0xFF, 0xFF])
    }
    expect("journey.failed_checks", by: plain) { $0[length] -= 1 }
    let start = length + 1
    let height = journey.height < 0xFD ? 1 : journey.height < 0x10000 ? 3 : 5
    expect("journey.flags", by: plain) { $0[start + 32 + height] = 2 }
    expect("journey.stations", by: plain) { $0[start + 32 + height + 10] = 0xFF }
    var liar = journey
    liar.knownBytes = liar.bodyBytes + 1
    expect("journey.known_bytes", by: told(liar)) { _ in }
    expect("journey", by: plain) { $0 += [UInt8](repeating: 0, count: 1_100) }
  }

  /// Random and mutated bytes: never a crash, and what is taken is exactly what would have been sent.
  @Test func hostileBytes() {
    var random = SeededRandom(seed: 5)
    var taken = 0
    for round in 0..<30_000 {
      var bytes: [UInt8]
      if round % 3 == 0 {
        bytes = random.bytes(random.below(1_200))
        if !bytes.isEmpty && round % 2 == 0 { bytes[0] = JourneyCodec.version }
      } else {
        bytes = JourneyCodec.encode((0..<(1 + random.below(4))).map { _ in randomTold(&random) }).bytes
        for _ in 0..<(1 + random.below(4)) { bytes[random.below(bytes.count)] = UInt8(random.below(256)) }
      }
      guard let journeys = try? decode(bytes) else { continue }
      taken += 1
      #expect(JourneyCodec.encode(journeys).bytes == bytes)
    }
    #expect(taken > 1_000)
  }
}
