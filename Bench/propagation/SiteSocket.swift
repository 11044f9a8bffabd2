import CNamespace
import Foundation

/// What goes wrong outside the bench's own code.
struct BenchFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// Runs `body` on this thread inside a network namespace. What is opened or started there stays there.
func inside<R>(_ namespace: Int32, _ body: () throws -> R) throws -> R {
  let home = cn_current()
  guard home >= 0, cn_enter(namespace) == 0 else { throw BenchFailure("can't enter a network namespace") }
  defer {
    _ = cn_enter(home)
    close(home)
  }
  return try body()
}

/// A TCP connection to a port on a site's loopback.
final class SiteSocket {
  let descriptor: Int32
  private let port: UInt16
  /// Seconds that a node may take for an answer.
  static let patience = 30

  init(_ namespace: Int32, port: UInt16) throws {
    self.port = port
    descriptor = try inside(namespace) {
      let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
      var name = sockaddr_in()
      name.sin_family = sa_family_t(AF_INET)
      name.sin_port = port.bigEndian
      name.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
      let code = withUnsafePointer(to: &name) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
      }
      if code != 0 {
        close(descriptor)
        throw BenchFailure("port \(port): \(String(cString: strerror(errno)))")
      }
      return descriptor
    }
    var one: Int32 = 1
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
    var limit = timeval(tv_sec: SiteSocket.patience, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(descriptor) }

  func write(_ bytes: some Collection<UInt8>) throws {
    let copy = Array(bytes)
    var done = 0
    while done < copy.count {
      let n = copy.withUnsafeBytes { send(descriptor, $0.baseAddress! + done, copy.count - done, Int32(MSG_NOSIGNAL)) }
      if n <= 0 { throw BenchFailure("port \(port): write: \(String(cString: strerror(errno)))") }
      done += n
    }
  }

  /// At least one byte.
  func read() throws -> ArraySlice<UInt8> {
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    let n = recv(descriptor, &buffer, buffer.count, 0)
    if n < 0 && errno == EAGAIN { throw BenchFailure("port \(port): no answer in \(SiteSocket.patience) s") }
    if n < 0 { throw BenchFailure("port \(port): read: \(String(cString: strerror(errno)))") }
    if n == 0 { throw BenchFailure("port \(port): the connection was closed") }
    return buffer[..<n]
  }
}

/// JSON-RPC over HTTP to a node inside a namespace; one connection, kept.
final class SiteRPC {
  private let namespace: Int32
  private let port: UInt16
  private let cookie: String
  private var socket: SiteSocket?

  init(_ namespace: Int32, port: UInt16, cookie: String) {
    self.namespace = namespace
    self.port = port
    self.cookie = cookie
  }

  /// A request as bytes, so that building it is not in what is timed.
  func request(_ method: String, _ parameters: [Any]) throws -> [UInt8] {
    guard let login = try? String(contentsOfFile: cookie, encoding: .utf8) else {
      throw BenchFailure("no cookie at \(cookie)")
    }
    let body = try JSONSerialization.data(
      withJSONObject: ["jsonrpc": "1.0", "id": "bench", "method": method, "params": parameters])
    let head =
      "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic \(Data(login.utf8).base64EncodedString())\r\n"
      + "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n\r\n"
    return Array(head.utf8) + Array(body)
  }

  @discardableResult
  func call(_ method: String, _ parameters: [Any] = []) throws -> Any {
    let request = try request(method, parameters)
    if socket != nil {
      // A kept connection may have been closed by the node meanwhile.
      if let answer = try? send(request) { return try result(answer, method) }
    }
    socket = try SiteSocket(namespace, port: port)
    return try result(try send(request), method)
  }

  /// Opens the connection, so that the next `send` finds it.
  func connect() throws { socket = try SiteSocket(namespace, port: port) }

  func send(_ request: [UInt8]) throws -> Data {
    guard let socket else { throw BenchFailure("not connected") }
    do {
      try socket.write(request)
      return try answer(socket)
    } catch {
      self.socket = nil
      throw error
    }
  }

  private func answer(_ socket: SiteSocket) throws -> Data {
    var data = Data()
    var bodyStart: Int?
    var length = 0
    while true {
      data.append(contentsOf: try socket.read())
      if bodyStart == nil, let end = data.range(of: Data("\r\n\r\n".utf8)) {
        bodyStart = end.upperBound
        let head = String(decoding: data[..<end.lowerBound], as: UTF8.self).lowercased()
        guard let field = head.split(separator: "\r\n").first(where: { $0.hasPrefix("content-length:") }),
          let value = Int(field.dropFirst(15).trimmingCharacters(in: .whitespaces))
        else { throw BenchFailure("an HTTP answer without a length") }
        length = value
      }
      if let bodyStart, data.count >= bodyStart + length { return data[bodyStart..<bodyStart + length] }
    }
  }

  func result(_ data: Data, _ method: String) throws -> Any {
    guard let reply = try? JSONSerialization.jsonObject(with: data) as? [String: Any] else {
      throw BenchFailure("\(method): \(String(decoding: data.prefix(200), as: UTF8.self))")
    }
    if let error = reply["error"] as? [String: Any] { throw BenchFailure("\(method): \(error["message"] ?? error)") }
    return reply["result"] ?? NSNull()
  }
}
