import ArgumentParser
import Foundation
import Ground
import Logging
import Measurement
import NodeBridge
import RegtestNode
import Relay
import Session
import Site
import Synchronization
import Topology
import Uring

/// A running relay: the engine on its thread, the control threads, and this, the main thread, which logs, watches, and
/// waits for signals. Nothing here is on a packet's way.
final class Daemon: Sendable {
  private let engine: EngineThread
  let mailbox: SiteMailbox
  private let outbox: SiteOutbox
  private let control: ControlServer
  private let waker: WakeHandle
  private let signals: SignalThread
  private let sink: LogSink
  let logger: Logger
  let topologyPath: String
  let overlayKeyPath: String?
  private let onHeader: String?
  let measurements: MeasurementThread
  private let pool: PoolWatch?
  let links: Mutex<SiteLinks>
  let plan: Mutex<SitePlan>
  let overlay: Mutex<OverlaySecret?>
  /// As the site and its measurements have been told.
  private let clock: Mutex<WallClock>
  private let notifier = ServiceNotifier()

  init(
    configuration: SiteConfiguration, engine engineConfiguration: EngineConfiguration, plan: SitePlan,
    clock: WallClock, topologyPath: String, overlayKeyPath: String?, controlPath: String, http: String,
    storePath: String?, storeLimits: JourneyStore.Limits, onHeader: String? = nil, sink: LogSink, logger: Logger
  ) throws {
    self.sink = sink
    self.logger = logger
    self.topologyPath = topologyPath
    self.overlayKeyPath = overlayKeyPath
    self.onHeader = onHeader
    self.plan = Mutex(plan)
    self.clock = Mutex(clock)
    overlay = Mutex(configuration.relay.overlay)
    links = Mutex(
      SiteLinks(
        links: configuration.relay.links, names: configuration.names, relays: configuration.relay.relays))
    signal(SIGPIPE, SIG_IGN)
    let findings = SelfCheck.run()
    for finding in findings { logger.warning("\(finding.what)", metadata: ["fix": "\(finding.fix)"]) }
    // Threads inherit the mask, so it comes before any of them.
    SignalThread.block()
    do {
      waker = try WakeHandle.make()
    } catch { throw failure(Exit.failed, "\(error)") }
    signals = SignalThread(waker: waker)
    mailbox = SiteMailbox()
    outbox = SiteOutbox(waker: waker)
    // Once here, so that what is wrong with an embedded node's blocks is told here.
    do {
      if let embedded = configuration.embedded { _ = try EmbeddedNode(embedded) }
    } catch { throw failure(Exit.input, "a block of the embedded node: \(error)") }
    let warnings = findings.map { "\($0.what); \($0.fix)" }
    control = try ControlServer(path: controlPath, http: http)
    do {
      engine = try EngineThread.start(engineConfiguration) { [mailbox, outbox] handle in
        mailbox.open(handle.waker)
        // Parsed before: can't fail now.
        return try! SiteCore(configuration, mailbox: mailbox, outbox: outbox)
      }
    } catch {
      control.stop()
      switch error {
      case .bind(let address, EADDRINUSE):
        throw failure(
          Exit.address,
          "\(address) is in use: another relay, or `ss -ulpn` tells who; stop it or choose another --listen")
      case .bind(let address, EADDRNOTAVAIL):
        throw failure(
          Exit.address,
          "\(address) is no address of this machine: behind NAT or a load balancer, say where with --listen 0.0.0.0:PORT"
        )
      case .bind(let address, let code):
        throw failure(Exit.address, "\(address): \(String(cString: strerror(code)))")
      default: throw failure(Exit.failed, "\(error)")
      }
    }
    measurements = try Daemon.measure(
      configuration, plan, storePath: storePath, limits: storeLimits, mailbox: mailbox, logger: logger)
    pool = try plan.relay.pool.map { [measurements] address in
      try PoolWatch(address, logger: logger) { measurements.job(on: $0, at: $1) }
    }
    for warning in engine.handle.warnings { logger.warning("\(warning)") }
    let handle = engine.handle
    control.serve(
      ControlServer.Handlers(
        status: { [mailbox, outbox, sink, measurements] in
          guard case .snapshot(let snapshot) = mailbox.ask(.snapshot, seconds: 2) else { return nil }
          return StatusReport(
            snapshot, engine: handle, measurements: measurements, logLost: sink.lost, eventsDropped: outbox.dropped,
            warnings: warnings)
        },
        submit: { [mailbox] in
          BlockFile.explained(mailbox.ask(.submit($0)), $0, on: configuration.relay.network) { hash in
            if case .height(let height) = mailbox.ask(.height(hash)) { height } else { nil }
          }
        },
        metrics: { [measurements] in measurements.metrics() },
        mine: { [mailbox] in mailbox.ask(.mine($0), seconds: 20) },
        refill: { [mailbox] in mailbox.ask(.refill($0), seconds: 20) },
        reload: { [weak self] in self?.reload() ?? (false, "stopping") }))
  }

  /// Until a signal or a failure ends it.
  func run() throws {
    logger.notice(
      "relay '\(plan.withLock { $0.relay.name })' runs",
      metadata: [
        "listen": "\(engine.handle.addresses.map { "\($0)" }.joined(separator: ","))", "control": "\(control.path)",
        "http": "\(control.httpAddress.map { "\($0)" } ?? "off")", "ring": "\(engine.handle.ringMode)",
      ])
    notifier.say("READY=1\nSTATUS=running")
    var translator = EventLog(logger: logger)
    let headerCommand = HeaderCommand(onHeader, logger: logger)
    var nextWatchdog = SystemClock.now()
    var failed = false
    loop: while true {
      var descriptor = pollfd(fd: waker.descriptor, events: Int16(POLLIN), revents: 0)
      _ = poll(&descriptor, 1, 1_000)
      if descriptor.revents != 0 {
        var value: UInt64 = 0
        _ = read(waker.descriptor, &value, 8)
      }
      waker.clear()
      let names = links.withLock { $0.names }
      headerCommand?.reap()
      let events = outbox.take()
      measurements.hear(events)
      for event in events {
        translator.log(event, names: names)
        control.publish(event, names: names)
        headerCommand?.tell(event)
        if case .wantsSubmit(let node, let hash, let bytes) = event { submitOverRPC(node, "\(hash)", bytes) }
      }
      for signal in signals.take() {
        switch signal {
        case SIGHUP:
          notifier.say("RELOADING=1")
          do { try sink.reopen() } catch { logger.error("log: \(error.localizedDescription)") }
          _ = reload()
          notifier.say("READY=1")
        default:
          logger.notice("stopping", metadata: ["signal": "\(signal)"])
          break loop
        }
      }
      followWallClock()
      if let failure = engine.failure {
        logger.critical("the engine failed: \(failure)")
        failed = true
        break
      }
      // By the clock that systemd counts by: nobody sets it.
      let now = SystemClock.now()
      if let interval = notifier.watchdog, now >= nextWatchdog {
        nextWatchdog = now + .milliseconds(interval * 1_000 / 3)
        // Only an engine thread that answers feeds the watchdog.
        if case .snapshot = mailbox.ask(.snapshot, seconds: interval / 2) { notifier.say("WATCHDOG=1") }
      }
    }
    notifier.say("STOPPING=1")
    control.stop()
    engine.stop()
    let names = links.withLock { $0.names }
    let events = outbox.take()
    measurements.hear(events)
    for event in events { translator.log(event, names: names) }
    pool?.stop()
    measurements.stop()
    logger.notice("stopped")
    if failed { throw Exit.failed }
  }

  /// A clock that was wrong at the start and is set right, or a machine that slept: headers and measurements go by what it
  /// shows now.
  private func followWallClock() {
    let told = clock.withLock { $0 }
    guard let zero = told.change(now: SystemClock.now(), realtime: SystemClock.realtime()),
      case .done = mailbox.ask(.wallClock(zero))
    else { return }
    measurements.set(unixNanosecondsAtZero: zero)
    clock.withLock { $0.told(zero) }
    let by = Interval(nanoseconds: zero) - Interval(nanoseconds: told.unixAtZero)
    logger.notice("this machine's clock was set", metadata: ["seconds": "\(number(by.seconds, 1))"])
  }

  /// The last resort, on a thread of its own because a call can take a second.
  private func submitOverRPC(_ node: Int, _ hash: String, _ bytes: [UInt8]) {
    let nodes = plan.withLock { $0.relay.nodes }
    guard nodes.indices.contains(node), let rpc = nodes[node].rpc, let cookie = nodes[node].rpcCookieFile else {
      logger.error(
        "the node took a block in no form over P2P, and the topology names no rpc and rpc_cookie_file for submitblock",
        metadata: ["block": "\(hash)"])
      return
    }
    let logger = logger
    _ = try? PlainThread.start {
      do {
        let client = NodeRPC(host: rpc.host, port: rpc.port, credentials: .cookie(path: cookie), timeoutSeconds: 20)
        let answer = try client.call("submitblock", [Hex.encode(bytes)])
        logger.notice("submitblock: \(answer is NSNull ? "accepted" : "\(answer)")", metadata: ["block": "\(hash)"])
      } catch { logger.error("submitblock: \(error)", metadata: ["block": "\(hash)"]) }
    }
  }
}

/// Waits for signals, so that no code runs in a handler.
final class SignalThread: Sendable {
  private let pending = Mutex<[Int32]>([])

  private static var set: sigset_t {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in [SIGTERM, SIGINT, SIGHUP] { sigaddset(&set, signal) }
    return set
  }

  static func block() {
    var set = set
    pthread_sigmask(SIG_BLOCK, &set, nil)
  }

  init(waker: WakeHandle) {
    _ = try? PlainThread.start { [self] in
      var set = SignalThread.set
      while true {
        var signal: Int32 = 0
        if sigwait(&set, &signal) != 0 { continue }
        pending.withLock { if $0.count < 16 { $0.append(signal) } }
        waker.signal()
      }
    }
  }

  func take() -> [Int32] {
    pending.withLock { list in
      defer { list = [] }
      return list
    }
  }
}

/// systemd's notification protocol (sd_notify(3)): datagrams to the socket that the environment names.
struct ServiceNotifier: Sendable {
  private let path = ProcessInfo.processInfo.environment["NOTIFY_SOCKET"]

  /// Seconds within which the watchdog wants to be fed.
  var watchdog: Double? {
    ProcessInfo.processInfo.environment["WATCHDOG_USEC"].flatMap(Double.init).map { $0 / 1e6 }
  }

  func say(_ text: String) {
    guard let path, !path.isEmpty, var (address, length) = try? LocalSocket.unixAddress(path) else { return }
    if path.hasPrefix("@") {
      // Abstract: a zero byte instead of the @, and the length counts.
      withUnsafeMutableBytes(of: &address.sun_path) { $0[0] = 0 }
      length = socklen_t(MemoryLayout<sa_family_t>.size + path.utf8.count)
    }
    let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    if descriptor < 0 { return }
    defer { close(descriptor) }
    let bytes = Array(text.utf8)
    _ = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        sendto(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL), $0, length)
      }
    }
  }
}
