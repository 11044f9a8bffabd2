import Foundation
import Logging
import Measurement
import Synchronization

/// Where log lines go: a descriptor, one write a line. A full disk or a broken pipe costs the lines, which are counted,
/// and nothing else.
final class LogSink: Sendable {
  private struct State {
    var descriptor: Int32
    var path: String?
    var lost: UInt64 = 0
    var complained = false
  }
  private let state: Mutex<State>
  let isJSON: Bool

  /// - Parameter path: nil for standard error.
  init(path: String?, isJSON: Bool) throws {
    self.isJSON = isJSON
    state = Mutex(State(descriptor: 2, path: path))
    try reopen()
  }

  /// After a rotation of the file.
  func reopen() throws {
    guard let path = state.withLock({ $0.path }) else { return }
    let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o640)
    if descriptor < 0 { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
    state.withLock { state in
      if state.descriptor > 2 { close(state.descriptor) }
      state.descriptor = descriptor
    }
  }

  var lost: UInt64 { state.withLock { $0.lost } }

  func write(_ line: String) {
    var text = line
    text.append("\n")
    let bytes = Array(text.utf8)
    state.withLock { state in
      var done = 0
      while done < bytes.count {
        let n = bytes.withUnsafeBytes { Foundation.write(state.descriptor, $0.baseAddress! + done, bytes.count - done) }
        if n < 0 && errno == EINTR { continue }
        if n <= 0 {
          let code = errno
          state.lost += 1
          // Once, where somebody may see it.
          if !state.complained && state.descriptor != 2 {
            state.complained = true
            complain(
              "the log can't be written to \(state.path ?? "?"): \(String(cString: strerror(code))); the relay goes on "
                + "without (metric lightpath_log_lines_lost_total)")
          }
          return
        }
        done += n
      }
      state.complained = false
    }
  }
}

/// swift-log's handler: `TIME level message key=value …`, or one JSON object a line. Some of what is logged is a peer's
/// word: whatever it says, a record is one line and moves no cursor.
struct LineLog: LogHandler {
  let sink: LogSink
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level

  init(_ sink: LogSink, level: Logger.Level) {
    self.sink = sink
    logLevel = level
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(
    level: Logger.Level, message: Logger.Message, metadata: Logger.Metadata?, source: String, file: String,
    function: String, line: UInt
  ) {
    let all = self.metadata.merging(metadata ?? [:]) { $1 }
    let time = LineLog.timestamp()
    if sink.isJSON {
      var object = all.mapValues { "\($0)" }
      object["time"] = time
      object["level"] = level.rawValue
      object["message"] = "\(message)"
      sink.write(json(object))
    } else {
      let rest = all.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
      let name = level.rawValue.padding(toLength: 7, withPad: " ", startingAt: 0)
      sink.write("\(time) \(name) " + Text.tame("\(message)\(rest)"))
    }
  }

  /// RFC 3339 in UTC, microseconds.
  static func timestamp() -> String {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    var parts = tm()
    var seconds = now.tv_sec
    gmtime_r(&seconds, &parts)
    return String(
      format: "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
      parts.tm_hour, parts.tm_min, parts.tm_sec, now.tv_nsec / 1_000)
  }
}
