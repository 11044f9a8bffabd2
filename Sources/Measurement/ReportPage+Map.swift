import Foundation

extension ReportPage {
  static func map(_ report: Report, _ page: inout Markup) {
    let placed = report.sites.filter {
      $0.latitude != nil && $0.longitude != nil && abs($0.latitude!) <= 90 && abs($0.longitude!) <= 180
    }
    // Sites of one town are a dot: no map.
    let places = placed.map { SitePosition(latitude: $0.latitude!, longitude: $0.longitude!) }
    guard let first = places.first, places.contains(where: { LightBound.distance(first, $0) > 50_000 }) else { return }
    page.raw("<section><h2>Sites</h2>\n<p>Great circles from \(Markup.escape(report.home)); thicker: more loss. ")
    page.raw("By each site: median time over the light bound ± the clocks’ bound, and blocks that began there.</p>\n")
    // Equirectangular, cut above 75° north and below 57° south, where nobody mines.
    var plot = Plot(
      width: 1_160, height: 430, left: 0, right: 0, top: 0, bottom: 0, x: -180...180, y: -58...76)
    plot.raw("<path class=\"land\" d=\"")
    for (longitude, latitude) in WorldDots.land {
      plot.raw("M\(Text.fixed(plot.x(longitude) - 1.9, 0)) \(Text.fixed(plot.y(latitude), 0))h3.8v3.8h-3.8z")
    }
    plot.raw("\"/>")
    if let home = placed.first(where: \.isHome) {
      for site in placed where !site.isHome {
        let link = report.links.first { $0.from == home.name && $0.to == site.name }
        let loss = link?.lossPercent ?? 0
        let path = arc(home, site, plot)
        plot.raw(
          "<path class=\"arc\" style=\"stroke-width:\(Text.fixed(1.2 + min(loss, 2) * 4, 1))\" d=\"\(path)\"><title>")
        plot.raw("\(Markup.escape(site.name)): \(Text.fixed(loss, 3)) % loss</title></path>")
      }
    }
    for site in placed {
      plot.raw(
        "<circle class=\"site\(site.isHome ? " home" : "")\" cx=\"\(Text.fixed(plot.x(site.longitude!), 1))\" cy=\"\(Text.fixed(plot.y(site.latitude!), 1))\" r=\"6\"/>"
      )
    }
    var taken: [Box] = placed.map {
      Box(x: plot.x($0.longitude!) - 7, y: plot.y($0.latitude!) - 7, width: 14, height: 14)
    }
    for site in placed {
      let (x, y) = (plot.x(site.longitude!), plot.y(site.latitude!))
      var label = site.overLight.map { "\(Text.ms($0.p50.value)) ± \(Text.ms($0.p50.uncertainty)) ms" } ?? ""
      let began = site.originated
      if began > 0 { label += (label.isEmpty ? "" : " · ") + "\(began) block\(began == 1 ? "" : "s")" }
      let width = Double(max(site.name.count, label.count)) * 6.4
      // Right, left, below, above, then lines further below and above on the right (sites of one town): the first that
      // covers nothing and stays on the map.
      var places = [
        Box(x: x + 10, y: y - 15, width: width, height: 30),
        Box(x: x - 10 - width, y: y - 15, width: width, height: 30),
        Box(x: x - width / 2, y: y + 9, width: width, height: 30),
        Box(x: x - width / 2, y: y - 39, width: width, height: 30),
      ]
      for line in 1...8 {
        places.append(Box(x: x + 10, y: y - 15 + 31 * Double(line), width: width, height: 30))
        places.append(Box(x: x + 10, y: y - 15 - 31 * Double(line), width: width, height: 30))
      }
      let place =
        places.first { box in
          box.x >= 0 && box.x + box.width <= plot.width && box.y >= 0 && !taken.contains { $0.meets(box) }
        } ?? places[0]
      taken.append(place)
      let anchor = place.x > x ? "start" : place.x + place.width < x ? "end" : "middle"
      let at = anchor == "start" ? place.x : anchor == "end" ? place.x + place.width : x
      for (offset, text, weight) in [(12.0, site.name, "600"), (26.0, label, "400")] {
        plot.raw(
          "<text class=\"halo\" x=\"\(Text.fixed(at, 1))\" y=\"\(Text.fixed(place.y + offset, 1))\" text-anchor=\"\(anchor)\" style=\"font-weight:\(weight)\">\(Markup.escape(text))</text>"
        )
      }
    }
    page.raw(plot.svg("Map of the sites"))
    page.raw("</section>\n")
  }

  private struct Box {
    var x, y, width, height: Double
    func meets(_ other: Box) -> Bool {
      x < other.x + other.width && other.x < x + width && y < other.y + other.height && other.y < y + height
    }
  }

  /// The great circle as an SVG path, broken where it leaves the map's edge.
  private static func arc(_ a: Report.Site, _ b: Report.Site, _ plot: Plot) -> String {
    func vector(_ site: Report.Site) -> SIMD3<Double> {
      let (lat, lon) = (site.latitude! * .pi / 180, site.longitude! * .pi / 180)
      return [cos(lat) * cos(lon), cos(lat) * sin(lon), sin(lat)]
    }
    let (u, v) = (vector(a), vector(b))
    let angle = acos(min(max((u * v).sum(), -1), 1))
    guard angle > 1e-6 else { return "" }
    var path = ""
    var previous = Double.nan
    for step in 0...64 {
      let share = Double(step) / 64
      let p = (u * sin((1 - share) * angle) + v * sin(share * angle)) / sin(angle)
      let longitude = atan2(p.y, p.x) * 180 / .pi
      let latitude = asin(min(max(p.z, -1), 1)) * 180 / .pi
      let isBroken = previous.isNaN || abs(longitude - previous) > 180
      path += "\(isBroken ? "M" : "L")\(Text.fixed(plot.x(longitude), 1)) \(Text.fixed(plot.y(latitude), 1))"
      previous = longitude
    }
    return path
  }
}

/// The continents as dots, from outlines drawn by hand to about two degrees: enough to see where one is.
enum WorldDots {
  /// Longitude and latitude by turns.
  private static let outlines: [[Double]] = [
    // North America
    [
      -168, 66, -156, 71, -128, 70, -110, 68, -95, 72, -82, 70, -80, 63, -94, 60, -92, 57, -82, 55, -79, 51, -77, 56,
      -78, 62, -70, 61, -64, 59, -56, 53, -60, 50, -66, 50, -65, 46, -70, 43, -74, 40, -76, 35, -81, 31, -80, 25, -83,
      29,
      -90, 30, -97, 27, -97, 21, -91, 18, -87, 21, -88, 16, -83, 15, -83, 10, -78, 8, -81, 7, -87, 13, -95, 16, -105,
      20,
      -109, 25, -113, 31, -110, 24, -115, 30, -120, 34, -124, 40, -124, 48, -132, 55, -140, 60, -150, 60, -158, 57,
      -163, 55, -158, 59, -165, 61,
    ],
    // Greenland
    [-54, 82, -20, 80, -20, 74, -24, 70, -40, 65, -44, 60, -51, 63, -54, 70, -68, 76],
    // South America
    [
      -78, 8, -72, 12, -62, 10, -51, 4, -50, 0, -44, -3, -35, -6, -39, -15, -41, -22, -48, -26, -54, -34, -58, -38,
      -65, -42, -67, -50, -69, -55, -75, -50, -73, -40, -71, -30, -70, -18, -76, -14, -81, -5, -80, 1,
    ],
    // Africa
    [
      -6, 35, 10, 37, 11, 33, 20, 31, 32, 31, 35, 27, 39, 16, 43, 12, 51, 12, 42, -1, 40, -10, 40, -16, 35, -20, 35,
      -25,
      32, -29, 26, -34, 19, -35, 15, -27, 12, -17, 13, -9, 9, -1, 9, 4, 4, 6, -8, 4, -13, 9, -17, 15, -17, 21, -10, 30,
    ],
    // Madagascar
    [49, -12, 50, -16, 47, -25, 44, -24, 44, -17],
    // Europe and Asia
    [
      -9, 43, -2, 43, -1, 46, -5, 48, 2, 51, 8, 54, 8, 57, 11, 54, 20, 54, 24, 58, 30, 60, 22, 60, 21, 63, 25, 65,
      22, 66, 17, 61, 17, 57, 13, 55, 11, 59, 6, 58, 5, 62, 14, 68, 25, 71, 40, 67, 34, 64, 44, 66, 54, 68, 68, 69,
      74, 73, 88, 75, 104, 77, 113, 74, 130, 71, 150, 71, 170, 70, 180, 68, 178, 64, 170, 60, 163, 58, 156, 51, 156, 58,
      162, 62, 150, 59, 142, 59, 136, 54, 141, 52, 138, 46, 132, 43, 128, 39, 129, 35, 126, 35, 125, 39, 121, 40, 118,
      39,
      122, 37, 119, 35, 122, 30, 119, 25, 111, 21, 106, 19, 109, 13, 105, 9, 100, 13, 103, 2, 100, 6, 98, 15, 94, 17,
      91, 22, 87, 21, 80, 15, 80, 11, 77, 8, 73, 17, 72, 21, 67, 25, 57, 26, 50, 30, 48, 29, 56, 25, 60, 22, 52, 16,
      44, 13, 39, 21, 35, 28, 35, 36, 27, 37, 27, 41, 40, 41, 42, 43, 37, 46, 30, 46, 28, 42, 24, 40, 23, 37, 19, 42,
      13, 45, 18, 40, 16, 38, 10, 44, 3, 43, -1, 38, -6, 36, -9, 38,
    ],
    // Great Britain, Ireland, Iceland
    [-5, 50, 1, 51, 1, 53, -2, 56, -4, 58, -6, 57, -3, 54, -5, 52], [-10, 52, -6, 52, -6, 55, -9, 54],
    [-24, 65, -18, 66, -14, 65, -19, 63],
    // Japan
    [130, 32, 132, 34, 136, 34, 140, 35, 142, 39, 145, 43, 141, 45, 140, 41, 138, 37, 133, 36, 130, 33],
    // Sumatra, Borneo, Java, Celebes, New Guinea, the Philippines
    [95, 5, 104, -2, 105, -6, 101, -3], [109, 1, 117, 7, 118, 2, 115, -4, 110, -3],
    [105, -7, 114, -7, 115, -9, 107, -8],
    [119, 0, 124, 1, 122, -5, 119, -5], [131, -1, 141, -3, 147, -6, 150, -10, 143, -8, 138, -8, 133, -4],
    [120, 18, 122, 18, 125, 11, 126, 6, 122, 7, 121, 13],
    // Australia, Tasmania, New Zealand
    [
      114, -22, 122, -18, 130, -12, 136, -12, 136, -16, 141, -17, 142, -11, 146, -19, 153, -26, 150, -37, 144, -38,
      138, -35, 131, -32, 124, -33, 115, -34,
    ],
    [145, -41, 148, -41, 147, -44], [173, -35, 178, -38, 175, -41, 174, -38], [172, -41, 174, -42, 169, -47, 167, -46],
    // Sri Lanka, Cuba, Sakhalin, Svalbard
    [80, 9, 82, 7, 80, 6], [-84, 22, -75, 20, -80, 23], [142, 54, 144, 50, 143, 46], [12, 79, 26, 80, 18, 77],
  ]

  static let step = 2.5

  static let land: [(longitude: Double, latitude: Double)] = {
    var dots: [(longitude: Double, latitude: Double)] = []
    var latitude = 75.0
    while latitude >= -56 {
      var longitude = -178.75
      while longitude < 180 {
        if outlines.contains(where: { contains($0, longitude, latitude) }) { dots.append((longitude, latitude)) }
        longitude += step
      }
      latitude -= step
    }
    return dots
  }()

  /// Even–odd rule.
  private static func contains(_ outline: [Double], _ x: Double, _ y: Double) -> Bool {
    let count = outline.count / 2
    var isInside = false
    var j = count - 1
    for i in 0..<count {
      let (xi, yi, xj, yj) = (outline[2 * i], outline[2 * i + 1], outline[2 * j], outline[2 * j + 1])
      if (yi > y) != (yj > y) && x < (xj - xi) * (y - yi) / (yj - yi) + xi { isInside.toggle() }
      j = i
    }
    return isInside
  }
}
