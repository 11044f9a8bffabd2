import Foundation
import Ground
import Measurement

func blockID(_ number: UInt64) -> BlockID { BlockID(words: [number &* 0x9E37_79B9_7F4A_7C15, number, 7, 0]) }

func randomJourney(_ random: inout SeededRandom) -> Journey {
  var journey = Journey(
    block: BlockID(bytes: random.bytes(32))!, height: UInt32(random.below(2_000_000)), isOrigin: random.chance(0.3),
    first: Instant(nanoseconds: random.next()))
  for stage in Journey.Stage.allCases where random.chance(0.8) {
    journey[stage] = Interval(nanoseconds: Int64(random.below(4_000_000_000)) - 1_000_000_000)
  }
  journey.bodyBytes = random.below(4_000_000)
  journey.knownBytes = random.below(journey.bodyBytes + 1)
  journey.sketchBytes = random.below(30_000)
  journey.transactions = random.below(6_000)
  journey.missingTransactions = random.below(journey.transactions + 1)
  journey.packetsIn = random.below(10_000)
  journey.bytesOut = random.below(1_000_000_000)
  journey.requests = random.below(5)
  return journey
}

/// As its maker tells it, or, with `hops`, as another relay does. The signature is not real.
func told(_ journey: Journey, maker: UInt32 = 3, passage: ToldJourney.Passage? = nil) -> ToldJourney {
  var told = ToldJourney(
    journey, maker: maker, signature: (0..<64).map { UInt8(truncatingIfNeeded: UInt32($0) &+ maker) })
  told.passage = passage
  return told
}

func randomTold(_ random: inout SeededRandom) -> ToldJourney {
  var passage: ToldJourney.Passage?
  if random.chance(0.5) {
    passage = ToldJourney.Passage(
      hops: 1 + random.below(JourneyCodec.hopsMax), first: Instant(nanoseconds: random.next()),
      width: .microseconds(Int64(random.below(10_000_000))))
  }
  return told(randomJourney(&random), maker: UInt32(truncatingIfNeeded: random.next()), passage: passage)
}

/// A path in a new directory of its own, removed by the caller.
struct ScratchFile {
  let directory: URL
  var path: String { directory.appendingPathComponent("store.sqlite").path }
  init() throws {
    directory = FileManager.default.temporaryDirectory.appendingPathComponent("lightpath-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
  }
  func remove() { try? FileManager.default.removeItem(at: directory) }
  /// Bytes on disk, write-ahead log included.
  var size: Int {
    let files = (try? FileManager.default.contentsOfDirectory(atPath: directory.path)) ?? []
    return files.reduce(0) {
      let attributes = try? FileManager.default.attributesOfItem(atPath: directory.appendingPathComponent($1).path)
      return $0 + ((attributes?[.size] as? Int) ?? 0)
    }
  }
}
