import ErasureCode
import Ground
import Wire

// Repair by turns: PROTOCOL.md, section 6, has the rules and why they end. In a turn one neighbour alone delivers the
// object, and nothing that others say or send changes what it has delivered or how long it may take.

extension RelayCore {
  /// Requests in a row that bring less than half of what they asked for before a turn is over.
  private static let turnAsks = 3
  private static let listAsks = 2
  /// Turns at lists of ids, of both kinds together: they only save bytes, the body alone suffices.
  private static let listTurns = 3
  /// An answer may wait for other work of the neighbour.
  private static let turnWaitLeast = Interval.milliseconds(10 as Int64)
  /// A turn lasts at least as long as the object takes at this rate, and more each time.
  private static let turnRate: Int64 = 10_000_000
  private static let turnDoublings = 4
  /// Between two turns of one neighbour, at first and at most.
  private static let pauseLeast = Interval.milliseconds(50 as Int64)
  private static let pauseMost = Interval.seconds(2)

  // MARK: Whose turn it is

  /// The neighbour whose turn at the body comes next: of those that say they have the block who had fewest, trusted ones
  /// first, then the nearest; nil: everyone's together.
  private func nextSource(_ slot: Int) -> LinkID? {
    let block = blocks[slot]
    var best: LinkID?
    var peers = block.pointee.wholes & upLinks
    while let peer = peers.popFirst() {
      guard let other = best else {
        best = peer
        continue
      }
      let (had, least) = (block.pointee.repair.turns(of: peer), block.pointee.repair.turns(of: other))
      if had != least {
        if had < least { best = peer }
      } else if isTrusted(peer) != isTrusted(other) {
        if isTrusted(peer) { best = peer }
      } else if link(peer).pointee.roundTripOrGuess < link(other).pointee.roundTripOrGuess {
        best = peer
      }
    }
    guard let best else { return nil }
    return block.pointee.repair.turns(of: best) <= block.pointee.repair.turns(of: nil) ? best : nil
  }

  /// A neighbour came to have the block that had fewer turns than the one at hand before this: it needn't wait. A first
  /// turn is never broken off.
  private func isOvertaken(_ slot: Int) -> Bool {
    let repair = blocks[slot].pointee.repair
    guard let next = nextSource(slot) else { return false }
    let had = repair.turns(of: next)
    if repair.isPausing || repair.source == RelayEvent.noLink { return had == 0 }
    return had + 1 < repair.turns(of: repair.source)
  }

  // MARK: Turns at the body

  /// The body is put together anew, of what one neighbour delivers: the next one's turn, or a pause before it.
  mutating func nextTurn(_ slot: Int, now: Instant) {
    let block = blocks[slot]
    let next = nextSource(slot)
    let had = block.pointee.repair.turns(of: next)
    if had > 0 && !block.pointee.repair.isPausing && block.pointee.repair.step == .turns {
      // All had their turn: what failed at once would fail at once again, and each turn asks for a whole body.
      let pause = min(RelayCore.pauseLeast * (1 << Int64(min(had - 1, 6))), RelayCore.pauseMost)
      block.pointee.repair.isPausing = true
      block.pointee.repair.source = RelayEvent.noLink
      block.pointee.repair.turnEnds = now + pause
      clear(slot, BlockState.bodySlot, only: RelayEvent.noLink)
      block.pointee.assembly.reset()
      block.pointee.stage = .gathering
      block.pointee.nextAsk = block.pointee.repair.turnEnds
      return
    }
    startTurn(slot, next, now: now)
  }

  /// - Parameter isAgain: the same neighbour's turn once more, without the matches; it counts as one.
  mutating func startTurn(_ slot: Int, _ source: LinkID?, isAgain: Bool = false, now: Instant) {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    block.pointee.repair.step = .turns
    block.pointee.repair.isPausing = false
    if !isAgain { block.pointee.repair.countTurn(of: source) }
    beginTurn(slot, BlockState.bodySlot, source, turn: block.pointee.repair.turns(of: source), now: now)
    body.pointee.isSuspect = true
    // What the mempool matched is told again as long as nothing speaks against it, or the header's lists proved it.
    let repair = block.pointee.repair
    let isAssisted =
      block.pointee.assembly.sketch != nil && block.pointee.has(block.pointee.sketchDecoded)
      && !repair.isAssistSpent && (repair.attempts == 0 || repair.isListed)
    block.pointee.repair.isAssisted = isAssisted
    clear(slot, BlockState.bodySlot, only: source)
    if isAssisted {
      block.pointee.stage = .filling
      block.pointee.assembly.next = 0
      block.pointee.assembly.matchedCount = 0
      block.pointee.assembly.matchedBytes = 0
      block.pointee.assembly.check = nil
      tellPrefix(slot)
      tellExplicit(slot)
    } else {
      block.pointee.assembly.reset()
      block.pointee.stage = .gathering
    }
    // Whose chunks in the log failed once begins without them, and so is asked.
    if source.map({ !repair.failed.contains($0) }) ?? !repair.isLogSpent {
      feedLog(slot, BlockState.bodySlot) { source == nil || $0.from == source && $0.isVouched }
    }
    // The log alone may suffice: no chunk need come for the next step.
    addWork(slot)
    touched |= 1 << UInt64(slot)
  }

  /// The clock and counts of a turn at an object.
  private mutating func beginTurn(_ slot: Int, _ objectSlot: Int, _ source: LinkID?, turn: Int, now: Instant) {
    let block = blocks[slot]
    let bytes = block.pointee.object(objectSlot).pointee.shape.byteCount
    let length = turnWait(source, asks: 1) * 8 + transferTime(bytes, from: source)
    block.pointee.repair.source = source ?? RelayEvent.noLink
    block.pointee.repair.asks = 0
    block.pointee.repair.unanswered = 0
    block.pointee.repair.lacking = 0
    block.pointee.repair.outstanding = 0
    block.pointee.repair.heard = now
    block.pointee.repair.turnEnds = now + length * (1 << Int64(min(max(turn - 1, 0), RelayCore.turnDoublings)))
  }

  /// How long so many bytes may take: at 10 Mbit/s, or half the link's rate when that is less.
  func transferTime(_ bytes: Int, from source: LinkID? = nil) -> Interval {
    var megabits = RelayCore.turnRate / 1_000_000
    if let source, case let rate = link(source).pointee.rate.bitsPerSecond, rate > 0 {
      megabits = max(1, min(megabits, Int64(clamping: rate / 2_000_000)))
    }
    return Interval(nanoseconds: Int64(bytes) * 8 * 1_000 / megabits)
  }

  /// How long the request after `asks` others waits for the next chunk; everyone's for the farthest.
  private func turnWait(_ source: LinkID?, asks: Int) -> Interval {
    var roundTrip = Interval.zero
    if let source {
      roundTrip = link(source).pointee.roundTripOrGuess
    } else {
      var peers = upLinks
      while let peer = peers.popFirst() { roundTrip = max(roundTrip, link(peer).pointee.roundTripOrGuess) }
    }
    let wait = max(roundTrip * 5 / 4, RelayCore.turnWaitLeast)
    return min(wait * Int64(1 << min(max(asks - 1, 0), 6)), RelayCore.repeatMost)
  }

  // MARK: Turns at the lists of ids

  /// Asks a neighbour that has the block for a list of ids; for the body when lists have had their turns.
  mutating func startList(_ slot: Int, _ kind: ObjectKind, now: Instant) {
    let block = blocks[slot]
    let place = kind == .txids ? BlockState.txidsSlot : BlockState.wtxidsSlot
    var source: LinkID?
    var peers = block.pointee.wholes & upLinks - block.pointee.repair.listed
    while let peer = peers.popFirst() {
      if let best = source, link(best).pointee.roundTripOrGuess <= link(peer).pointee.roundTripOrGuess { continue }
      source = peer
    }
    guard let source, block.pointee.repair.listTurns < RelayCore.listTurns, openList(slot, kind) else {
      nextTurn(slot, now: now)
      return
    }
    block.pointee.repair.step = kind == .txids ? .txids : .wtxids
    block.pointee.repair.listTurns += 1
    block.pointee.repair.listed.insert(source)
    block.pointee.stage = .gathering
    block.pointee.object(place).pointee.isSuspect = true
    beginTurn(slot, place, source, turn: 1, now: now)
    clear(slot, place, only: source)
    touched |= 1 << UInt64(slot)
  }

  /// What the neighbour sent is no list of this block, or it sent nothing: the next one's turn.
  mutating func listFailed(_ slot: Int, now: Instant) {
    startList(slot, blocks[slot].pointee.repair.step == .wtxids ? .wtxids : .txids, now: now)
  }

  // MARK: Asking

  /// A chunk of the neighbour whose turn it is was taken.
  mutating func noteTurn(_ slot: Int, _ objectSlot: Int, wasAsked: Bool, wasUseful: Bool, now: Instant) {
    let block = blocks[slot]
    guard isTurn(slot, objectSlot) else { return }
    if wasAsked { block.pointee.repair.outstanding -= 1 }
    if wasUseful { block.pointee.repair.heard = now }
  }

  /// The object is put together by turns.
  func isTurn(_ slot: Int, _ objectSlot: Int) -> Bool {
    switch blocks[slot].pointee.repair.step {
    case .none: false
    case .txids: objectSlot == BlockState.txidsSlot
    case .wtxids: objectSlot == BlockState.wtxidsSlot
    case .turns: objectSlot == BlockState.bodySlot
    }
  }

  /// Asks whose turn it is for what is lacking, and ends turns that are over.
  mutating func lookAtTurn(
    _ slot: Int, _ objectSlot: Int, needed: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let isList = objectSlot != BlockState.bodySlot
    let repair = block.pointee.repair
    let source: LinkID? = repair.source == RelayEvent.noLink ? nil : repair.source
    let isGone = source.map { !upLinks.contains($0) || !block.pointee.wholes.contains($0) } ?? false
    var isOver = isGone || repair.turnEnds <= now || !isList && isOvertaken(slot)
    var unanswered = 0
    if !isOver {
      if repair.isPausing {
        block.pointee.nextAsk = repair.turnEnds
        return
      }
      let until = repair.heard + turnWait(source, asks: repair.asks)
      if repair.outstanding > 0 && until > now {
        block.pointee.nextAsk = min(until, repair.turnEnds)
        return
      }
      // Half of what lacked has come: losses, not silence.
      unanswered = repair.asks > 0 && needed * 2 > repair.lacking ? repair.unanswered + 1 : 0
      isOver = unanswered >= (isList || source == nil ? RelayCore.listAsks : RelayCore.turnAsks)
    }
    if isOver {
      if isList { listFailed(slot, now: now) } else { nextTurn(slot, now: now) }
      // Whoever is next is asked at the next look, which is due at once unless there is a pause.
      if !block.pointee.repair.isPausing { block.pointee.nextAsk = now }
      return
    }
    block.pointee.repair.unanswered = unanswered
    block.pointee.repair.lacking = needed
    block.pointee.repair.asks += 1
    block.pointee.repair.heard = now
    block.pointee.repair.outstanding = 0
    block.pointee.asks += 1
    block.pointee.report.requests += 1
    let asked = source.map { LinkSet($0) } ?? upLinks
    let share = (needed + max(asked.count, 1) - 1) / max(asked.count, 1)
    var peers = asked
    while let peer = peers.popFirst() { askTurn(slot, objectSlot, peer, share: share, now: now, into: &sink) }
    block.pointee.nextAsk = min(now + turnWait(source, asks: repair.asks + 1), repair.turnEnds)
  }

  private mutating func askTurn(
    _ slot: Int, _ objectSlot: Int, _ peer: LinkID, share: Int, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    let lane = object.pointee.lanes[peer]
    // Enough that the answer's own losses don't cost another round, and more with each try.
    let spare =
      Int((Double(share) * min(2 * lossFrom(peer), 0.5)).rounded(.up)) + min(2 * block.pointee.repair.asks, 16)
    let count = share + spare
    lane.pointee.promised = 0
    lane.pointee.outstanding = 0
    block.pointee.repair.outstanding += count
    block.pointee.askedLinks.insert(peer)
    sendNeed(
      slot, kind: object.pointee.kind, count: count, source: objectSlot == BlockState.bodySlot, to: peer, into: &sink)
    if objectSlot == BlockState.bodySlot {
      // What this neighbour takes the block's sizes for may be another thing than this announcement: hear it say so.
      sendNeed(slot, kind: .sketch, count: 1, to: peer, into: &sink)
    }
    note(
      RelayEvent(
        .asked, link: peer, at: now, block: block.pointee.hash, a: UInt64(count),
        b: UInt64(object.pointee.kind.rawValue)))
  }

  // MARK: Who has the block

  /// A neighbour says that it has the whole block: of several announcements of the header that means the one whose sizes
  /// it told, or any of them while it told none.
  mutating func noteWhole(_ slot: Int, _ from: LinkID) {
    let id8 = blocks[slot].pointee.id8
    var told = -1
    var next = blocks.find(id8: id8)
    while next >= 0 {
      if blocks[next].pointee.sized.contains(from) { told = next }
      next = blocks.find(id8: id8, from: next + 1)
    }
    next = blocks.find(id8: id8)
    while next >= 0 {
      if (told < 0 || told == next) && !blocks[next].pointee.wholes.contains(from) {
        blocks[next].pointee.wholes.insert(from)
        touched |= 1 << UInt64(next)
      }
      next = blocks.find(id8: id8, from: next + 1)
    }
  }

  /// A neighbour that has the whole block told its sizes: it can't help another announcement of the header.
  mutating func noteSized(_ slot: Int, _ from: LinkID) {
    if blocks[slot].pointee.sized.contains(from) { return }
    let id8 = blocks[slot].pointee.id8
    var next = blocks.find(id8: id8)
    while next >= 0 {
      if next != slot {
        blocks[next].pointee.sized.remove(from)
        blocks[next].pointee.wholes.remove(from)
        touched |= 1 << UInt64(next)
      }
      next = blocks.find(id8: id8, from: next + 1)
    }
    blocks[slot].pointee.sized.insert(from)
    blocks[slot].pointee.wholes.insert(from)
    touched |= 1 << UInt64(slot)
  }
}
