import Foundation

/// A node's debug.log, read as it grows. Its times are the machine's CLOCK_REALTIME, as the bench's are.
///
/// While a block travels nothing is parsed: the sites' cores are the bench's, too.
final class NodeLog {
  struct Line {
    /// Microseconds since 1970.
    let time: Double
    let text: Substring
  }

  private let file: URL
  private var handle: FileHandle?
  private var data = Data()
  private var parsed: [Line]?
  private let formatter = ISO8601DateFormatter()
  private var lastSecond: (text: String, value: Double) = ("", 0)

  init(_ file: URL) { self.file = file }

  /// Forgets what was written so far.
  func skip() {
    open()
    _ = try? handle?.seekToEnd()
    data.removeAll()
    parsed = nil
  }

  /// Reads what was added.
  func refresh() {
    open()
    guard let more = try? handle?.readToEnd(), !more.isEmpty else { return }
    data += more
    parsed = nil
  }

  private func open() { if handle == nil { handle = try? FileHandle(forReadingFrom: file) } }

  /// Whether the text is in what was read.
  func contains(_ text: String) -> Bool { data.range(of: Data(text.utf8)) != nil }

  /// What was read since the last `skip`, whole lines only.
  var lines: [Line] {
    if let parsed { return parsed }
    let whole = data.lastIndex(of: 0x0A).map { data[data.startIndex...$0] } ?? Data()
    let result = String(decoding: whole, as: UTF8.self).split(separator: "\n").compactMap(parse)
    parsed = result
    return result
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

  static func tipLine(_ hash: String) -> String { "UpdateTip: new best=\(hash)" }

  func tipTime(_ hash: String) -> Double? { first { $0.contains(NodeLog.tipLine(hash)) } }

  func first(_ matches: (Substring) -> Bool) -> Double? { lines.first { matches($0.text) }?.time }

  /// The last line before a time.
  func last(before time: Double, _ matches: (Substring) -> Bool) -> Double? {
    lines.last { $0.time <= time && matches($0.text) }?.time
  }
}
