import Bitcoin
import Foundation
import Ground
import Logging
import NodeBridge
import Relay
import Session
import Site

/// Events as log lines that say what to do.
struct EventLog {
  let logger: Logger
  /// When a neighbour's session was last replaced, and how often lately: two relays with one key take it in turns.
  private var replacements: [LinkID: [Instant]] = [:]
  private var warned: [LinkID: Instant] = [:]
  /// The last header refused of each neighbour: its other packets refuse themselves too, and say no more.
  private var refused: [LinkID: (block: Hash256, at: Instant)] = [:]
  /// When it was last said of a link that no session is possible, by reason: the peer tries again every few seconds.
  private var unfit: [LinkID: [UInt64: Instant]] = [:]

  init(logger: Logger) { self.logger = logger }

  mutating func log(_ event: SiteEvent, names: [LinkID: String]) {
    switch event {
    case .relay(let event): log(event, names)
    case .node(let event): log(event)
    case .header(let header):
      logger.debug(
        "header",
        metadata: ["block": "\(header.hash)", "height": "\(header.height)", "from": "\(header.from ?? "here")"])
    case .delivered(let block):
      let report = block.report
      logger.info(
        "block delivered",
        metadata: [
          "block": "\(report.hash)", "height": "\(report.height)", "bytes": "\(report.bodyBytes)",
          "transactions": "\(report.transactionCount)", "from": "\(block.from ?? "here")",
          "ms": "\(number((block.delivered - report.firstPacket).milliseconds, 3))",
          "mempool": "\(number(Double(report.knownBytes) / Double(max(report.bodyBytes, 1)) * 100, 1))%",
        ])
    case .clock: break
    case .journey(let link, let bytes, _):
      logger.trace("journeys told", metadata: ["peer": "\(names[link] ?? "?")", "bytes": "\(bytes.count)"])
    case .wantsSubmit(_, let hash, _): logger.warning("trying submitblock", metadata: ["block": "\(hash)"])
    case .notRelayed(let hash, let why): logger.error("block not relayed: \(why)", metadata: ["block": "\(hash)"])
    }
  }

  private mutating func log(_ event: RelayEvent, _ names: [LinkID: String]) {
    let peer = names[event.link] ?? "link \(event.link.index)"
    switch event.kind {
    case .linkUp: logger.notice("link up", metadata: ["peer": "\(peer)"])
    case .linkDown:
      let reason = SessionLoss(rawValue: UInt8(clamping: event.a))
      logger.warning("link down", metadata: ["peer": "\(peer)", "reason": "\(reason.map { "\($0)" } ?? "?")"])
      if reason == .peerRestarted { noteReplacement(event.link, peer, event.at) }
    case .linkIncompatible:
      if let last = unfit[event.link]?[event.a], event.at - last < .seconds(60) { return }
      unfit[event.link, default: [:]][event.a] = event.at
      let why = Incompatibility(rawValue: UInt8(clamping: event.a))
      let advice =
        why == .overlaySecret
        ? "the overlay secrets differ: copy the file of --overlay-key from one site to the other"
        : "the two relays' versions don't fit (\(why.map { "\($0)" } ?? "?")): upgrade the older one"
      logger.error("no session possible: \(advice)", metadata: ["peer": "\(peer)"])
    case .gateRefused:
      if let last = refused[event.link], last.block == event.block, event.at - last.at < .seconds(10) { return }
      refused[event.link] = (event.block, event.at)
      let refusal = GateRefusal(rawValue: UInt8(clamping: event.a))
      let advice =
        refusal == .time
        ? ": its time is out of range; is this machine's clock right (\(LineLog.timestamp()))? see `timedatectl`" : ""
      logger.warning(
        "header refused\(advice)",
        metadata: ["peer": "\(peer)", "block": "\(event.block)", "reason": "\(refusal.map { "\($0)" } ?? "?")"])
    case .abandoned:
      let why =
        switch event.a {
        case 1: "blocks of more work took its place"
        case 2: "it breaks a rule of consensus"
        case 3: "no neighbour has it any more"
        case 4: "its sketch went out, and the node's block was another or didn't follow; it is asked for whole"
        default: "\(event.a)"
        }
      logger.warning("block given up", metadata: ["block": "\(event.block)", "reason": "\(why)"])
    case .failedChecks: logger.warning("a body failed its checks", metadata: ["block": "\(event.block)"])
    case .wrongChunk:
      logger.error("wrong chunk", metadata: ["peer": "\(peer)", "block": "\(event.block)", "chunk": "\(event.a)"])
    case .demoted:
      logger.error(
        "peer is verified-only until further notice", metadata: ["peer": "\(peer)", "seconds": "\(event.a)"])
    case .tip: logger.debug("tip", metadata: ["block": "\(event.block)", "height": "\(event.a)"])
    case .asked: logger.debug("asked for more", metadata: ["block": "\(event.block)", "chunks": "\(event.a)"])
    case .malformed: logger.debug("malformed message", metadata: ["peer": "\(peer)", "type": "\(event.a)"])
    default: logger.trace("\(event.kind)", metadata: ["peer": "\(peer)", "block": "\(event.block)"])
    }
  }

  private mutating func noteReplacement(_ link: LinkID, _ peer: String, _ at: Instant) {
    var times = (replacements[link] ?? []).filter { at - $0 < .seconds(60) }
    times.append(at)
    replacements[link] = times.suffix(8)
    if times.count >= 3, at - (warned[link] ?? .zero) > .seconds(60) {
      warned[link] = at
      logger.error(
        "the peer's session was replaced \(times.count) times in a minute: do two relays use one key? lightpath keygen",
        metadata: ["peer": "\(peer)"])
    }
  }

  private func log(_ event: NodeEvent) {
    switch event {
    case .connected(let node, let agent, let height):
      logger.notice("node connected", metadata: ["node": "\(node)", "agent": "\(agent)", "height": "\(height)"])
    case .disconnected(let node, let code):
      logger.warning("node gone", metadata: ["node": "\(node)", "errno": "\(code)"])
    case .problem(let node, let problem): logger.error("node: \(problem)", metadata: ["node": "\(node)"])
    case .misbehaved(let node, let what): logger.warning("node said \(what)", metadata: ["node": "\(node)"])
    case .headersSynced(let node, let height):
      logger.info("headers synced", metadata: ["node": "\(node)", "height": "\(height)"])
    case .mempoolListed(let node, let count):
      logger.info("mempool listed", metadata: ["node": "\(node)", "transactions": "\(count)"])
    case .announced(let node, let hash, let form, _):
      logger.info("node announced a block", metadata: ["node": "\(node)", "block": "\(hash)", "form": "\(form)"])
    case .reconstructed(_, let hash, let count, let missing, let took):
      logger.debug(
        "rebuilt",
        metadata: [
          "block": "\(hash)", "transactions": "\(count)", "missing": "\(missing)",
          "ms": "\(number(took.milliseconds, 3))",
        ])
    case .written(let node, let hash, let method, let bytes, _, _):
      logger.info(
        "handed to the node",
        metadata: ["node": "\(node)", "block": "\(hash)", "method": "\(method)", "bytes": "\(bytes)"])
    case .mistaken(let node, let hash):
      logger.warning(
        "what the node was handed before it was checked was not the block; it gets the block once that is there",
        metadata: ["node": "\(node)", "block": "\(hash)"])
    case .tipUpdated(let node, let hash, _, let took, _):
      logger.info(
        "the node's tip",
        metadata: ["node": "\(node)", "block": "\(hash)", "ms": "\(number(took.milliseconds, 3))"])
    case .deliveryFailed(let node, let hash):
      logger.error("the node did not take the block over P2P", metadata: ["node": "\(node)", "block": "\(hash)"])
    case .inboundRefused(let address, let why):
      logger.warning("local node refused: \(why)", metadata: ["address": "\(address)"])
    }
  }
}
