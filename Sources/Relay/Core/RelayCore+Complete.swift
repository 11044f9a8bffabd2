import Bitcoin
import ErasureCode
import Ground
import Mempool
import Wire

extension RelayCore {
  /// How long a complete block's encoders, logs and lanes are kept for neighbours that haven't said HAVE.
  static let settleAfter = Interval.seconds(30)
  /// How long from a block's first packet on the work for the next one waits: what it takes to put together, what the node
  /// beside this relay takes to read and connect it, often on the same processor, and what a block found here takes to be
  /// sent.
  static let quietTime = Interval.milliseconds(100 as Int64)

  /// Every check has passed: tell the owner. The block is handed over before this relay does anything else with it, unless
  /// it was found here: then others come first.
  mutating func complete(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    block.pointee.stage = .complete
    block.pointee.completeAt = now
    block.pointee.report.isComplete = true
    block.pointee.report.verified = now
    counters.blocksVerified += 1
    note(
      RelayEvent(
        .verified, at: now, block: block.pointee.hash, a: block.pointee.report.isSubmitted ? 1 : 0))
    done.insert(block.pointee.hash)
    noteReadiness(slot)
    block.pointee.nextAsk = .never
    beginQuiet(now: now)
    tipCompleted(slot, now: now, into: &sink)
    if block.pointee.report.isSubmitted {
      becomeSource(slot, now: now, into: &sink)
    } else {
      block.pointee.isToServe = true
      addWork(slot)
    }
  }

  /// Tells everyone that the block is whole here, and sends it to those who lack it.
  mutating func becomeSource(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    block.pointee.isToServe = false
    let body = block.pointee.object(BlockState.bodySlot)
    if body.pointee.decoder != nil {
      let decoder = body.pointee.decoder.take()!
      body.pointee.encoder = try? Encoder(decoder)
    }
    // A block found here goes out first: its packets say that it is whole.
    if !block.pointee.report.isSubmitted { sendHaves(slot, now: now, into: &sink) }
    if block.pointee.sketchDecoded < 0 { makeSketch(slot, explicit: []) }
    if block.pointee.sketchSent != block.pointee.sketchDecoded { switchSketch(slot, now: now) }
    if !block.pointee.report.isSubmitted { noteProfile(slot) }
    openLanes(slot, now: now)
    releaseSpares(slot)
    if block.pointee.report.isSubmitted {
      block.pointee.isFresh = true
      pump(slot, now: now, into: &sink)
    }
    if block.pointee.report.failedChecks > 0 { block.pointee.repair.nextBlame = 0 }
    dropRivals(of: slot, now: now, into: &sink)
    if block.pointee.repair.nextBlame < 0 { answerBlames(slot, now: now, into: &sink) }
    keepBounds(but: slot)
    guard blocks.isPresent(slot) else { return }
    if !blocks[slot].pointee.report.isSubmitted { pump(slot, now: now, into: &sink) }
    addWork(slot)
  }

  /// The sketch of a block found here is on its way: everyone is told that it is whole, and sent what they surely need
  /// of the body before more is reckoned.
  mutating func announceFresh(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      if !blocks[slot].pointee.isFresh || !blocks[slot].pointee.isComplete { continue }
      blocks[slot].pointee.isFresh = false
      sendHaves(slot, now: now, into: &sink)
      if !openFirstWave(slot) { endFirstWave(slot) }
    }
  }

  /// The body's first chunks for each neighbour: a thirty-second of it, which a mempool in step hardly does without, and
  /// no more than the last block was worth to it. False when somebody is not in step: that takes reckoning.
  private mutating func openFirstWave(_ slot: Int) -> Bool {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    let all = block.pointee.opened & upLinks
    var peers = all
    while let peer = peers.popFirst() {
      if controller.readiness(of: peer) != .inStep { return false }
    }
    let wave = Int32(firstWave(of: body))
    peers = all
    while let peer = peers.popFirst() {
      let lane = body.pointee.lanes[peer]
      let isSpare = map.role(for: block.pointee.maker, to: peer) == .spare
      if isSpare || lane.pointee.isStopped || lane.pointee.asked > 0 { continue }
      let last = link(peer).pointee.lastBudget
      lane.pointee.budget = last > 0 ? min(wave, last) : wave
      link(peer).pointee.due |= 1 << UInt64(slot)
    }
    block.pointee.isFirstWave = true
    addWork(slot)
    return true
  }

  func firstWave(of body: UnsafeMutablePointer<ObjectState>) -> Int { max(8, body.pointee.sourceCount / 32) }

  /// Now each neighbour's whole budget is reckoned, and the sketch's spare chunks may go.
  private mutating func endFirstWave(_ slot: Int) {
    blocks[slot].pointee.isFirstWave = false
    noteProfile(slot)
    pumpAgain = pumpAgain | blocks[slot].pointee.opened & upLinks
    workDue = true
  }

  private mutating func sendHaves(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    var peers = upLinks
    while let peer = peers.popFirst() { sendHave(slot, to: peer, now: now, into: &sink) }
  }

  /// The sketch that was sent on can't be completed here; from now on the one that is whole is sent.
  private mutating func switchSketch(_ slot: Int, now: Instant) {
    let block = blocks[slot]
    block.pointee.sketchSent = block.pointee.sketchDecoded
    openSketchLanes(slot, now: now)
  }

  /// Other announcements with the same header were lies, or are not needed any more.
  private mutating func dropRivals(of slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let hash = blocks[slot].pointee.hash
    let size = blocks[slot].pointee.bodyBytes
    let count = blocks[slot].pointee.transactionCount
    var rival = blocks.find(id8: hash.w0)
    while rival >= 0 {
      let next = rival + 1
      if rival != slot && blocks[rival].pointee.hash == hash {
        if blocks[rival].pointee.bodyBytes != size || blocks[rival].pointee.transactionCount != count {
          blameSketches(of: rival, now: now, into: &sink)
        }
        remove(rival)
      }
      rival = blocks.find(id8: hash.w0, from: next)
    }
  }

  /// Makes a whole sketch of a block whose body and ids are here, in a free sketch slot.
  mutating func makeSketch(_ slot: Int, explicit: [Int]) {
    let block = blocks[slot]
    guard let parsed = block.pointee.assembly.check?.block ?? block.pointee.parsed else { return }
    let key = shortIDKey(parent: block.pointee.header.previous, epoch: sketchEpoch)
    let bytes = withBodyBytes(slot) { Sketch.encode(parsed, in: $0, explicit: explicit, key: key) }
    counters.idsComputed += UInt64(parsed.transactions.count)
    putSketch(slot, bytes)
  }

  /// Puts a sketch made here into a free slot; in place of one that is incomplete when there is none.
  mutating func putSketch(_ slot: Int, _ bytes: [UInt8]) {
    let block = blocks[slot]
    guard let shape = try? ObjectShape(byteCount: bytes.count, chunkSize: RelayLimits.sketchChunkBytes),
      let encoder = try? Encoder(bytes.span.bytes, shape: shape)
    else { return }
    let id = UInt32(truncatingIfNeeded: SHA256.hash(bytes.span.bytes).w0)
    counters.bytesHashed += UInt64(bytes.count)
    var place = (0..<BlockState.sketchSlots).first { !block.pointee.has($0) }
    if place == nil {
      place = BlockState.sketchSlots - 1
      block.pointee.drop(place!, &pool)
    }
    block.pointee.put(
      ObjectState(
        kind: .sketch, sketchID: id, epoch: sketchEpoch, shape: shape, encoder: encoder, ownKey: ownKey), in: place!)
    block.pointee.sketchDecoded = place!
    block.pointee.report.sketchBytes = bytes.count
    // What was written of another sketch in this place is none of this one's.
    templateObject = -1
  }

  // MARK: Sending what was not there in time

  /// Makes the repair chunks that lanes wait for, then what the mempool can learn.
  mutating func encode(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) -> Bool {
    let block = blocks[slot]
    if block.pointee.isToServe {
      becomeSource(slot, now: now, into: &sink)
      return true
    }
    if !block.pointee.submitted.isEmpty {
      takeIn(slot)
      pump(slot, now: now, into: &sink)
      return true
    }
    if block.pointee.repair.nextBlame >= 0 {
      findWrongChunks(slot, now: now, into: &sink)
      return true
    }
    announceFresh(now: now, into: &sink)
    if !block.pointee.isSettled {
      for step in [block.pointee.sketchDecoded, BlockState.txidsSlot, BlockState.wtxidsSlot, BlockState.bodySlot]
      where block.pointee.has(step) {
        let object = block.pointee.object(step)
        guard object.pointee.encoder != nil else { continue }
        var peers = block.pointee.opened & upLinks
        // Neighbours' runs lie side by side: one large batch serves eight at the price of two small ones.
        let isLarge = peers.count > 2
        while let peer = peers.popFirst() {
          let lane = object.pointee.lanes[peer]
          if !lane.pointee.isDue { continue }
          let first = object.pointee.peekRepair(for: lane)
          let status = try? object.pointee.encoder!.prepare(first..<first + 1, budget: 0)
          if status == .idle { continue }
          let before = object.pointee.workDone
          let more = try? object.pointee.encoder!.prepare(
            first..<first + 1, budget: Work.slice, large: isLarge)
          counters.workEncoded += UInt64(object.pointee.workDone - before)
          if more == .idle { pump(slot, now: now, into: &sink) }
          return true
        }
      }
    }
    if block.pointee.isFirstWave {
      endFirstWave(slot)
      return true
    }
    return quietEnds == .never && learn(slot)
  }

  /// A block is coming in, or is complete: what is no part of it waits. Not longer for blocks close behind each other: what
  /// they bring would never be learned.
  mutating func beginQuiet(now: Instant) {
    if quietEnds == .never { quietEnds = now + RelayCore.quietTime }
  }

  /// What waited since the last block is due.
  mutating func endQuiet() {
    quietEnds = .never
    workDue = true
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      let block = blocks[slot]
      if block.pointee.isComplete && block.pointee.learned < block.pointee.transactionCount { addWork(slot) }
    }
  }

  /// Confirms the block's transactions in the mempool store, so that the next match doesn't find them, and puts those
  /// that were missing to the side, where a competing block can use them.
  private mutating func learn(_ slot: Int) -> Bool {
    let block = blocks[slot]
    guard block.pointee.learned < block.pointee.transactionCount, chain.isOnBestBranch(block.pointee.hash),
      !block.pointee.isSettled, let parsed = block.pointee.assembly.check?.block ?? block.pointee.parsed
    else {
      block.pointee.learned = block.pointee.transactionCount
      return false
    }
    let end = min(block.pointee.learned + RelayCore.learnSlice, block.pointee.transactionCount)
    let range = block.pointee.learned..<end
    let object = block.pointee.object(BlockState.bodySlot)
    store.confirm(range, of: parsed, in: object.pointee.bytes.bytes)
    counters.transactionsLearned += UInt64(range.count)
    block.pointee.learned = end
    if end == block.pointee.transactionCount {
      block.pointee.assembly.reset()
      return false
    }
    return true
  }

  // MARK: Keeping and forgetting

  /// Keeps only the bytes of a complete block that everyone has, or has had time to get.
  mutating func settle(_ slot: Int) {
    let block = blocks[slot]
    guard block.pointee.isComplete, !block.pointee.isSettled, block.pointee.has(BlockState.bodySlot) else { return }
    counters.bytesSettled += UInt64(block.pointee.bodyBytes)
    block.pointee.kept = withBodyBytes(slot) { bytes in bytes.withUnsafeBytes { [UInt8]($0) } }
    block.pointee.isSettled = true
    block.pointee.dropAll(&pool)
    block.pointee.assembly.reset()
    block.pointee.parsed = nil
    block.pointee.sketchSent = -1
    block.pointee.sketchDecoded = -1
    block.pointee.opened = .none
    clearDue(slot)
  }

  func clearDue(_ slot: Int) {
    for index in 0..<LinkSet.capacity { links[index].due &= ~(1 << UInt64(slot)) }
  }

  /// Holds the complete blocks to their count and bytes; `newest` stays, however long ago its first packet came.
  private mutating func keepBounds(but newest: Int) {
    while true {
      var count = 0
      var bytes = 0
      for position in 0..<blocks.count where blocks[blocks.slot(at: position)].pointee.isComplete {
        count += 1
        bytes += blocks[blocks.slot(at: position)].pointee.bodyBytes
      }
      if count <= 1 || count <= configuration.limits.blocksKept && bytes <= configuration.limits.blockBytesKept {
        return
      }
      evictOldestKept(but: newest)
    }
  }

  /// Gives up the block that has been complete for longest.
  mutating func evictOldestKept(but newest: Int = -1) {
    var oldest = -1
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      if !blocks[slot].pointee.isComplete || slot == newest { continue }
      if oldest < 0 || blocks[slot].pointee.report.verified <= blocks[oldest].pointee.report.verified { oldest = slot }
    }
    if oldest < 0 { return }
    remove(oldest)
    counters.blocksEvicted += 1
  }

  /// Gives up an incomplete block.
  mutating func abandon(_ slot: Int, reason: UInt64, now: Instant) {
    counters.blocksAbandoned += 1
    note(RelayEvent(.abandoned, at: now, block: blocks[slot].pointee.hash, a: reason))
    remove(slot)
  }

  mutating func remove(_ slot: Int) {
    let block = blocks[slot]
    if block.pointee.has(BlockState.bodySlot),
      let decoder = block.pointee.object(BlockState.bodySlot).pointee.decoder.take()
    {
      decoders.give(decoder)
    }
    block.pointee.dropAll(&pool)
    clearDue(slot)
    touched &= ~(1 << UInt64(slot))
    aheadDue &= ~(1 << UInt64(slot))
    blocks.remove(slot)
  }
}
