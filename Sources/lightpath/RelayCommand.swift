import ArgumentParser
import Bitcoin
import Foundation
import Ground
import Logging
import Measurement
import NodeBridge
import Relay
import Session
import Site
import Topology
import Uring

struct RelayCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relay",
    abstract: "Runs one relay of a topology.",
    discussion: """
      SIGHUP (or `lightpath reload`) reads the topology again without disturbing links that stay as they are; SIGTERM \
      and SIGINT say goodbye to the neighbours and end it within a second. Under systemd it says when it is ready and \
      feeds the watchdog.

      Exit status: 0 stopped as asked, 1 the engine failed, 2 the topology is wrong, 3 a key file can't be used or its \
      key is in use by another relay, 4 an address or socket is in use or not to be had, 64 wrong usage.
      """)

  @Option(help: "Topology file.", completion: .file(extensions: ["toml"]))
  var topology: String

  @Option(name: .customLong("as"), help: "Which of the topology's relays this is.")
  var name: String

  @Option(help: "This relay's key file, made by `lightpath keygen`.", completion: .file())
  var key: String

  @Option(help: "The overlay's shared secret, made by `lightpath keygen --overlay`.", completion: .file())
  var overlayKey: String?

  @Option(
    help: "Where to listen for other relays; repeat for several. Without it, the relay's addresses in the topology.")
  var listen: [String] = []

  @Option(help: "Where the site's other local nodes may connect, as to a Bitcoin peer.")
  var listenNodes: String?

  @Option(help: "Control socket.")
  var control: String?

  @Option(help: "Loopback address of metrics, health and POST /block, or 'off'.")
  var http = "127.0.0.1:8336"

  @Option(help: "Log file; without it, standard error. SIGHUP opens it anew.", completion: .file())
  var log: String?

  @Option(help: "trace, debug, info, notice, warning, error or critical.")
  var logLevel = "info"

  @Flag(help: "Log one JSON object a line.")
  var logJson = false

  @Option(
    help:
      "File of measurements, or 'off'. Without it, NAME.sqlite in systemd's state folder or /var/lib/lightpath, if there.",
    completion: .file())
  var store: String?

  @Option(
    help: ArgumentHelp(
      "A command to run as soon as a block's header has passed its checks, the block itself not validated yet.",
      discussion: "LIGHTPATH_HASH, LIGHTPATH_HEIGHT, LIGHTPATH_HEADER and LIGHTPATH_FROM are in its environment."))
  var onHeader: String?

  @Option(help: "How many days measurements are kept.")
  var storeDays = 30

  @Option(help: "How many megabytes the file of measurements may have; the oldest go first.")
  var storeMb = 256

  @Option(help: "Core to pin the packet thread to.")
  var cpu: Int?

  @Option(
    help: ArgumentHelp(
      "Real-time priority of the packet thread, 1 to 50: it needn't wait for what else runs on its core.",
      discussion: "Takes CAP_SYS_NICE or a limit (RLIMIT_RTPRIO) of as much; the systemd unit sets both."))
  var realtime: Int?

  // For demonstrations and tests.
  @Option(help: ArgumentHelp("Files of blocks for a stand-in for a node.", visibility: .hidden))
  var embeddedNode: [String] = []
  @Option(help: ArgumentHelp("Share of transactions that it lacks.", visibility: .hidden))
  var embeddedMissing: Double = 0.01
  @Option(help: ArgumentHelp("What it draws from.", visibility: .hidden))
  var embeddedSeed: UInt64 = 1
  @Option(
    help: ArgumentHelp(
      "NAME|all:LOSS:DELAY_MS[:JITTER_MS], spoils what comes in from a neighbour.", visibility: .hidden))
  var impair: [String] = []
  @Option(help: ArgumentHelp("Seconds by which the wall clock is taken to be wrong.", visibility: .hidden))
  var clockOffset: Double = 0

  func run() throws {
    ProcessHeap.keepPages()
    guard let level = Logger.Level(rawValue: logLevel) else {
      throw ValidationError("--log-level \(logLevel): trace, debug, info, notice, warning, error or critical")
    }
    if let realtime, !(1...50 ~= realtime) { throw ValidationError("--realtime lies between 1 and 50") }
    guard 1...3_650 ~= storeDays, 1...1_048_576 ~= storeMb else {
      throw ValidationError("--store-days lies between 1 and 3650, --store-mb between 1 and 1048576")
    }
    let overlay = try readTopology(topology)
    let identity: Identity
    let secret: OverlaySecret?
    do {
      identity = try Identity(contentsOf: key)
      secret = try overlayKey.map { try OverlaySecret(contentsOf: $0) }
    } catch { throw failure(Exit.key, "\(error)") }
    let plan: SitePlan
    let listen = try listenAddresses()
    do { plan = try SitePlan(overlay, as: name, key: identity.publicKey, listen: listen) } catch {
      if case .wrongKey = error { throw failure(Exit.key, "\(error)") }
      throw failure(Exit.input, "\(topology): \(error)")
    }
    let lock = try KeyLock(key)
    let sink: LogSink
    do { sink = try LogSink(path: log, isJSON: logJson) } catch {
      throw failure(Exit.address, "--log \(log ?? ""): \(error.localizedDescription)")
    }
    let logger = Logger(label: "lightpath") { _ in LineLog(sink, level: level) }
    let clock = WallClock(
      now: SystemClock.now(), realtime: SystemClock.realtime(), offset: .milliseconds(clockOffset * 1_000))
    let daemon = try Daemon(
      configuration: try configuration(plan, identity, secret, clock), engine: engine(plan), plan: plan,
      clock: clock, topologyPath: topology, overlayKeyPath: overlayKey,
      controlPath: control ?? ControlPath.standard(name), http: http,
      storePath: store == "off" ? nil : store ?? StorePath.standard(name),
      storeLimits: JourneyStore.Limits(
        maxBytes: storeMb << 20, retention: .seconds(Int64(storeDays) * 86_400)), onHeader: onHeader,
      sink: sink, logger: logger)
    try daemon.run()
    withExtendedLifetime(lock) {}
  }

  private func listenAddresses() throws -> [PeerAddress] {
    try listen.map { text in
      guard let address = PeerAddress(text) else { throw ValidationError("--listen \(text): not ADDRESS:PORT") }
      return address
    }
  }

  private func engine(_ plan: SitePlan) -> EngineConfiguration {
    var engine = EngineConfiguration(listen: plan.listen)
    engine.uplink = plan.relay.uplink
    engine.linkCapacity = 64
    // 1,500 bytes of MTU less IPv6 and UDP headers; the relay's packets stay below it.
    engine.maxDatagramBytes = 1_452
    engine.cpu = cpu
    engine.realtimePriority = realtime
    engine.drain = .milliseconds(200 as Int64)
    return engine
  }

  private func configuration(
    _ plan: SitePlan, _ identity: Identity, _ secret: OverlaySecret?, _ clock: WallClock
  ) throws -> SiteConfiguration {
    let links = plan.links()
    var relay = RelayConfiguration(
      identity: identity, overlay: secret, links: links.links, network: plan.network,
      unixNanosecondsAtZero: clock.unixAtZero, seed: UInt64.random(in: 1...(.max)))
    relay.relays = links.relays
    var bridge = BridgeConfiguration(
      network: plan.network, nodes: embeddedNode.isEmpty ? plan.nodes : plan.nodes.filter { $0.role == .watched },
      nonce: UInt64.random(in: 1...(.max)))
    if let listenNodes {
      guard let address = PeerAddress(listenNodes) else {
        throw ValidationError("--listen-nodes \(listenNodes): not ADDRESS:PORT")
      }
      bridge.listen = address
    }
    var site = SiteConfiguration(
      name: name, overlayName: plan.topology.name, relay: relay, names: links.names, bridge: bridge)
    site.relaysTransactions = plan.relay.relaysTransactions
    if !embeddedNode.isEmpty {
      let blocks = try embeddedNode.map { file -> [UInt8] in
        guard let data = FileManager.default.contents(atPath: file) else {
          throw failure(Exit.input, "\(file): can't be read")
        }
        return BlockFile.decode([UInt8](data))
      }
      site.embedded = EmbeddedNode.Configuration(blocks: blocks, missing: embeddedMissing, seed: embeddedSeed)
    }
    for text in impair {
      let parts = text.split(separator: ":", omittingEmptySubsequences: false)
      guard 3...4 ~= parts.count, let loss = Double(parts[1]), let delay = Double(parts[2]),
        let jitter = parts.count == 4 ? Double(parts[3]) : 0
      else {
        throw ValidationError("--impair \(text): not NAME:LOSS:DELAY_MS[:JITTER_MS]")
      }
      var source: PeerAddress?
      if parts[0] != "all" {
        guard let index = plan.topology.relayIndex(named: String(parts[0])) else {
          throw ValidationError("--impair \(text): no relay '\(parts[0])'")
        }
        source = plan.topology.relays[index].addresses.first
      }
      site.impairments.append(
        Impairment(source: source, loss: loss, delay: .milliseconds(delay), jitter: .milliseconds(jitter)))
    }
    return site
  }
}

/// Keeps two relays of one machine from using one key: each would take the other's sessions away.
final class KeyLock {
  private let descriptor: Int32

  init(_ path: String) throws {
    descriptor = open(path, O_RDONLY | O_CLOEXEC)
    if descriptor < 0 { throw failure(Exit.key, "\(path): \(String(cString: strerror(errno)))") }
    if flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
      close(descriptor)
      throw failure(
        Exit.key,
        "\(path) is in use by a relay that runs already: every relay needs a key of its own (lightpath keygen)")
    }
  }

  deinit { close(descriptor) }
}
