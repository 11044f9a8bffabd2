import Foundation
import Ground

/// The little of HTTP/1.1 that metrics, health and `POST /block` need: one request a connection, no chunks. A library
/// would cost more to build than the rest of the daemon and bring an executor of its own (FlyingFox: 47 CPU seconds).
///
/// A browser on this machine must not be made to talk to the relay by a page from elsewhere: whatever names another host
/// (DNS rebinding) or an origin is refused.
struct HTTPRequest {
  var method: String
  var path: String
  var bodyCount = 0
  var expectsContinue = false

  static func parse(_ head: [UInt8]) -> Result<HTTPRequest, HTTPAnswer> {
    guard let text = String(validating: head, as: UTF8.self) else { return .failure(HTTPAnswer(400, "not UTF-8\n")) }
    var lines = text.split(separator: "\r\n", omittingEmptySubsequences: false)[...]
    let parts = (lines.popFirst() ?? "").split(separator: " ", omittingEmptySubsequences: false)
    guard parts.count == 3, parts[2].hasPrefix("HTTP/1."), parts[1].hasPrefix("/") else {
      return .failure(HTTPAnswer(400, "no HTTP request\n"))
    }
    let path = parts[1].split(separator: "?", maxSplits: 1).first.map(String.init) ?? "/"
    var request = HTTPRequest(method: String(parts[0]), path: path)
    var host: Substring?
    for line in lines {
      guard let colon = line.firstIndex(of: ":") else { return .failure(HTTPAnswer(400, "a header without ':'\n")) }
      let name = line[..<colon].lowercased()
      let value = line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" }
      switch name {
      case "host":
        if host != nil { return .failure(HTTPAnswer(400, "Host twice\n")) }
        host = value
      case "origin": return .failure(HTTPAnswer(403, "requests of web pages are refused\n"))
      case "transfer-encoding": return .failure(HTTPAnswer(411, "chunks are not taken: send Content-Length\n"))
      case "content-length":
        guard let count = Int(value), (0...2 * ControlServer.blockMax).contains(count) else {
          return .failure(HTTPAnswer(413, "at most \(ControlServer.blockMax) bytes\n"))
        }
        request.bodyCount = count
      case "expect": request.expectsContinue = value.lowercased() == "100-continue"
      default: break
      }
    }
    guard let host, isLoopback(host) else {
      return .failure(HTTPAnswer(403, "Host must be localhost or an address in 127.0.0.0/8\n"))
    }
    return .success(request)
  }

  private static func isLoopback(_ host: Substring) -> Bool {
    var name = host
    if let colon = name.lastIndex(of: ":"), name[name.index(after: colon)...].allSatisfy(\.isNumber) {
      name = name[..<colon]
    }
    if name.lowercased() == "localhost" { return true }
    // Whatever `--http` can be: an address and nothing that begins like one.
    guard let address = PeerAddress("\(name):0"), address.isIPv4 else { return false }
    return address.low >> 24 & 0xFF == 127
  }
}

struct HTTPAnswer: Error {
  var text: String

  init(_ code: Int, _ body: String, type: String = "text/plain; charset=utf-8") {
    let reasons = [
      200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
      411: "Length Required", 413: "Content Too Large", 422: "Unprocessable Content", 503: "Service Unavailable",
    ]
    text =
      "HTTP/1.1 \(code) \(reasons[code] ?? "Error")\r\nContent-Type: \(type)\r\nContent-Length: \(body.utf8.count)\r\n"
      + "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n" + body
  }
}
