import Ground
import Testing

@Suite struct InstantTests {
  @Test func arithmeticSaturates() {
    #expect(Instant.zero - .seconds(1) == .zero)
    #expect(Instant.never + .seconds(1) == .never)
    #expect(Instant(nanoseconds: .max - 1) + .seconds(1) == .never)
    #expect(Instant(nanoseconds: 5) - Instant(nanoseconds: 9) == Interval(nanoseconds: -4))
    #expect(Interval(nanoseconds: .max) + .seconds(1) == Interval(nanoseconds: .max))
    #expect(Interval(nanoseconds: .min) - .seconds(1) == Interval(nanoseconds: .min))
    #expect(Interval.milliseconds(1.5) == .microseconds(1500))
    #expect(Interval.milliseconds(Double.infinity) == Interval(nanoseconds: .max))
  }
}

@Suite struct SeededRandomTests {
  @Test func sameSeedSameDraws() {
    var a = SeededRandom(seed: 7)
    var b = SeededRandom(seed: 7)
    var c = SeededRandom(seed: 8)
    let draws = (0..<100).map { _ in a.next() }
    #expect(draws == (0..<100).map { _ in b.next() })
    #expect(draws != (0..<100).map { _ in c.next() })
  }

  @Test func boundsAreKept() {
    var random = SeededRandom(seed: 1)
    var seen = Set<Int>()
    for _ in 0..<1000 { seen.insert(random.below(7)) }
    #expect(seen == Set(0..<7))
  }
}

@Suite struct ByteReaderTests {
  @Test func compactSizes() throws {
    for value in [0, 0xFC, 0xFD, 0xFFFF, 0x1_0000, 0xFFFF_FFFF, 0x1_0000_0000, UInt64.max] {
      var writer = ByteWriter()
      writer.compactSize(value)
      var reader = ByteReader(writer.bytes.span.bytes)
      #expect(try reader.compactSize("n") == value)
      try reader.end("n")
    }
  }

  @Test(arguments: [[0xFD, 0xFC, 0], [0xFE, 0xFF, 0xFF, 0, 0], [0xFF, 1, 0, 0, 0, 0, 0, 0, 0]] as [[UInt8]])
  func longFormsAreRefused(bytes: [UInt8]) {
    var reader = ByteReader(bytes.span.bytes)
    var error: DecodeError?
    do { _ = try reader.compactSize("n") } catch let caught { error = caught }
    #expect(error == DecodeError("n", at: 0, .notCanonical))
  }

  @Test func truncationNamesFieldAndOffset() {
    let bytes: [UInt8] = [1, 2, 3]
    var reader = ByteReader(bytes.span.bytes)
    var error: DecodeError?
    do {
      _ = try reader.byte("first")
      _ = try reader.integer(UInt32.self, "second")
    } catch let caught { error = caught }
    #expect(error == DecodeError("second", at: 1, .truncated(needed: 4, available: 2)))
  }

  @Test func hugeCountsAreRefusedBeforeAllocation() {
    var writer = ByteWriter()
    writer.compactSize(UInt64.max)
    writer.append([0, 0, 0])
    var reader = ByteReader(writer.bytes.span.bytes)
    var error: DecodeError?
    do { _ = try reader.count(itemBytes: 41, "vin") } catch let caught { error = caught }
    #expect(error == DecodeError("vin", at: 0, .outOfRange(value: .max, limit: 0)))
  }

  @Test func bigEndianReads() throws {
    let bytes: [UInt8] = [0x12, 0x34, 0x56]
    var reader = ByteReader(bytes.span.bytes)
    #expect(try reader.bigEndian(UInt16.self, "port") == 0x1234)
    #expect(reader.remaining == 1)
  }
}

@Suite struct HexTests {
  @Test func roundTrip() {
    #expect(Hex.decode("00ffA5") == [0, 255, 0xA5])
    #expect(Hex.encode([0, 255, 0xA5]) == "00ffa5")
    #expect(Hex.decode("abc") == nil)
    #expect(Hex.decode("zz") == nil)
  }
}
