import Bitcoin
import ErasureCode
import Ground
import Mempool

// Work on a sketch that is still coming in. The relay would only wait meanwhile, and the mempool's bytes are most of what
// there is to do for a block.

extension RelayCore {
  /// Ids that one slice looks up.
  static let aheadIDs = 512
  /// Bytes that one slice copies out of the mempool: short slices, packets come close together now.
  static let aheadSlice = 96 << 10

  mutating func addAheadWork() {
    while aheadDue != 0 {
      let slot = aheadDue.trailingZeroBitCount
      aheadDue &= aheadDue - 1
      if blocks.isPresent(slot) && blocks[slot].pointee.stage == .collecting { addWork(slot) }
    }
  }

  /// Looks up the ids that are there and tells the body's decoder the transactions; true when there is more to do.
  mutating func workAhead(_ slot: Int, now: Instant) -> Bool {
    let block = blocks[slot]
    let objectSlot = block.pointee.sketchSent
    guard configuration.redundancy == .adaptive, block.pointee.repair.step == .none, block.pointee.has(objectSlot),
      block.pointee.assembly.sketch == nil
    else { return false }
    let object = block.pointee.object(objectSlot)
    guard object.pointee.decoder != nil, !object.pointee.isSuspect, object.pointee.only == nil else { return false }
    if block.pointee.assembly.ahead == nil {
      guard let ahead = beginAhead(slot, objectSlot) else { return false }
      block.pointee.assembly.begin(ahead)
    }
    guard block.pointee.assembly.ahead!.object == objectSlot else { return false }
    if block.pointee.assembly.next < block.pointee.assembly.ahead!.next {
      fill(slot, before: block.pointee.assembly.ahead!.next, bytes: RelayCore.aheadSlice)
      return true
    }
    let key = shortIDKey(parent: block.pointee.header.previous, epoch: object.pointee.epoch)
    // Each slice would go through the whole store.
    if !store.isIndexed(key) { return false }
    let range = block.pointee.assembly.ahead!.take(
      RelayCore.aheadIDs, of: object.pointee.bytes.bytes, before: object.pointee.sourceBytesFromStart(),
      into: &matchIDs)
    if range.isEmpty { return false }
    match(slot, range, key)
    return true
  }

  /// The sketch's layout, once the chunks that hold it are there.
  private mutating func beginAhead(_ slot: Int, _ objectSlot: Int) -> SketchAhead? {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    let known = object.pointee.sourceBytesFromStart()
    // Each transaction has a byte there, at least; and nothing new is learned from what was looked at before.
    if known <= block.pointee.transactionCount || known == block.pointee.layoutTried { return nil }
    block.pointee.layoutTried = known
    var reader = ByteReader(object.pointee.bytes.bytes.extracting(0..<min(known, object.pointee.shape.byteCount)))
    let layout = try? SketchLayout(
      &reader, transactionCount: block.pointee.transactionCount, bodyByteCount: block.pointee.bodyBytes)
    return layout.map { SketchAhead(object: objectSlot, layout: $0) }
  }

  /// Looks up the ids in `matchIDs`, which are those of transactions `range`.
  private mutating func match(_ slot: Int, _ range: Range<Int>, _ key: OverlayIDKey) {
    let block = blocks[slot]
    var ids: [UInt64] = []
    swap(&ids, &matchIDs)
    store.match(
      ids: ids.span, byteCounts: block.pointee.assembly.ahead!.layout.byteCounts.span.extracting(range), key: key,
      into: &matchSlots)
    swap(&ids, &matchIDs)
    counters.idsMatched += UInt64(range.count)
    noteMatches(slot, from: range.lowerBound)
  }

  /// A sketch is proved: what was found ahead stays, unless it was found in another one.
  mutating func takeSketch(_ slot: Int, _ sketch: Sketch, _ objectSlot: Int) {
    let block = blocks[slot]
    if block.pointee.assembly.ahead?.object == objectSlot {
      block.pointee.assembly.sketch = sketch
    } else {
      undoAhead(slot)
      block.pointee.assembly.begin(sketch)
    }
  }

  /// Looks up the proved sketch's ids that weren't looked up before.
  mutating func matchRest(_ slot: Int) {
    let block = blocks[slot]
    let sketch = block.pointee.assembly.sketch!
    let begin = block.pointee.assembly.ahead?.next ?? 0
    block.pointee.assembly.ahead = nil
    let epoch = block.pointee.object(block.pointee.sketchDecoded).pointee.epoch
    let key = shortIDKey(parent: block.pointee.header.previous, epoch: epoch)
    let range = begin..<sketch.transactionCount
    store.match(
      ids: sketch.shortIDs.span.extracting(range), byteCounts: sketch.byteCounts.span.extracting(range), key: key,
      into: &matchSlots)
    counters.idsMatched += UInt64(range.count)
    noteMatches(slot, from: begin)
    if begin > 0 && store.withdrawShared(&block.pointee.assembly.matches) > 0 {
      // As missing as if they had been looked up together.
      forgetTold(slot)
      block.pointee.assembly.next = 0
      block.pointee.assembly.matchedCount = 0
      block.pointee.assembly.matchedBytes = 0
    }
  }

  private mutating func noteMatches(_ slot: Int, from begin: Int) {
    let block = blocks[slot]
    for index in 0..<matchSlots.count where matchSlots[index] != TransactionStore.missing {
      block.pointee.assembly.matches[begin + index] = store.handle(matchSlots[index])
    }
  }

  /// The sketch that was worked on is not the one announced, or another is whole first.
  mutating func undoAhead(_ slot: Int) {
    let block = blocks[slot]
    guard block.pointee.assembly.ahead != nil else { return }
    if block.pointee.assembly.matchedCount > 0 { forgetTold(slot) }
    block.pointee.assembly.reset()
  }

  /// A fresh decoder for the body, fed with all chunks that came.
  private mutating func forgetTold(_ slot: Int) {
    let body = blocks[slot].pointee.object(BlockState.bodySlot)
    if body.pointee.decoder == nil { return }
    clear(slot, BlockState.bodySlot, only: body.pointee.only)
    feedLog(slot, BlockState.bodySlot) { _ in true }
  }
}
