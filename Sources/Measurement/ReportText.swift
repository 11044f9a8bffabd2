import Foundation

extension Report {
  /// For programs: the whole report, keys sorted.
  public func json() -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    return (try? encoder.encode(self)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
  }

  /// One row an arrival of `block` when one was asked for, else one row a site.
  public func csv(ofBlock: Bool) -> String {
    var rows: [[String]] = []
    func number(_ value: Double?) -> String { value.map { Text.fixed($0, 6) } ?? "" }
    if ofBlock {
      rows.append(
        ["block", "height", "site", "origin", "uncertainty_ms", "light_bound_ms", "first_packet_ms"]
          + Journey.Stage.allCases.map { "\($0.name)_ms" }
          + [
            "over_light_ms", "over_light_low_ms", "over_light_high_ms", "matched_percent", "transactions",
            "missing_transactions", "body_bytes", "packets_in", "packets_out", "bytes_in", "bytes_out",
            "packets_useless", "needed_chunks", "requests", "via", "hops",
          ])
      for arrival in block?.arrivals ?? [] {
        rows.append(
          [
            block?.hash ?? "", String(block?.height ?? 0), arrival.site, arrival.isOrigin ? "1" : "0",
            number(arrival.uncertainty), number(arrival.lightBound), number(arrival.firstPacket),
          ]
            + Journey.Stage.allCases.map { stage in number(arrival.stations.first { $0.name == stage.name }?.at) }
            + [
              number(arrival.overLight?.value), number(arrival.overLight?.low), number(arrival.overLight?.high),
              number(arrival.matchedPercent),
            ]
            + [
              arrival.transactions, arrival.missingTransactions, arrival.bodyBytes, arrival.packetsIn,
              arrival.packetsOut, arrival.bytesIn, arrival.bytesOut, arrival.packetsUseless, arrival.neededChunks,
              arrival.requests,
            ].map(String.init) + [arrival.via ?? "", String(arrival.hops)])
      }
    } else {
      let names = ["p50", "p90", "p99", "max"]
      rows.append(
        ["site", "blocks", "originated"]
          + names.flatMap { ["over_light_\($0)_ms", "over_light_\($0)_low_ms", "over_light_\($0)_high_ms"] }
          + ["receiving_p50_ms", "receiving_p99_ms", "matched_percent", "extra_rounds_percent"]
          + stages.map { "\($0.name)_p50_ms" })
      for site in sites {
        let figures = [site.overLight?.p50, site.overLight?.p90, site.overLight?.p99, site.overLight?.max]
        rows.append(
          [site.name, String(site.blocks), String(site.originated)]
            + figures.flatMap { [number($0?.value), number($0?.low), number($0?.high)] }
            + [
              number(site.receiving?.p50), number(site.receiving?.p99), number(site.matchedPercent),
              number(site.extraRoundsPercent),
            ] + site.stageMedians.map(number))
      }
    }
    return rows.map { $0.map(Report.csvField).joined(separator: ",") + "\n" }.joined()
  }

  /// RFC 4180; what a spreadsheet would run as a formula gets an apostrophe in front (numbers stay).
  static func csvField(_ value: String) -> String {
    var field = Text.tame(value)
    if let first = field.first, "=+-@".contains(first), Double(field) == nil { field = "'" + field }
    if !field.contains(where: { $0 == "," || $0 == "\"" }) { return field }
    return "\"" + field.replacingOccurrences(of: "\"", with: "\"\"") + "\""
  }

  /// For a terminal.
  public func text() -> String {
    var lines: [String] = []
    func tame(_ value: String) -> String {
      // No escape sequence of a peer's reaches the terminal.
      Text.tame(String(String.UnicodeScalarView(value.unicodeScalars.prefix(60))))
    }
    func figure(_ value: Figure?) -> String {
      value.map { "\(Text.ms($0.value)) ± \(Text.ms($0.uncertainty))" } ?? "–"
    }
    func via(_ name: String?) -> String { name.map { " (via \(tame($0)))" } ?? "" }
    lines.append(
      "\(tame(home)): \(Text.time(fromUnix)) to \(Text.time(toUnix)) UTC, \(Text.count(blocks)) blocks, \(Text.count(arrivals)) arrivals"
    )
    lines += notes.map { "  note: " + tame($0) }
    if contradictions > 0 {
      lines.append(
        "  note: \(contradictions) arrivals contradict the speed of light; a clock or a peer's word is wrong")
    }
    lines.append("")
    lines.append(
      "Milliseconds over the light bound (great circle\(pathFactor == 1 ? "" : " × \(Text.fixed(pathFactor, 2))"), light in "
        + "fibre); ± bounds the clocks' error"
    )
    var rows = [["site", "blocks", "from here", "median", "90 %", "99 %", "receiving", "in mempool", "extra rounds"]]
    for site in sites {
      rows.append([
        tame(site.name) + (site.isHome ? " *" : "") + via(site.via), Text.count(site.blocks),
        Text.count(site.originated),
        figure(site.overLight?.p50), figure(site.overLight?.p90), figure(site.overLight?.p99),
        site.receiving.map { Text.ms($0.p50) } ?? "–", site.matchedPercent.map { Text.fixed($0, 1) + " %" } ?? "–",
        site.extraRoundsPercent.map { Text.fixed($0, 1) + " %" } ?? "–",
      ])
    }
    lines += Report.columns(rows)
    lines += ["", "Stages, milliseconds"]
    rows = [["stage", "median", "90 %", "99 %", "worst"]]
    for stage in stages {
      guard let times = stage.times else { continue }
      rows.append([stage.title, Text.ms(times.p50), Text.ms(times.p90), Text.ms(times.p99), Text.ms(times.max)])
    }
    lines += Report.columns(rows)
    lines.append("")
    if let median = lead.p50, let percent = lead.winPercent {
      lines.append(
        "Ahead of plain P2P: median \(Text.ms(median)) ms, 10 % under \(Text.ms(lead.p10 ?? 0)) ms, 99 % under "
          + "\(Text.ms(lead.p99 ?? 0)) ms; first in \(Text.fixed(percent, 1)) % of \(Text.count(lead.blocks)) blocks "
          + "(95 %: \(Text.fixed(lead.winPercentLow ?? 0, 1)) to \(Text.fixed(lead.winPercentHigh ?? 100, 1)))")
    } else {
      lines.append("Ahead of plain P2P: no public peer watched")
    }
    if !links.isEmpty {
      lines += ["", "Links"]
      rows = [["direction", "delay, ms", "light, ms", "loss", "reordered", "jitter, ms"]]
      for link in links {
        rows.append([
          "\(tame(link.from)) → \(tame(link.to))", figure(link.delay), link.lightBound.map(Text.ms) ?? "–",
          link.lossPercent.map { Text.fixed($0, 3) + " %" } ?? "–",
          link.reorderedPercent.map { Text.fixed($0, 3) + " %" } ?? "–", link.jitter.map { Text.fixed($0, 2) } ?? "–",
        ])
      }
      lines += Report.columns(rows)
    }
    if !clocks.isEmpty {
      lines += ["", "Clocks"]
      rows = [["site", "offset, ms", "drift, ppm", "steps", "kernel"]]
      for clock in clocks {
        rows.append([
          tame(clock.site) + via(clock.via), figure(clock.offset),
          clock.drift ?? "–",
          String(clock.steps), clock.kernelState.map { "\($0), ± \(Text.ms(clock.kernelMaxError ?? 0)) ms" } ?? "–",
        ])
      }
      lines += Report.columns(rows)
    }
    if let block { lines += [""] + Report.lines(of: block, tame: tame, figure: figure) }
    return lines.joined(separator: "\n") + "\n"
  }

  private static func lines(
    of block: Block, tame: (String) -> String, figure: (Figure?) -> String
  ) -> [String] {
    var lines = [
      "Block \(block.height) \(block.hash)",
      "  announced \(Text.time(block.announcedUnix)) UTC\(block.origin.map { " at " + tame($0) } ?? "")"
        + (block.lead.map {
          ", \(Text.ms(abs($0))) ms \($0 >= 0 ? "before" : "after") plain P2P (\(tame(block.leadSource ?? "")))"
        } ?? ""),
    ]
    let shown: [Journey.Stage] = [.sketchComplete, .matched, .lastNeeded, .verified, .written, .tipUpdated, .minerJob]
    var rows = [
      ["site", "clocks", "first packet"] + shown.map { $0.name.replacingOccurrences(of: "_", with: " ") }
        + ["over light", "matched", "packets", "requests"]
    ]
    for arrival in block.arrivals {
      rows.append(
        [
          tame(arrival.site) + (arrival.isOrigin ? " (origin)" : "") + (arrival.via.map { " (via \(tame($0)))" } ?? ""),
          "± " + Text.ms(arrival.uncertainty), Text.ms(arrival.firstPacket),
        ]
          + shown.map { stage in arrival.stations.first { $0.name == stage.name }.map { Text.ms($0.at) } ?? "–" }
          + [
            figure(arrival.overLight), arrival.matchedPercent.map { Text.fixed($0, 1) + " %" } ?? "–",
            String(arrival.packetsIn), String(arrival.requests),
          ])
    }
    lines += columns(rows)
    return lines
  }

  /// First column to the left, the rest to the right.
  private static func columns(_ rows: [[String]]) -> [String] {
    let count = rows.map(\.count).max() ?? 0
    let widths = (0..<count).map { column in rows.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0 }
    return rows.map { row in
      "  "
        + row.enumerated().map { column, text in
          let pad = String(repeating: " ", count: widths[column] - text.count)
          return column == 0 ? text + pad : pad + text
        }.joined(separator: "  ")
    }
  }
}

extension Report.Clock {
  /// In words; the limits of what any clock may do mean that nothing narrower is proved yet.
  var drift: String? {
    guard let low = driftLowPPM, let high = driftHighPPM else { return nil }
    if low < -199.9 && high > 199.9 { return "not known yet" }
    return "\(Text.fixed(low, 1)) to \(Text.fixed(high, 1))"
  }
}
