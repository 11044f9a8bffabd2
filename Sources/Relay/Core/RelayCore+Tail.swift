import Bitcoin
import Ground

extension RelayCore {
  /// A neighbour that hasn't said by then that it has a block that is whole here is sent one more packet.
  static let tailAfter = Interval.milliseconds(300 as Int64)
  /// The next ones come after twice as long each; half a minute after it came a block is only kept.
  private static let tailsMost = 6

  /// All that a neighbour was sent of a block may have been lost: then it knows of nothing to ask for, and STATUS tells it of
  /// the best tip alone. One sketch packet now and then, until it says HAVE, the chain has left the block behind, or the
  /// link is gone.
  mutating func sendTails(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let tip = gateTip
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      let block = blocks[slot]
      // What was caught up on the neighbours have, or catch up on themselves.
      guard block.pointee.isComplete, !block.pointee.isSettled, !block.pointee.isCatchUp,
        block.pointee.tails < RelayCore.tailsMost,
        block.pointee.has(block.pointee.sketchSent), block.pointee.height + 1 >= tip.height
      else { continue }
      var wait = RelayCore.tailAfter
      // Whose session began after the block came learns of it by STATUS.
      var peers = block.pointee.opened & upLinks - block.pointee.has - block.pointee.wholes
      if peers.isEmpty { continue }
      let all = peers
      while let peer = peers.popFirst() { wait = max(wait, link(peer).pointee.roundTripOrGuess * 2) }
      if block.pointee.nextTail == .never { block.pointee.nextTail = block.pointee.completeAt + wait }
      if block.pointee.nextTail > now { continue }
      block.pointee.tails += 1
      block.pointee.nextTail = now + wait * (1 << Int64(block.pointee.tails))
      peers = all
      while let peer = peers.popFirst() {
        // Something is on its way already.
        if link(peer).pointee.due & (1 << UInt64(slot)) != 0 { continue }
        let lane = block.pointee.object(block.pointee.sketchSent).pointee.lanes[peer]
        lane.pointee.isOpen = true
        lane.pointee.isStopped = false
        lane.pointee.isHeld = false
        lane.pointee.budget = max(lane.pointee.budget, 1)
        link(peer).pointee.due |= 1 << UInt64(slot)
        addWork(slot)
        fill(peer, now: now, into: &sink)
      }
    }
  }
}
