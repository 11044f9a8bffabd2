import Foundation
import Synchronization

/// What has to be gone when a bench is: its processes and its folder.
public enum Children {
  private static let state = Mutex<(pids: Set<pid_t>, folder: URL?)>(([], nil))

  private static let ending = Atomic<Bool>(false)

  public static func add(_ pid: pid_t) { state.withLock { _ = $0.pids.insert(pid) } }
  public static func remove(_ pid: pid_t) { state.withLock { _ = $0.pids.remove(pid) } }
  /// The folder to remove; nil: none any more.
  public static func keep(_ folder: URL?) { state.withLock { $0.folder = folder } }

  /// Once for all: whoever comes second, because what it used was ended under it, waits for the process's end.
  public static func end() {
    if ending.exchange(true, ordering: .acquiringAndReleasing) { while true { sleep(1) } }
    let (pids, folder) = state.withLock { state in
      defer { state = ([], nil) }
      return state
    }
    for pid in pids { kill(pid, SIGKILL) }
    if !pids.isEmpty { usleep(200_000) }
    if let folder { try? FileManager.default.removeItem(at: folder) }
  }

  /// On SIGINT, SIGTERM and SIGHUP, and when `limit` has passed, everything is ended. Handlers, and no blocked signals:
  /// those the children would inherit.
  /// - Parameter bench: who says so on standard error.
  public static func watch(_ bench: String, limit seconds: Int) {
    var ends: [Int32] = [0, 0]
    guard pipe(&ends) == 0 else { return }
    signalPipe = ends[1]
    for signal in [SIGINT, SIGTERM, SIGHUP] {
      Foundation.signal(signal) { number in
        var byte = UInt8(truncatingIfNeeded: number)
        _ = write(signalPipe, &byte, 1)
      }
    }
    let input = ends[0]
    let thread = Thread {
      var poll = pollfd(fd: input, events: Int16(POLLIN), revents: 0)
      let limit = Date(timeIntervalSinceNow: Double(seconds))
      while true {
        let rest = limit.timeIntervalSinceNow
        if rest <= 0 { break }
        if Foundation.poll(&poll, 1, Int32(min(rest, 60) * 1_000) + 1) > 0 { break }
      }
      var byte: UInt8 = 0
      let signal = poll.revents != 0 && read(input, &byte, 1) == 1 ? Int32(byte) : 0
      let text = signal > 0 ? "stopped by signal \(signal)" : "not done within \(seconds) s (--limit)"
      FileHandle.standardError.write(Data("\(bench): \(text)\n".utf8))
      end()
      _exit(signal > 0 ? 128 + signal : 3)
    }
    thread.start()
  }
}

/// Where a signal's handler writes its number; set once, before there is a handler.
private nonisolated(unsafe) var signalPipe: Int32 = -1
