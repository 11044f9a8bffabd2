import Bitcoin
import Foundation
import Ground
import Synchronization

/// A TCP server on loopback for one connection at a time, on a thread of its own.
class TestServer: @unchecked Sendable {
  let port: UInt16
  private let listening: Int32
  private let connection = Mutex<Int32>(-1)
  private let ended = Atomic<Bool>(false)

  init() {
    listening = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let descriptor = listening
    _ = withUnsafeMutablePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, length) == 0 && listen(descriptor, 4) == 0 && getsockname(descriptor, $0, &length) == 0
      }
    }
    port = UInt16(bigEndian: name.sin_port)
  }

  func start() {
    Thread.detachNewThread { [self] in
      while !ended.load(ordering: .acquiring) {
        let accepted = accept(listening, nil, nil)
        if accepted < 0 { return }
        connection.withLock { $0 = accepted }
        connected()
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
          let count = recv(accepted, &buffer, buffer.count, 0)
          if count <= 0 { break }
          received(Array(buffer[..<count]))
        }
        connection.withLock { $0 = -1 }
        close(accepted)
      }
    }
  }

  func connected() {}
  func received(_ bytes: [UInt8]) {}
  func write(_ bytes: [UInt8]) {
    let descriptor = connection.withLock { $0 }
    if descriptor >= 0 { _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) }
  }
  func stop() {
    ended.store(true, ordering: .releasing)
    shutdown(listening, Int32(SHUT_RDWR))
    close(listening)
    let descriptor = connection.withLock { $0 }
    if descriptor >= 0 { shutdown(descriptor, Int32(SHUT_RDWR)) }
  }
}

/// A pool as a Stratum v1 client sees it.
final class TestPool: TestServer, @unchecked Sendable {
  private var buffer: [UInt8] = []
  let subscribed = Atomic<Bool>(false)

  override func connected() { buffer = [] }

  override func received(_ bytes: [UInt8]) {
    buffer += bytes
    while let end = buffer.firstIndex(of: 0x0A) {
      let object = try? JSONSerialization.jsonObject(with: Data(buffer[..<end])) as? [String: Any]
      buffer.removeSubrange(...end)
      switch object?["method"] as? String {
      case "mining.subscribe": write(Array("{\"id\":1,\"result\":[[],\"08000002\",4],\"error\":null}\n".utf8))
      case "mining.authorize":
        write(Array("{\"id\":2,\"result\":true,\"error\":null}\n".utf8))
        // Where the pool stands: no new block.
        job(on: String(repeating: "11", count: 32))
        subscribed.store(true, ordering: .releasing)
      default: break
      }
    }
  }

  /// The first job on top of a block, given as RPC writes its hash.
  func job(on hash: String) {
    let wire = Array(Hex.decode(hash)!.reversed())
    // Eight words, the bytes of each reversed.
    let words = (0..<8).flatMap { wire[$0 * 4..<$0 * 4 + 4].reversed() }
    write(
      Array(
        ("{\"id\":null,\"method\":\"mining.notify\",\"params\":[\"1\",\"\(Hex.encode(words))\",\"01\",\"02\",[],"
          + "\"20000000\",\"207fffff\",\"6789abcd\",true]}\n").utf8))
  }
}

/// A peer of the public network that announces blocks by `inv`, some time after they were found.
final class TestPublicPeer: TestServer, @unchecked Sendable {
  private var input = MessageStream(network: .regtest)
  let isReady = Atomic<Bool>(false)
  private let userAgent: String

  init(userAgent: String = "/Satoshi:29.0.0/") { self.userAgent = userAgent }

  override func connected() { input = MessageStream(network: .regtest) }

  override func received(_ bytes: [UInt8]) {
    input.receive(bytes.span.bytes)
    while let result = try? input.next({ command, payload in Result { try Message(command, payload: payload) } }) {
      guard case .success(let message) = result else { continue }
      switch message {
      case .version:
        say(
          .version(Version(services: [.witness], time: 0, nonce: 99, userAgent: userAgent, startHeight: 0)))
        say(.verack)
      case .verack: isReady.store(true, ordering: .releasing)
      case .ping(let nonce): if let nonce { say(.pong(nonce)) }
      case .getheaders: say(.headers([]))
      default: break
      }
    }
  }

  private func say(_ message: Message) { write(message.framed(on: .regtest)) }
  func announce(_ hash: String) { say(.inv([InventoryItem(.block, Hash256(hash)!)])) }
}

/// Answers one request on a control socket with a status.
final class FakeControl: Sendable {
  private let listening: Int32
  private let path: String

  init(_ path: String, _ status: [String: Any], change: (inout [String: Any]) -> Void) throws {
    var status = status
    change(&status)
    let answer = Array(try JSONSerialization.data(withJSONObject: ["ok": true, "status": status])) + [0x0A]
    self.path = path
    let listening = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    self.listening = listening
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
    _ = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(listening, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0 && listen(listening, 4) == 0
      }
    }
    Thread.detachNewThread {
      let connection = accept(listening, nil, nil)
      if connection < 0 { return }
      var buffer = [UInt8](repeating: 0, count: 4_096)
      _ = recv(connection, &buffer, buffer.count, 0)
      _ = send(connection, answer, answer.count, Int32(MSG_NOSIGNAL))
      close(connection)
    }
  }

  func stop() {
    shutdown(listening, Int32(SHUT_RDWR))
    close(listening)
    unlink(path)
  }
}
