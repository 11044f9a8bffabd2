import Bitcoin
import ErasureCode
import Ground
import Wire

/// A chunk's place, as its packet tells. Trivial.
struct Chunk {
  var index: UInt32
  var maker: UInt32
  var more: UInt16
  var flags: ChunkFlags
  /// Of the packet's plaintext.
  var messageBytes: Int
}

extension RelayCore {
  /// Takes a chunk of an incomplete block: into the log, into the decoder, and on to those who lack it.
  mutating func collect(
    _ chunk: Chunk, _ bytes: RawSpan, of slot: Int, _ objectSlot: Int, _ from: Arrival,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    let lane = object.pointee.lanes[from.link]
    block.pointee.report.packetsIn += 1
    block.pointee.report.bytesIn += chunk.messageBytes
    object.pointee.sources.insert(from.link)
    lane.pointee.hear(more: chunk.more, isAnswer: chunk.flags.contains(.asked))
    lane.pointee.heard = from.now
    lane.pointee.received += 1
    let isVouched = chunk.flags.contains(.whole)
    if isVouched && !block.pointee.wholes.contains(from.link) { noteWhole(slot, from.link) }
    touched |= 1 << UInt64(slot)

    let sourceCount = object.pointee.sourceCount
    if chunk.index >= UInt32(sourceCount) { block.pointee.report.repairIn += 1 }
    if chunk.index >= UInt32(sourceCount + object.pointee.shape.repairCount) {
      counters.messagesMalformed += 1
      link(from.link).pointee.malformed += 1
      return
    }
    if let entry = object.pointee.log.find(chunk.index) {
      object.pointee.log.mark(entry, knownTo: from.link)
      if object.pointee.isSuspect && takes(object, from.link, isVouched: isVouched) {
        if !isTrusted(from.link) { block.pointee.hasUntrusted = true }
        // What the log has under this index may be wrong, or isn't in the decoder that was begun anew: the word of the
        // neighbour that is relied on counts. A true repetition is refused by the decoder.
        let wasUseful = feed(chunk.index, bytes, object, from)
        noteTurn(slot, objectSlot, wasAsked: chunk.flags.contains(.asked), wasUseful: wasUseful, now: from.now)
        progress(slot, objectSlot, from, into: &sink)
      } else {
        useless(block, lane)
      }
      return
    }
    if object.pointee.isWhole || dropsEarly(block, objectSlot) || isBeyondNeed(slot, objectSlot) {
      useless(block, lane)
      return
    }
    let trusted = isTrusted(from.link)
    if !trusted { block.pointee.hasUntrusted = true }
    let entry = object.pointee.log.append(
      bytes, index: chunk.index, maker: chunk.maker, from: from.link, isHeldBack: !trusted,
      isVouched: isVouched, pool: &pool)
    if entry == nil {
      // The log is full: it holds twice what the object needs, or memory is short. The decoder may still want it.
      counters.chunksNotStored += 1
    }
    counters.bytesCopied += UInt64(bytes.byteCount)
    if trusted && entry != nil { forward(slot, objectSlot, now: from.now, into: &sink) }
    // While one neighbour is relied on, others' chunks only wait in the log.
    if !takes(object, from.link, isVouched: isVouched) { return }
    let wasUseful = feed(chunk.index, bytes, object, from)
    noteTurn(slot, objectSlot, wasAsked: chunk.flags.contains(.asked), wasUseful: wasUseful, now: from.now)
    if wasUseful {
      block.pointee.progressed = from.now
      notePace(slot, objectSlot, from)
      counters.chunksUseful += 1
    } else {
      useless(block, lane)
    }
    // Its ids may be looked up before it is whole.
    if wasUseful && object.pointee.kind == .sketch && block.pointee.stage == .collecting {
      aheadDue |= 1 << UInt64(slot)
    }
    progress(slot, objectSlot, from, into: &sink)
  }

  /// Goes into the object's decoder: while one neighbour is relied on only what it sends, of body and lists only what it
  /// vouches for; an honest relay that passes on what it hasn't checked yet doesn't.
  private func takes(_ object: UnsafeMutablePointer<ObjectState>, _ from: LinkID, isVouched: Bool) -> Bool {
    guard let only = object.pointee.only else { return true }
    return only == from && (isVouched || object.pointee.kind == .sketch)
  }

  private mutating func useless(_ block: UnsafeMutablePointer<BlockState>, _ lane: UnsafeMutablePointer<Lane>) {
    lane.pointee.useless += 1
    block.pointee.report.packetsUseless += 1
    counters.chunksDuplicate += 1
  }

  /// The body can be solved, and nobody waits for chunks through here: the last checks go before one more.
  private func isBeyondNeed(_ slot: Int, _ objectSlot: Int) -> Bool {
    let block = blocks[slot]
    return objectSlot == BlockState.bodySlot && block.pointee.stage == .checking && block.pointee.repair.step == .none
      && !hasForwardees(slot)
  }

  /// As FIBRE does: body chunks that come before the sketch is decoded are thrown away.
  private func dropsEarly(_ block: UnsafeMutablePointer<BlockState>, _ objectSlot: Int) -> Bool {
    configuration.redundancy == .fibreLike && objectSlot == BlockState.bodySlot
      && block.pointee.stage == .collecting
  }

  /// Hands a chunk to the object's decoder; false when it told nothing new.
  private mutating func feed(
    _ index: UInt32, _ bytes: RawSpan, _ object: UnsafeMutablePointer<ObjectState>, _ from: Arrival
  ) -> Bool {
    guard object.pointee.decoder != nil else { return false }
    do throws(ErasureError) {
      if index < UInt32(object.pointee.sourceCount) {
        try object.pointee.decoder!.addSource(Int(index), bytes)
      } else {
        let before = object.pointee.workDone
        defer { counters.workDecoded += UInt64(object.pointee.workDone - before) }
        try object.pointee.decoder!.addRepair(Int(index) - object.pointee.sourceCount, bytes)
      }
      return true
    } catch {
      // A duplicate of what the mempool told is harmless. A contradiction is either a false match or a wrong chunk:
      // which of the two is known only when the block is (section 6); the log keeps the chunk until then.
      return false
    }
  }

  /// After a chunk: is an object whole, or the body within reach?
  private mutating func progress(
    _ slot: Int, _ objectSlot: Int, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    guard object.pointee.decoder != nil, object.pointee.decoder!.isSolvable else { return }
    switch object.pointee.kind {
    case .sketch:
      if block.pointee.stage == .collecting { sketchIsWhole(slot, objectSlot, from, into: &sink) }
    case .body:
      if block.pointee.report.lastNeeded == .never {
        // With what was matched ahead it is not solved before the sketch is whole.
        let isAlone = block.pointee.stage == .collecting && block.pointee.assembly.matchedCount == 0
        if block.pointee.stage == .gathering && !block.pointee.repair.awaitsList || isAlone {
          // It may have waited in the socket while the matches were told.
          let matched = block.pointee.report.matched
          let needed = matched == .never ? from.arrival : max(from.arrival, matched)
          block.pointee.report.lastNeeded = needed
          note(RelayEvent(.lastNeeded, link: from.link, at: needed, block: block.pointee.hash))
        }
      }
      let isReady = block.pointee.stage == .gathering && !block.pointee.repair.awaitsList
      if isReady || block.pointee.stage == .collecting { addWork(slot) }
    case .txids, .wtxids:
      // Judged once: what comes of it later must not end somebody's turn at the body.
      if isTurn(slot, objectSlot) { listIsWhole(slot, objectSlot, from, into: &sink) }
    }
  }

  /// The sketch's decoder has enough: solve it, check it against its id, parse it and look its ids up.
  mutating func sketchIsWhole(
    _ slot: Int, _ objectSlot: Int, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    let before = object.pointee.workDone
    do throws(ErasureError) { try object.pointee.decoder!.finish() } catch { return }
    counters.workSolved += UInt64(object.pointee.workSolved)
    counters.workDecoded += UInt64(object.pointee.workDone - before)
    let bytes = object.pointee.bytes.bytes
    counters.bytesHashed += UInt64(bytes.byteCount)
    let digest = SHA256.hash(bytes)
    guard UInt32(truncatingIfNeeded: digest.w0) == object.pointee.sketchID else {
      if block.pointee.assembly.ahead?.object == objectSlot { undoAhead(slot) }
      sketchFailed(slot, objectSlot, from.now, into: &sink)
      return
    }
    let parsed: Sketch
    do throws(SketchError) {
      parsed = try Sketch(
        parsing: bytes, transactionCount: block.pointee.transactionCount, bodyByteCount: block.pointee.bodyBytes)
    } catch {
      if block.pointee.assembly.ahead?.object == objectSlot { undoAhead(slot) }
      sketchFailed(slot, objectSlot, from.now, into: &sink)
      return
    }
    block.pointee.sketchDecoded = objectSlot
    if block.pointee.sketchSent < 0 { block.pointee.sketchSent = objectSlot }
    takeSketch(slot, parsed, objectSlot)
    block.pointee.stage = .matching
    block.pointee.report.sketchComplete = from.now
    note(
      RelayEvent(
        .sketchComplete, link: from.link, at: from.now, block: block.pointee.hash,
        a: UInt64(parsed.transactionCount), b: UInt64(object.pointee.shape.byteCount)))
    let decoder = object.pointee.decoder.take()!
    object.pointee.encoder = try? Encoder(decoder)
    stopSketch(slot, now: from.now, into: &sink)
    addWork(slot)
    pump(slot, now: from.now, into: &sink)
  }

  /// Neighbours that mean to send much more of the sketch are told that it is enough.
  private mutating func stopSketch(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    for sketch in 0..<BlockState.sketchSlots where block.pointee.has(sketch) {
      let object = block.pointee.object(sketch)
      var sources = object.pointee.sources & upLinks
      while let peer = sources.popFirst() {
        let lane = object.pointee.lanes[peer]
        if lane.pointee.promised < 4 { continue }
        lane.pointee.promised = 0
        sendNeed(slot, kind: .sketch, count: 0, to: peer, into: &sink)
      }
    }
  }

  /// A chunk of a block that is complete here: the neighbour hasn't heard. Tell it again, at most once a round trip.
  mutating func late(
    _ slot: Int, _ from: Arrival, isWhole: Bool, bytes: Int, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    counters.chunksLate += 1
    block.pointee.report.packetsIn += 1
    block.pointee.report.bytesIn += bytes
    block.pointee.report.packetsUseless += 1
    if isWhole { block.pointee.wholes.insert(from.link) }
    guard block.pointee.has(BlockState.bodySlot) else {
      answerHave(block.pointee.hash, to: from, into: &sink)
      return
    }
    let lane = block.pointee.object(BlockState.bodySlot).pointee.lanes[from.link]
    lane.pointee.received += 1
    lane.pointee.useless += 1
    if lane.pointee.haveSent + link(from.link).pointee.roundTripOrGuess < from.now {
      sendHave(slot, to: from.link, now: from.now, into: &sink)
    }
  }
}
