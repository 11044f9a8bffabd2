import Bitcoin
import Ground
import Mempool
import NodeBridge
import Relay
import Wire

// What the relay core is told of the site's nodes: how far their mempool is mirrored, and which blocks they have.
extension SiteCore {
  /// While the mirror fills, it is looked at so often.
  static let readinessInterval = Interval.milliseconds(100 as Int64)
  /// Blocks back from a node's tip that are noted as held by it: more than catch-up ever looks at.
  static let inventoryDepth = 64
  /// Blocks that a node is handed when it comes back without them.
  static let returnedMost = 16

  /// How much of a block's transactions neighbours may expect here.
  ///
  /// With a node: *cold* while its mempool is unknown and the store empty, *starting* while it is being fetched, *in
  /// step* once it was listed and next to nothing of it is outstanding. Without one, the side pool is filled by
  /// neighbours' transactions, and the last block says how well: *in step* from 90 % of its bytes, *cold* below half.
  private mutating func reviewedReadiness() -> Readiness {
    let (held, isEmpty) = host.withMempool { store in
      (store.counts(.node).transactions, store.counts(.node).transactions + store.counts(.side).transactions == 0)
    }
    if embedded != nil { return isEmpty ? .cold : .inStep }
    let mirrors = configuration.bridge.nodes.indices.filter { index in
      let node = configuration.bridge.nodes[index]
      return node.role == .local && node.mirrorsMempool
    }
    if mirrors.isEmpty {
      guard let lastMatched else { return .cold }
      let threshold = readiness == .inStep ? 0.5 : 0.9
      return lastMatched >= threshold ? .inStep : .cold
    }
    let status = bridge.status
    for index in mirrors where status[index].isReady {
      // A listing every ten minutes keeps a mirror that is in step in step.
      let isListed = status[index].mempoolListed || readiness == .inStep
      if isListed && status[index].requested <= max(100, held / 20) { return .inStep }
    }
    return isEmpty ? .cold : .starting
  }

  mutating func reviewReadiness(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    host.nodesChanged = false
    let found = reviewedReadiness()
    // A node that isn't there makes itself known by an event.
    let isFilling =
      found != .inStep
      && zip(configuration.bridge.nodes, bridge.status).contains {
        $0.role == .local && $0.mirrorsMempool && $1.isReady
      }
    readinessDue = isFilling ? now + SiteCore.readinessInterval : .never
    if found == readiness { return }
    readiness = found
    host.core.setReadiness(found, now: now, into: &sink)
    host.drain()
  }

  /// A node's headers were read to their end: it has those blocks, and lacks those that came while it was away.
  mutating func noteInventory(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    if host.synced.isEmpty { return }
    let status = bridge.status
    for node in host.synced {
      // No headers came: it is where we are, or below on the same chain.
      let height = min(host.statedHeight[node] ?? 0, host.core.chain.tip.height)
      let best = status[node].tip.flatMap { host.core.chain.entry($0) } ?? host.core.chain.entry(atHeight: height)
      var entry = best
      for _ in 0..<SiteCore.inventoryDepth {
        guard let here = entry else { break }
        host.core.noteNodeHas(here.hash)
        entry = here.header.flatMap { host.core.chain.entry($0.previous) }
      }
      if let best { bridge.deliver(lackedBlocks(above: best), to: node, host: &host, now: now, into: &sink) }
    }
    host.synced.removeAll(keepingCapacity: true)
    host.drain()
  }

  /// The blocks by which the relay's best chain goes on where a node's leaves it, as far as one after the other is here.
  private func lackedBlocks(above best: HeaderChain.Entry) -> [Hash256] {
    guard best.chainWork < host.core.chain.tip.chainWork,
      let shared = host.core.chain.lastCommonAncestor(best.hash, host.core.chain.tip.hash)
    else { return [] }
    var hashes: [Hash256] = []
    while hashes.count < SiteCore.returnedMost,
      let next = host.core.chain.entry(atHeight: shared.height + 1 + hashes.count), host.core.hasBlock(next.hash)
    {
      hashes.append(next.hash)
    }
    return hashes
  }
}
