import Foundation
import Synchronization

final class Flag: Sendable {
  let value = Atomic(false)
}

/// A node's log, read as it grows: when it said what.
final class NodeLog {
  private let file: URL
  private var offset: UInt64 = 0
  private var lines: [Substring] = []

  init(_ file: URL) { self.file = file }

  /// Takes what has come since the last time; what was there before is forgotten.
  func read() {
    guard let handle = try? FileHandle(forReadingFrom: file) else { return }
    defer { try? handle.close() }
    try? handle.seek(toOffset: offset)
    let data = (try? handle.readToEnd()) ?? Data()
    offset += UInt64(data.count)
    lines = String(decoding: data, as: UTF8.self).split(separator: "\n")
  }

  /// Microseconds since 1970 of the first line that holds `text`.
  func time(_ text: String) -> Double? {
    guard let line = lines.first(where: { $0.contains(text) }) else { return nil }
    let stamp = line.prefix(26)  // 2026-01-01T00:00:00.000000
    guard let whole = ISO8601DateFormatter().date(from: stamp.prefix(19) + "Z"),
      let fraction = Double("0" + stamp.dropFirst(19))
    else { return nil }
    return (whole.timeIntervalSince1970 + fraction) * 1e6
  }
}

/// Times of the same stages of many blocks, in milliseconds; a stage that a block skipped has none.
struct Stages {
  let names: [String]
  private var values: [[Double]]

  init(names: [String]) {
    self.names = names
    values = names.map { _ in [] }
  }
  mutating func add(_ times: [Double?]) {
    for (index, time) in times.enumerated() { if let time { values[index].append(time) } }
  }
  subscript(_ name: String) -> [Double] { names.firstIndex(of: name).map { values[$0] } ?? [] }
}
