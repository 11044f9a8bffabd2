import Bitcoin
import Ground
import Mempool
import NodeBridge
import Relay
import Session
import Wire

/// A whole site as one state machine: relay core, node bridge, and the requests of other threads. The engine drives it,
/// and so can a simulator; it reads no clock and opens no socket.
///
/// A block is handed to the nodes when the relay has put it together, at the end of the same pass and before the relay's
/// next slice of work, which begins to check it: the node does so too, and need not wait. A node that takes no such blocks
/// gets it when it is checked, again before the next slice: some later one takes the block's transactions out of the
/// mempool's class `node`, from which the bridge reads what the node lacks.
public struct SiteCore: ~Copyable {
  public let configuration: SiteConfiguration
  var host: RelayHost
  var bridge: NodeBridge
  var embedded: EmbeddedNode?
  let mailbox: SiteMailbox
  let outbox: SiteOutbox
  var links: SiteLinks
  var impairer: Impairer
  var startedAt = Instant.zero
  var recent: [BlockDelivery] = []
  var heapReserve = HeapReserve()
  var delivered: UInt64 = 0
  /// As told to the relay core; nil before the first look.
  var readiness: Readiness?
  /// When to look again how full the mempool is; `.never` while nothing can change but by an event.
  var readinessDue = Instant.zero
  /// Share of the last block's bytes that was here before it came; nil before one came over the overlay.
  var lastMatched: Double?

  static let recentBlocks = 64

  /// - Throws: when a block of the embedded node can't be read.
  public init(
    _ configuration: SiteConfiguration, mailbox: SiteMailbox, outbox: SiteOutbox
  ) throws(DecodeError) {
    self.configuration = configuration
    self.mailbox = mailbox
    self.outbox = outbox
    if let embedded = configuration.embedded { self.embedded = try EmbeddedNode(embedded) }
    bridge = NodeBridge(configuration.bridge)
    links = SiteLinks(
      links: configuration.relay.links, names: configuration.names, relays: configuration.relay.relays)
    impairer = Impairer(configuration.impairments, seed: configuration.relay.seed)
    host = RelayHost(
      RelayCore(configuration.relay), names: configuration.names,
      isOwnNode: configuration.bridge.nodes.map { $0.role == .local },
      relaysTransactions: configuration.relaysTransactions,
      unixNanosecondsAtZero: configuration.relay.unixNanosecondsAtZero)
    if let embedded { host.withMempool { embedded.fill(&$0) } }
  }

  /// Whoever asks from now on is told that the site has stopped.
  public borrowing func closeMailbox() { mailbox.close() }

  // MARK: Requests

  mutating func answerMail(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for letter in mailbox.take() {
      letter.box.fill(answer(letter.request, now: now, into: &sink))
      host.drain()
    }
  }

  package mutating func answer(
    _ request: SiteRequest, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> SiteReply {
    switch request {
    case .snapshot: return .snapshot(snapshot(now: now))
    case .submit(let bytes):
      do throws(SubmitError) {
        return .block(try host.core.submit(bytes, arrival: now, now: now, into: &sink))
      } catch { return .refused(SiteCore.explain(error)) }
    case .links(let wanted):
      host.forgetCounts(of: links, keeping: wanted)
      links = wanted
      host.names = wanted.names
      host.core.updateLinks(wanted.links, relays: wanted.relays, now: now, into: &sink)
      return .done
    case .overlay(let secret):
      host.core.setOverlay(secret, now: now, into: &sink)
      return .done
    case .wallClock(let zero):
      host.setWallClock(zero)
      return .done
    case .journeys(let bytes):
      host.core.sendJourney(bytes.span.bytes, now: now, into: &sink)
      return .done
    case .passJourneys(let bytes, let maker, let from):
      host.core.passJourney(bytes.span.bytes, maker: maker, from: from, now: now, into: &sink)
      return .done
    case .reports(let hashes): return .reports(hashes.compactMap { host.core.report(of: $0) })
    case .height(let hash): return .height(host.core.chain.entry(hash)?.height)
    case .refill(let number):
      guard var node = embedded else { return .refused("this relay has no embedded node") }
      host.withMempool { node.refill(&$0, with: number) }
      embedded = node
      return .done
    case .mine(let number):
      guard embedded != nil else { return .refused("this relay has no embedded node") }
      do {
        let (bytes, block) = try embedded!.mine(number, on: host.core.chain.tip, network: configuration.relay.network)
        return .block(
          try host.core.submit(
            bytes, parsed: block, isChecked: true, arrival: now, now: now, into: &sink))
      } catch let error as SubmitError {
        return .refused(SiteCore.explain(error))
      } catch { return .refused("\(error)") }
    }
  }

  /// For an operator.
  static func explain(_ error: SubmitError) -> String {
    switch error {
    case .malformed(let what): "no block: \(what)"
    case .header(.unknownParent(let parent)):
      "its parent \(parent) is not known here; is the site's node connected and synced?"
    case .header(.invalidated): "this block, or one below it, was refused before: it breaks a rule of consensus"
    case .header(let why): "its header is refused: \(why)"
    case .size(let count): "\(count) bytes: no size of a block"
    case .noRoom: "eight blocks of more work are in hand"
    case .mismatch: "structure and bytes are of different blocks"
    }
  }

  package func unixTime(at now: Instant) -> UInt32 { host.unixTime(at: now) }

  // MARK: Blocks

  /// Hands blocks to the nodes.
  mutating func deliver(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    if host.deliveries.isEmpty { return }
    let deliveries = host.deliveries
    host.deliveries.removeAll(keepingCapacity: true)
    for (hash, step) in deliveries {
      switch step {
      case .unchecked:
        bridge.deliverUnchecked(hash, host: &host, now: now, into: &sink)
        continue
      case .mistaken:
        bridge.mistaken(hash, host: &host)
        continue
      case .complete: bridge.deliver(hash, host: &host, now: now, into: &sink)
      }
      guard let report = host.core.report(of: hash) else { continue }
      if embedded != nil {
        let network = configuration.relay.network
        var refusal: EmbeddedNode.Refusal?
        var node = embedded!
        _ = host.core.withParsedBlock(hash) { block, bytes in
          do throws(EmbeddedNode.Refusal) {
            try node.accept(block, bytes, height: report.height, network: network)
          } catch { refusal = error }
        }
        embedded = node
        if let refusal {
          host.events.append(.notRelayed(hash, "\(refusal)"))
          continue
        }
      }
      delivered += 1
      heapReserve.begin(now: now)
      if !report.isSubmitted && report.bodyBytes > 0 {
        lastMatched = Double(report.knownBytes) / Double(report.bodyBytes)
        host.nodesChanged = true
      }
      let block = BlockDelivery(
        report: report, from: report.isSubmitted ? nil : host.names[report.firstLink],
        delivered: host.takeHanded(hash) ?? now)
      if recent.count == SiteCore.recentBlocks { recent.removeFirst() }
      recent.append(block)
      host.events.append(.delivered(block))
    }
  }

  /// Ends a pass: what happened goes to whoever listens.
  mutating func postEvents() {
    if host.events.isEmpty { return }
    for index in host.events.indices {
      guard case .node(.deliveryFailed(let node, let hash)) = host.events[index] else { continue }
      let bytes = host.core.withBlock(hash) { bytes, _ in bytes.withUnsafeBytes { [UInt8]($0) } }
      if let bytes { host.events.append(.wantsSubmit(node: node, hash: hash, bytes: bytes)) }
    }
    outbox.post(host.events)
    host.events.removeAll(keepingCapacity: true)
  }

  // MARK: What is told

  package mutating func snapshot(now: Instant) -> SiteSnapshot {
    var result = SiteSnapshot()
    result.name = configuration.name
    result.overlay = configuration.overlayName
    result.network = configuration.relay.network.name
    result.key = "\(configuration.relay.identity.publicKey)"
    result.at = now
    result.startedAt = startedAt
    result.tipHash = host.core.chain.tip.hash
    result.tipHeight = host.core.chain.tip.height
    result.mempool = host.withMempool { store in TransactionClass.allCases.map { store.counts($0) } }
    result.heldBytes = host.core.heldBytes
    result.counters = host.core.counters
    result.session = host.core.sessionCounters
    result.eventsDropped = host.core.eventsDropped
    for link in links.links {
      guard let status = host.core.status(of: link.id) else { continue }
      var peer = PeerSnapshot(
        link: link.id, name: links.names[link.id] ?? "", rate: link.rate, status: status,
        blocksFirst: host.blocksFirst[Int(link.id.index)], blocksLast: host.blocksLast[Int(link.id.index)])
      if let sample = host.core.lastClockSample(of: link.id) {
        let there = sample.peerReceived - sample.sent
        let back = sample.peerSent - sample.received
        peer.clockOffset = (there + back) / 2
      }
      result.peers.append(peer)
    }
    result.nodes = bridge.status
    result.inbound = bridge.inboundCount
    result.blocks = recent.map { block in
      var block = block
      if let report = host.core.report(of: block.report.hash) { block.report = report }
      return block
    }
    result.blocksDelivered = delivered
    result.isEmbedded = embedded != nil
    result.impairedLost = impairer.lost
    result.impairedDelayed = impairer.held
    return result
  }
}
