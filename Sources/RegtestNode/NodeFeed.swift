import Bitcoin
import Foundation
import Ground

/// Hands transactions to a node as a peer does, in `tx` messages over one connection: some 100 µs each, where
/// `sendrawtransaction` waits for the node's validation queue every time (5 ms on a busy machine). Blocking; for tests,
/// benches and the demo.
public final class NodeFeed {
  public enum Failure: Error, CustomStringConvertible {
    case connection(String)
    case timeout(String)

    public var description: String {
      switch self {
      case .connection(let why): "the feed's connection: \(why)"
      case .timeout(let what): "the node did not \(what) in time"
      }
    }
  }

  private let descriptor: Int32
  private let network: Network
  private var stream: MessageStream
  private var nextPing: UInt64 = 1

  /// Connects to a port of the node that has the `relay` permission, and shakes hands.
  public init(port: UInt16, network: Network) throws {
    self.network = network
    stream = MessageStream(network: network)
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { throw Failure.connection(String(cString: strerror(errno))) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    if result != 0 { throw Failure.connection(String(cString: strerror(errno))) }
    var limit = timeval(tv_sec: 30, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    let version = Version(
      services: [], time: Int64(Date().timeIntervalSince1970), nonce: UInt64.random(in: 1...(.max)),
      userAgent: "/feed/", startHeight: 0, relay: false)
    try write(Message.version(version).framed(on: network))
    try read("shake hands") { if case .verack = $0 { true } else { false } }
    try write(Message.verack.framed(on: network))
  }

  deinit { close(descriptor) }

  /// Sends them all and returns when the node has dealt with each. What it refused is not in its mempool: count there.
  public func send(_ transactions: [[UInt8]]) throws {
    // In pieces, so that what the node answers meanwhile never fills both directions.
    for start in stride(from: 0, to: transactions.count, by: 250) {
      var piece = ByteWriter(reserving: 1 << 18)
      for raw in transactions[start..<min(transactions.count, start + 250)] {
        Framing.write(.tx, payload: raw.span.bytes, on: network, to: &piece)
      }
      let nonce = nextPing
      nextPing += 1
      piece.append(Message.ping(nonce).framed(on: network))
      try write(piece.bytes)
      try read("answer a ping") { if case .pong(nonce) = $0 { true } else { false } }
    }
  }

  private func write(_ bytes: [UInt8]) throws {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        Foundation.send(descriptor, $0.baseAddress! + done, $0.count - done, Int32(MSG_NOSIGNAL))
      }
      // A call with a time limit is not resumed after the process was stopped for a while.
      if count < 0 && errno == EINTR { continue }
      if count <= 0 { throw Failure.connection("write: \(String(cString: strerror(errno)))") }
      done += count
    }
  }

  /// Reads until a message is the one waited for.
  private func read(_ what: String, until isIt: (Message) -> Bool) throws {
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      while let found = try stream.next({ command, payload in (try? Message(command, payload: payload)).map(isIt) }) {
        if found == true { return }
      }
      let count = recv(descriptor, &buffer, buffer.count, 0)
      if count < 0 && errno == EINTR { continue }
      if count < 0 && errno == EAGAIN { throw Failure.timeout(what) }
      if count <= 0 { throw Failure.connection("closed by the node") }
      stream.receive(buffer.span.bytes.extracting(0..<count))
    }
  }
}
