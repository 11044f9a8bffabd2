import Bitcoin
import ErasureCode
import Ground
import Mempool
import Wire

// Who sent what was wrong: PROTOCOL.md, section 6. A chunk is compared with the truth only once the truth is known.

/// A BLAME that came before the block was complete here, to be answered then. Trivial.
struct PendingBlame {
  var blame: BlameMessage
  var link: LinkID
}

extension RelayCore {
  static let pendingBlames = 64
  /// Chunks that one slice compares.
  private static let blameSlice = 16

  /// Goes on comparing a block's log with the truth; a slice.
  mutating func findWrongChunks(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    if block.pointee.repair.nextBlame == 0 && block.pointee.repair.blameObject == 0 {
      judgeSketch(slot, now: now, into: &sink)
    }
    var left = RelayCore.blameSlice
    while block.pointee.repair.blameObject < BlockState.objectSlots {
      let objectSlot = block.pointee.repair.blameObject
      if block.pointee.has(objectSlot), block.pointee.object(objectSlot).pointee.isWhole {
        let object = block.pointee.object(objectSlot)
        while block.pointee.repair.nextBlame < object.pointee.log.count {
          if left == 0 { return }
          left -= 1
          let entry = block.pointee.repair.nextBlame
          block.pointee.repair.nextBlame += 1
          let chunk = object.pointee.log[entry]
          if isWrong(chunk, of: object) {
            accuse(
              BlameMessage(
                block: block.pointee.id8, kind: object.pointee.kind, index: chunk.index, maker: chunk.maker),
              chunk.from, block.pointee.hash, now: now, into: &sink)
          }
        }
      }
      block.pointee.repair.blameObject += 1
      block.pointee.repair.nextBlame = 0
    }
    block.pointee.repair.nextBlame = -1
    answerBlames(slot, now: now, into: &sink)
  }

  /// Compares a chunk with the one that the true object gives.
  private mutating func isWrong(_ chunk: LoggedChunk, of object: UnsafeMutablePointer<ObjectState>) -> Bool {
    let size = object.pointee.shape.chunkSize
    let held = UnsafeRawBufferPointer(start: chunk.bytes, count: size)
    let sourceCount = UInt32(object.pointee.sourceCount)
    if chunk.index < sourceCount {
      guard let truth = object.pointee.sourceChunk(Int(chunk.index)) else { return false }
      return !held.elementsEqual(UnsafeRawBufferPointer(start: truth, count: size))
    }
    var out = MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(start: scratch, count: size))
    guard (try? object.pointee.encoder!.writeRepair(Int(chunk.index - sourceCount), into: &out)) != nil else {
      return false
    }
    counters.workEncoded += UInt64(object.pointee.shape.chunkSize / 64)
    return !held.elementsEqual(UnsafeRawBufferPointer(start: scratch, count: size))
  }

  /// The sketch that was decoded here may be a lie as a whole: then all who delivered it are to answer for it, and it is
  /// not passed on.
  private mutating func judgeSketch(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    let decoded = block.pointee.sketchDecoded
    guard block.pointee.has(decoded), !block.pointee.object(decoded).pointee.sources.isEmpty,
      let parsed = block.pointee.assembly.check?.block
    else { return }
    let epoch = block.pointee.object(decoded).pointee.epoch
    let key = shortIDKey(parent: block.pointee.header.previous, epoch: epoch)
    let bytes = block.pointee.object(decoded).pointee.bytes.bytes
    let sketch = try? Sketch(
      parsing: bytes, transactionCount: block.pointee.transactionCount, bodyByteCount: block.pointee.bodyBytes)
    var isTrue = sketch != nil
    if let sketch {
      for index in 0..<sketch.transactionCount where isTrue {
        isTrue = Int(sketch.byteCounts[index]) == parsed.transactions[index].byteCount
        let id = sketch.shortIDs[index]
        if id != TransactionStore.noID && holdsEpoch(epoch) {
          isTrue = isTrue && id == store.shortID(parsed.wtxids[index], key)
        }
      }
    }
    if isTrue { return }
    accuseAll(block.pointee.object(decoded), block, now: now, into: &sink)
    block.pointee.drop(decoded, &pool)
    block.pointee.sketchDecoded = -1
    makeSketch(slot, explicit: [])
    block.pointee.sketchSent = block.pointee.sketchDecoded
    openSketchLanes(slot, now: now)
  }

  /// Announcements with sizes that the block doesn't have.
  mutating func blameSketches(of slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    for sketch in 0..<BlockState.sketchSlots where block.pointee.has(sketch) {
      accuseAll(block.pointee.object(sketch), block, now: now, into: &sink)
    }
  }

  private mutating func accuseAll(
    _ object: UnsafeMutablePointer<ObjectState>, _ block: UnsafeMutablePointer<BlockState>, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    var accused = LinkSet.none
    for entry in 0..<object.pointee.log.count {
      let chunk = object.pointee.log[entry]
      if accused.contains(chunk.from) { continue }
      accused.insert(chunk.from)
      accuse(
        BlameMessage(block: block.pointee.id8, kind: .sketch, index: chunk.index, maker: chunk.maker), chunk.from,
        block.pointee.hash, now: now, into: &sink)
    }
  }

  /// A chunk that came over `link` is proved wrong: loudly.
  private mutating func accuse(
    _ blame: BlameMessage, _ link: LinkID, _ hash: Hash256, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    counters.wrongChunks += 1
    note(RelayEvent(.wrongChunk, link: link, at: now, block: hash, a: UInt64(blame.index), b: UInt64(blame.maker)))
    guard case .demoted(let until) = ledger.proveWrong(blame, from: link, now: now) else { return }
    counters.demotions += 1
    note(
      RelayEvent(
        .demoted, link: link, at: now, block: hash, a: UInt64(max(0, (until - now).nanoseconds / 1_000_000_000))))
    send(to: link, urgency: .control, capacity: BlameMessage.encodedBytes, into: &sink) { blame.write(into: &$0) }
  }

  // MARK: Answering

  mutating func receiveBlame(_ blame: BlameMessage, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable) {
    let slot = blocks.find(id8: blame.block)
    guard slot >= 0 else { return }
    if blocks[slot].pointee.isComplete && blocks[slot].pointee.repair.nextBlame < 0 {
      answer(blame, from.link, slot, now: from.now, into: &sink)
    } else if blames.count < RelayCore.pendingBlames {
      blames.append(PendingBlame(blame: blame, link: from.link))
    }
  }

  /// The block is complete: what was blamed on this relay before can be looked at.
  mutating func answerBlames(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if blames.isEmpty { return }
    let id8 = blocks[slot].pointee.id8
    let due = blames.filter { $0.blame.block == id8 }
    blames.removeAll { $0.blame.block == id8 }
    for pending in due { answer(pending.blame, pending.link, slot, now: now, into: &sink) }
  }

  /// Was it made here, or by whom was it delivered? An honest forwarder finds the same wrong chunk in its own log.
  private mutating func answer(
    _ blame: BlameMessage, _ link: LinkID, _ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    var source: UInt32?
    if blame.maker == ownKey { source = ownKey }
    for objectSlot in 0..<BlockState.objectSlots where source == nil && block.pointee.has(objectSlot) {
      let object = block.pointee.object(objectSlot)
      guard object.pointee.kind == blame.kind, let entry = object.pointee.log.find(blame.index) else { continue }
      let chunk = object.pointee.log[entry]
      if chunk.maker != blame.maker || chunk.from == link { continue }
      if object.pointee.isWhole && !isWrong(chunk, of: object) { continue }
      source = self.link(chunk.from).pointee.key4
      if object.pointee.isWhole { accuse(blame, chunk.from, block.pointee.hash, now: now, into: &sink) }
    }
    // A lie as a whole, in its sizes or its ids, was judged and is gone: by whom it came is on record.
    if source == nil, blame.kind == .sketch, let from = ledger.accused(of: blame.block), from != link {
      source = self.link(from).pointee.key4
    }
    guard let source else { return }
    let point = PointMessage(blame: blame, source: source)
    send(to: link, urgency: .control, capacity: PointMessage.encodedBytes, into: &sink) { point.write(into: &$0) }
  }

  mutating func receivePoint(_ point: PointMessage, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable) {
    var neighbour: LinkID?
    for index in 0..<LinkSet.capacity where links[index].isConfigured && links[index].key4 == point.source {
      neighbour = LinkID(UInt16(index))
    }
    let isItself = point.source == link(from.link).pointee.key4
    let outcome = ledger.point(point, from: from.link, own: isItself, neighbour: neighbour, now: from.now)
    switch outcome {
    case .shortened, .moved:
      let left = ledger.demotedUntil(from.link).map { ($0 - from.now).nanoseconds / 1_000_000_000 } ?? 0
      note(
        RelayEvent(.pointed, link: from.link, at: from.now, a: UInt64(point.source), b: UInt64(max(0, left))))
    case .unasked, .tooMany, .ownWork:
      break
    }
  }
}
