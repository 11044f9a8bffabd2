import Foundation
import Ground

/// Blocking sockets with time limits, for the control side: never on the packet path.
struct LocalSocket {
  let descriptor: Int32
  /// When whatever is being read or written is given up: bytes that come one by one in time for `limit` don't count.
  var deadline = Instant.never

  init(descriptor: Int32) { self.descriptor = descriptor }

  enum Failure: Error, CustomStringConvertible {
    case system(String, Int32)
    case tooLong
    case ended
    var description: String {
      switch self {
      case .system(let call, let code): "\(call): \(String(cString: strerror(code)))"
      case .tooLong: "a line or body is longer than allowed"
      case .ended: "the other side hung up"
      }
    }
  }

  static func unixAddress(_ path: String) throws -> (sockaddr_un, socklen_t) {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
      throw Failure.system("socket path longer than 107 bytes: \(path)", ENAMETOOLONG)
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    return (address, socklen_t(MemoryLayout<sockaddr_un>.size))
  }

  static func connect(_ path: String, seconds: Int = 10) throws -> LocalSocket {
    var (address, length) = try unixAddress(path)
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    if descriptor < 0 { throw Failure.system("socket", errno) }
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { Foundation.connect(descriptor, $0, length) }
    }
    if result != 0 {
      let code = errno
      close(descriptor)
      throw Failure.system("connect", code)
    }
    let socket = LocalSocket(descriptor: descriptor)
    socket.limit(seconds: seconds)
    return socket
  }

  func limit(seconds: Int) {
    var time = timeval(tv_sec: seconds, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
  }

  func write(_ bytes: [UInt8]) throws {
    var done = 0
    while done < bytes.count {
      try wait(for: Int16(POLLOUT))
      let n = bytes.withUnsafeBytes {
        send(descriptor, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL))
      }
      if n < 0 && errno == EINTR { continue }
      if n <= 0 { throw Failure.system("send", errno) }
      done += n
    }
  }
  func write(_ text: String) throws { try write(Array(text.utf8)) }

  /// Reads until `end`, at most `limit` bytes; returns what came before it. What came after stays in `rest`.
  func read(until end: [UInt8], limit: Int, rest: inout [UInt8]) throws -> [UInt8] {
    var from = 0
    while true {
      if rest.count >= end.count {
        for start in max(0, from - end.count)...(rest.count - end.count)
        where rest[start..<start + end.count].elementsEqual(end) {
          let line = Array(rest[..<start])
          rest.removeFirst(start + end.count)
          return line
        }
      }
      if rest.count > limit { throw Failure.tooLong }
      from = rest.count
      try more(&rest)
    }
  }

  func read(count: Int, rest: inout [UInt8]) throws -> [UInt8] {
    while rest.count < count { try more(&rest) }
    defer { rest.removeFirst(count) }
    return Array(rest[..<count])
  }

  private func more(_ rest: inout [UInt8]) throws {
    try wait(for: Int16(POLLIN))
    var buffer = [UInt8](repeating: 0, count: 65_536)
    let n = recv(descriptor, &buffer, buffer.count, 0)
    if n < 0 && errno == EINTR { return }
    if n < 0 { throw Failure.system("recv", errno) }
    if n == 0 { throw Failure.ended }
    rest.append(contentsOf: buffer[..<n])
  }

  /// Until the descriptor is ready; throws when the deadline comes first, or has come.
  private func wait(for events: Int16) throws {
    if deadline == .never { return }
    let rest = deadline - SystemClock.now()
    var polled = pollfd(fd: descriptor, events: events, revents: 0)
    if rest <= .zero || poll(&polled, 1, Int32(clamping: rest.nanoseconds / 1_000_000 + 1)) == 0 {
      throw Failure.system("not in time", ETIMEDOUT)
    }
  }

  func end() { close(descriptor) }
}
