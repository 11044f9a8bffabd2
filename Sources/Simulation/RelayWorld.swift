import Bitcoin
import Ground
import Mempool
import Relay
import Session
import Topology

/// What relays of a simulated overlay share: keys made from the seed, the header chain's anchor, and the blocks to come.
struct RelayWorld {
  let topology: OverlayTopology
  let identities: [Identity]
  let overlay: OverlaySecret
  let anchor: HeaderChain.Anchor
  let seed: UInt64
  var costs = RelayCosts()
  var probe: CallProbe?
  /// Sized for what a run holds: a simulation has many relays in one process.
  var store = StoreLimits(nodeCount: 20_000, nodeBytes: 24 << 20, nodeInputs: 100_000, sideCount: 8_000)
  var limits = RelayMemoryLimits()
  /// The wall clock at the run's beginning: any moment after the anchor's.
  static let unixSeconds: UInt32 = 1_700_000_000

  /// - Parameter bits: the target of the whole chain. Regtest's own costs a liar nothing: any flipped bit of a header makes
  ///   another one with proof of work.
  init(_ topology: OverlayTopology, seed: UInt64, bits: UInt32 = 0x207F_FFFF) {
    self.topology = topology
    self.seed = seed
    identities = topology.relays.indices.map { index in
      Identity(generatedFrom: .predictable(seed: seed &* 0x9E37_79B9 &+ UInt64(index)))
    }
    overlay = OverlaySecret(generatedFrom: .predictable(seed: seed ^ 0x0F0F))
    anchor = HeaderChain.Anchor(
      hash: SHA256.double([UInt8]("lightpath simulation".utf8).span.bytes), height: 1_000, bits: bits,
      time: Self.unixSeconds - 600, medianTimePast: Self.unixSeconds - 3_600)
  }

  func links(of relay: Int) -> [RelayLink] {
    topology.neighbours(of: relay).enumerated().map { number, neighbour in
      RelayLink(
        id: LinkID(UInt16(number)), peer: identities[neighbour.relay].publicKey,
        address: SimulationPlan.address(neighbour.relay), rate: neighbour.link.rate,
        isTrusted: neighbour.trust == .trusted, expectedDelay: neighbour.link.delay)
    }
  }

  /// A relay with an empty mempool.
  func makeNode(
    _ relay: Int, incarnation: Int, judge: ((Hash256, RawSpan) -> Bool)? = nil
  ) -> RelayNode {
    let own = seed &+ UInt64(relay) << 20 &+ UInt64(incarnation)
    var configuration = RelayConfiguration(
      identity: identities[relay], overlay: overlay, links: links(of: relay), network: .regtest, anchor: anchor,
      unixNanosecondsAtZero: Int64(Self.unixSeconds) * 1_000_000_000,
      randomness: .predictable(seed: own &* 0xD134_2543_DE82_EF95), seed: own)
    configuration.store = store
    configuration.limits = limits
    return RelayNode(RelayCore(configuration), costs: costs, judge: judge, probe: probe)
  }
}

/// What one relay's mempool should hold of one block's transactions.
struct MempoolFill {
  let source: BlockSource

  /// Brings a store to hold all of the block's transactions but the missing ones, whatever it learned meanwhile.
  func apply(missing: [Int], to store: inout TransactionStore) {
    var next = 0
    for index in 1..<source.transactionCount {
      let isMissing = next < missing.count && missing[next] == index
      if isMissing { next += 1 }
      let known = store.slot(wtxid: source.wtxids[index - 1])
      if isMissing {
        if let known { store.remove(known) }
      } else if known.map({ store.kind($0) != .node }) ?? true {
        _ = try? store.insert(
          source.transactions[index - 1], in: source.bytes.span.bytes, txid: source.txids[index - 1],
          wtxid: source.wtxids[index - 1], as: .node)
      }
    }
  }
}
