import Ground

extension JourneyStore {
  /// The site whose clock the times are; empty before `setHome`.
  public func home() throws(StoreError) -> String {
    var name = ""
    try database.run("SELECT value FROM meta WHERE key = 'home'") { name = $0[0].text ?? "" }
    return name
  }

  public func sites() throws(StoreError) -> [(name: String, position: SitePosition?)] {
    var result: [(name: String, position: SitePosition?)] = []
    try database.run("SELECT name, latitude, longitude FROM sites ORDER BY name") { row in
      var position: SitePosition?
      if let latitude = row[1].real, let longitude = row[2].real {
        position = SitePosition(latitude: latitude, longitude: longitude)
      }
      result.append((row[0].text ?? "", position))
    }
    return result
  }

  /// Time of the newest journey or link sample; nil for an empty store.
  public func newest() throws(StoreError) -> Int64? {
    try database.integer(
      "SELECT max(t) FROM (SELECT max(first_unix) AS t FROM journeys UNION ALL SELECT max(at_unix) FROM links)")
  }

  private static let journeyColumns =
    (["block", "site", "height", "origin", "first_clock", "first_unix", "uncertainty_ns"]
    + Journey.Stage.allCases.map { "\($0.name)_ns" } + Journey.counts.map(\.name)).joined(separator: ", ")

  /// A file of schema 1 that nobody writes any more is read as it is.
  private func hasPassages() throws(StoreError) -> Bool { try database.integer("PRAGMA user_version") ?? 0 > 1 }

  /// Journeys of `range`, by time.
  public func journeys(in range: ClosedRange<Int64>, limit: Int = 1_000_000) throws(StoreError) -> [StoredJourney] {
    try journeys(
      "WHERE first_unix BETWEEN ? AND ? ORDER BY first_unix LIMIT ?",
      [.integer(range.lowerBound), .integer(range.upperBound), .integer(Int64(limit))])
  }

  /// What all sites told of one block.
  public func journeys(of block: BlockID) throws(StoreError) -> [StoredJourney] {
    try journeys("WHERE block = ? ORDER BY first_unix", [.blob(block.bytes)])
  }

  private func journeys(_ condition: String, _ values: [Value]) throws(StoreError) -> [StoredJourney] {
    var result: [StoredJourney] = []
    let passage = try hasPassages() ? "via, hops" : "NULL, 0"
    try database.run("SELECT \(JourneyStore.journeyColumns), \(passage) FROM journeys \(condition)", values) { row in
      guard let block = row[0].blob.flatMap({ BlockID(bytes: $0) }), let site = row[1].text,
        let firstUnix = row[5].integer
      else { return }
      var journey = Journey(
        block: block, height: UInt32(clamping: row[2].integer ?? 0), isOrigin: row[3].integer == 1,
        first: Instant(nanoseconds: UInt64(bitPattern: row[4].integer ?? 0)))
      var column = 7
      for stage in Journey.Stage.allCases {
        journey[stage] = row[column].integer.map { Interval(nanoseconds: $0) }
        column += 1
      }
      for (_, path, _) in Journey.counts {
        journey[keyPath: path] = Int(row[column].integer ?? 0)
        column += 1
      }
      result.append(
        StoredJourney(
          journey: journey, site: site, firstUnix: firstUnix,
          uncertainty: Interval(nanoseconds: row[6].integer ?? 0), via: row[column].text,
          hops: Int(row[column + 1].integer ?? 0)))
    }
    return result
  }

  /// Public announcements of `range`, by time.
  public func news(in range: ClosedRange<Int64>) throws(StoreError) -> [PublicNews] {
    var result: [PublicNews] = []
    try database.run(
      "SELECT block, source, at_unix FROM news WHERE at_unix BETWEEN ? AND ? ORDER BY at_unix",
      [.integer(range.lowerBound), .integer(range.upperBound)]
    ) { row in
      guard let block = row[0].blob.flatMap({ BlockID(bytes: $0) }), let at = row[2].integer else { return }
      result.append(PublicNews(block: block, source: row[1].text ?? "", atUnix: at))
    }
    return result
  }

  public func links(in range: ClosedRange<Int64>) throws(StoreError) -> [LinkSample] {
    var result: [LinkSample] = []
    try database.run(
      "SELECT * FROM links WHERE at_unix BETWEEN ? AND ? ORDER BY at_unix",
      [.integer(range.lowerBound), .integer(range.upperBound)]
    ) { row in
      var summary = LinkMeter.Summary()
      summary.expected = UInt64(clamping: row[4].integer ?? 0)
      summary.received = UInt64(clamping: row[5].integer ?? 0)
      summary.reordered = UInt64(clamping: row[6].integer ?? 0)
      summary.duplicates = UInt64(clamping: row[7].integer ?? 0)
      summary.jitter = Interval(nanoseconds: row[8].integer ?? 0)
      summary.delayLow = row[9].integer.map { Interval(nanoseconds: $0) }
      summary.delayHigh = row[10].integer.map { Interval(nanoseconds: $0) }
      summary.roundTrip = row[11].integer.map { Interval(nanoseconds: $0) }
      result.append(
        LinkSample(
          from: row[1].text ?? "", to: row[2].text ?? "", atUnix: row[0].integer ?? 0,
          span: Interval(nanoseconds: row[3].integer ?? 0), summary: summary))
    }
    return result
  }

  /// The last record of each clock in `range`.
  public func clocks(in range: ClosedRange<Int64>) throws(StoreError) -> [ClockRecord] {
    var last: [String: ClockRecord] = [:]
    try database.run(
      """
      SELECT c.* FROM clocks c JOIN (SELECT site, max(at_unix) AS t FROM clocks WHERE at_unix BETWEEN ? AND ?
      GROUP BY site) m ON c.site = m.site AND c.at_unix = m.t
      """, [.integer(range.lowerBound), .integer(range.upperBound)]
    ) { row in
      guard let site = row[1].text, let at = row[0].integer else { return }
      var record = ClockRecord(site: site, atUnix: at, bounds: nil, steps: Int(row[6].integer ?? 0))
      if let low = row[2].integer, let high = row[3].integer {
        record.bounds = ClockBounds(
          low: Interval(nanoseconds: low), high: Interval(nanoseconds: high), driftLowPPM: row[4].real ?? 0,
          driftHighPPM: row[5].real ?? 0)
      }
      if let state = row[7].integer.flatMap({ KernelClock.State(rawValue: Int32(clamping: $0)) }) {
        record.kernel = KernelClock(
          state: state, maxError: Interval(nanoseconds: row[8].integer ?? 0),
          estimatedError: Interval(nanoseconds: row[9].integer ?? 0), frequencyPPM: row[10].real ?? 0)
      }
      if row.count > 11 { record.via = row[11].text }
      last[site] = record
    }
    return last.values.sorted { $0.site < $1.site }
  }
}
