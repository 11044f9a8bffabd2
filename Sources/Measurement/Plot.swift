import Foundation

/// HTML and SVG text under construction.
struct Markup {
  private(set) var text = ""

  /// Markup of the program's own; anything from outside is escaped by the caller.
  mutating func raw(_ markup: String) { text += markup }

  /// For text and quoted attributes. Control characters and those that turn the direction of writing around would let
  /// a name disguise itself: they become U+FFFD.
  static func escape(_ value: String) -> String {
    var out = ""
    for scalar in value.unicodeScalars.prefix(400) {
      switch scalar {
      case "&": out += "&amp;"
      case "<": out += "&lt;"
      case ">": out += "&gt;"
      case "\"": out += "&quot;"
      case "'": out += "&#39;"
      default: out.unicodeScalars.append(Text.isTame(scalar) ? scalar : "\u{FFFD}")
      }
    }
    return out
  }
}

/// Numbers and times as a reader wants them.
public enum Text {
  /// What comes from a peer, for a terminal or a line of text: control characters and those that turn the direction of
  /// writing around would let it move the cursor or forge lines. They become U+FFFD.
  public static func tame(_ value: some StringProtocol) -> String {
    if value.unicodeScalars.allSatisfy(isTame) { return String(value) }
    return String(String.UnicodeScalarView(value.unicodeScalars.map { isTame($0) ? $0 : "\u{FFFD}" }))
  }

  static func isTame(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x20, 0x7F..<0xA0, 0x200B...0x200F, 0x2028...0x202E, 0x2066...0x2069, 0xFEFF: false
    default: true
    }
  }

  static func fixed(_ value: Double, _ digits: Int) -> String {
    if !value.isFinite { return "–" }
    let text = String(format: "%.\(digits)f", value)
    // Nothing is less than nothing.
    return text.hasPrefix("-") && !text.contains(where: { ("1"..."9").contains($0) }) ? String(text.dropFirst()) : text
  }

  /// Milliseconds with three figures or so.
  static func ms(_ value: Double) -> String {
    let magnitude = abs(value)
    return fixed(value, magnitude < 1 ? 2 : magnitude < 100 ? 1 : 0)
  }

  static func count(_ value: Int) -> String {
    var digits = Array(String(value.magnitude))
    var index = digits.count - 3
    while index > 0 {
      digits.insert(",", at: index)
      index -= 3
    }
    return (value < 0 ? "-" : "") + String(digits)
  }

  /// 2026-11-22 17:20 in UTC.
  static func time(_ unix: Double) -> String {
    guard unix.isFinite, abs(unix) < 1e11 else { return "–" }
    var seconds = time_t(unix)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    return String(
      format: "%04d-%02d-%02d %02d:%02d", Int(parts.tm_year) + 1900, Int(parts.tm_mon) + 1, Int(parts.tm_mday),
      Int(parts.tm_hour), Int(parts.tm_min))
  }

  /// The telling ends of a hash, whose beginning is zeros.
  static func short(_ hash: String) -> String { hash.count > 16 ? "…" + hash.suffix(12) : hash }
}

/// One SVG plot with linear axes.
struct Plot {
  let width, height, left, right, top, bottom: Double
  let xRange, yRange: ClosedRange<Double>
  private var body = ""

  /// Margins in pixels; `right` and `bottom` become the plot area's edges.
  init(
    width: Double, height: Double, left: Double, right: Double, top: Double, bottom: Double, x: ClosedRange<Double>,
    y: ClosedRange<Double>
  ) {
    (self.width, self.height, self.left, self.top) = (width, height, left, top)
    self.right = width - right
    self.bottom = height - bottom
    (xRange, yRange) = (x, y)
  }

  func x(_ value: Double) -> Double {
    let share = (value - xRange.lowerBound) / max(xRange.upperBound - xRange.lowerBound, 1e-9)
    return left + min(max(share, 0), 1) * (right - left)
  }
  func y(_ value: Double) -> Double {
    let share = (value - yRange.lowerBound) / max(yRange.upperBound - yRange.lowerBound, 1e-9)
    return bottom - min(max(share, 0), 1) * (bottom - top)
  }
  private func n(_ value: Double) -> String { Text.fixed(value, 1) }

  /// `yUnit` nil: no labels on the y axis. `yTitle` stands above the axis.
  mutating func grid(xTitle: String, yTitle: String, yUnit: String?, yTicks: Int) {
    for tick in Axis.ticks(xRange.lowerBound, xRange.upperBound, about: 8) {
      body += "<line class=\"grid\" x1=\"\(n(x(tick)))\" y1=\"\(n(top))\" x2=\"\(n(x(tick)))\" y2=\"\(n(bottom))\"/>"
      text(
        x(tick), bottom + 15, Text.fixed(tick, tick == tick.rounded() ? 0 : 1), anchor: "middle",
        style: "fill:var(--muted)")
    }
    if yTicks > 0 {
      for tick in Axis.ticks(yRange.lowerBound, yRange.upperBound, about: yTicks) {
        body += "<line class=\"grid\" x1=\"\(n(left))\" y1=\"\(n(y(tick)))\" x2=\"\(n(right))\" y2=\"\(n(y(tick)))\"/>"
        if let yUnit {
          text(left - 6, y(tick) + 4, Text.fixed(tick, 0) + yUnit, anchor: "end", style: "fill:var(--muted)")
        }
      }
    }
    if !yTitle.isEmpty { text(0, top - 10, yTitle, anchor: "start", style: "fill:var(--muted)") }
    body += "<line class=\"axis\" x1=\"\(n(left))\" y1=\"\(n(bottom))\" x2=\"\(n(right))\" y2=\"\(n(bottom))\"/>"
    text((left + right) / 2, bottom + 33, xTitle, anchor: "middle", style: "fill:var(--muted)")
  }

  mutating func line(_ points: [(Double, Double)], style: String, title: String) {
    body += "<polyline class=\"line\" style=\"\(style)\" points=\""
    body += points.map { "\(n(x($0.0))),\(n(y($0.1)))" }.joined(separator: " ")
    body += "\"><title>\(Markup.escape(title))</title></polyline>"
  }

  mutating func bar(_ from: Double, _ to: Double, _ value: Double, style: String, title: String) {
    block(from, to, value, 0, style: style, title: title, gap: 1)
  }

  mutating func block(
    _ from: Double, _ to: Double, _ high: Double, _ low: Double, style: String, title: String, least: Double = 0,
    gap: Double = 0
  ) {
    let wide = max(x(to) - x(from) - gap, least)
    if wide <= 0 { return }
    body +=
      "<rect x=\"\(n(x(from)))\" y=\"\(n(y(high)))\" width=\"\(n(wide))\" height=\"\(n(max(y(low) - y(high), 0.5)))\" "
      + "style=\"\(style)\"><title>\(Markup.escape(title))</title></rect>"
  }

  mutating func bracket(_ from: Double, _ to: Double, _ at: Double) {
    let (a, b, middle) = (n(x(from)), n(x(to)), y(at))
    body +=
      "<path class=\"bracket\" d=\"M\(a) \(n(middle - 4))V\(n(middle + 4))M\(a) \(n(middle))H\(b)M\(b) \(n(middle - 4))V\(n(middle + 4))\"/>"
  }

  mutating func ring(_ at: Double, _ height: Double, title: String) {
    body +=
      "<circle class=\"ring\" cx=\"\(n(x(at)))\" cy=\"\(n(y(height)))\" r=\"4.5\"><title>\(Markup.escape(title))</title></circle>"
  }

  mutating func diamond(_ at: Double, _ height: Double, title: String) {
    let (cx, cy) = (x(at), y(height))
    body +=
      "<path class=\"diamond\" d=\"M\(n(cx)) \(n(cy - 5))L\(n(cx + 5)) \(n(cy))L\(n(cx)) \(n(cy + 5))L\(n(cx - 5)) \(n(cy))Z\"><title>\(Markup.escape(title))</title></path>"
  }

  mutating func rule(x at: Double, label: String) {
    body += "<line class=\"rule\" x1=\"\(n(x(at)))\" y1=\"\(n(top))\" x2=\"\(n(x(at)))\" y2=\"\(n(bottom))\"/>"
    let late = x(at) > (left + right) / 2
    text(x(at) + (late ? -6 : 6), top + 12, label, anchor: late ? "end" : "start")
  }

  mutating func text(_ x: Double, _ y: Double, _ value: String, anchor: String, style: String = "") {
    body +=
      "<text x=\"\(n(x))\" y=\"\(n(y))\" text-anchor=\"\(anchor)\"\(style.isEmpty ? "" : " style=\"\(style)\"")>\(Markup.escape(value))</text>"
  }

  /// Markup of the program's own.
  mutating func raw(_ markup: String) { body += markup }

  func svg(_ label: String) -> String {
    "<svg class=\"plot\" viewBox=\"0 0 \(n(width)) \(n(height))\" role=\"img\" aria-label=\"\(Markup.escape(label))\">\(body)</svg>\n"
  }
}
