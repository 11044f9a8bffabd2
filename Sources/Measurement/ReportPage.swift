/// The report as one HTML page: no scripts, no fonts, images or styles from elsewhere, light and dark.
///
/// Whatever came from outside (names of sites and peers, notes) passes `Markup.escape`.
public enum ReportPage {
  public static func render(_ report: Report) -> String {
    var page = Markup()
    page.raw(
      """
      <!doctype html>
      <html lang="en">
      <head>
      <meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
      <title>Lightpath: \(Markup.escape(report.home))</title>
      <style>\(style)</style>
      </head>
      <body>
      <main>

      """)
    header(report, &page)
    tiles(report, &page)
    if report.lead.histogram.isEmpty {
      arrivals(report, isAlone: true, &page)
    } else {
      page.raw("<div class=\"pair\">\n")
      arrivals(report, isAlone: false, &page)
      lead(report, &page)
      page.raw("</div>\n")
    }
    map(report, &page)
    stages(report, &page)
    if let block = report.block { journey(block, &page) }
    links(report, &page)
    clocks(report, &page)
    recent(report, &page)
    footer(report, &page)
    page.raw("</main>\n</body>\n</html>\n")
    return page.text
  }

  private static func header(_ report: Report, _ page: inout Markup) {
    page.raw(
      "<header><h1>Blocks at \(Markup.escape(report.home.isEmpty ? "this site" : report.home))</h1>\n<p class=\"lead\">"
    )
    page.raw("\(Text.time(report.fromUnix)) to \(Text.time(report.toUnix)) UTC · ")
    page.raw("\(Text.count(report.blocks)) blocks · \(report.sites.filter { $0.blocks > 0 }.count) sites</p>\n")
    for note in report.notes { page.raw("<p class=\"note\">\(Markup.escape(note))</p>\n") }
    page.raw("</header>\n")
  }

  private static func tiles(_ report: Report, _ page: inout Markup) {
    func tile(_ title: String, _ value: String, _ unit: String, _ detail: String) {
      page.raw(
        "<div class=\"tile\"><div class=\"t\">\(title)</div><div class=\"v\">\(value)<span class=\"u\"> \(unit)</span></div>"
          + "<div class=\"d\">\(detail)</div></div>\n")
    }
    page.raw("<section class=\"tiles\">\n")
    let spread = report.overLight
    tile(
      "Over the light bound, median", spread.map { Text.ms($0.p50.value) } ?? "–", "ms",
      spread.map { "between \(Text.ms($0.p50.low)) and \(Text.ms($0.p50.high)), whatever the clocks" }
        ?? "no block with two known sites")
    let receiving = report.stages.dropFirst().filter {
      ["gate", "sketch", "match", "body", "decode", "verify"].contains($0.name)
    }
    let own = receiving.compactMap(\.times?.p50).reduce(0, +)
    tile(
      "First packet to checked block", own > 0 ? Text.ms(own) : "–", "ms", "sum of the stages’ medians, one clock")
    if report.lead.histogram.isEmpty {
      overlayTiles(report, tile)
      page.raw("</section>\n")
      return
    }
    tile(
      "Lead over the public network", report.lead.p50.map(Text.ms) ?? "–", "ms",
      report.lead.p10.map { "median; 1 block in 10 under \(Text.ms($0)) ms" } ?? "no public peer watched")
    tile(
      "Before plain P2P had it", report.lead.winPercent.map { Text.fixed($0, 1) } ?? "–", "%",
      report.lead.winPercentLow.map {
        "of \(Text.count(report.lead.blocks)) blocks (95 %: \(Text.fixed($0, 1)) to \(Text.fixed(report.lead.winPercentHigh ?? 100, 1)))"
      } ?? "")
    page.raw("</section>\n")
  }

  /// What there is to say without a public peer to compare with.
  private static func overlayTiles(_ report: Report, _ tile: (String, String, String, String) -> Void) {
    let receivers = report.sites.filter { $0.blocks > $0.originated }
    let matched = receivers.compactMap(\.matchedPercent).sorted()
    tile(
      "In the mempools already", matched.isEmpty ? "–" : Text.fixed(matched[matched.count / 2], 1), "%",
      "of a block’s bytes; median of the sites’ medians")
    let arrivals = receivers.reduce(0) { $0 + $1.blocks - $1.originated }
    let rounds = receivers.reduce(0.0) { $0 + ($1.extraRoundsPercent ?? 0) * Double($1.blocks - $1.originated) }
    tile(
      "Without asking for more", arrivals == 0 ? "–" : Text.fixed(100 - rounds / Double(arrivals), 0), "%",
      "of \(Text.count(arrivals)) arrivals needed no further round trip")
  }

  /// - Parameter isAlone: no lead stands beside it: the table does.
  private static func arrivals(_ report: Report, isAlone: Bool, _ page: inout Markup) {
    page.raw(
      "<section><h2>How late after light?</h2>\n<p>Blocks (percent) that a site had, complete and checked, within ")
    page.raw("so many milliseconds beyond the time light needs from the origin through fibre along the great circle")
    page.raw(report.pathFactor == 1 ? ".</p>\n" : " times \(Text.fixed(report.pathFactor, 2)).</p>\n")
    let sites = report.sites.enumerated().filter { !$0.element.overLightPercentiles.isEmpty }
    if sites.isEmpty {
      page.raw("<p class=\"none\">No block with two sites’ journeys yet.</p></section>\n")
      return
    }
    let highs = sites.map { $0.element.overLightPercentiles[97] }
    var plot = Plot(
      width: 560, height: 308, left: 44, right: 12, top: 24, bottom: 40,
      x: min(0, sites.map { $0.element.overLightPercentiles[0] }.min()!)...max(highs.max()! * 1.05, 1), y: 0...100)
    plot.grid(xTitle: "ms over the light bound", yTitle: "blocks that were there, %", yUnit: " %", yTicks: 4)
    for (index, site) in sites {
      let points = site.overLightPercentiles.enumerated().map { ($0.element, Double($0.offset + 1)) }
      plot.line([(points[0].0, 0)] + points, style: "stroke:var(--c\(index % 8))", title: site.name)
    }
    if isAlone { page.raw("<div class=\"pair\"><div>\n") }
    page.raw(plot.svg("Cumulative distribution of arrival times by site"))
    if isAlone { page.raw("</div><div>\n") }
    page.raw(
      "<table class=\"key\"><thead><tr><th>site</th><th>median</th><th>99 %</th><th>± clocks</th></tr></thead><tbody>\n"
    )
    for (index, site) in sites {
      guard let spread = site.overLight else { continue }
      page.raw(
        "<tr><td><i style=\"background:var(--c\(index % 8))\"></i>\(Markup.escape(site.name))</td><td>\(Text.ms(spread.p50.value))</td>"
          + "<td>\(Text.ms(spread.p99.value))</td><td>\(Text.ms(spread.p50.uncertainty))</td></tr>\n")
    }
    page.raw("</tbody></table>")
    if isAlone {
      page.raw(
        "<p class=\"aside\">How far ahead of plain P2P a block was stands here once the topology names public peers to watch "
      )
      page.raw("(<code>[[relay.watch]]</code>) and one of them has announced a block.</p></div></div>\n")
    }
    page.raw("</section>\n")
  }

  private static func lead(_ report: Report, _ page: inout Markup) {
    let lead = report.lead
    page.raw("<section><h2>How far ahead of plain P2P?</h2>\n<p>First announcement by a watched public peer less the ")
    page.raw(
      "moment at which \(Markup.escape(report.home)) had the block checked. One clock: no uncertainty enters. ")
    page.raw("Blocks found here don’t count; those that plain P2P brought here first do, as losses.</p>\n")
    let end = lead.histogramFrom + lead.histogramStep * Double(lead.histogram.count)
    var plot = Plot(
      width: 560, height: 308, left: 44, right: 12, top: 24, bottom: 40, x: min(lead.histogramFrom, 0)...max(end, 0),
      y: 0...Double(lead.histogram.max()!) * 1.08)
    plot.grid(xTitle: "ms ahead (left of 0: the public network was first)", yTitle: "blocks", yUnit: "", yTicks: 4)
    for (index, count) in lead.histogram.enumerated() where count > 0 {
      let from = lead.histogramFrom + Double(index) * lead.histogramStep
      plot.bar(
        from, from + lead.histogramStep, Double(count), style: from < -1e-9 ? "fill:var(--bad)" : "fill:var(--good)",
        title: "\(Text.ms(from)) to \(Text.ms(from + lead.histogramStep)) ms: \(count) blocks")
    }
    if let median = lead.p50 { plot.rule(x: median, label: "median \(Text.ms(median)) ms") }
    page.raw(plot.svg("Histogram of the lead over plain P2P"))
    page.raw(
      "<table class=\"key\"><thead><tr><th>blocks</th><th>1 %</th><th>10 %</th><th>median</th><th>90 %</th><th>99 %</th></tr></thead><tbody><tr>"
    )
    page.raw("<td>\(Text.count(lead.blocks))</td>")
    for value in [lead.p1, lead.p10, lead.p50, lead.p90, lead.p99] { page.raw("<td>\(value.map(Text.ms) ?? "–")</td>") }
    page.raw("</tr></tbody></table></section>\n")
  }

  private static func stages(_ report: Report, _ page: inout Markup) {
    page.raw(
      "<section><h2>Where the time goes</h2>\n<p>Medians by site, from the first packet to the block in the node’s ")
    page.raw("socket, by the site’s own clock. To the right: what lies before and after.</p>\n")
    // Geography and the node's own work dwarf the rest and are the same for every relay system: they stand as numbers.
    let shown = report.stages.indices.filter { !["flight", "tip", "job"].contains(report.stages[$0].name) }
    let rows = report.sites.filter { site in shown.contains { site.stageMedians[$0] != nil } }
    if rows.isEmpty {
      page.raw("<p class=\"none\">No journeys yet.</p></section>\n")
      return
    }
    let totals = rows.map { site in shown.reduce(0) { $0 + max(site.stageMedians[$1] ?? 0, 0) } }
    var plot = Plot(
      width: 1_160, height: 34 + Double(rows.count) * 30 + 28, left: 110, right: 440, top: 22, bottom: 40,
      x: 0...max(totals.max()! * 1.02, 0.1), y: 0...Double(rows.count))
    plot.grid(xTitle: "ms", yTitle: "", yUnit: nil, yTicks: 0)
    func stage(_ name: String) -> Int { report.stages.firstIndex { $0.name == name }! }
    let columns: [(Double, String)] = [
      (70, "sum"), (200, "flight beyond light"), (320, "node’s own work"), (430, "first miner job"),
    ]
    for (at, title) in columns {
      plot.text(plot.right + at, plot.top - 8, title, anchor: "end", style: "fill:var(--muted)")
    }
    for (row, site) in rows.enumerated() {
      let y = Double(rows.count - row)
      var x = 0.0
      for (colour, index) in shown.enumerated() {
        let value = max(site.stageMedians[index] ?? 0, 0)
        plot.block(
          x, x + value, y - 0.2, y - 0.8, style: "fill:var(--s\(colour))",
          title: "\(site.name): \(report.stages[index].title) \(Text.ms(value)) ms")
        x += value
      }
      let line = plot.y(y - 0.5) + 4
      plot.text(plot.left - 8, line, site.name, anchor: "end")
      let values = [
        x, site.stageMedians[stage("flight")], site.stageMedians[stage("tip")], site.stageMedians[stage("job")],
      ]
      for ((at, _), value) in zip(columns, values) {
        plot.text(plot.right + at, line, value.map { "\(Text.ms($0)) ms" } ?? "–", anchor: "end")
      }
    }
    page.raw(plot.svg("Stages of a block's reception by site"))
    page.raw("<p class=\"legend\">")
    for (colour, index) in shown.enumerated() {
      page.raw(
        "<span><i style=\"background:var(--s\(colour))\"></i>\(Markup.escape(report.stages[index].title))</span> ")
    }
    page.raw("</p></section>\n")
  }

  private static func journey(_ block: Report.Block, _ page: inout Markup) {
    page.raw("<section><h2>One block’s journey</h2>\n<p>Block \(Text.count(block.height)) ")
    page.raw("<code>\(Markup.escape(Text.short(block.hash)))</code>, announced \(Text.time(block.announcedUnix)) UTC")
    page.raw(block.origin.map { " by the node at \(Markup.escape($0))" } ?? "")
    page.raw(
      ". Grey: light under way. Colour: until the block was checked. Ring: the node’s tip. Brackets: the clocks’ bounds.</p>\n"
    )
    let arrivals = block.arrivals
    func last(_ arrival: Report.Arrival, _ name: String) -> Double? { arrival.stations.first { $0.name == name }?.at }
    let ends = arrivals.flatMap { $0.stations.map(\.at) + [$0.firstPacket] }
    guard let most = ends.max(), most.isFinite else {
      page.raw("</section>\n")
      return
    }
    let low = min(0, arrivals.map(\.firstPacket).min() ?? 0)
    var plot = Plot(
      width: 1_160, height: 34 + Double(arrivals.count) * 30 + 28, left: 110, right: 250, top: 22, bottom: 40,
      x: low...max(most * 1.02, 1), y: 0...Double(arrivals.count))
    plot.grid(xTitle: "ms after the origin’s announcement", yTitle: "", yUnit: nil, yTicks: 0)
    plot.text(plot.right + 12, plot.top - 8, "over light", anchor: "start", style: "fill:var(--muted)")
    plot.text(plot.right + 150, plot.top - 8, "in mempool", anchor: "start", style: "fill:var(--muted)")
    for (row, arrival) in arrivals.enumerated() {
      let y = Double(arrivals.count - row)
      if let bound = arrival.lightBound, bound > 0 {
        plot.block(0, bound, y - 0.42, y - 0.58, style: "fill:var(--light)", title: "light: \(Text.ms(bound)) ms")
      }
      let verified = last(arrival, "verified")
      if let verified {
        let from = arrival.lightBound ?? arrival.firstPacket
        plot.block(
          min(from, verified), verified, y - 0.2, y - 0.8, style: "fill:var(--c0)",
          title: "\(arrival.site): checked after \(Text.ms(verified)) ms", least: 2.5)
        if let over = arrival.overLight, let bound = arrival.lightBound, over.uncertainty > 0 {
          plot.bracket(bound + over.low, bound + over.high, y - 0.5)
        }
      }
      if let tip = last(arrival, "tip_updated") {
        plot.ring(tip, y - 0.5, title: "\(arrival.site): node's tip after \(Text.ms(tip)) ms")
      }
      if let job = last(arrival, "miner_job") {
        plot.diamond(job, y - 0.5, title: "\(arrival.site): first miner job after \(Text.ms(job)) ms")
      }
      plot.text(plot.left - 8, plot.y(y - 0.5) + (arrival.via == nil ? 4 : 0), arrival.site, anchor: "end")
      if let via = arrival.via {
        plot.text(
          plot.left - 8, plot.y(y - 0.5) + 12, "via \(via)", anchor: "end", style: "fill:var(--muted);font-size:10px")
      }
      plot.text(
        plot.right + 12, plot.y(y - 0.5) + 4,
        arrival.overLight.map { "\(Text.ms($0.value)) ± \(Text.ms($0.uncertainty)) ms" }
          ?? (arrival.isOrigin ? "origin" : "–"),
        anchor: "start")
      plot.text(
        plot.right + 150, plot.y(y - 0.5) + 4, arrival.matchedPercent.map { "\(Text.fixed($0, 1)) %" } ?? "",
        anchor: "start")
    }
    page.raw(plot.svg("One block's way through the overlay"))
    page.raw(
      "<p class=\"legend\"><span><i style=\"background:var(--light)\"></i>light</span> <span><i style=\"background:var(--c0)\"></i>"
    )
    page.raw("beyond light, until checked</span> <span>○ node’s tip updated</span> <span>◆ first miner job</span>")
    if let lead = block.lead {
      page.raw(
        " <span>\(lead >= 0 ? "\(Text.ms(lead)) ms before" : "\(Text.ms(-lead)) ms after") plain P2P (\(Markup.escape(block.leadSource ?? "")))</span>"
      )
    }
    page.raw("</p></section>\n")
  }
}
