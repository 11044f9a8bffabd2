import Foundation
import Ground
import Logging
import Measurement
import Site
import Synchronization
import Uring

/// Listens to the site's pool endpoint as a Stratum client that never mines, on a thread of its own: when does the first
/// job on a new block reach miners? The time is taken when the bytes have been read.
final class PoolWatch: Sendable {
  static let connectMilliseconds: Int32 = 5_000
  /// A pool sends a job at least every few minutes.
  static let silence = Interval.seconds(900)

  private let address: PeerAddress
  private let logger: Logger
  private let heard: @Sendable (BlockID, Instant) -> Void
  private let wake: WakeHandle
  private let stopping = Atomic<Bool>(false)
  private let thread = Mutex<PlainThread?>(nil)

  init(_ address: PeerAddress, logger: Logger, heard: @escaping @Sendable (BlockID, Instant) -> Void) throws {
    self.address = address
    self.logger = logger
    self.heard = heard
    do { wake = try WakeHandle.make() } catch { throw failure(Exit.failed, "\(error)") }
    let thread = try? PlainThread.start { [self] in run() }
    self.thread.withLock { $0 = thread }
  }

  func stop() {
    stopping.store(true, ordering: .releasing)
    wake.signal()
    thread.withLock { $0 }?.join()
  }

  private var isStopping: Bool { stopping.load(ordering: .acquiring) }

  private func run() {
    var watcher = StratumWatcher()
    var pause: Int32 = 1_000
    while !isStopping {
      do {
        let descriptor = try connect()
        defer { close(descriptor) }
        logger.notice("pool connected", metadata: ["pool": "\(address)"])
        let began = SystemClock.now()
        let reason = try listen(descriptor, &watcher)
        if isStopping { return }
        logger.warning("pool gone: \(reason)", metadata: ["pool": "\(address)"])
        // One that lets us in and throws us out is not asked every second.
        if SystemClock.now() - began > .seconds(60) { pause = 1_000 }
      } catch {
        if pause == 1_000 { logger.warning("pool: \(error)", metadata: ["pool": "\(address)"]) }
      }
      _ = wait(-1, milliseconds: pause)
      pause = min(pause * 2, 30_000)
    }
  }

  /// Until something can be read (true), or time is up or the relay stops (false).
  private func wait(_ descriptor: Int32, events: Int32 = POLLIN, milliseconds: Int32) -> Bool {
    var descriptors = [
      pollfd(fd: wake.descriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: descriptor, events: Int16(events), revents: 0),
    ]
    _ = poll(&descriptors, 2, milliseconds)
    return descriptors[1].revents != 0
  }

  private func connect() throws -> Int32 {
    let descriptor = try address.openStream()
    let started = address.withSocketAddress { Foundation.connect(descriptor, $0, $1) }
    if started != 0 && errno != EINPROGRESS {
      let code = errno
      close(descriptor)
      throw LocalSocket.Failure.system("connect", code)
    }
    var code: Int32 = ETIMEDOUT
    if wait(descriptor, events: POLLOUT, milliseconds: PoolWatch.connectMilliseconds) {
      var size = socklen_t(4)
      getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &size)
    }
    if code != 0 {
      close(descriptor)
      throw LocalSocket.Failure.system("connect", code)
    }
    return descriptor
  }

  /// Until the connection ends; says why it did.
  private func listen(_ descriptor: Int32, _ watcher: inout StratumWatcher) throws -> String {
    let hello = watcher.connected()
    if send(descriptor, hello, hello.count, Int32(MSG_NOSIGNAL)) != hello.count { return "it takes no bytes" }
    var buffer = [UInt8](repeating: 0, count: 16_384)
    while !isStopping {
      guard wait(descriptor, milliseconds: Int32(PoolWatch.silence.nanoseconds / 1_000_000)) else {
        return isStopping ? "" : "it says nothing"
      }
      let count = recv(descriptor, &buffer, buffer.count, 0)
      let now = SystemClock.now()
      if count < 0 && (errno == EAGAIN || errno == EINTR) { continue }
      if count <= 0 { return count == 0 ? "it hung up" : String(cString: strerror(errno)) }
      let events: [StratumWatcher.Event]
      do throws(StratumWatcher.Failure) { events = try watcher.receive(buffer[..<count], at: now) } catch {
        return "a line of more than \(StratumWatcher.longestLine) bytes"
      }
      for event in events {
        switch event {
        // The first job says where the pool stands, and marks no new block.
        case .newBlock(let previous, let at, let isFirst): if !isFirst { heard(previous, at) }
        case .refused(let why): logger.notice("the pool knows no such worker: \(why)", metadata: ["pool": "\(address)"])
        case .subscribed, .authorised: break
        }
      }
    }
    return ""
  }
}

extension PeerAddress {
  /// A non-blocking TCP socket of the address's family.
  fileprivate func openStream() throws -> Int32 {
    let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    let descriptor = socket(isIPv4 ? AF_INET : AF_INET6, type, 0)
    if descriptor < 0 { throw LocalSocket.Failure.system("socket", errno) }
    return descriptor
  }

  fileprivate func withSocketAddress<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
    if isIPv4 {
      var name = sockaddr_in()
      name.sin_family = sa_family_t(AF_INET)
      name.sin_port = port.bigEndian
      name.sin_addr.s_addr = UInt32(truncatingIfNeeded: low).bigEndian
      return withUnsafePointer(to: &name) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
      }
    }
    var name = sockaddr_in6()
    name.sin6_family = sa_family_t(AF_INET6)
    name.sin6_port = port.bigEndian
    name.sin6_scope_id = scope
    withUnsafeMutableBytes(of: &name.sin6_addr) { bytes in
      for index in 0..<8 {
        bytes[index] = UInt8(truncatingIfNeeded: high >> UInt64(56 - 8 * index))
        bytes[8 + index] = UInt8(truncatingIfNeeded: low >> UInt64(56 - 8 * index))
      }
    }
    return withUnsafePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in6>.size)) }
    }
  }
}
