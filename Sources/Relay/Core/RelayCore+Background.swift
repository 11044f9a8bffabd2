import Bitcoin
import Ground
import Mempool
import Session
import Wire

// Between blocks: headers, blocks that were missed, transactions. Nothing here stands in a new block's way.

extension RelayCore {
  /// How much of a block's transactions this relay says it can be expected to have. A store that holds something may
  /// still be of no use: what the last block showed counts, until the store has grown to a multiple.
  var ownReadiness: Readiness {
    if let statedReadiness { return statedReadiness }
    let held = store.counts(.node).transactions
    if held + store.counts(.side).transactions == 0 { return .cold }
    if let most = coldBelow, held < most { return .cold }
    return .inStep
  }

  /// A block came in of which the mempool had hardly anything, or enough.
  mutating func noteReadiness(_ slot: Int) {
    let block = blocks[slot]
    if block.pointee.report.isSubmitted || block.pointee.isCatchUp || block.pointee.assembly.sketch == nil { return }
    let known = block.pointee.assembly.matchedCount
    if known * 2 >= block.pointee.transactionCount {
      coldBelow = nil
    } else if block.pointee.transactionCount >= RelayCore.tellingTransactions {
      coldBelow = 2 * store.counts(.node).transactions + 500
    }
  }

  /// Smaller blocks say nothing about a mempool.
  static let tellingTransactions = 50

  /// The owner knows better: the bridge is still filling the store, or there is no node.
  public mutating func setReadiness(
    _ readiness: Readiness?, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    statedReadiness = readiness
    broadcastStatus(now: now, into: &sink)
  }

  /// The block of most work that is complete here, or was; else where the chain began. Not merely what lies below the best
  /// header: that one's body may be kept back for good, and others must still hear of what is here beside it.
  var statusTip: HeaderChain.Entry {
    if let best = bestHere, let entry = chain.entry(best), !entry.isInvalid { return entry }
    var entry = chain.tip
    var steps = 0
    while steps < CatchUp.blocksBack, !isDone(entry.hash), let parent = entry.header?.previous,
      let below = chain.entry(parent)
    {
      entry = below
      steps += 1
    }
    return entry
  }

  /// What the gate measures how late a block comes by: the block of most work that is complete here. A header whose body
  /// is kept back costs its maker one proof of work, and would otherwise shut out the blocks of a race that is still open.
  /// But no further back than catch-up goes: who has only headers so far needs no older blocks.
  var gateTip: HeaderChain.Entry {
    let here = statusTip
    let lowest = chain.tip.height - CatchUp.blocksBack
    return here.height >= lowest ? here : chain.entry(atHeight: lowest) ?? here
  }

  /// Complete here or once complete, or known to the node.
  private func isDone(_ hash: Hash256) -> Bool { done.contains(hash) || nodeHas.contains(hash) || hash == genesis }

  /// A block is complete here or at the node: STATUS tells the best of them.
  mutating func noteHere(_ hash: Hash256) {
    guard let entry = chain.entry(hash) else { return }
    if let best = bestHere, let known = chain.entry(best), !known.isInvalid, known.chainWork >= entry.chainWork {
      return
    }
    bestHere = hash
  }

  /// A block that needs no fetching: complete, once complete, known to the node, or in hand and arriving.
  func isHere(_ hash: Hash256) -> Bool {
    if isDone(hash) { return true }
    guard let slot = blocks.find(hash) else { return false }
    return blocks[slot].pointee.isComplete || !blocks[slot].pointee.isCatchUp && !blocks[slot].pointee.opened.isEmpty
  }

  /// The node has this block already: it needs no catching up.
  public mutating func noteNodeHas(_ hash: Hash256) {
    nodeHas.insert(hash)
    noteHere(hash)
  }

  // MARK: Messages

  mutating func receiveBackground(
    _ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) throws(DecodeError) {
    switch try RelayMessageType(of: message) {
    case .getHeaders:
      catchUp.receive(try GetHeadersMessage(parsing: message), from: from.link, chain: chain)
      sendBackground(to: from.link, now: from.now, into: &sink)
    case .headers:
      try receiveHeaders(message, from, into: &sink)
    case .getBlock:
      receiveGetBlock(try GetBlockMessage(parsing: message), from, into: &sink)
    case .noBlock:
      catchUp.receive(try NoBlockMessage(parsing: message), from: from.link, now: from.now)
      decide(now: from.now, into: &sink)
    case .transactionInventory:
      transactions.receiveInventory(
        try TransactionIDsMessage(parsing: message, as: .transactionInventory), from: from.link, now: from.now)
      sendBackground(to: from.link, now: from.now, into: &sink)
    case .getTransactions:
      transactions.receiveRequest(
        try TransactionIDsMessage(parsing: message, as: .getTransactions), from: from.link, store: store)
      sendBackground(to: from.link, now: from.now, into: &sink)
    case .transaction:
      let arrival = transactions.receive(
        try TransactionMessage(parsing: message), from: from.link, now: from.now, store: &store)
      if case .refused = arrival { malformed(message, from) }
    case .journey: receiveJourney(try JourneyMessage(parsing: message), from)
    default:
      break
    }
    armBackground(now: from.now)
  }

  private mutating func receiveHeaders(
    _ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) throws(DecodeError) {
    let headers = try HeadersMessage(parsing: message)
    let tip = chain.tip.hash
    let outcome = catchUp.receive(
      headers, from: from.link, chain: &chain, unixTime: unixTime(from.now), now: from.now)
    switch outcome {
    case .accepted:
      if chain.tip.hash != tip { tipChanged(now: from.now) }
      releaseAnnouncements(now: from.now, into: &sink)
    case .refused(let rejection):
      counters.gateRefusals += 1
      complain(
        RelayEvent(.gateRefused, link: from.link, at: from.now, a: UInt64(GateRefusal(rejection).rawValue)), from)
    case .ignored, .waiting:
      break
    }
    decide(now: from.now, into: &sink)
  }

  /// A neighbour catches up: the block is sent as to one that has nothing of it.
  private mutating func receiveGetBlock(
    _ request: GetBlockMessage, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) {
    let hash = Hash256(request.hash)
    guard let slot = blocks.find(hash), blocks[slot].pointee.isComplete else {
      let answer = NoBlockMessage(hash: request.hash)
      send(to: from.link, urgency: .control, capacity: NoBlockMessage.encodedBytes, into: &sink) {
        answer.write(into: &$0)
      }
      return
    }
    revive(slot, now: from.now)
    let block = blocks[slot]
    block.pointee.has.remove(from.link)
    block.pointee.wholes.remove(from.link)
    block.pointee.opened.remove(from.link)
    for objectSlot in 0..<BlockState.objectSlots where block.pointee.has(objectSlot) {
      // But for what it was sent already: nobody can ask for ever.
      let sent = block.pointee.object(objectSlot).pointee.lanes[from.link].pointee.sent
      block.pointee.object(objectSlot).pointee.lanes.reset(from.link)
      block.pointee.object(objectSlot).pointee.lanes[from.link].pointee.sent = sent
    }
    let body = block.pointee.object(BlockState.bodySlot)
    let lane = body.pointee.lanes[from.link]
    let isCold = request.flags.contains(.source) || controller.readiness(of: from.link) != .inStep
    block.pointee.opened.insert(from.link)
    let budget = sendBudget(slot, for: from.link)
    let count = body.pointee.sourceCount
    lane.pointee.isOpen = true
    lane.pointee.wantsSource = isCold
    let wanted = isCold ? count + count / 16 + 8 : max(budget.body, 8)
    lane.pointee.asked = allowed(wanted, of: body, slot, lane, now: from.now)
    let sketch = block.pointee.object(block.pointee.sketchSent)
    let sketchLane = sketch.pointee.lanes[from.link]
    sketchLane.pointee.isOpen = true
    sketchLane.pointee.wantsSource = true
    sketchLane.pointee.asked = allowed(sketch.pointee.sourceCount + 4, of: sketch, slot, sketchLane, now: from.now)
    link(from.link).pointee.due |= 1 << UInt64(slot)
    addWork(slot)
    fill(from.link, now: from.now, into: &sink)
  }

  // MARK: Deciding and sending

  mutating func noteTip(of head: StatusHead, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable) {
    catchUp.note(head, on: from.link, chain: chain)
    decide(now: from.now, into: &sink)
  }

  /// Something has an unknown parent: its sender knows headers that we lack.
  mutating func wantHeaders(
    parent: Hash256, from: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    catchUp.noteUnknownParent(from: from)
    decide(now: now, into: &sink)
  }

  func catchUpWants(_ hash: Hash256) -> Bool { catchUp.wants(hash) }

  /// A block is complete here: the catch-up needn't fetch it, and neighbours hear of the new tip.
  mutating func tipCompleted(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    catchUp.blockDone(blocks[slot].pointee.hash)
    noteHere(blocks[slot].pointee.hash)
    if nextStatus > now + .milliseconds(200 as Int64) { nextStatus = now + .milliseconds(200 as Int64) }
  }

  /// Of the blocks that catch-up looks at, those that need no fetching: what is here, and what is coming in. (To fetch a
  /// block that takes its time on a slow link would begin it anew.)
  private func presentBlocks(now: Instant) -> [Hash256] {
    CatchUp.candidates(chain, near: gateTip).filter { hash in
      if isHere(hash) { return true }
      guard let slot = blocks.find(hash), !blocks[slot].pointee.isComplete else { return false }
      return !isStalled(slot, now)
    }
  }

  /// Looks at what is lacking, asks for it, and sends what others asked for.
  mutating func decide(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let present = presentBlocks(now: now)
    catchUp.decide(now: now, chain: chain, near: gateTip) { present.contains($0) }
    var peers = upLinks
    while let peer = peers.popFirst() {
      if catchUp.hasMessage(for: peer) { sendBackground(to: peer, now: now, into: &sink) }
    }
    armBackground(now: now)
  }

  /// Requests, answers and transactions for one neighbour, as far as there is room.
  mutating func sendBackground(to peer: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    guard upLinks.contains(peer) else { return }
    var left = RelayCore.pumpMost
    while left > 0, catchUp.hasMessage(for: peer) {
      left -= 1
      var written = (count: 0, isRequest: false)
      let scratch = scratch
      var out = MutableRawSpan(
        _unsafeBytes: UnsafeMutableRawBufferPointer(start: scratch, count: RelayLimits.messageBytes))
      written = catchUp.next(on: peer, now: now, chain: chain, into: &out)
      if written.count == 0 { break }
      let bytes = UnsafeRawBufferPointer(start: scratch, count: written.count)
      if sessions.send(bytes.bytes, on: peer, urgency: written.isRequest ? .control : .background, into: &sink) {
        counters.packetsSealed += 1
        counters.bytesSealed += UInt64(written.count)
      }
    }
    // Journeys and transactions only while no block waits for the link.
    let isFree = !blockWaits(for: peer, now)
    while left > 0, isFree, sink.room(on: peer) > 0, sendNextJourney(to: peer, into: &sink) {
      left -= 1
    }
    while left > 0, isFree, sink.room(on: peer) > 0, transactions.ready(peer) <= now {
      left -= 1
      var out = MutableRawSpan(
        _unsafeBytes: UnsafeMutableRawBufferPointer(start: scratch, count: RelayLimits.messageBytes))
      let count = transactions.next(on: peer, now: now, store: store, into: &out)
      if count == 0 { break }
      let bytes = UnsafeRawBufferPointer(start: scratch, count: count)
      if sessions.send(bytes.bytes, on: peer, urgency: .background, into: &sink) {
        counters.packetsSealed += 1
        counters.bytesSealed += UInt64(count)
      }
    }
  }

  /// Something of a block waits for this link. What can't get on holds nothing up: a block whose body is nowhere may stay
  /// due for good.
  func blockWaits(for peer: LinkID, _ now: Instant) -> Bool {
    var due = link(peer).pointee.due
    while due != 0 {
      let slot = due.trailingZeroBitCount
      due &= due - 1
      if blocks[slot].pointee.isComplete || !isStalled(slot, now) { return true }
    }
    return false
  }

  var catchUpDeadline: Instant {
    var deadline = min(catchUp.nextDeadline, transactions.nextDeadline)
    var peers = upLinks
    while let peer = peers.popFirst() { deadline = min(deadline, transactions.ready(peer)) }
    return journeysOut.isEmpty ? deadline : .zero
  }

  /// When background work is next due; no oftener than every 5 ms.
  mutating func armBackground(now: Instant) {
    nextBackground = max(catchUpDeadline, now + .milliseconds(5 as Int64))
  }

  mutating func runBackground(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    transactions.deadlinePassed(now: now)
    let present = presentBlocks(now: now)
    catchUp.decide(now: now, chain: chain, near: gateTip) { present.contains($0) }
    var peers = upLinks
    while let peer = peers.popFirst() { sendBackground(to: peer, now: now, into: &sink) }
    armBackground(now: now)
  }

  mutating func tickBackground(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if nextBackground == .never { armBackground(now: now) }
  }

  // MARK: For the owner

  /// The node learned a transaction, or the owner put one into the store: neighbours are told of it between blocks.
  public mutating func announce(_ handle: EntryHandle, now: Instant) {
    guard let slot = store.slot(handle) else { return }
    transactions.added(handle, wtxid: store.wtxid(slot), weight: store.weight(slot), now: now)
    transactions.announceResolved(in: store, now: now)
    if nextBackground > now + .milliseconds(20 as Int64) { nextBackground = now + .milliseconds(20 as Int64) }
  }
}
