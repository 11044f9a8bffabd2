import ArgumentParser
import Bitcoin
import CTimex
import Foundation
import Ground
import Measurement
import Mempool
import NodeBridge
import Relay
import Session
import Site
import Uring

/// What `status --json` prints, and what /metrics is made of.
struct StatusReport: Codable, Sendable {
  struct Peer: Codable, Sendable {
    var name: String
    var address: String?
    var up: Bool
    var trusted: Bool
    var round_trip_ms: Double?
    var least_round_trip_ms: Double?
    /// The peer's clock less ours: the middle of what the exchanges leave open, and half its width.
    var clock_offset_ms: Double?
    var clock_uncertainty_ms: Double?
    /// Share of packets lost on the way to the peer, as it says, and on the way from it: over the last one to two minutes.
    var loss_to: Double
    var loss_from: Double
    /// Over the last one to two minutes: share of packets that came out of order (RFC 4737), to the peer as it says, and
    /// from it; jitter (RFC 3550) and least one-way delay of the pings, with half the width of its bounds.
    var reordered_to: Double?
    var reordered_from: Double?
    var jitter_to_ms: Double?
    var jitter_from_ms: Double?
    var delay_to_ms: Double?
    var delay_from_ms: Double?
    var delay_uncertainty_ms: Double?
    var rate_mbit: Double
    var sent_packets: UInt64
    var sent_bytes: UInt64
    var received_packets: UInt64
    var blocks_first: UInt64
    var blocks_last: UInt64
    var last_seen_s: Double?
    var mempool: String
    var suite: String?
    var overlay_epoch: UInt32?
    var malformed: UInt64
    var queue_drops: UInt64
  }
  struct Node: Codable, Sendable {
    var name: String
    var ready: Bool
    var user_agent: String
    var round_trip_ms: Double?
    var mempool_listed: Bool
    var tip: String?
  }
  struct Block: Codable, Sendable {
    var hash: String
    var height: Int
    var bytes: Int
    var transactions: Int
    /// The neighbour that brought the first packet; nil: found or submitted here.
    var from: String?
    /// CLOCK_MONOTONIC of this machine.
    var announced_ns: UInt64
    var delivered_ns: UInt64
    var header_ms: Double?
    var delivered_ms: Double
    /// CLOCK_MONOTONIC at the stages that there were: gate, sketch, matched, last_needed (its packet's arrival), decoded,
    /// verified, first_sent.
    var stages_ns: [String: UInt64]
    /// Share of the body's bytes that was in the mempool.
    var mempool_pct: Double
    var missing_transactions: Int
    var packets_in: Int
    var packets_out: Int
    var bytes_in: Int
    var bytes_out: Int
    var repair_packets: Int
    var useless_packets: Int
    var extra_rounds: Int
  }
  struct Mempool: Codable, Sendable {
    var transactions: Int
    var bytes: Int
    var side_transactions: Int
  }
  var relay: String
  var overlay: String
  var network: String
  var version: String
  var public_key: String
  var pid: Int32
  var uptime_s: Double
  var listen: [String]
  var tip_height: Int
  var tip_hash: String
  var mempool: Mempool
  var peers: [Peer]
  var nodes: [Node]
  var inbound_peers: Int
  var embedded_node: Bool
  var blocks_delivered: UInt64
  var blocks: [Block]
  var held_bytes: Int
  var resident_bytes: Int
  /// Of malloc: in use, and held from the kernel.
  var heap_used_bytes: Int
  var heap_held_bytes: Int
  var descriptors: Int
  var counters: [String: UInt64]
  var engine: [String: UInt64]
  var session: [String: UInt64]
  var log_lines_lost: UInt64
  var events_dropped: UInt64
  var impaired_lost: UInt64
  /// File of measurements; nil: they are not kept.
  var store: String?
  /// False: the file can't be opened, and records are lost until it can.
  var store_open: Bool?
  /// What the kernel says of this machine's own clock (adjtimex).
  var clock_synchronised: Bool?
  var clock_max_error_ms: Double?
  var warnings: [String]
}

extension StatusReport {
  init(
    _ snapshot: SiteSnapshot, engine: EngineHandle, measurements: MeasurementThread, logLost: UInt64,
    eventsDropped: UInt64, warnings: [String]
  ) {
    relay = snapshot.name
    overlay = snapshot.overlay
    network = snapshot.network
    version = Lightpath.configuration.version
    public_key = snapshot.key
    pid = getpid()
    uptime_s = (snapshot.at - snapshot.startedAt).seconds
    listen = engine.addresses.map { "\($0)" }
    tip_height = snapshot.tipHeight
    tip_hash = "\(snapshot.tipHash)"
    mempool = Mempool(
      transactions: snapshot.mempool[0].transactions, bytes: snapshot.mempool[0].bytes,
      side_transactions: snapshot.mempool[1].transactions)
    peers = snapshot.peers.map {
      Peer(
        $0, at: snapshot.at, engine: engine, clock: measurements.clock(of: $0.link),
        figures: measurements.figures(of: $0.link))
    }
    store = measurements.store?.path
    store_open = measurements.store?.isOpen
    let kernel = KernelClock.read()
    clock_synchronised = kernel?.isSynchronised
    clock_max_error_ms = kernel?.maxError.milliseconds
    nodes = snapshot.nodes.map {
      Node(
        name: $0.name, ready: $0.isReady, user_agent: $0.userAgent, round_trip_ms: $0.roundTrip?.milliseconds,
        mempool_listed: $0.mempoolListed, tip: $0.tip.map { "\($0)" })
    }
    inbound_peers = snapshot.inbound
    embedded_node = snapshot.isEmbedded
    blocks_delivered = snapshot.blocksDelivered
    blocks = snapshot.blocks.map(Block.init)
    held_bytes = snapshot.heldBytes
    resident_bytes = ProcessFigures.residentBytes
    (heap_used_bytes, heap_held_bytes) = ProcessFigures.heapBytes
    descriptors = ProcessFigures.descriptors
    counters = StatusReport.fields(of: snapshot.counters)
    session = StatusReport.fields(of: snapshot.session)
    let figures = engine.snapshot()
    var values: [String: UInt64] = [:]
    for counter in EngineCounter.allCases { values["\(counter)"] = figures[counter] }
    self.engine = values
    log_lines_lost = logLost
    events_dropped = eventsDropped + snapshot.eventsDropped
    impaired_lost = snapshot.impairedLost
    self.warnings = warnings + engine.warnings
  }

  /// Counters by their names in the source.
  private static func fields(of value: Any) -> [String: UInt64] {
    var result: [String: UInt64] = [:]
    for child in Mirror(reflecting: value).children {
      if let name = child.label, let count = child.value as? UInt64 { result[name] = count }
    }
    return result
  }
}

extension StatusReport.Peer {
  fileprivate init(
    _ peer: PeerSnapshot, at now: Instant, engine: EngineHandle, clock: ClockBounds?,
    figures: (to: LinkMeter.Summary, from: LinkMeter.Summary)?
  ) {
    let session = peer.status.session
    name = peer.name
    address = session.address.map { "\($0)" }
    up = peer.status.isUp
    trusted = peer.status.isTrusted
    round_trip_ms = session.roundTrip?.milliseconds
    least_round_trip_ms = session.leastRoundTrip?.milliseconds
    clock_offset_ms = (clock?.estimate ?? peer.clockOffset)?.milliseconds
    clock_uncertainty_ms = clock?.uncertainty.milliseconds
    loss_to = figures?.to.loss ?? peer.status.lossTo.rate
    loss_from = figures?.from.loss ?? peer.status.lossFrom.rate
    reordered_to = figures?.to.reorderedShare
    reordered_from = figures?.from.reorderedShare
    if let figures, figures.to.roundTrip != nil {
      jitter_to_ms = figures.to.jitter.milliseconds
      jitter_from_ms = figures.from.jitter.milliseconds
    }
    delay_to_ms = figures?.to.delay?.milliseconds
    delay_from_ms = figures?.from.delay?.milliseconds
    delay_uncertainty_ms = figures?.to.delayUncertainty?.milliseconds
    rate_mbit = Double(peer.rate.bitsPerSecond) / 1e6
    sent_packets = engine.count(.sentDatagrams, link: peer.link)
    sent_bytes = engine.count(.sentBytes, link: peer.link)
    received_packets = session.opened
    blocks_first = peer.blocksFirst
    blocks_last = peer.blocksLast
    last_seen_s = session.lastHeard == .zero ? nil : max(0, (now - session.lastHeard).seconds)
    mempool = "\(peer.status.readiness)"
    suite = session.parameters.map { "\($0.suite)" }
    overlay_epoch = session.parameters?.overlayEpoch
    malformed = peer.status.malformed
    queue_drops = engine.count(.dropQueueFull, link: peer.link)
  }
}

extension StatusReport.Block {
  fileprivate init(_ block: BlockDelivery) {
    let report = block.report
    hash = "\(report.hash)"
    height = report.height
    bytes = report.bodyBytes
    transactions = report.transactionCount
    from = block.from
    announced_ns = report.firstPacket.nanoseconds
    delivered_ns = block.delivered.nanoseconds
    header_ms = report.gatePassed == .never ? nil : (report.gatePassed - report.firstPacket).milliseconds
    delivered_ms = (block.delivered - report.firstPacket).milliseconds
    stages_ns = [:]
    let stages: KeyValuePairs = [
      "gate": report.gatePassed, "sketch": report.sketchComplete, "matched": report.matched,
      "last_needed": report.lastNeeded, "decoded": report.decoded, "verified": report.verified,
      "first_sent": report.firstForwarded,
    ]
    for (name, at) in stages where at != .never { stages_ns[name] = at.nanoseconds }
    mempool_pct = report.bodyBytes > 0 ? Double(report.knownBytes) / Double(report.bodyBytes) * 100 : 0
    missing_transactions = report.missingTransactions
    packets_in = report.packetsIn
    packets_out = report.packetsOut
    bytes_in = report.bytesIn
    bytes_out = report.bytesOut
    repair_packets = report.repairIn
    useless_packets = report.packetsUseless
    extra_rounds = report.requests
  }
}

/// Of this process, from /proc.
enum ProcessFigures {
  static var residentBytes: Int {
    guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return 0 }
    let fields = text.split(separator: " ")
    return fields.count > 1 ? (Int(fields[1]) ?? 0) * Int(getpagesize()) : 0
  }
  static var heapBytes: (used: Int, held: Int) {
    var (used, held) = (0, 0)
    lightpath_heap(&used, &held)
    return (used, held)
  }
  static var descriptors: Int {
    // One of them is the folder itself, open while it is read.
    max(0, ((try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count) ?? 1) - 1)
  }
}
