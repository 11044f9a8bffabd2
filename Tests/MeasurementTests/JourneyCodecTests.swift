import Ground
import Measurement
import Testing

private func decode(_ bytes: [UInt8]) throws(DecodeError) -> [Journey] { try JourneyCodec.decode(bytes.span.bytes) }

@Suite struct JourneyCodecTests {
  @Test func whatIsWrittenIsRead() throws {
    var random = SeededRandom(seed: 1)
    for _ in 0..<500 {
      let journeys = (0..<random.below(12)).map { _ in randomJourney(&random) }
      let (bytes, count) = JourneyCodec.encode(journeys)
      #expect(bytes.count <= JourneyCodec.maxBytes)
      #expect(try decode(bytes) == Array(journeys.prefix(count)))
      #expect(count == journeys.count || bytes.count > JourneyCodec.maxBytes - 260)
    }
  }

  @Test func aFullRecordIsSmallAndSeveralFit() {
    var random = SeededRandom(seed: 2)
    var journey = randomJourney(&random)
    for stage in Journey.Stage.allCases { journey[stage] = .seconds(3_600) }
    let (bytes, count) = JourneyCodec.encode([Journey](repeating: journey, count: 20))
    #expect(count >= 5 && bytes.count <= 1_100)
  }

  @Test func everyTruncationAndTrailingByteIsRefused() {
    var random = SeededRandom(seed: 3)
    let (bytes, _) = JourneyCodec.encode([randomJourney(&random), randomJourney(&random)])
    for length in 0..<bytes.count {
      #expect(throws: DecodeError.self) { try decode(Array(bytes[..<length])) }
    }
    #expect(throws: DecodeError.self) { try decode(bytes + [0]) }
  }

  @Test func liesAreRefusedByName() throws {
    var random = SeededRandom(seed: 4)
    let journey = randomJourney(&random)
    func expect(_ field: String, _ change: (inout [UInt8]) -> Void) {
      var (bytes, _) = JourneyCodec.encode([journey])
      change(&bytes)
      #expect { try decode(bytes) } throws: { ($0 as? DecodeError)?.field == field }
    }
    expect("journey.version") { $0[0] = 2 }
    expect("journey.count") { $0[1] = 200 }
    let height = journey.height < 0xFD ? 1 : journey.height < 0x10000 ? 3 : 5
    expect("journey.flags") { $0[34 + height] = 2 }
    expect("journey.stations") { $0[34 + height + 10] = 0xFF }
    var liar = journey
    liar.knownBytes = liar.bodyBytes + 1
    let (bytes, _) = JourneyCodec.encode([liar])
    #expect { try decode(bytes) } throws: {
      ($0 as? DecodeError)?.field == "journey.known_bytes"
    }
    expect("journey") { $0 += [UInt8](repeating: 0, count: 1_100) }
  }

  /// Random and mutated bytes: never a crash, and what is taken is exactly what would have been sent.
  @Test func hostileBytes() {
    var random = SeededRandom(seed: 5)
    var taken = 0
    for round in 0..<30_000 {
      var bytes: [UInt8]
      if round % 3 == 0 {
        bytes = random.bytes(random.below(1_200))
        if !bytes.isEmpty && round % 2 == 0 { bytes[0] = 1 }
      } else {
        bytes = JourneyCodec.encode((0..<(1 + random.below(4))).map { _ in randomJourney(&random) }).bytes
        for _ in 0..<(1 + random.below(4)) { bytes[random.below(bytes.count)] = UInt8(random.below(256)) }
      }
      guard let journeys = try? decode(bytes) else { continue }
      taken += 1
      #expect(JourneyCodec.encode(journeys).bytes == bytes)
    }
    #expect(taken > 1_000)
  }
}
