import Bitcoin
import Ground
import Mempool
import NodeBridge
import Relay
import Session

/// The relay core as the bridge sees it: the owner of mempool, header chain and complete blocks. What happens in either
/// is collected here until the site's turn ends.
struct RelayHost: BridgeHost, ~Copyable {
  var core: RelayCore
  private(set) var unixNanosecondsAtZero: Int64
  /// Blocks that wait to be handed to the nodes, or of which they are to be told that they were wrong.
  var deliveries: [(hash: Hash256, step: Step)] = []
  enum Step { case unchecked, mistaken, complete }
  /// When blocks that are still being checked were handed to which node, the last time for each.
  private var handed: [(hash: Hash256, node: Int, at: Instant)] = []
  private static let handedMax = 8
  var events: [SiteEvent] = []
  /// By link: blocks whose first packet, and whose last needed one, it brought.
  var blocksFirst = [UInt64](repeating: 0, count: 64)
  var blocksLast = [UInt64](repeating: 0, count: 64)
  var names: [LinkID: String]
  /// By number of the node: the site's own, whose inventory counts (others are only listened to).
  let isOwnNode: [Bool]
  /// What the node learns is told to neighbours between blocks.
  let relaysTransactions: Bool
  /// A node came, went, or listed its mempool: how full the store is must be looked at.
  var nodesChanged = true
  /// Nodes whose headers were all read: what they have is to be noted.
  var synced: [Int] = []
  /// Height that a node stated on connecting.
  var statedHeight: [Int: Int] = [:]

  init(
    _ core: consuming RelayCore, names: [LinkID: String], isOwnNode: [Bool], relaysTransactions: Bool,
    unixNanosecondsAtZero: Int64
  ) {
    self.core = core
    self.names = names
    self.isOwnNode = isOwnNode
    self.relaysTransactions = relaysTransactions
    self.unixNanosecondsAtZero = unixNanosecondsAtZero
    events.reserveCapacity(64)
  }

  /// Takes what the core has to tell. After every call into it.
  mutating func drain() {
    while let event = core.nextEvent() {
      switch event.kind {
      case .clockSample:
        if let sample = core.lastClockSample(of: event.link), let status = core.status(of: event.link) {
          let session = status.session
          events.append(
            .clock(
              ClockNotice(
                link: event.link, sample: sample, generation: session.generation, opened: session.opened,
                highestCounter: session.highestCounter, reordered: status.reorderedFrom,
                peerReordered: status.reorderedTo, withdrawn: status.withdrawnTo,
                peerWithdrawn: status.withdrawnFrom)))
        }
        continue
      case .journey:
        takeJourneys(at: event.at)
        continue
      case .assembled:
        deliveries.append((event.block, .unchecked))
        continue
      case .failedChecks: deliveries.append((event.block, .mistaken))
      case .verified: deliveries.append((event.block, .complete))
      case .firstPacket where event.link.index < 64: blocksFirst[Int(event.link.index)] += 1
      case .lastNeeded where event.link.index < 64: blocksLast[Int(event.link.index)] += 1
      case .gatePassed:
        let entry = core.chain.entry(event.block)
        let link = core.report(of: event.block)?.firstLink
        events.append(
          .header(
            HeaderNotice(
              hash: event.block, height: Int(event.a), header: entry?.header, from: link.flatMap { names[$0] },
              at: event.at)))
      default: break
      }
      events.append(.relay(event))
    }
  }

  /// A number that goes to another neighbour begins anew.
  mutating func forgetCounts(of old: SiteLinks, keeping new: SiteLinks) {
    for link in old.links where link.id.index < 64 {
      if new.links.contains(where: { $0.id == link.id && $0.peer == link.peer }) { continue }
      blocksFirst[Int(link.id.index)] = 0
      blocksLast[Int(link.id.index)] = 0
    }
  }

  private mutating func takeJourneys(at: Instant) {
    var notice: SiteEvent?
    while core.takeJourney({ link, bytes in
      notice = .journey(link: link, bytes: bytes.withUnsafeBytes { [UInt8]($0) }, at: at)
    }) {
      if let notice { events.append(notice) }
    }
  }

  mutating func withMempool<R>(_ body: (inout TransactionStore) -> R) -> R { core.withMempool(body) }
  mutating func withChain<R>(_ body: (inout HeaderChain) -> R) -> R { core.withChain(body) }

  mutating func setWallClock(_ zero: Int64) {
    unixNanosecondsAtZero = zero
    core.setWallClock(zero)
  }

  func unixTime(at now: Instant) -> UInt32 {
    let (sum, overflow) = unixNanosecondsAtZero.addingReportingOverflow(Int64(clamping: now.nanoseconds))
    return overflow ? .max : UInt32(clamping: sum / 1_000_000_000)
  }

  mutating func withBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    core.withParsedBlock(hash, body)
  }
  mutating func withAssembledBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    core.withAssembledBlock(hash, body)
  }
  func hasBlock(_ hash: Hash256) -> Bool { core.hadBlock(hash) }

  mutating func blockFromNode(
    _ block: consuming NodeBlock, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let (hash, arrival) = (block.hash, block.announced)
    do throws(SubmitError) {
      try core.submit(
        block.bytes, parsed: block.block, isChecked: true, arrival: arrival, now: now, into: &sink)
    } catch { events.append(.notRelayed(hash, "\(error)")) }
    drain()
  }

  mutating func blockComing(
    _ block: borrowing ParsedBlock, coinbase: RawSpan, announced: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let isTaken = core.submitSketch(of: block, coinbase: coinbase, arrival: announced, now: now, into: &sink)
    drain()
    return isTaken
  }

  mutating func blockMistaken(_ hash: Hash256, now: Instant) {
    core.withdrawSketch(of: hash, now: now)
    drain()
  }

  mutating func headersFromNode(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.chainChanged(now: now, into: &sink)
    drain()
  }

  mutating func transactionFromNode(slot: UInt32, now: Instant) {
    if !relaysTransactions { return }
    let handle = core.withMempool { store in store.handle(slot) }
    core.announce(handle, now: now)
  }

  mutating func note(_ event: NodeEvent) {
    switch event {
    // What the site's node has needs no catching up, and no sending to it.
    case .announced(let node, let hash, _, _), .tipUpdated(let node, let hash, _, _, _):
      if isOwn(node) { core.noteNodeHas(hash) }
    case .connected(let node, _, let height):
      statedHeight[node] = Int(height)
      nodesChanged = true
    case .headersSynced(let node, _):
      if isOwn(node) { synced.append(node) }
    case .disconnected, .mempoolListed: nodesChanged = true
    case .written(let node, let hash, _, _, _, let at):
      if let index = handed.firstIndex(where: { $0.hash == hash && $0.node == node }) {
        handed[index].at = at
        break
      }
      if core.hasBlock(hash) { break }
      if handed.count == RelayHost.handedMax { handed.removeFirst() }
      handed.append((hash, node, at))
    case .mistaken(let node, let hash): handed.removeAll { $0.hash == hash && $0.node == node }
    default: break
    }
    events.append(.node(event))
  }

  /// When a block that is complete now was handed to a node before that; nil when it wasn't. Asked once.
  mutating func takeHanded(_ hash: Hash256) -> Instant? {
    defer { handed.removeAll { $0.hash == hash } }
    return handed.reduce(nil) { first, next in next.hash == hash ? min(first ?? next.at, next.at) : first }
  }

  func isOwn(_ node: Int) -> Bool { isOwnNode.indices.contains(node) && isOwnNode[node] }
}
