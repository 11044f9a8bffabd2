import CLibsqlite3
import Foundation
import Ground
import Measurement
import Testing

@Suite struct JourneyStoreTests {
  private let day: Int64 = 86_400_000_000_000
  private let now: Int64 = 1_790_000_000_000_000_000

  private func stored(_ number: UInt64, site: String = "here", at: Int64) -> StoredJourney {
    var journey = Journey(
      block: blockID(number), height: UInt32(number), isOrigin: false, first: Instant(nanoseconds: number))
    journey[.verified] = .microseconds(Int64(number))
    journey[.tipUpdated] = Interval(nanoseconds: -5)
    journey.bodyBytes = 1_000_000
    journey.knownBytes = 990_000
    return StoredJourney(journey: journey, site: site, firstUnix: at, uncertainty: .microseconds(250))
  }

  @Test func everythingComesBack() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let store = try JourneyStore(path: file.path)
    try store.setHome("here")
    try store.setSite("here", position: SitePosition(latitude: 50.5, longitude: -8.25))
    try store.setSite("odd'; DROP TABLE sites; --", position: nil)
    var random = SeededRandom(seed: 8)
    let journeys = (0..<50).map { index in
      StoredJourney(
        journey: randomJourney(&random), site: "site \(index % 3)", firstUnix: now + Int64(index),
        uncertainty: .microseconds(Int64(index)))
    }
    var summary = LinkMeter.Summary()
    (summary.expected, summary.received, summary.reordered) = (100, 97, 2)
    (summary.delayLow, summary.delayHigh) = (.milliseconds(Int64(19)), .milliseconds(Int64(21)))
    summary.jitter = .microseconds(12)
    let link = LinkSample(from: "here", to: "site 1", atUnix: now, span: .seconds(60), summary: summary)
    let clock = ClockRecord(
      site: "site 1", atUnix: now,
      bounds: ClockBounds(low: .zero, high: .microseconds(5), driftLowPPM: -0.5, driftHighPPM: 1),
      steps: 2)
    let kernel = ClockRecord(
      site: "here", atUnix: now, bounds: nil,
      kernel: KernelClock(
        state: .ok, maxError: .microseconds(900), estimatedError: .microseconds(30), frequencyPPM: -12.25))
    let news = PublicNews(block: blockID(1), source: "peer \"x\"\n", atUnix: now + 7)
    var output = Recorder.Output()
    (output.journeys, output.news, output.links, output.clocks) = (journeys, [news], [link], [clock, kernel])
    try store.write(output)

    let reader = try JourneyStore(path: file.path, readOnly: true)
    #expect(try reader.home() == "here")
    #expect(try reader.sites().map(\.name) == ["here", "odd'; DROP TABLE sites; --"])
    #expect(try reader.sites()[0].position == SitePosition(latitude: 50.5, longitude: -8.25))
    #expect(try reader.journeys(in: now...now + 100) == journeys)
    #expect(try reader.journeys(of: journeys[9].journey.block) == [journeys[9]])
    #expect(try reader.journeys(in: now...now + 4).count == 5)
    #expect(try reader.news(in: now...now + 100) == [news])
    #expect(try reader.links(in: now...now) == [link])
    #expect(try reader.clocks(in: 0...now) == [kernel, clock])
    #expect(throws: StoreError.self) { try reader.add(news) }
  }

  @Test func oldRowsGo() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let store = try JourneyStore(path: file.path, limits: .init(maxBytes: 64 << 20, retention: .seconds(7 * 86_400)))
    for age in 0..<20 { try store.add(stored(UInt64(age), at: now - Int64(age) * day)) }
    try store.add(stored(99, at: now + 2 * day))  // a clock that was wrong
    try store.prune(nowUnix: now)
    #expect(try store.journeys(in: 0...Int64.max).count == 8)
    #expect(store.expired == 13)
  }

  @Test func theFileStaysBounded() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let bound = 1 << 20
    let store = try JourneyStore(path: file.path, limits: .init(maxBytes: bound, retention: .seconds(365 * 86_400)))
    for round in 0..<20 {
      try store.batch { () throws(StoreError) in
        for index in 0..<1_000 {
          let number = UInt64(round * 1_000 + index)
          try store.add(stored(number, at: now + Int64(number)))
        }
      }
      try store.prune(nowUnix: now)
      #expect(try store.usedBytes() <= Int64(bound))
    }
    #expect(store.evicted > 10_000)
    let left = try store.journeys(in: 0...Int64.max)
    #expect(left.count > 1_000)
    // The oldest went, and only they.
    #expect(left.last?.journey.height == 19_999)
    #expect(left.first?.journey.height == UInt32(20_000 - left.count))
    // Database, and a write-ahead log that is cut back to 4 MiB.
    #expect(file.size <= bound + (5 << 20))
  }

  /// Nobody prunes: the bound holds nevertheless, as an error that says so, and reading goes on.
  @Test func theBoundIsHard() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    let store = try JourneyStore(path: file.path, limits: .init(maxBytes: 512 << 10, retention: .seconds(86_400)))
    var failure: StoreError?
    do throws(StoreError) {
      for number in 0..<20_000 { try store.add(stored(UInt64(number), at: now + Int64(number))) }
    } catch { failure = error }
    #expect(failure?.isFull == true)
    #expect(try store.journeys(in: 0...Int64.max).count > 500)
    try store.prune(nowUnix: now)
    try store.add(stored(1_000_000, at: now))
  }

  @Test func foreignFilesAreRefused() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    try Data("not a database, but long enough to look at for a while....".utf8).write(
      to: URL(fileURLWithPath: file.path))
    #expect { try JourneyStore(path: file.path) } throws: { ($0 as? StoreError)?.code == SQLITE_NOTADB }
    try FileManager.default.removeItem(atPath: file.path)
    #expect(throws: StoreError.self) { try JourneyStore(path: file.path, readOnly: true) }

    _ = try JourneyStore(path: file.path)
    var handle: OpaquePointer?
    #expect(sqlite3_open(file.path, &handle) == SQLITE_OK)
    #expect(sqlite3_exec(handle, "PRAGMA user_version = 3", nil, nil, nil) == SQLITE_OK)
    sqlite3_close(handle)
    #expect { try JourneyStore(path: file.path) } throws: { "\($0)".contains("schema 3") }
  }

  /// A file of the schema before journeys were passed on: read as it is, and brought up to date by who writes it.
  @Test func theSchemaBeforeIsReadAndBroughtUpToDate() throws {
    let file = try ScratchFile()
    defer { file.remove() }
    do {
      let store = try JourneyStore(path: file.path)
      try store.add(stored(1, at: now))
      try store.add(
        ClockRecord(site: "there", atUnix: now, bounds: ClockBounds(low: .zero, high: .milliseconds(1 as Int64))))
    }
    var handle: OpaquePointer?
    #expect(sqlite3_open(file.path, &handle) == SQLITE_OK)
    for statement in [
      "ALTER TABLE journeys DROP COLUMN via", "ALTER TABLE journeys DROP COLUMN hops",
      "ALTER TABLE clocks DROP COLUMN via", "PRAGMA user_version = 1",
    ] { #expect(sqlite3_exec(handle, statement, nil, nil, nil) == SQLITE_OK, "\(statement)") }
    sqlite3_close(handle)
    do {
      let old = try JourneyStore(path: file.path, readOnly: true)
      #expect(try old.journeys(in: 0...Int64.max).map(\.hops) == [0])
      #expect(try old.clocks(in: 0...Int64.max).map(\.via) == [nil])
    }
    let store = try JourneyStore(path: file.path)
    var passed = stored(2, at: now + 1)
    (passed.via, passed.hops) = ("there", 3)
    try store.add(passed)
    try store.add(ClockRecord(site: "beyond", atUnix: now, bounds: nil, via: "there"))
    let journeys = try store.journeys(in: 0...Int64.max)
    #expect(journeys.map(\.via) == [nil, "there"] && journeys.map(\.hops) == [0, 3] && journeys[1] == passed)
    #expect(try store.clocks(in: 0...Int64.max).map(\.via) == ["there", nil])
  }
}
