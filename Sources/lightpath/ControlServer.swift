import ArgumentParser
import Bitcoin
import Foundation
import Ground
import Relay
import Site
import Synchronization
import Uring

/// The relay's local doors: a Unix socket of mode 0600 that speaks JSON lines, and HTTP on loopback. One thread accepts;
/// each connection, at most sixteen, has a thread of its own with time limits. Nothing here touches the packet thread
/// but through the site's mailbox.
final class ControlServer: Sendable {
  struct Handlers: Sendable {
    var status: @Sendable () -> StatusReport?
    var submit: @Sendable ([UInt8]) -> SiteReply
    var metrics: @Sendable () -> String
    var mine: @Sendable (Int) -> SiteReply
    var refill: @Sendable (Int) -> SiteReply
    var reload: @Sendable () -> (Bool, String)
  }

  static let connectionsMax = 16
  static let subscribersMax = 16
  static let lineMax = 4_096
  static let blockMax = 4_000_000
  /// For a whole request, and for taking the answer.
  static let patience = Interval.seconds(5)

  let path: String
  let httpAddress: PeerAddress?
  private let local: Int32
  private let web: Int32
  private let wake: WakeHandle
  private let stopping = Atomic<Bool>(false)
  private let open = Atomic<Int>(0)
  private let handlers = Mutex<Handlers?>(nil)
  /// Descriptors of those who asked for events.
  private let subscribers = Mutex<[Int32]>([])
  private let thread = Mutex<PlainThread?>(nil)

  /// Binds both. Throws an exit code, with a complaint, when an address is in use.
  init(path: String, http: String) throws {
    self.path = path
    do { wake = try WakeHandle.make() } catch { throw failure(Exit.failed, "\(error)") }
    local = try ControlServer.listenLocally(path)
    if http == "off" {
      web = -1
      httpAddress = nil
    } else {
      guard let address = PeerAddress(http), address.isIPv4, address.low >> 24 & 0xFF == 127 else {
        throw failure(
          ExitCode(64),
          "--http \(http): needs a loopback address such as 127.0.0.1:8336, or 'off' (use a proxy to go further)")
      }
      do {
        let port: UInt16
        (web, port) = try ControlServer.listenHTTP(address)
        httpAddress = address.with(port: port)
      } catch {
        close(local)
        unlink(path)
        throw error
      }
    }
  }

  private static func listenLocally(_ path: String) throws -> Int32 {
    let folder = (path as NSString).deletingLastPathComponent
    if !folder.isEmpty && !FileManager.default.fileExists(atPath: folder) {
      do {
        try FileManager.default.createDirectory(
          atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
      } catch { throw failure(Exit.address, "\(folder): \(error.localizedDescription)") }
    }
    // A socket that answers is a running relay's; one that doesn't was left by a relay that was killed.
    if let other = try? LocalSocket.connect(path, seconds: 1) {
      other.end()
      throw failure(
        Exit.address, "a relay runs already at \(path): stop it, or say --control PATH for a second one")
    }
    unlink(path)
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    if descriptor < 0 { throw failure(Exit.address, "socket: \(String(cString: strerror(errno)))") }
    do {
      var (address, length) = try LocalSocket.unixAddress(path)
      // 0600 from the first moment.
      let mask = umask(0o177)
      let result = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
      }
      let code = errno
      umask(mask)
      if result != 0 { throw LocalSocket.Failure.system("bind", code) }
      if listen(descriptor, 16) != 0 { throw LocalSocket.Failure.system("listen", errno) }
    } catch {
      close(descriptor)
      throw failure(Exit.address, "control socket \(path): \(error)")
    }
    return descriptor
  }

  private static func listenHTTP(_ address: PeerAddress) throws -> (Int32, UInt16) {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    if descriptor < 0 { throw failure(Exit.address, "socket: \(String(cString: strerror(errno)))") }
    var yes: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, 4)
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_port = address.port.bigEndian
    name.sin_addr.s_addr = UInt32(truncatingIfNeeded: address.low).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let bound = withUnsafeMutablePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
        bind(descriptor, pointer, length) == 0 && listen(descriptor, 16) == 0
          && getsockname(descriptor, pointer, &length) == 0
      }
    }
    if !bound {
      let code = errno
      close(descriptor)
      let hint = code == EADDRINUSE ? ": another relay's? choose another with --http ADDRESS:PORT, or --http off" : ""
      throw failure(Exit.address, "metrics on \(address): \(String(cString: strerror(code)))\(hint)")
    }
    return (descriptor, UInt16(bigEndian: name.sin_port))
  }

  /// Starts answering.
  func serve(_ handlers: Handlers) {
    self.handlers.withLock { $0 = handlers }
    let thread = try? PlainThread.start { [self] in accept() }
    self.thread.withLock { $0 = thread }
  }

  /// Answers no more, and takes the socket file away.
  func stop() {
    if stopping.exchange(true, ordering: .acquiringAndReleasing) { return }
    wake.signal()
    thread.withLock { $0 }?.join()
    unlink(path)
    close(local)
    if web >= 0 { close(web) }
    for descriptor in subscribers.withLock({ $0 }) { shutdown(descriptor, Int32(SHUT_RDWR)) }
  }

  private func accept() {
    while !stopping.load(ordering: .acquiring) {
      var descriptors = [
        pollfd(fd: wake.descriptor, events: Int16(POLLIN), revents: 0),
        pollfd(fd: local, events: Int16(POLLIN), revents: 0), pollfd(fd: web, events: Int16(POLLIN), revents: 0),
      ]
      if poll(&descriptors, web >= 0 ? 3 : 2, -1) < 0 { continue }
      for index in 1...2 where descriptors[index].revents != 0 {
        let connection = Foundation.accept(descriptors[index].fd, nil, nil)
        if connection < 0 {
          // Out of descriptors, for one: don't spin.
          usleep(10_000)
          continue
        }
        _ = fcntl(connection, F_SETFD, FD_CLOEXEC)
        if open.load(ordering: .relaxed) >= ControlServer.connectionsMax {
          close(connection)
          continue
        }
        open.wrappingAdd(1, ordering: .relaxed)
        let isLocal = index == 1
        let started = try? PlainThread.start { [self] in
          let socket = LocalSocket(descriptor: connection)
          socket.limit(seconds: 5)
          if isLocal { serveLines(socket) } else { serveHTTP(socket) }
          close(connection)
          open.wrappingSubtract(1, ordering: .relaxed)
        }
        if started == nil {
          close(connection)
          open.wrappingSubtract(1, ordering: .relaxed)
        }
      }
    }
  }

  // MARK: JSON lines

  private func serveLines(_ connection: LocalSocket) {
    var socket = connection
    var rest: [UInt8] = []
    while !stopping.load(ordering: .acquiring) {
      socket.deadline = SystemClock.now() + ControlServer.patience
      guard let line = try? socket.read(until: [0x0A], limit: ControlServer.lineMax, rest: &rest) else { return }
      guard let request = try? JSONDecoder().decode(ControlRequest.self, from: Data(line)) else {
        try? socket.write(json(ControlReply(ok: false, error: "not a request: one JSON object a line")) + "\n")
        return
      }
      if request.command == "subscribe" {
        subscribe(socket, &rest)
        return
      }
      var body: [UInt8] = []
      if let count = request.bytes {
        guard (1...ControlServer.blockMax).contains(count),
          let bytes = try? socket.read(count: count, rest: &rest)
        else { return }
        body = bytes
      }
      let text = json(answer(request, body)) + "\n"
      socket.deadline = SystemClock.now() + ControlServer.patience
      guard (try? socket.write(text)) != nil else { return }
    }
  }

  private func answer(_ request: ControlRequest, _ body: [UInt8]) -> ControlReply {
    guard let handlers = handlers.withLock({ $0 }) else { return ControlReply(ok: false, error: "starting") }
    switch request.command {
    case "status":
      guard let status = handlers.status() else { return ControlReply(ok: false, error: "the relay doesn't answer") }
      return ControlReply(ok: true, status: status)
    case "submit": return reply(handlers.submit(body))
    case "refill": return reply(handlers.refill(request.block ?? 0))
    case "mine": return reply(handlers.mine(request.block ?? 0))
    case "reload":
      let (ok, text) = handlers.reload()
      return ok ? ControlReply(ok: true, message: text) : ControlReply(ok: false, error: text)
    default:
      return ControlReply(
        ok: false, error: "no command '\(request.command.prefix(40))'; there are status, submit, subscribe, reload")
    }
  }

  private func reply(_ reply: SiteReply) -> ControlReply {
    switch reply {
    case .block(let hash): ControlReply(ok: true, hash: "\(hash)")
    case .refused(let why): ControlReply(ok: false, error: why)
    default: ControlReply(ok: true)
    }
  }

  // MARK: Subscribers

  /// Keeps the connection until its other end hangs up; events are written by `publish`.
  private func subscribe(_ socket: LocalSocket, _ rest: inout [UInt8]) {
    let isAdmitted = subscribers.withLock { list in
      if list.count >= ControlServer.subscribersMax { return false }
      list.append(socket.descriptor)
      return true
    }
    defer { subscribers.withLock { $0.removeAll { $0 == socket.descriptor } } }
    guard isAdmitted else {
      try? socket.write(json(ControlReply(ok: false, error: "too many subscribers")) + "\n")
      return
    }
    var byte: UInt8 = 0
    while !stopping.load(ordering: .acquiring) {
      let n = recv(socket.descriptor, &byte, 1, 0)
      if n == 0 || n < 0 && errno != EAGAIN && errno != EINTR { return }
    }
  }

  private struct Notice: Encodable {
    var event: String
    /// False for a header: nobody has looked at its transactions yet. True for a block that the relay has checked.
    var validated: Bool
    var hash: String
    var height: Int
    /// The 80 bytes in hexadecimal.
    var header: String?
    var from: String?
    var at_ns: UInt64
    var bytes: Int?
    var transactions: Int?
  }

  /// Tells subscribers of headers (as soon as the proof of work is checked) and of blocks handed to the node. One that
  /// doesn't read loses its connection.
  func publish(_ event: SiteEvent, names: [LinkID: String]) {
    if subscribers.withLock({ $0.isEmpty }) { return }
    let notice: Notice
    switch event {
    case .header(let header):
      notice = Notice(
        event: "header", validated: false, hash: "\(header.hash)", height: header.height,
        header: header.header.map { Hex.encode($0.bytes) }, from: header.from, at_ns: header.at.nanoseconds)
    case .delivered(let block):
      notice = Notice(
        event: "block", validated: true, hash: "\(block.report.hash)", height: block.report.height, from: block.from,
        at_ns: block.delivered.nanoseconds, bytes: block.report.bodyBytes,
        transactions: block.report.transactionCount)
    default: return
    }
    let line = Array((json(notice) + "\n").utf8)
    subscribers.withLock { list in
      for descriptor in list {
        if send(descriptor, line, line.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)) != line.count {
          shutdown(descriptor, Int32(SHUT_RDWR))
        }
      }
    }
  }

  // MARK: HTTP

  private func serveHTTP(_ connection: LocalSocket) {
    var socket = connection
    socket.deadline = SystemClock.now() + ControlServer.patience
    var rest: [UInt8] = []
    guard let head = try? socket.read(until: [13, 10, 13, 10], limit: 8_192, rest: &rest) else { return }
    let answer: HTTPAnswer
    switch HTTPRequest.parse(head) {
    case .failure(let refusal): answer = refusal
    case .success(let request):
      if request.method == "POST" && request.expectsContinue { try? socket.write("HTTP/1.1 100 Continue\r\n\r\n") }
      if request.bodyCount > 0 {
        guard let body = try? socket.read(count: request.bodyCount, rest: &rest) else { return }
        answer = self.answer(request, body)
      } else {
        answer = self.answer(request, [])
      }
    }
    socket.deadline = SystemClock.now() + ControlServer.patience
    try? socket.write(answer.text)
  }

  private func answer(_ request: HTTPRequest, _ body: [UInt8]) -> HTTPAnswer {
    guard let handlers = handlers.withLock({ $0 }) else { return HTTPAnswer(503, "starting\n") }
    switch (request.method, request.path) {
    case ("GET", "/metrics"):
      guard let status = handlers.status() else { return HTTPAnswer(503, "the relay doesn't answer\n") }
      return HTTPAnswer(
        200, Metrics(status).text + handlers.metrics(), type: "text/plain; version=0.0.4; charset=utf-8")
    case ("GET", "/health"):
      struct Health: Encodable {
        var status: String
        var peers_up: Int
        var peers: Int
        var tip_height: Int
      }
      guard let status = handlers.status() else {
        return HTTPAnswer(503, "{\"status\":\"not answering\"}\n", type: "application/json")
      }
      let up = status.peers.count { $0.up }
      let isWell = up > 0 || status.peers.isEmpty
      return HTTPAnswer(
        isWell ? 200 : 503,
        json(
          Health(
            status: isWell ? "ok" : "no neighbour", peers_up: up, peers: status.peers.count,
            tip_height: status.tip_height)) + "\n", type: "application/json")
    case ("GET", "/status"):
      guard let status = handlers.status() else { return HTTPAnswer(503, "the relay doesn't answer\n") }
      return HTTPAnswer(200, json(status) + "\n", type: "application/json")
    case ("POST", "/block"):
      if body.isEmpty { return HTTPAnswer(411, "the block goes into the body, with Content-Length\n") }
      let reply = reply(handlers.submit(BlockFile.decode(body)))
      return HTTPAnswer(reply.ok ? 200 : 422, json(reply) + "\n", type: "application/json")
    case (_, "/metrics"), (_, "/health"), (_, "/status"), (_, "/block"): return HTTPAnswer(405, "another method\n")
    default: return HTTPAnswer(404, "there are /metrics, /health, /status and POST /block\n")
    }
  }
}
