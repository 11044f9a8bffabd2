import Ground

/// A journey as one site keeps it: by whom, and when by the site's own clock.
public struct StoredJourney: Hashable, Sendable {
  public var journey: Journey
  /// The relay, as the topology names it. From the session; never from the peer's bytes.
  public var site: String
  /// `journey.first` in nanoseconds since 1970 by the clock of the site that keeps the store.
  public var firstUnix: Int64
  /// Half the width of the bounds on that time: 0 for the site's own.
  public var uncertainty: Interval
  /// The neighbour that passed it on, and how many relays did; nil and 0: the relay itself told it.
  public var via: String?
  public var hops: Int

  public init(
    journey: Journey, site: String, firstUnix: Int64, uncertainty: Interval, via: String? = nil, hops: Int = 0
  ) {
    (self.journey, self.site, self.firstUnix, self.uncertainty) = (journey, site, firstUnix, uncertainty)
    (self.via, self.hops) = (via, hops)
  }
}

/// A public announcement of a block.
public struct PublicNews: Hashable, Sendable {
  public var block: BlockID
  public var source: String
  public var atUnix: Int64
  public init(block: BlockID, source: String, atUnix: Int64) {
    (self.block, self.source, self.atUnix) = (block, source, atUnix)
  }
}

/// One interval of one direction of a link.
public struct LinkSample: Hashable, Sendable {
  public var from, to: String
  /// End of the interval.
  public var atUnix: Int64
  public var span: Interval
  public var summary: LinkMeter.Summary
  public init(from: String, to: String, atUnix: Int64, span: Interval, summary: LinkMeter.Summary) {
    (self.from, self.to, self.atUnix, self.span, self.summary) = (from, to, atUnix, span, summary)
  }
}

/// What was known of a peer's clock, or (site's own name) what the kernel said of the own one.
public struct ClockRecord: Hashable, Sendable {
  public var site: String
  public var atUnix: Int64
  public var bounds: ClockBounds?
  public var steps: Int
  public var kernel: KernelClock?
  /// The neighbour by way of which the bounds were proved, the sum of all on the way; nil: exchanges with the site itself.
  public var via: String?
  public init(
    site: String, atUnix: Int64, bounds: ClockBounds?, steps: Int = 0, kernel: KernelClock? = nil, via: String? = nil
  ) {
    (self.site, self.atUnix, self.bounds, self.steps, self.kernel) = (site, atUnix, bounds, steps, kernel)
    self.via = via
  }
}

/// The site's memory of journeys, public announcements, links and clocks, in one SQLite file.
///
/// Write-ahead log, so a report reads while the relay writes. Bounded twice: rows older than `retention` go, and when
/// the file nears `maxBytes` the oldest tenth goes; `PRAGMA max_page_count` makes the bound hard. A file of a newer
/// schema is refused, never touched. One thread at a time; not for the packet thread (a write can wait for the disk).
public final class JourneyStore {
  public struct Limits: Hashable, Sendable {
    public var maxBytes = 256 << 20
    public var retention = Interval.seconds(30 * 86_400)
    public init() {}
    public init(maxBytes: Int, retention: Interval) { (self.maxBytes, self.retention) = (maxBytes, retention) }
  }

  public static let schemaVersion: Int64 = 2
  static let pageBytes: Int64 = 4_096
  public let limits: Limits
  let database: Database
  /// Rows removed by age, and by the bound on the file.
  public private(set) var expired = 0
  public private(set) var evicted = 0

  /// Opens or creates.
  /// - Throws: `StoreError`; code 11 or 26 for a damaged file, 1 with a message for a newer schema.
  public init(path: String, limits: Limits = Limits(), readOnly: Bool = false) throws(StoreError) {
    self.limits = limits
    database = try Database(path: path, readOnly: readOnly)
    let version = try database.integer("PRAGMA user_version") ?? 0
    if version > JourneyStore.schemaVersion {
      throw StoreError(
        code: 1, message: "the file has schema \(version); this program knows up to \(JourneyStore.schemaVersion)")
    }
    if readOnly {
      if version == 0 { throw StoreError(code: 26, message: "the file holds no measurements") }
      return
    }
    if version == 0 {
      try database.run("PRAGMA page_size = \(JourneyStore.pageBytes)")
      try database.run("PRAGMA auto_vacuum = INCREMENTAL")
    }
    try database.run("PRAGMA journal_mode = WAL")
    // A power cut may lose the last moments of measurements; it can't damage the file.
    try database.run("PRAGMA synchronous = NORMAL")
    try database.run("PRAGMA journal_size_limit = 4194304")
    let pages = max(Int64(limits.maxBytes) / JourneyStore.pageBytes, 64)
    try database.run("PRAGMA max_page_count = \(pages)")
    if version == 0 { try createSchema() }
    if version == 1 { try addPassages() }
  }

  /// Schema 1 knew neighbours' journeys only.
  private func addPassages() throws(StoreError) {
    let db = database
    try db.transaction { () throws(StoreError) in
      try db.run("ALTER TABLE journeys ADD COLUMN via TEXT")
      try db.run("ALTER TABLE journeys ADD COLUMN hops INTEGER NOT NULL DEFAULT 0")
      try db.run("ALTER TABLE clocks ADD COLUMN via TEXT")
      try db.run("PRAGMA user_version = \(JourneyStore.schemaVersion)")
    }
  }

  private func createSchema() throws(StoreError) {
    let db = database
    try db.transaction { () throws(StoreError) in
      for statement in JourneyStore.schema { try db.run(statement) }
      try db.run("PRAGMA user_version = \(JourneyStore.schemaVersion)")
    }
  }

  static let schema: [String] = {
    let stages = Journey.Stage.allCases.map { "\($0.name)_ns INTEGER" }.joined(separator: ", ")
    let counts = Journey.counts.map { "\($0.name) INTEGER NOT NULL" }.joined(separator: ", ")
    return [
      "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
      "CREATE TABLE sites(name TEXT PRIMARY KEY, latitude REAL, longitude REAL) WITHOUT ROWID",
      """
      CREATE TABLE journeys(block BLOB NOT NULL, site TEXT NOT NULL, height INTEGER NOT NULL, origin INTEGER NOT NULL,
        first_clock INTEGER NOT NULL, first_unix INTEGER NOT NULL, uncertainty_ns INTEGER NOT NULL, \(stages), \(counts),
        via TEXT, hops INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(block, site)) WITHOUT ROWID
      """,
      "CREATE INDEX journeys_by_time ON journeys(first_unix)",
      """
      CREATE TABLE news(block BLOB NOT NULL, source TEXT NOT NULL, at_unix INTEGER NOT NULL,
        PRIMARY KEY(block, source)) WITHOUT ROWID
      """,
      "CREATE INDEX news_by_time ON news(at_unix)",
      """
      CREATE TABLE links(at_unix INTEGER NOT NULL, from_site TEXT NOT NULL, to_site TEXT NOT NULL,
        span_ns INTEGER NOT NULL, expected INTEGER NOT NULL, received INTEGER NOT NULL, reordered INTEGER NOT NULL,
        duplicates INTEGER NOT NULL, jitter_ns INTEGER NOT NULL, delay_low_ns INTEGER, delay_high_ns INTEGER,
        round_trip_ns INTEGER, PRIMARY KEY(at_unix, from_site, to_site)) WITHOUT ROWID
      """,
      """
      CREATE TABLE clocks(at_unix INTEGER NOT NULL, site TEXT NOT NULL, low_ns INTEGER, high_ns INTEGER,
        drift_low_ppm REAL, drift_high_ppm REAL, steps INTEGER NOT NULL, kernel_state INTEGER,
        kernel_max_error_ns INTEGER, kernel_error_ns INTEGER, kernel_ppm REAL, via TEXT,
        PRIMARY KEY(at_unix, site)) WITHOUT ROWID
      """,
    ]
  }()

  // MARK: Writing

  /// A site of the topology; the keeping site itself by `setHome`.
  public func setSite(_ name: String, position: SitePosition?) throws(StoreError) {
    try database.run(
      "INSERT OR REPLACE INTO sites VALUES(?, ?, ?)",
      [.text(name), Value(position?.latitude), Value(position?.longitude)])
  }

  /// Which site's clock the times are.
  public func setHome(_ name: String) throws(StoreError) {
    try database.run("INSERT OR REPLACE INTO meta VALUES('home', ?)", [.text(name)])
  }

  /// Many writes as one transaction: what the relay does once a second.
  public func batch(_ body: () throws(StoreError) -> Void) throws(StoreError) { try database.transaction(body) }

  static let insertJourney: String = {
    let places = Array(repeating: "?", count: 9 + Journey.Stage.allCases.count + Journey.counts.count)
    return "INSERT OR REPLACE INTO journeys VALUES(\(places.joined(separator: ", ")))"
  }()

  public func add(_ stored: StoredJourney) throws(StoreError) {
    let journey = stored.journey
    var values: [Value] = [
      .blob(journey.block.bytes), .text(stored.site), .integer(Int64(journey.height)),
      .integer(journey.isOrigin ? 1 : 0), .integer(Int64(bitPattern: journey.first.nanoseconds)),
      .integer(stored.firstUnix), .integer(stored.uncertainty.nanoseconds),
    ]
    for stage in Journey.Stage.allCases { values.append(Value(journey[stage]?.nanoseconds)) }
    for (_, path, _) in Journey.counts { values.append(.integer(Int64(journey[keyPath: path]))) }
    values += [Value(stored.via), .integer(Int64(stored.hops))]
    try database.run(JourneyStore.insertJourney, values)
  }

  /// The first announcement by each source counts.
  public func add(_ news: PublicNews) throws(StoreError) {
    try database.run(
      "INSERT OR IGNORE INTO news VALUES(?, ?, ?)",
      [.blob(news.block.bytes), .text(news.source), .integer(news.atUnix)])
  }

  public func add(_ sample: LinkSample) throws(StoreError) {
    let summary = sample.summary
    try database.run(
      "INSERT OR REPLACE INTO links VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      [
        .integer(sample.atUnix), .text(sample.from), .text(sample.to), .integer(sample.span.nanoseconds),
        .integer(Int64(clamping: summary.expected)), .integer(Int64(clamping: summary.received)),
        .integer(Int64(clamping: summary.reordered)), .integer(Int64(clamping: summary.duplicates)),
        .integer(summary.jitter.nanoseconds), Value(summary.delayLow?.nanoseconds),
        Value(summary.delayHigh?.nanoseconds), Value(summary.roundTrip?.nanoseconds),
      ])
  }

  public func add(_ record: ClockRecord) throws(StoreError) {
    try database.run(
      "INSERT OR REPLACE INTO clocks VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      [
        .integer(record.atUnix), .text(record.site), Value(record.bounds?.low.nanoseconds),
        Value(record.bounds?.high.nanoseconds), Value(record.bounds?.driftLowPPM), Value(record.bounds?.driftHighPPM),
        .integer(Int64(record.steps)), Value(record.kernel.map { Int64($0.state.rawValue) }),
        Value(record.kernel?.maxError.nanoseconds), Value(record.kernel?.estimatedError.nanoseconds),
        Value(record.kernel?.frequencyPPM), Value(record.via),
      ])
  }

  // MARK: Bounds

  private static let timed = [
    ("journeys", "first_unix"), ("news", "at_unix"), ("links", "at_unix"), ("clocks", "at_unix"),
  ]

  /// Removes what is too old and keeps the file under its bound. Once a minute is plenty.
  public func prune(nowUnix: Int64) throws(StoreError) {
    let oldest = nowUnix - limits.retention.nanoseconds
    for (table, column) in JourneyStore.timed {
      // Times far in the future can only come from a clock that was wrong; they would never expire.
      try database.run(
        "DELETE FROM \(table) WHERE \(column) < ? OR \(column) > ?",
        [.integer(oldest), .integer(nowUnix + 86_400_000_000_000)])
      expired += Int(try database.integer("SELECT changes()") ?? 0)
    }
    var rounds = 0
    while try usedBytes() > Int64(limits.maxBytes) / 10 * 8, rounds < 64 {
      rounds += 1
      var removed: Int64 = 0
      for (table, column) in JourneyStore.timed {
        let rows = try database.integer("SELECT count(*) FROM \(table)") ?? 0
        if rows == 0 { continue }
        let cut = try database.integer(
          "SELECT \(column) FROM \(table) ORDER BY \(column) LIMIT 1 OFFSET ?", [.integer(max(rows / 10, 1) - 1)])
        try database.run("DELETE FROM \(table) WHERE \(column) <= ?", [Value(cut)])
        removed += try database.integer("SELECT changes()") ?? 0
      }
      evicted += Int(removed)
      if removed == 0 { break }
    }
    try database.run("PRAGMA incremental_vacuum", row: { _ in })
    try database.run("PRAGMA wal_checkpoint(PASSIVE)", row: { _ in })
  }

  /// Pages in use.
  public func usedBytes() throws(StoreError) -> Int64 {
    let pages = try database.integer("PRAGMA page_count") ?? 0
    let free = try database.integer("PRAGMA freelist_count") ?? 0
    return (pages - free) * JourneyStore.pageBytes
  }
}
