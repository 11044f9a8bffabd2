import Foundation
import Ground

/// Watches a pool endpoint as a Stratum v1 client that never mines: subscribes, authorises, and tells the moment at
/// which the first job on a new previous block arrives (`mining.notify`, params[1]).
///
/// Sans-IO: bytes in, lines to send and events out. The endpoint is the site's own, but its bytes are checked like
/// anybody's: lines of at most `longestLine`, at most `longestBurst` lines a second are parsed, and what makes no sense
/// is counted and skipped.
public struct StratumWatcher: Sendable {
  public enum Event: Hashable, Sendable {
    case subscribed
    case authorised
    /// The pool refused the worker's name; jobs may come nevertheless.
    case refused(String)
    /// First job on a previous block that was not the last one's. `isFirst`: it says where the pool stands on
    /// connecting and marks no new block.
    case newBlock(previous: BlockID, at: Instant, isFirst: Bool)
  }
  /// What ends the connection.
  public enum Failure: Error, Hashable, Sendable {
    /// No line feed within `longestLine` bytes.
    case lineTooLong
  }

  public static let longestLine = 65_536
  public static let longestBurst = 200

  private let worker: String
  private let password: String
  private var buffer: [UInt8] = []
  private var previous: BlockID?
  private var second: UInt64 = 0
  private var linesThisSecond = 0
  /// Lines that were no valid message, and those skipped for coming too fast.
  public private(set) var malformed = 0
  public private(set) var skipped = 0
  public private(set) var jobs = 0

  public init(worker: String = "lightpath.watch", password: String = "x") {
    (self.worker, self.password) = (worker, password)
  }

  /// The connection stands: what to send. Clears what an earlier connection left.
  public mutating func connected() -> [UInt8] {
    buffer.removeAll(keepingCapacity: true)
    previous = nil
    return StratumWatcher.line(1, "mining.subscribe", ["lightpath/1"])
      + StratumWatcher.line(2, "mining.authorize", [worker, password])
  }

  private static func line(_ id: Int, _ method: String, _ params: [String]) -> [UInt8] {
    let object: [String: Any] = ["id": id, "method": method, "params": params]
    let data = try? JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
    return [UInt8](data ?? Data()) + [0x0A]
  }

  /// Bytes from the endpoint.
  /// - Throws: `lineTooLong`: the caller closes the connection.
  public mutating func receive(_ bytes: some Sequence<UInt8>, at now: Instant) throws(Failure) -> [Event] {
    var events: [Event] = []
    for byte in bytes {
      if byte != 0x0A {
        if buffer.count == StratumWatcher.longestLine {
          buffer.removeAll()
          throw .lineTooLong
        }
        buffer.append(byte)
        continue
      }
      take(at: now, &events)
      buffer.removeAll(keepingCapacity: true)
    }
    return events
  }

  private mutating func take(at now: Instant, _ events: inout [Event]) {
    if buffer.allSatisfy({ $0 == 0x0D || $0 == 0x20 }) { return }
    let nowSecond = now.nanoseconds / 1_000_000_000
    if nowSecond != second { (second, linesThisSecond) = (nowSecond, 0) }
    linesThisSecond += 1
    if linesThisSecond > StratumWatcher.longestBurst {
      skipped += 1
      return
    }
    // Foundation's parser recurses once a level: deep nesting is refused before it sees it.
    guard StratumWatcher.isShallow(buffer),
      let object = try? JSONSerialization.jsonObject(with: Data(buffer)) as? [String: Any]
    else {
      malformed += 1
      return
    }
    if let method = object["method"] as? String {
      if method == "mining.notify" { notify(object["params"], at: now, &events) }
      return
    }
    guard let id = object["id"] as? Int else { return }
    let failed = object["error"].map { !($0 is NSNull) } ?? false
    if id == 1 && !failed { events.append(.subscribed) }
    if id == 2 {
      let granted = object["result"] as? Bool ?? false
      events.append(granted && !failed ? .authorised : .refused(String("\(object["error"] ?? "no")".prefix(200))))
    }
  }

  private mutating func notify(_ params: Any?, at now: Instant, _ events: inout [Event]) {
    guard let params = params as? [Any], params.count >= 2, let text = params[1] as? String,
      let block = StratumWatcher.previousBlock(text)
    else {
      malformed += 1
      return
    }
    jobs += 1
    if block == previous { return }
    events.append(.newBlock(previous: block, at: now, isFirst: previous == nil))
    previous = block
  }

  /// Stratum writes the hash as eight 32-bit words in the order of the wire, the bytes of each word reversed.
  static func previousBlock(_ text: String) -> BlockID? {
    guard text.utf8.count == 64, let raw = Hex.decode(text) else { return nil }
    var bytes = raw
    for word in 0..<8 { for byte in 0..<4 { bytes[word * 4 + byte] = raw[word * 4 + 3 - byte] } }
    return BlockID(bytes: bytes)
  }

  private static func isShallow(_ line: [UInt8]) -> Bool {
    var depth = 0
    var inString = false
    var escaped = false
    for byte in line {
      if inString {
        if escaped { escaped = false } else if byte == 0x5C { escaped = true } else if byte == 0x22 { inString = false }
      } else if byte == 0x22 {
        inString = true
      } else if byte == 0x5B || byte == 0x7B {
        depth += 1
        if depth > 16 { return false }
      } else if byte == 0x5D || byte == 0x7D {
        depth -= 1
      }
    }
    return true
  }
}
