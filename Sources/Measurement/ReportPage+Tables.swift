extension ReportPage {
  static func links(_ report: Report, _ page: inout Markup) {
    page.raw("<section><h2>Links</h2>\n<p>By direction. Delay: least one-way delay of each interval, median, with the ")
    page.raw("bounds that the clocks leave. The small plots run over the whole span.</p>\n")
    if report.links.isEmpty {
      page.raw("<p class=\"none\">No samples yet.</p></section>\n")
      return
    }
    page.raw(
      "<div class=\"wide\"><table><thead><tr><th>link</th><th>delay, ms</th><th>light, ms</th><th>loss, %</th>"
        + "<th>reordered, %</th><th>jitter, ms</th><th class=\"l\">delay over time, ms</th><th class=\"l\">loss over time</th></tr></thead><tbody>\n"
    )
    for link in report.links {
      let delay = link.delay.map { "\(Text.ms($0.value)) ± \(Text.ms($0.uncertainty))" } ?? "–"
      page.raw(
        "<tr><td>\(Markup.escape(link.from)) → \(Markup.escape(link.to))</td><td>\(delay)</td>"
          + "<td>\(link.lightBound.map(Text.ms) ?? "–")</td><td>\(link.lossPercent.map { Text.fixed($0, 3) } ?? "–")</td>"
          + "<td>\(link.reorderedPercent.map { Text.fixed($0, 3) } ?? "–")</td><td>\(link.jitter.map { Text.fixed($0, 2) } ?? "–")</td>"
          + "<td class=\"l\">\(spark(link, report, loss: false))</td><td class=\"l\">\(spark(link, report, loss: true))</td></tr>\n"
      )
    }
    page.raw("</tbody></table></div></section>\n")
  }

  private static func spark(_ link: Report.Link, _ report: Report, loss: Bool) -> String {
    let span = max(report.toUnix - report.fromUnix, 1)
    let (width, height) = (190.0, 30.0)
    var svg =
      "<svg class=\"spark\" width=\"230\" height=\"34\" viewBox=\"0 -2 230 34\" role=\"img\" aria-label=\"\(loss ? "loss" : "delay") over time\">"
    func x(_ at: Double) -> Double { (at - report.fromUnix) / span * width }
    if loss {
      let most = max(link.series.compactMap(\.lossPercent).max() ?? 0, 0.05)
      let bar = width / 96
      for point in link.series {
        guard let value = point.lossPercent, value > 0 else { continue }
        let tall = max(value / most * height, 0.8)
        svg +=
          "<rect x=\"\(Text.fixed(x(point.atUnix) - bar / 2, 1))\" y=\"\(Text.fixed(height - tall, 1))\" width=\"\(Text.fixed(bar * 0.8, 1))\" height=\"\(Text.fixed(tall, 1))\" style=\"fill:var(--bad)\"/>"
      }
      svg += "<line x1=\"0\" y1=\"30\" x2=\"190\" y2=\"30\" class=\"axis\"/>"
      svg += "<text x=\"194\" y=\"8\">\(Text.fixed(most, most < 1 ? 2 : 1)) %</text>"
    } else {
      let points = link.series.filter { $0.delay != nil }
      let values = points.map { $0.delay!.value }
      guard let low = values.min(), let high = values.max() else { return svg + "</svg>" }
      if points.count == 1 { return svg + "<text x=\"0\" y=\"20\">one interval: \(Text.ms(high)) ms</text></svg>" }
      let range = max(high - low, 1)
      func y(_ value: Double) -> Double { height - 1 - (value - low) / range * (height - 4) }
      svg += "<polyline class=\"trace\" points=\""
      svg += points.map { "\(Text.fixed(x($0.atUnix), 1)),\(Text.fixed(y($0.delay!.value), 1))" }.joined(separator: " ")
      svg +=
        "\"/><text x=\"194\" y=\"8\">\(Text.ms(high))</text><text x=\"194\" y=\"30\">\(Text.ms(low))</text>"
    }
    return svg + "</svg>"
  }

  static func clocks(_ report: Report, _ page: inout Markup) {
    if report.clocks.isEmpty { return }
    page.raw("<section><h2>Clocks</h2>\n<p>Peers’ clocks against \(Markup.escape(report.home))’s, as bounds that the ")
    page.raw(
      "exchanges prove: every figure above that compares two sites carries their width.</p>\n<div class=\"wide\"><table><thead><tr><th>site</th>"
    )
    page.raw(
      "<th>offset, ms</th><th>drift, ppm</th><th>steps seen</th><th class=\"l\">kernel</th></tr></thead><tbody>\n")
    for clock in report.clocks {
      let offset = clock.offset.map { "\(Text.ms($0.value)) ± \(Text.ms($0.uncertainty))" } ?? "–"
      let drift = clock.drift ?? "–"
      let kernel = clock.kernelState.map {
        "\($0), ± \(Text.ms(clock.kernelMaxError ?? 0)) ms at most, \(Text.fixed(clock.kernelFrequencyPPM ?? 0, 1)) ppm corrected"
      }
      page.raw(
        "<tr><td>\(Markup.escape(clock.site))\(clock.via.map { " <small>via \(Markup.escape($0))</small>" } ?? "")</td><td>\(offset)</td><td>\(drift)</td><td>\(clock.steps)</td>"
          + "<td class=\"l\">\(Markup.escape(kernel ?? ""))</td></tr>\n")
    }
    page.raw("</tbody></table></div></section>\n")
  }

  static func recent(_ report: Report, _ page: inout Markup) {
    if report.recent.isEmpty { return }
    page.raw(
      "<section><h2>Last blocks</h2>\n<div class=\"wide\"><table><thead><tr><th>height</th><th class=\"l\">hash</th><th class=\"l\">announced, UTC</th>"
    )
    page.raw(
      "<th class=\"l\">origin</th><th>sites</th><th class=\"l\">slowest site</th><th>over light, ms</th><th>lead, ms</th></tr></thead><tbody>\n"
    )
    for block in report.recent {
      let over = block.slowestOverLight.map { "\(Text.ms($0.value)) ± \(Text.ms($0.uncertainty))" } ?? "–"
      page.raw(
        "<tr><td>\(block.height)</td><td class=\"l\"><code>\(Text.short(block.hash))</code></td><td class=\"l\">\(Text.time(block.announcedUnix))</td>"
          + "<td class=\"l\">\(Markup.escape(block.origin ?? "unknown"))</td><td>\(block.sites)</td>"
          + "<td class=\"l\">\(Markup.escape(block.slowestSite ?? "–"))</td><td>\(over)</td><td>\(block.lead.map(Text.ms) ?? "–")</td></tr>\n"
      )
    }
    page.raw("</tbody></table></div></section>\n")
  }

  static func footer(_ report: Report, _ page: inout Markup) {
    page.raw(
      """
      <footer><h2>How to read this</h2>
      <p><b>Light bound</b>: great-circle distance\(report.pathFactor == 1 ? "" : " times \(Text.fixed(report.pathFactor, 2))") at the speed of light in fibre \
      (group index 1.4682). Cables are longer than great circles, so part of every figure over it is geography.
      <b>±</b>: not a standard deviation but a bound. Each site’s clock is known only as far as round trips prove it; the \
      true figure lies inside whatever the route’s asymmetry, and percentiles carry the percentiles of the bounds.
      <b>Sites’ journeys</b> are what the sites say of themselves, each signed by its relay. A site that is no neighbour is \
      heard <i>via</i> one: its times then rest on that neighbour’s word too, and carry the sum of the clocks’ bounds on the way.
      <b>Complete and checked</b>: every byte there, proof of work, Merkle root and witness commitment verified.</p></footer>

      """)
  }
}
