import ErasureCode
import Ground
import Session
import Wire

extension RelayCore {
  /// Where in `scratch` packets are written; before it there is room for a chunk.
  static let templateOffset = 2_048
  /// Datagrams that one pass over the links may seal before they leave and other work goes on: about 30 µs.
  static let pumpMost = 16
  /// Repair chunks of the sketch that go before the body's rest: two losses of usual length.
  static let sketchSparesFirst = 8
  /// Chunks of the body between two of the others.
  static let bodyPerSketchSpare = 16
  /// A block that isn't whole here after this long goes to those owed only spare packets as far as it came.
  static let spareWait = Interval.milliseconds(20 as Int64)

  // MARK: What is owed

  /// Opens lanes for a block that just passed the gate: what each neighbour is sent unasked. Verified-only neighbours
  /// wait until the block is checked.
  mutating func openLanes(_ slot: Int, now: Instant) {
    let block = blocks[slot]
    var peers = upLinks - block.pointee.opened - block.pointee.has
    if !block.pointee.isComplete { peers = peers & ledger.trusted }
    // What is caught up on others had long ago.
    if block.pointee.isCatchUp { peers = peers - catchUp.holders(of: block.pointee.hash, chain: chain) }
    let body = block.pointee.object(BlockState.bodySlot)
    while let peer = peers.popFirst() {
      // Who made it, or says that it has it, is owed nothing.
      if link(peer).pointee.key4 == block.pointee.maker || block.pointee.wholes.contains(peer) { continue }
      block.pointee.opened.insert(peer)
      let lane = body.pointee.lanes[peer]
      lane.pointee.isOpen = true
      if waitsAsSpare(slot, peer) {
        // Its budget is reckoned when it is let go.
        lane.pointee.isSpare = true
        lane.pointee.isHeld = true
        continue
      }
      if isJustSubmitted(slot) {
        // The sketch goes first; the body's budget takes the block's sizes, which are gone through after that.
        openSketchLane(slot, peer, sketchBudget(slot, for: peer))
        continue
      }
      let budget = sendBudget(slot, for: peer)
      lane.pointee.budget = Int32(clamping: budget.body)
      lane.pointee.wantsSource = lane.pointee.wantsSource || budget.source
      lane.pointee.isSpare = budget.isSpare
      link(peer).pointee.due |= 1 << UInt64(slot)
      if block.pointee.has(block.pointee.sketchSent) { openSketchLane(slot, peer, budget) }
    }
  }

  /// Who gets the block from elsewhere is sent what is spare once it is whole here: until then this relay's time is better
  /// spent on that.
  private mutating func waitsAsSpare(_ slot: Int, _ peer: LinkID) -> Bool {
    let block = blocks[slot]
    return !block.pointee.isComplete && configuration.redundancy == .adaptive
      && map.role(for: block.pointee.maker, to: peer) == .spare
  }

  private func isJustSubmitted(_ slot: Int) -> Bool {
    let block = blocks[slot]
    return block.pointee.report.isSubmitted && block.pointee.profile == nil && configuration.redundancy == .adaptive
      && block.pointee.has(block.pointee.sketchSent)
  }

  /// A sketch is there to be sent: the lanes opened before get their budget of it.
  mutating func openSketchLanes(_ slot: Int, now: Instant) {
    let block = blocks[slot]
    var peers = block.pointee.opened
    while let peer = peers.popFirst() {
      if block.pointee.object(BlockState.bodySlot).pointee.lanes[peer].pointee.isHeld { continue }
      openSketchLane(slot, peer, sendBudget(slot, for: peer))
    }
  }

  private mutating func openSketchLane(_ slot: Int, _ peer: LinkID, _ budget: UnaskedBudget) {
    let block = blocks[slot]
    let lane = block.pointee.object(block.pointee.sketchSent).pointee.lanes[peer]
    if lane.pointee.isOpen { return }
    lane.pointee.isOpen = true
    lane.pointee.budget = Int32(clamping: budget.sketch)
    lane.pointee.isSpare = budget.isSpare
    lane.pointee.wantsSource = !budget.isSpare
    link(peer).pointee.due |= 1 << UInt64(slot)
  }

  /// Lets go what is spare: the block is whole here, or takes too long.
  mutating func releaseSpares(_ slot: Int) {
    let block = blocks[slot]
    var peers = block.pointee.opened
    while let peer = peers.popFirst() {
      let lane = block.pointee.object(BlockState.bodySlot).pointee.lanes[peer]
      if !lane.pointee.isHeld { continue }
      lane.pointee.isHeld = false
      if lane.pointee.isStopped || lane.pointee.asked > 0 { continue }
      let budget = sendBudget(slot, for: peer)
      lane.pointee.budget = Int32(clamping: max(0, budget.body - Int(lane.pointee.sent)))
      lane.pointee.isSpare = budget.isSpare
      link(peer).pointee.due |= 1 << UInt64(slot)
      if block.pointee.has(block.pointee.sketchSent) { openSketchLane(slot, peer, budget) }
    }
  }

  /// Spare packets of blocks that are not whole here in time.
  mutating func releaseLateSpares(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      let block = blocks[slot]
      if block.pointee.isComplete || block.pointee.opened.isEmpty { continue }
      if block.pointee.report.gatePassed + RelayCore.spareWait > now { continue }
      releaseSpares(slot)
      pump(slot, now: now, into: &sink)
    }
  }

  /// Someone is sent the block through here before it is whole.
  func hasForwardees(_ slot: Int) -> Bool {
    var peers = blocks[slot].pointee.opened & upLinks
    let body = blocks[slot].pointee.object(BlockState.bodySlot)
    while let peer = peers.popFirst() {
      if !body.pointee.lanes[peer].pointee.isHeld { return true }
    }
    return false
  }

  // MARK: Sending

  /// A new entry is in an object's log: pass it on wherever there is room.
  @inline(__always)
  mutating func forward(
    _ slot: Int, _ objectSlot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    var peers = blocks[slot].pointee.opened & upLinks
    if peers.isEmpty { return }
    let object = blocks[slot].pointee.object(objectSlot)
    let entry = object.pointee.log.count - 1
    let chunk = object.pointee.log[entry]
    let bit: UInt64 = 1 << UInt64(slot)
    let isSource = chunk.index < UInt32(object.pointee.sourceCount)
    var packet: OutgoingPacket?
    var sealed = LinkSet.none
    while let peer = peers.popFirst() {
      let lane = object.pointee.lanes[peer]
      if !lane.pointee.isDue { continue }
      let state = link(peer)
      let others = state.pointee.due & ~bit
      state.pointee.due |= bit
      if others != 0 || Int(lane.pointee.cursor) != entry || object.pointee.isWhole {
        fill(peer, now: now, into: &sink)
        continue
      }
      // Nothing else waits for this neighbour: the chunk at hand is what to choose.
      if sink.room(on: peer) <= 0 { continue }
      let isNews =
        !chunk.known.contains(peer) && !chunk.isHeldBack && chunk.maker != state.pointee.key4
        && !(lane.pointee.isSpare && lane.pointee.asked <= 0 && isSource)
      if isNews {
        if packet == nil {
          packet = write(
            slot, objectSlot, index: chunk.index, maker: chunk.maker, isOwn: false,
            bytes: UnsafeRawPointer(chunk.bytes), isNewest: blocks.slot(at: 0) == slot, now: now)
        }
        if !seal(packet!, slot, lane, to: peer, now: now, into: &sink) { continue }
        sealed.insert(peer)
      }
      lane.pointee.cursor += 1
    }
    if let packet, !sealed.isEmpty {
      object.pointee.log.mark(entry, knownTo: sealed)
      counters.chunksForwarded += UInt64(sealed.count)
      count(packet, slot, times: sealed.count)
    }
    if objectSlot == BlockState.bodySlot && entry % RelayCore.bodyPerSketchSpare == 0 {
      // What is spare of the sketch has its turn.
      pumpAgain = pumpAgain | blocks[slot].pointee.opened & upLinks
      workDue = true
    }
  }

  /// Something new can be sent of a block: one packet to each neighbour in turn, as long as any has room, so that none
  /// waits for another's whole budget.
  mutating func pump(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let start = blocks[slot].pointee.opened & upLinks
    var all = start
    while let peer = all.popFirst() { link(peer).pointee.due |= 1 << UInt64(slot) }
    pumpLinks(start, now: now, into: &sink)
  }

  mutating func pumpLinks(_ start: LinkSet, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    var open = start
    var left = RelayCore.pumpMost
    while !open.isEmpty {
      var round = open
      while let peer = round.popFirst() {
        if left == 0 {
          pumpAgain = pumpAgain | open
          workDue = true
          return
        }
        if sink.room(on: peer) <= 0 || !sendNext(on: peer, now: now, into: &sink) {
          open.remove(peer)
        } else {
          left -= 1
        }
      }
    }
  }

  /// Sends to one neighbour as long as there is room and something due.
  mutating func fill(_ peer: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    var left = RelayCore.pumpMost
    while link(peer).pointee.due != 0 && sink.room(on: peer) > 0 {
      if left == 0 {
        pumpAgain.insert(peer)
        workDue = true
        return
      }
      if !sendNext(on: peer, now: now, into: &sink) { return }
      left -= 1
    }
  }

  /// Chooses the next packet for a neighbour and sends it: the newest block before older ones, of a block what was asked for
  /// before the rest, sketch before lists before body. (The other way about, one that catches up or waits for an older
  /// block would get a new one after all of that.) False when nothing can be sent now.
  private mutating func sendNext(
    on peer: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let state = link(peer)
    if state.pointee.due == 0 || !upLinks.contains(peer) { return false }
    var position = 0
    while position < blocks.count {
      let slot = blocks.slot(at: position)
      position += 1
      if state.pointee.due & (1 << UInt64(slot)) == 0 { continue }
      let block = blocks[slot]
      var isDue = false
      for pass in 0..<2 {
        for step in 0..<4 {
          let objectSlot = step == 0 ? block.pointee.sketchSent : RelayCore.sendOrder[step]
          if !block.pointee.has(objectSlot) { continue }
          let lane = block.pointee.object(objectSlot).pointee.lanes[peer]
          if !lane.pointee.isDue { continue }
          isDue = true
          if pass == 0 && lane.pointee.asked <= 0 { continue }
          if step == 0 && yieldsToBody(slot, lane, peer) { continue }
          if sendChunk(slot, objectSlot, to: peer, isNewest: position == 1, now: now, into: &sink) { return true }
        }
      }
      if !isDue { state.pointee.due &= ~(1 << UInt64(slot)) }
    }
    return false
  }

  /// Few receivers lose any of the sketch, and hardly one much of it: what makes up for that goes after the first of the
  /// body, and but for the first few between the rest of the body.
  @inline(__always)
  private func yieldsToBody(_ slot: Int, _ lane: UnsafeMutablePointer<Lane>, _ peer: LinkID) -> Bool {
    let block = blocks[slot]
    if lane.pointee.asked > 0 { return false }
    let spare = Int(lane.pointee.sent) - block.pointee.object(block.pointee.sketchSent).pointee.sourceCount
    if spare < 0 { return false }
    if block.pointee.isFresh || block.pointee.isFirstWave { return true }
    let body = block.pointee.object(BlockState.bodySlot)
    if spare < RelayCore.sketchSparesFirst || !body.pointee.lanes[peer].pointee.isDue { return false }
    return Int(body.pointee.lanes[peer].pointee.sent)
      < firstWave(of: body) + (spare - RelayCore.sketchSparesFirst + 1) * RelayCore.bodyPerSketchSpare
  }

  /// More than any receiver asks for, whatever it expects to lose.
  private static func enough(of object: UnsafeMutablePointer<ObjectState>) -> UInt16 {
    UInt16(clamping: 2 * object.pointee.sourceCount + 64)
  }

  private static let sendOrder: InlineArray<4, Int> = [
    0, BlockState.txidsSlot, BlockState.wtxidsSlot, BlockState.bodySlot,
  ]

  /// Sends one chunk of an object on a lane that is due: out of the log if something there is news for the neighbour,
  /// else of this relay's own making. False when there is neither, or the queue refused it.
  private mutating func sendChunk(
    _ slot: Int, _ objectSlot: Int, to peer: LinkID, isNewest: Bool, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    let lane = object.pointee.lanes[peer]
    let sourceCount = UInt32(object.pointee.sourceCount)
    let ownKey = link(peer).pointee.key4

    // Who asks is told only what is known to be true: once the object is whole, of this relay's own making.
    let isVouched = object.pointee.isWhole && lane.pointee.asked > 0
    while !isVouched && Int(lane.pointee.cursor) < object.pointee.log.count {
      let entry = Int(lane.pointee.cursor)
      let chunk = object.pointee.log[entry]
      let isNews =
        !chunk.known.contains(peer) && !chunk.isHeldBack && chunk.maker != ownKey
        && !(lane.pointee.isSpare && lane.pointee.asked <= 0 && chunk.index < sourceCount)
      if isNews {
        let pointer = UnsafeRawPointer(chunk.bytes)
        if !emit(
          slot, objectSlot, lane, index: chunk.index, maker: chunk.maker, isOwn: false, bytes: pointer, to: peer,
          isNewest: isNewest, now: now, into: &sink)
        {
          return false
        }
        object.pointee.log.mark(entry, knownTo: peer)
        lane.pointee.cursor += 1
        counters.chunksForwarded += 1
        return true
      }
      lane.pointee.cursor += 1
    }

    guard object.pointee.encoder != nil else { return false }
    if lane.pointee.wantsSource {
      while lane.pointee.nextSource < Int32(sourceCount) {
        let index = UInt32(lane.pointee.nextSource)
        if let entry = object.pointee.log.find(index), object.pointee.log[entry].known.contains(peer) {
          lane.pointee.nextSource += 1
          continue
        }
        guard let pointer = object.pointee.sourceChunk(Int(index)) else { return false }
        if !emit(
          slot, objectSlot, lane, index: index, maker: self.ownKey, isOwn: true, bytes: pointer, to: peer,
          isNewest: isNewest, now: now, into: &sink)
        {
          return false
        }
        lane.pointee.nextSource += 1
        counters.chunksOwn += 1
        return true
      }
    }
    // Repair chunks of our own, when they are ready: making them is work for slices.
    let index = object.pointee.peekRepair(for: lane)
    let repairs = index..<index + 1
    guard (try? object.pointee.encoder!.prepare(repairs, budget: 0)) == .idle else {
      addWork(slot)
      return false
    }
    var out = MutableRawSpan(
      _unsafeBytes: UnsafeMutableRawBufferPointer(start: scratch, count: object.pointee.shape.chunkSize))
    let before = object.pointee.workDone
    guard (try? object.pointee.encoder!.writeRepair(index, into: &out)) != nil else { return false }
    counters.workEncoded += UInt64(object.pointee.workDone - before)
    if !emit(
      slot, objectSlot, lane, index: sourceCount + UInt32(index), maker: self.ownKey, isOwn: true,
      bytes: UnsafeRawPointer(scratch), to: peer, isNewest: isNewest, now: now, into: &sink)
    {
      return false
    }
    _ = object.pointee.takeRepair(for: lane)
    counters.chunksOwn += 1
    return true
  }

  /// Writes and seals the packet of one chunk.
  private mutating func emit(
    _ slot: Int, _ objectSlot: Int, _ lane: UnsafeMutablePointer<Lane>, index: UInt32, maker: UInt32,
    isOwn: Bool, bytes: UnsafeRawPointer, to peer: LinkID, isNewest: Bool, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let packet = write(
      slot, objectSlot, index: index, maker: maker, isOwn: isOwn, bytes: bytes, isNewest: isNewest, now: now)
    if !seal(packet, slot, lane, to: peer, now: now, into: &sink) { return false }
    count(packet, slot, times: 1)
    return true
  }

  /// Counts a packet that was sealed for so many neighbours.
  @inline(__always)
  private mutating func count(_ packet: OutgoingPacket, _ slot: Int, times: Int) {
    counters.packetsSealed += UInt64(times)
    counters.bytesSealed += UInt64(times * packet.byteCount)
    blocks[slot].pointee.report.packetsOut += times
    blocks[slot].pointee.report.bytesOut += times * packet.byteCount
  }

  /// A chunk's packet as it lies in `template`, and what of it is the same for all neighbours. Trivial.
  private struct OutgoingPacket {
    var byteCount: Int
    /// Of the block's objects.
    var object: UnsafeMutablePointer<ObjectState>
    var body: UnsafeMutablePointer<ObjectState>
    var flags: ChunkFlags
    /// Budgets are reckoned; until then packets say that enough is to come. The next ones say how much.
    var isReckoned: Bool
    var urgency: Urgency
    var flow: FlowID
    var age: UInt32
  }

  /// Writes a chunk's packet, unless it lies in `template` already: for each neighbour only what is about it changes, and
  /// the seal reads it from there.
  @inline(__always)
  private mutating func write(
    _ slot: Int, _ objectSlot: Int, index: UInt32, maker: UInt32, isOwn: Bool, bytes: UnsafeRawPointer,
    isNewest: Bool, now: Instant
  ) -> OutgoingPacket {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    let size = object.pointee.shape.chunkSize
    var packet = OutgoingPacket(
      byteCount: 0, object: object, body: block.pointee.object(BlockState.bodySlot),
      // Only for what is made here of the whole block: what is passed on out of the log may be wrong all the same.
      flags: isOwn && block.pointee.isComplete ? .whole : [],
      isReckoned: !block.pointee.isFresh && !block.pointee.isFirstWave,
      urgency: block.pointee.isCatchUp ? .background : isNewest ? .block : .late,
      flow: FlowID(block.pointee.id8 | 1), age: 0)
    let isReady =
      templateSerial == block.pointee.serial && templateObject == objectSlot && templateIndex == index
      && templateMaker == maker && templateIsOwn == isOwn
    let template = scratch + RelayCore.templateOffset
    if object.pointee.kind == .sketch {
      let start = min(block.pointee.report.firstPacket, now)
      packet.age = UInt32(clamping: (now - start).nanoseconds / 1_000)
      packet.byteCount = SketchMessage.encodedBytes
      if !isReady {
        let head = SketchHead(
          flags: [], header: block.pointee.headerBytes, bodyBytes: UInt32(block.pointee.bodyBytes),
          sketchBytes: UInt32(object.pointee.shape.byteCount), sketchID: object.pointee.sketchID,
          transactionCount: UInt32(block.pointee.transactionCount), bodyChunkBytes: UInt16(block.pointee.chunkBytes),
          epoch: object.pointee.epoch, maker: maker, more: 0, moreBody: 0, age: 0, index: index)
        var out = MutableRawSpan(
          _unsafeBytes: UnsafeMutableRawBufferPointer(start: template, count: packet.byteCount))
        _ = SketchMessage(head, chunk: UnsafeRawBufferPointer(start: bytes, count: size).bytes).write(into: &out)
      }
    } else {
      packet.byteCount = ChunkMessage.headBytes + size
      if !isReady {
        var out = MutableRawSpan(
          _unsafeBytes: UnsafeMutableRawBufferPointer(start: template, count: packet.byteCount))
        _ = ChunkMessage(
          kind: object.pointee.kind, flags: [], block: block.pointee.id8, maker: maker, more: 0, index: index,
          chunk: UnsafeRawBufferPointer(start: bytes, count: size).bytes
        ).write(into: &out)
      }
    }
    (templateSerial, templateObject) = (block.pointee.serial, objectSlot)
    (templateIndex, templateMaker, templateIsOwn) = (index, maker, isOwn)
    return packet
  }

  /// Seals the packet in `template` for one neighbour; `count` is for the caller.
  @inline(__always)
  private mutating func seal(
    _ packet: OutgoingPacket, _ slot: Int, _ lane: UnsafeMutablePointer<Lane>, to peer: LinkID, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let block = blocks[slot]
    let template = scratch + RelayCore.templateOffset
    let flags = lane.pointee.asked > 0 ? packet.flags.union(.asked) : packet.flags
    let kind = packet.object.pointee.kind
    if kind == .sketch {
      SketchMessage.patch(
        template, flags: flags, more: lane.pointee.moreAfterThis,
        moreBody: packet.isReckoned
          ? packet.body.pointee.lanes[peer].pointee.more : RelayCore.enough(of: packet.body),
        age: packet.age)
    } else {
      let more =
        packet.isReckoned || kind != .body ? lane.pointee.moreAfterThis : RelayCore.enough(of: packet.object)
      ChunkMessage.patch(template, kind: kind, flags: flags, more: more)
    }
    let message = UnsafeRawBufferPointer(start: template, count: packet.byteCount)
    guard sessions.send(message.bytes, on: peer, urgency: packet.urgency, flow: packet.flow, into: &sink) else {
      return false
    }
    lane.pointee.spend()
    if !block.pointee.reached.contains(peer) {
      block.pointee.reached.insert(peer)
      if block.pointee.report.firstForwarded == .never { block.pointee.report.firstForwarded = now }
      note(RelayEvent(.forwarded, link: peer, at: now, block: block.pointee.hash))
    }
    return true
  }
}
