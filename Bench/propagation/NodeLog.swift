import Foundation

/// A node's debug.log, read as it grows. Its times are the machine's CLOCK_REALTIME, as the bench's are.
final class NodeLog {
  struct Line {
    /// Microseconds since 1970.
    let time: Double
    let text: Substring
  }

  private let file: URL
  private var offset: UInt64 = 0
  private var rest = ""
  private(set) var lines: [Line] = []
  private let formatter = ISO8601DateFormatter()

  init(_ file: URL) { self.file = file }

  /// Reads what was added.
  func refresh() {
    guard let handle = try? FileHandle(forReadingFrom: file) else { return }
    defer { try? handle.close() }
    try? handle.seek(toOffset: offset)
    guard let data = try? handle.readToEnd(), !data.isEmpty else { return }
    offset += UInt64(data.count)
    let text = rest + String(decoding: data, as: UTF8.self)
    var parts = text.split(separator: "\n", omittingEmptySubsequences: false)
    rest = String(parts.removeLast())
    for part in parts { if let line = parse(part) { lines.append(line) } }
  }

  /// Forgets what was read.
  func clear() {
    refresh()
    lines = []
  }

  /// `2026-01-01T00:00:00.000000Z text`
  private func parse(_ line: Substring) -> Line? {
    guard line.utf8.count > 28, let space = line.firstIndex(of: " ") else { return nil }
    let stamp = line[..<space]
    guard stamp.utf8.count == 27, stamp.hasSuffix("Z") else { return nil }
    let second = stamp.prefix(19) + "Z"
    if second != lastSecond.text {
      guard let date = formatter.date(from: String(second)) else { return nil }
      lastSecond = (String(second), date.timeIntervalSince1970)
    }
    guard let micros = Double(stamp.dropFirst(20).dropLast()) else { return nil }
    return Line(time: lastSecond.value * 1e6 + micros, text: line[line.index(after: space)...])
  }
  private var lastSecond: (text: String, value: Double) = ("", 0)

  func tipTime(_ hash: String) -> Double? { first { $0.contains("UpdateTip: new best=\(hash)") } }

  func first(_ matches: (Substring) -> Bool) -> Double? { lines.first { matches($0.text) }?.time }

  /// The last line before a time.
  func last(before time: Double, _ matches: (Substring) -> Bool) -> Double? {
    lines.last { $0.time <= time && matches($0.text) }?.time
  }
}
