import Bitcoin
import Ground
import Mempool
import Session
import Wire

/// What a neighbour is sent of a block unasked. Trivial.
struct UnaskedBudget {
  var sketch: Int
  var body: Int
  /// It knows nothing: the body's source chunks.
  var source: Bool
  /// It gets the block from elsewhere: only what can't be a repetition of that.
  var isSpare: Bool
}

extension RelayCore {
  // MARK: Trust

  @inline(__always)
  func isTrusted(_ id: LinkID) -> Bool { ledger.trusted.contains(id) }

  // MARK: Budgets

  /// The share of a neighbour's packets that get lost on the way here.
  @inline(__always)
  func lossFrom(_ peer: LinkID) -> Double { meters[Int(peer.index)].loss.rate }

  /// What a neighbour is owed of a block.
  mutating func sendBudget(_ slot: Int, for peer: LinkID) -> UnaskedBudget {
    let block = blocks[slot]
    let sketchSlot = block.pointee.sketchSent
    let sketchChunks = block.pointee.has(sketchSlot) ? block.pointee.object(sketchSlot).pointee.sourceCount : 1
    let bodyChunks = block.pointee.object(BlockState.bodySlot).pointee.sourceCount
    if configuration.redundancy == .fibreLike {
      // FIBRE: 1 ms of the link and 10 chunks for the sketch; N + 10 repair chunks and N more of the body.
      let rate = link(peer).pointee.rate.bitsPerSecond
      let burst = rate == 0 ? 100 : Int(min(rate / 1_000 / 8 / 1_200, 1_000))
      return UnaskedBudget(
        sketch: sketchChunks + 10 + burst, body: 2 * bodyChunks + 10, source: false, isSpare: false)
    }
    let role = map.role(for: block.pointee.maker, to: peer)
    let budget: SendBudget
    counters.budgets += 1
    if let profile = block.pointee.profile {
      budget = controller.budget(
        for: peer, block: block.pointee.id8, profile: profile, sketchChunks: sketchChunks, role: role)
    } else {
      budget = controller.provisionalBudget(
        for: peer, bodyBytes: block.pointee.bodyBytes, chunkBytes: block.pointee.chunkBytes,
        sketchChunks: sketchChunks, role: role)
    }
    return UnaskedBudget(
      sketch: budget.sketch, body: budget.body, source: budget.source, isSpare: role == .spare)
  }

  /// Of the sketch alone, which takes no knowledge of the block's sizes.
  mutating func sketchBudget(_ slot: Int, for peer: LinkID) -> UnaskedBudget {
    let block = blocks[slot]
    let role = map.role(for: block.pointee.maker, to: peer)
    let chunks = block.pointee.object(block.pointee.sketchSent).pointee.sourceCount
    let sketch = controller.sketchBudget(for: peer, sketchChunks: chunks, role: role)
    return UnaskedBudget(sketch: sketch, body: 0, source: false, isSpare: role == .spare)
  }

  /// The block's sizes are known now: budgets that were guessed are set right.
  mutating func noteProfile(_ slot: Int) {
    let block = blocks[slot]
    guard block.pointee.profile == nil, configuration.redundancy == .adaptive else { return }
    var lengths: [UInt32] = []
    if let sketch = block.pointee.assembly.sketch {
      lengths.reserveCapacity(sketch.transactionCount)
      for index in 0..<sketch.transactionCount where sketch.shortIDs[index] != TransactionStore.noID {
        lengths.append(sketch.byteCounts[index])
      }
    } else if let parsed = block.pointee.parsed {
      lengths.reserveCapacity(parsed.transactions.count)
      for layout in parsed.transactions.dropFirst() { lengths.append(UInt32(clamping: layout.byteCount)) }
    } else {
      return
    }
    let profile = BlockProfile(
      lengths: lengths.span, bodyBytes: block.pointee.bodyBytes, chunkBytes: block.pointee.chunkBytes)
    block.pointee.profile = profile
    controller.note(profile, of: block.pointee.id8)
    var peers = block.pointee.opened
    while let peer = peers.popFirst() {
      let lane = block.pointee.object(BlockState.bodySlot).pointee.lanes[peer]
      if lane.pointee.isStopped || lane.pointee.asked > 0 || lane.pointee.isHeld { continue }
      let budget = sendBudget(slot, for: peer)
      lane.pointee.budget = Int32(clamping: max(0, budget.body - Int(lane.pointee.sent)))
      lane.pointee.wantsSource = lane.pointee.wantsSource || budget.source
      lane.pointee.isSpare = budget.isSpare
      if !budget.isSpare { link(peer).pointee.lastBudget = Int32(clamping: budget.body) }
      if lane.pointee.budget > 0 {
        link(peer).pointee.due |= 1 << UInt64(slot)
        pumpAgain.insert(peer)
        workDue = true
      }
    }
  }

  // MARK: Short ids

  /// The key of the short ids of a block on `parent`: the first 16 bytes of SHA-256 over the overlay's derived secret of
  /// the epoch (32 bytes; zeros without an overlay secret) and the parent's hash.
  func shortIDKey(parent: Hash256, epoch: UInt32) -> OverlayIDKey {
    var bytes = ByteWriter(reserving: 64)
    let secret = epochSecrets.first { $0.epoch == epoch }?.secret ?? [UInt8](repeating: 0, count: 32)
    bytes.append(secret)
    bytes.hash(parent)
    let digest = SHA256.hash(bytes.bytes.span.bytes)
    return OverlayIDKey(k0: digest.w0, k1: digest.w1)
  }

  /// Short ids of this epoch can be computed here.
  func holdsEpoch(_ epoch: UInt32) -> Bool {
    epochSecrets.isEmpty ? epoch == 0 : epochSecrets.contains { $0.epoch == epoch }
  }

  /// The epoch for sketches made here: the lowest that a neighbour agreed on, since all relays still hold it.
  mutating func refreshEpoch() {
    var epoch: UInt32 = 0
    for index in 0..<LinkSet.capacity where links[index].isUp && links[index].epoch > 0 {
      epoch = epoch == 0 ? links[index].epoch : min(epoch, links[index].epoch)
    }
    if epoch == 0 { epoch = epochSecrets.last?.epoch ?? 0 }
    if epoch != sketchEpoch {
      sketchEpoch = epoch
      rekeyTransactions()
      prepareIndex(for: indexedParent)
    }
  }

  /// The ids of transactions passed along between blocks, keyed by the epoch alone.
  mutating func rekeyTransactions() {
    let key = shortIDKey(parent: .zero, epoch: sketchEpoch)
    transactions.rotate(epoch: sketchEpoch, key: SipHash(k0: key.k0, k1: key.k1))
  }

  mutating func deriveSecrets(_ overlay: OverlaySecret?) {
    epochSecrets = []
    for epoch in overlay?.epochs ?? [] {
      if let secret = overlay?.derive("lightpath short ids", epoch: epoch) { epochSecrets.append((epoch, secret)) }
    }
  }

  /// Takes another set of overlay epochs; sessions agree anew.
  public mutating func setOverlay(
    _ overlay: OverlaySecret?, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    deriveSecrets(overlay)
    sessions.setOverlay(overlay, now: now, into: &sink)
    drainSessionEvents(now: now, into: &sink)
    refreshEpoch()
  }

  /// Has the mempool's index made for blocks on `parent`, in slices.
  mutating func prepareIndex(for parent: Hash256) {
    indexedParent = parent
    store.prepareShortIDs(shortIDKey(parent: parent, epoch: sketchEpoch))
    isIndexReady = false
    workDue = true
  }

  /// The best header changed: the next block's sketch will be keyed by it.
  mutating func tipChanged(now: Instant) {
    let tip = chain.tip
    note(RelayEvent(.tip, at: now, block: tip.hash, a: UInt64(tip.height)))
    if nodeHas.contains(tip.hash) { noteHere(tip.hash) }
    if tip.hash != indexedParent { prepareIndex(for: tip.hash) }
  }
}
