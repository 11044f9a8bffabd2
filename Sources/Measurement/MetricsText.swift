/// Prometheus' text exposition format 0.0.4, built line by line.
///
/// Names are the program's own and checked by precondition; label values may come from anywhere and are escaped.
public struct MetricsText: Sendable {
  public enum Kind: String, Sendable { case counter, gauge, summary }

  public private(set) var text = ""
  private var current = ""

  public init() {}

  /// Begins a family; its samples follow.
  public mutating func family(_ name: String, _ kind: Kind, help: String) {
    precondition(MetricsText.isName(name), "no metric name: \(name)")
    current = name
    text += "# HELP \(name) \(MetricsText.escapeHelp(help))\n# TYPE \(name) \(kind.rawValue)\n"
  }

  /// One value of the current family.
  public mutating func sample(_ value: Double, suffix: String = "", _ labels: [(String, String)] = []) {
    precondition(!current.isEmpty, "a family first")
    text += current + suffix
    if !labels.isEmpty {
      text += "{"
      for (index, (name, value)) in labels.enumerated() {
        precondition(MetricsText.isName(name) && !name.contains(":"), "no label name: \(name)")
        if index > 0 { text += "," }
        text += "\(name)=\"\(MetricsText.escape(value))\""
      }
      text += "}"
    }
    text += " \(MetricsText.number(value))\n"
  }

  public mutating func sample(_ value: Int, _ labels: [(String, String)] = []) { sample(Double(value), labels) }

  /// A distribution as a summary in seconds.
  public mutating func summary(_ distribution: Distribution, _ labels: [(String, String)] = []) {
    for quantile in [0.5, 0.9, 0.99] {
      guard let value = distribution.percentile(quantile * 100) else { continue }
      sample(value / 1e3, labels + [("quantile", MetricsText.number(quantile))])
    }
    sample(distribution.sumMicroseconds / 1e6, suffix: "_sum", labels)
    sample(Double(distribution.count), suffix: "_count", labels)
  }

  /// Backslash, double quote and line feed are escaped, as the format says.
  public static func escape(_ value: String) -> String {
    var out = ""
    for scalar in value.unicodeScalars {
      switch scalar {
      case "\\": out += "\\\\"
      case "\"": out += "\\\""
      case "\n": out += "\\n"
      default: out.unicodeScalars.append(scalar)
      }
    }
    return out
  }

  static func escapeHelp(_ value: String) -> String {
    var out = ""
    for scalar in value.unicodeScalars {
      switch scalar {
      case "\\": out += "\\\\"
      case "\n": out += "\\n"
      default: out.unicodeScalars.append(scalar)
      }
    }
    return out
  }

  static func isName(_ name: String) -> Bool {
    guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
    return name.utf8.allSatisfy {
      (0x61...0x7A).contains($0) || (0x41...0x5A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5F
        || $0 == 0x3A
    }
  }

  static func number(_ value: Double) -> String {
    if value.isNaN { return "NaN" }
    if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
    if value == value.rounded(), abs(value) < 1e15 { return String(Int64(value)) }
    return "\(value)"
  }
}
