import ArgumentParser
import Foundation

/// One line to standard error.
func complain(_ text: String) { say("lightpath: " + text) }

/// The same without the program's name. Nobody to read it is no reason to end: Foundation's `FileHandle` ends the process
/// when it can't write.
func say(_ text: String) {
  let bytes = Array((text + "\n").utf8)
  var done = 0
  while done < bytes.count {
    let n = bytes.withUnsafeBytes { write(2, $0.baseAddress! + done, bytes.count - done) }
    if n < 0 && errno == EINTR { continue }
    if n <= 0 { return }
    done += n
  }
}

/// Complains and gives what to throw.
func failure(_ code: ExitCode, _ text: String) -> ExitCode {
  complain(text)
  return code
}

func json(_ value: some Encodable, pretty: Bool = false) -> String {
  let encoder = JSONEncoder()
  encoder.outputFormatting =
    pretty ? [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes] : [.sortedKeys, .withoutEscapingSlashes]
  return (try? encoder.encode(value)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
}

func number(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }

/// 1234567 as 1.23 MB.
func amount(_ bytes: Int) -> String {
  if bytes >= 1_000_000 { return number(Double(bytes) / 1e6, 2) + " MB" }
  if bytes >= 1_000 { return number(Double(bytes) / 1e3, 1) + " kB" }
  return "\(bytes) B"
}

/// Columns side by side; the first `leftColumns` to the left, the rest to the right.
func table(_ rows: [[String]], leftColumns: Int = 1, indent: String = "  ") -> [String] {
  let count = rows.map(\.count).max() ?? 0
  let widths = (0..<count).map { column in rows.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0 }
  return rows.map { row in
    let line = row.enumerated().map { column, text in
      let pad = String(repeating: " ", count: widths[column] - text.count)
      return column < leftColumns ? text + pad : pad + text
    }.joined(separator: "  ")
    var end = line.endIndex
    while end > line.startIndex, line[line.index(before: end)] == " " { end = line.index(before: end) }
    return indent + line[..<end]
  }
}
