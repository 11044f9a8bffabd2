import Ground
import Wire

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// What is owed to a receiver of a block, by the map (`OverlayMap`).
public enum SenderRole: Sendable {
  /// The receiver's best path leads through us: the whole budget.
  case primary
  /// Enough to make up for losses on its best path.
  case spare
}

/// How many packets of a block to send one receiver unasked.
public struct SendBudget: Hashable, Sendable {
  /// Of the sketch, source and repair chunks together.
  public var sketch: Int
  /// Of the body, likewise. Repair chunks only, unless `source`.
  public var body: Int
  /// The receiver knows nothing: the body's source chunks first, all of them, then repair.
  public var source: Bool

  public init(sketch: Int, body: Int, source: Bool) {
    self.sketch = sketch
    self.body = body
    self.source = source
  }
}

/// Sets the number of packets that each receiver of a block is sent unasked, so that all complete without feedback in
/// 99.9% of blocks. REDUNDANCY.md is its mathematics.
///
/// It learns from STATUS (loss, readiness) and HAVE (what was missing), and is asked once a block and receiver, which
/// takes a few µs when another receiver's case was alike and some tens otherwise. Nothing is allocated after the first
/// blocks of a size.
public struct RedundancyController: Sendable {
  public struct Configuration: Sendable {
    /// Relays that a block has to reach: all of the overlay but one.
    public var receivers: Int
    /// Share of blocks in which some receiver may need to ask.
    public var risk: Double
    /// Unasked packets of the body take at most this long at the link's rate; cold receivers are excepted.
    public var unaskedTime: Interval

    public init(receivers: Int = 7, risk: Double = 0.0005, unaskedTime: Interval = .microseconds(50_000)) {
      self.receivers = receivers
      self.risk = risk
      self.unaskedTime = unaskedTime
    }
  }

  /// IP packet of a CHUNK message: 1,172 bytes, session overhead, UDP and IPv6 headers.
  static let packetBytes = 1_260
  /// Packets that a rate cap always leaves.
  static let packetsMin = 64
  static let cacheMax = 16
  static let blocksMax = 16
  /// What the cache is filed under when it holds the latest block's figures for one whose sizes aren't known yet.
  static let latestBlock: UInt64 = 0

  private struct Link: Sendable {
    var loss = ReportedLoss()
    var misses = MissEstimator()
    var readiness = Readiness.cold
    var mempoolTransactions: UInt32 = 0
    var rate = LinkRate.unlimited
    /// Raised when the receiver had to ask: what the model left out. Grows its body budget by up to a half.
    var nervousness = 0.0
    /// A HAVE whose block isn't known here yet.
    var pending: HaveMessage?
  }
  private struct CacheKey: Hashable, Sendable {
    var p0, p1, p2, p3, shape: Int16
  }

  public var configuration: Configuration
  private var links: [Link]
  private var ownTransactions: UInt32 = 0
  private var scratch = BlockProfile.Scratch()
  private var cacheBlock: UInt64 = 0
  private var cache: [(key: CacheKey, chunks: Int)] = []
  /// Sizes of recent blocks, for HAVE messages that come before or after; oldest overwritten.
  private var blocks: [(id: UInt64, counts: SizeClassCounts)] = []
  private var nextBlock = 0
  private var latest: BlockProfile?

  public init(_ configuration: Configuration = Configuration()) {
    self.configuration = configuration
    links = Array(repeating: Link(), count: LinkSet.capacity)
    cache.reserveCapacity(Self.cacheMax)
    blocks.reserveCapacity(Self.blocksMax)
  }

  // MARK: Learning

  /// A link is configured, or its rate changed.
  public mutating func configure(_ link: LinkID, rate: LinkRate) { links[Int(link.index)].rate = rate }

  /// A new session: loss is measured afresh; what the receiver lacks stays known until it says that it is cold.
  public mutating func sessionStarted(_ link: LinkID) {
    links[Int(link.index)].loss = ReportedLoss()
    links[Int(link.index)].readiness = .cold
    links[Int(link.index)].pending = nil
  }

  /// A peer's STATUS, and how many transactions the own mempool has (against which a starting peer is measured).
  public mutating func note(_ status: StatusHead, on link: LinkID, ownTransactions: Int) {
    let i = Int(link.index)
    links[i].loss.note(LinkLoss(status))
    if status.readiness == .cold && links[i].readiness != .cold { links[i].misses.reset() }
    links[i].readiness = status.readiness
    links[i].mempoolTransactions = status.mempoolTransactions
    self.ownTransactions = UInt32(clamping: ownTransactions)
  }

  /// The sizes of a block that is now known: HAVE messages for it can be understood. Once a block.
  public mutating func note(_ profile: BlockProfile, of block: UInt64) {
    latest = profile
    if cacheBlock == Self.latestBlock { cache.removeAll(keepingCapacity: true) }
    if blocks.contains(where: { $0.id == block }) { return }
    if blocks.count < Self.blocksMax {
      blocks.append((block, profile.counts))
    } else {
      blocks[nextBlock] = (block, profile.counts)
      nextBlock = (nextBlock + 1) % Self.blocksMax
    }
    for i in links.indices {
      if let have = links[i].pending, have.block == block { learn(have, profile.counts, i) }
    }
  }

  /// A peer's HAVE. Its first for a block only: the caller knows which that is.
  public mutating func note(_ have: HaveMessage, on link: LinkID) {
    let i = Int(link.index)
    if let block = blocks.first(where: { $0.id == have.block }) {
      learn(have, block.counts, i)
    } else {
      links[i].pending = have
    }
  }

  private mutating func learn(_ have: HaveMessage, _ counts: SizeClassCounts, _ i: Int) {
    links[i].pending = nil
    // A cold receiver's blocks say nothing about it once it is in step.
    if links[i].readiness != .cold { links[i].misses.note(missing: have.missing, of: counts) }
    links[i].nervousness = have.flags.contains(.asked) ? 1 : links[i].nervousness * 0.8
  }

  public func loss(of link: LinkID) -> LinkLoss { links[Int(link.index)].loss.loss }
  public func readiness(of link: LinkID) -> Readiness { links[Int(link.index)].readiness }
  public func prediction(for link: LinkID) -> MissEstimator.Prediction {
    let peer = links[Int(link.index)]
    var prediction = peer.misses.prediction
    if peer.readiness == .starting {
      // It lacks at least what its mempool is short of ours.
      let short = 1 - Double(peer.mempoolTransactions) / Double(max(ownTransactions, 1))
      let least = min(max(short, 0) + MissEstimator.priorRate, 1)
      prediction.probability = pointwiseMax(prediction.probability, SIMD4(repeating: least))
      prediction.shape = min(prediction.shape, 4)
    }
    return prediction
  }

  // MARK: Budgets

  /// A receiver's share of the risk: one in all of them asks in at most `risk` of the blocks.
  var receiverRisk: Double { min(max(configuration.risk / Double(max(configuration.receivers, 1)), 1e-6), 0.01) }

  /// The budget for a receiver of this block, whose sketch has `sketchChunks` source chunks.
  public mutating func budget(
    for link: LinkID, block: UInt64, profile: BlockProfile, sketchChunks: Int, role: SenderRole
  ) -> SendBudget {
    let i = Int(link.index)
    let cold = links[i].readiness == .cold
    var needed = profile.chunkCount
    if !cold {
      needed = chunksNeeded(prediction(for: link), block: block, profile: profile)
      needed = min(profile.chunkCount, needed + Int((Double(needed) * links[i].nervousness / 2).rounded(.up)))
    }
    return budget(i, needed: needed, chunkCount: profile.chunkCount, sketchChunks: sketchChunks, cold: cold, role: role)
  }

  /// The sketch's part of a budget.
  public func sketchBudget(for link: LinkID, sketchChunks: Int, role: SenderRole) -> Int {
    let loss = links[Int(link.index)].loss.loss.prudent
    let packets = LossTail.packets(delivering: sketchChunks, loss: loss, risk: receiverRisk * 0.2)
    return role == .spare ? packets - sketchChunks : packets
  }

  /// The budget before this block's sizes are known here (its sketch is not decoded yet): as the latest block's, in
  /// proportion to the bytes; a quarter of the body before there was any.
  public mutating func provisionalBudget(
    for link: LinkID, bodyBytes: Int, chunkBytes: Int, sketchChunks: Int, role: SenderRole
  ) -> SendBudget {
    let i = Int(link.index)
    let chunkCount = (bodyBytes + chunkBytes - 1) / max(chunkBytes, 1)
    let cold = links[i].readiness == .cold
    var needed = chunkCount
    if !cold {
      if let latest, latest.bodyBytes > 0 {
        let chunks = chunksNeeded(prediction(for: link), block: Self.latestBlock, profile: latest)
        let ratio = Double(bodyBytes) / Double(latest.bodyBytes)
        needed = min(chunkCount, Int((Double(chunks) * max(ratio, 0.25)).rounded(.up)))
      } else {
        needed = (chunkCount + 3) / 4
      }
    }
    return budget(i, needed: needed, chunkCount: chunkCount, sketchChunks: sketchChunks, cold: cold, role: role)
  }

  private func budget(
    _ i: Int, needed: Int, chunkCount: Int, sketchChunks: Int, cold: Bool, role: SenderRole
  ) -> SendBudget {
    let loss = links[i].loss.loss.prudent
    let sketch = sketchBudget(for: LinkID(UInt16(i)), sketchChunks: sketchChunks, role: role)
    let body = LossTail.packets(delivering: needed, loss: loss, risk: receiverRisk * 0.3)
    switch role {
    case .spare:
      return SendBudget(sketch: sketch, body: body - needed, source: false)
    case .primary:
      return SendBudget(sketch: sketch, body: cold ? body : min(body, cap(links[i].rate)), source: cold)
    }
  }

  private func cap(_ rate: LinkRate) -> Int {
    if rate.bitsPerSecond == 0 { return .max }
    let bytes = Double(rate.bitsPerSecond) / 8 * Double(configuration.unaskedTime.nanoseconds) / 1e9
    return max(Self.packetsMin, Int(min(bytes / Double(Self.packetBytes), 1e9)))
  }

  /// Receivers whose cases are alike share the result: probabilities are rounded up to powers of 1.1.
  private mutating func chunksNeeded(
    _ prediction: MissEstimator.Prediction, block: UInt64, profile: BlockProfile
  ) -> Int {
    if cacheBlock != block {
      cache.removeAll(keepingCapacity: true)
      cacheBlock = block
    }
    func step(_ value: Double, _ base: Double) -> Int16 { Int16((log(value) / log(base)).rounded(.up)) }
    let key = CacheKey(
      p0: step(prediction.probability[0], 1.1), p1: step(prediction.probability[1], 1.1),
      p2: step(prediction.probability[2], 1.1), p3: step(prediction.probability[3], 1.1),
      shape: step(1 / prediction.shape, 1.2))
    if let hit = cache.first(where: { $0.key == key }) { return hit.chunks }
    func value(_ step: Int16, _ base: Double) -> Double { exp(Double(step) * log(base)) }
    let rounded = MissEstimator.Prediction(
      probability: SIMD4(value(key.p0, 1.1), value(key.p1, 1.1), value(key.p2, 1.1), value(key.p3, 1.1)),
      shape: 1 / value(key.shape, 1.2))
    let chunks = profile.chunksNeeded(rounded, risk: receiverRisk / 2, scratch: &scratch)
    if cache.count == Self.cacheMax { cache.removeFirst() }
    cache.append((key, chunks))
    return chunks
  }
}
