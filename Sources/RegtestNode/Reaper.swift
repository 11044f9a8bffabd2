import Foundation
import Synchronization

/// Ends the processes and removes the folders that this process leaves when it ends, however it ends: SIGKILL included,
/// at which nothing here runs any more. Foundation's `Process` has no death signal, and that of the kernel goes by thread.
///
/// A shell beside this process does it: it reads what there is to end from a socket, whose end is this process's end.
public enum Reaper {
  private static let script = """
    trap '' INT TERM HUP PIPE
    while read -r what value; do
      case $what in
        pid) pids="$pids $value" ;;
        ended) rest=; for pid in $pids; do [ "$pid" = "$value" ] || rest="$rest $pid"; done; pids=$rest ;;
        folder) set -- "$@" "$value" ;;
        removed) for folder; do shift; [ "$folder" = "$value" ] || set -- "$@" "$folder"; done ;;
      esac
    done
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
    [ $# = 0 ] && exit
    for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$@" 2>/dev/null && break; sleep 0.1; done
    """

  /// Our end of the socket; -1: there is no shell, and nothing is seen to.
  private static let socket = Mutex<Int32?>(nil)

  /// This child is killed when this process ends.
  public static func add(_ pid: Int32) { tell("pid \(pid)") }
  /// It has ended: its number may come to be another's.
  public static func remove(_ pid: Int32) { tell("ended \(pid)") }
  /// This folder is removed when this process has ended, after the children's end.
  public static func add(_ folder: URL) { tell("folder \(folder.path)") }
  /// It is to stay, or is gone.
  public static func remove(_ folder: URL) { tell("removed \(folder.path)") }

  private static func tell(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    socket.withLock { socket in
      let descriptor = socket ?? start()
      socket = descriptor
      if descriptor >= 0 { _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) }
    }
  }

  private static func start() -> Int32 {
    var ends: [Int32] = [-1, -1]
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { return -1 }
    let shell = Process()
    shell.executableURL = URL(filePath: "/bin/sh")
    shell.arguments = ["-c", script]
    shell.standardInput = FileHandle(fileDescriptor: ends[1], closeOnDealloc: false)
    // Whoever waits for the end of this process's output must not wait for the shell's.
    shell.standardOutput = FileHandle.nullDevice
    shell.standardError = FileHandle.nullDevice
    defer { close(ends[1]) }
    do { try shell.run() } catch {
      close(ends[0])
      return -1
    }
    return ends[0]
  }
}
