import Bitcoin
import ErasureCode
import Ground
import Mempool
import Wire

// When a block fails its checks: PROTOCOL.md, section 6. The hash stays wanted; nobody's header is blamed.

extension RelayCore {
  /// The decoded sketch is not the one announced: one of its chunks is wrong. What the log has of each neighbour is judged
  /// by itself, then one that has the whole block is asked; after that the sketch is given up. It only saves bytes.
  mutating func sketchFailed(
    _ slot: Int, _ objectSlot: Int, _ now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    counters.failedChecks += 1
    block.pointee.report.failedChecks += 1
    note(RelayEvent(.failedChecks, at: now, block: block.pointee.hash, a: UInt64(block.pointee.report.failedChecks)))
    object.pointee.isSuspect = true
    touched |= 1 << UInt64(slot)
    while let source = nearest(
      object.pointee.sources & upLinks - object.pointee.tried, preferring: block.pointee.wholes)
    {
      object.pointee.tried.insert(source)
      clear(slot, objectSlot, only: source)
      feedLog(slot, objectSlot) { $0.from == source }
      if object.pointee.decoder!.needed == 0 {
        // What the log has of it suffices, and no further chunk may ever come: judge it now.
        let again = Arrival(link: source, counter: 0, arrival: now, now: now)
        sketchIsWhole(slot, objectSlot, again, into: &sink)
        return
      }
    }
    if !object.pointee.isLastTry, let source = nearest(block.pointee.wholes & upLinks, preferring: .none) {
      object.pointee.isLastTry = true
      clear(slot, objectSlot, only: source)
      return
    }
    if let decoder = object.pointee.decoder.take() { decoders.give(decoder) }
    let isLast = (0..<BlockState.sketchSlots).allSatisfy {
      !block.pointee.has($0) || block.pointee.object($0).pointee.decoder == nil
    }
    if isLast { nextTurn(slot, now: now) }
  }

  /// A fresh decoder, into which only one neighbour's chunks will go; nil: everybody's.
  mutating func clear(_ slot: Int, _ objectSlot: Int, only source: LinkID?) {
    let object = blocks[slot].pointee.object(objectSlot)
    object.pointee.only = source
    if let decoder = object.pointee.decoder.take() { decoders.give(decoder) }
    object.pointee.decoder = decoders.take(object.pointee.shape)
    object.pointee.sourcesFromStart = 0
  }

  /// Tells an object's decoder chunks out of the log.
  func feedLog(_ slot: Int, _ objectSlot: Int, where isTaken: (LoggedChunk) -> Bool) {
    let object = blocks[slot].pointee.object(objectSlot)
    for entry in 0..<object.pointee.log.count {
      let chunk = object.pointee.log[entry]
      if !isTaken(chunk) { continue }
      let bytes = UnsafeRawBufferPointer(start: chunk.bytes, count: object.pointee.shape.chunkSize).bytes
      let sourceCount = object.pointee.sourceCount
      if chunk.index < UInt32(sourceCount) {
        try? object.pointee.decoder!.addSource(Int(chunk.index), bytes)
      } else {
        try? object.pointee.decoder!.addRepair(Int(chunk.index) - sourceCount, bytes)
      }
    }
  }

  // MARK: The body

  /// The assembled body is not the block's.
  mutating func bodyFailed(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    counters.failedChecks += 1
    block.pointee.report.failedChecks += 1
    block.pointee.repair.attempts += 1
    note(
      RelayEvent(.failedChecks, at: now, block: block.pointee.hash, a: UInt64(block.pointee.repair.attempts)))
    block.pointee.assembly.check = nil
    block.pointee.isAssembled = false
    block.pointee.report.lastNeeded = .never
    if block.pointee.report.isSubmitted {
      // A site's own block that is none: nothing was sent.
      abandon(slot, reason: 2, now: now)
      return
    }
    block.pointee.object(BlockState.bodySlot).pointee.isSuspect = true
    touched |= 1 << UInt64(slot)
    addWork(slot)
    let repair = block.pointee.repair
    if repair.step == .turns {
      if repair.isAssisted {
        // The matches are not worth the doubt any more; that they were wrong is not held against whose turn it is.
        block.pointee.repair.isAssistSpent = true
        startTurn(slot, repair.source == RelayEvent.noLink ? nil : repair.source, isAgain: true, now: now)
        return
      } else if repair.source != RelayEvent.noLink {
        block.pointee.repair.failed.insert(repair.source)
      } else {
        block.pointee.repair.isLogSpent = true
      }
      nextTurn(slot, now: now)
    } else if block.pointee.assembly.matchedCount > 0 && !repair.isListed {
      // First suspicion: a match was false. The list of txids proves itself against the header.
      startList(slot, .txids, now: now)
    } else {
      // A chunk was wrong: begin again with the chunks of one neighbour.
      nextTurn(slot, now: now)
    }
  }

  /// Makes place for a list of ids that is to come.
  mutating func openList(_ slot: Int, _ kind: ObjectKind) -> Bool {
    let block = blocks[slot]
    let place = kind == .txids ? BlockState.txidsSlot : BlockState.wtxidsSlot
    if block.pointee.has(place) { return true }
    guard
      let shape = try? ObjectShape(byteCount: 32 * block.pointee.transactionCount, chunkSize: RelayLimits.chunkBytes)
    else { return false }
    block.pointee.put(ObjectState(kind: kind, shape: shape, decoder: decoders.take(shape), ownKey: ownKey), in: place)
    return true
  }

  /// A list of ids has come whole: does it agree with the header, and which matches were false?
  mutating func listIsWhole(
    _ slot: Int, _ objectSlot: Int, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) {
    let block = blocks[slot]
    let object = block.pointee.object(objectSlot)
    guard object.pointee.decoder != nil else { return }
    do throws(ErasureError) { try object.pointee.decoder!.finish() } catch { return }
    let bytes = object.pointee.bytes
    var leaves: [Hash256] = []
    leaves.reserveCapacity(block.pointee.transactionCount)
    for index in 0..<block.pointee.transactionCount { leaves.append(Hash256(bytes.bytes, at: 32 * index)) }
    counters.bytesHashed += UInt64(64 * leaves.count)
    let isTxids = object.pointee.kind == .txids
    let (root, isMutated) = Merkle.root(leaves)
    let commitment = witnessCommitment(slot)
    let isProved =
      !isMutated
      && (isTxids
        ? root == block.pointee.header.merkleRoot
        : commitment.map { SHA256.double(root, $0.nonce) == $0.hash } ?? false)
    if !isProved {
      listFailed(slot, now: from.now)
      return
    }
    if let decoder = object.pointee.decoder.take() { decoders.give(decoder) }
    let withdrawn = withdraw(slot, leaves, isTxids)
    touched |= 1 << UInt64(slot)
    if withdrawn > 0 {
      counters.falseMatches += UInt64(withdrawn)
      note(RelayEvent(.falseMatches, at: from.now, block: block.pointee.hash, a: UInt64(withdrawn)))
      block.pointee.repair.step = .none
      block.pointee.repair.isListed = true
      block.pointee.stage = .gathering
      countMissing(slot)
      addWork(slot)
    } else if isTxids && block.pointee.assembly.matchedCount > 0 && commitment != nil {
      // Who sent the one is the best to ask for the other.
      block.pointee.repair.listed = .none
      startList(slot, .wtxids, now: from.now)
    } else {
      // All matches are the block's: a chunk was wrong.
      block.pointee.repair.isListed = true
      nextTurn(slot, now: from.now)
    }
  }

  /// Withdraws matches that are not the listed transactions; how many there were.
  private mutating func withdraw(_ slot: Int, _ listed: [Hash256], _ isTxids: Bool) -> Int {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    guard let sketch = block.pointee.assembly.sketch else { return 0 }
    var count = 0
    for index in 0..<block.pointee.assembly.matches.count where block.pointee.assembly.matches[index] != nil {
      if index == 0 { continue }
      let own = isTxids ? block.pointee.assembly.txids[index] : block.pointee.assembly.wtxids[index]
      if own == listed[index] { continue }
      block.pointee.assembly.matches[index] = nil
      block.pointee.assembly.layouts[index] = nil
      block.pointee.assembly.matchedCount -= 1
      try? body.pointee.decoder!.withdraw(sketch.range(index))
      count += 1
    }
    if count > 0 { restoreChunks(slot) }
    return count
  }

  /// Source chunks that lay in a withdrawn range are told again out of the log.
  private func restoreChunks(_ slot: Int) {
    let body = blocks[slot].pointee.object(BlockState.bodySlot)
    for entry in 0..<body.pointee.log.count {
      let chunk = body.pointee.log[entry]
      if chunk.index >= UInt32(body.pointee.sourceCount) { continue }
      let bytes = UnsafeRawBufferPointer(start: chunk.bytes, count: body.pointee.shape.chunkSize).bytes
      try? body.pointee.decoder!.addSource(Int(chunk.index), bytes)
    }
  }

  /// The commitment to the witnesses and its nonce, out of the coinbase that the sketch carries; nil without one.
  private func witnessCommitment(_ slot: Int) -> (hash: Hash256, nonce: Hash256)? {
    let block = blocks[slot]
    guard let sketch = block.pointee.assembly.sketch, let inline = sketch.explicit.first,
      block.pointee.has(block.pointee.sketchDecoded)
    else { return nil }
    let bytes = block.pointee.object(block.pointee.sketchDecoded).pointee.bytes.bytes.extracting(inline.bytes)
    guard let coinbase = try? TransactionLayout(parsing: bytes), coinbase.hasWitness else { return nil }
    let alone = ParsedBlock(header: block.pointee.header, transactions: [coinbase], byteCount: bytes.byteCount)
    let witness = coinbase.coreOffset + coinbase.coreByteCount
    // One item of 32 bytes, then the lock time.
    guard let hash = Commitment.find(in: alone, bytes), coinbase.end - 4 - witness == 34 else { return nil }
    return (hash, Hash256(bytes, at: witness + 2))
  }

  // MARK: Serving lists

  /// A neighbour asks for a list of ids: made on demand from a complete block.
  mutating func makeList(_ slot: Int, _ kind: ObjectKind) {
    let block = blocks[slot]
    let place = kind == .txids ? BlockState.txidsSlot : BlockState.wtxidsSlot
    if block.pointee.has(place) {
      if block.pointee.object(place).pointee.encoder != nil { return }
      block.pointee.drop(place, &pool)
    }
    var ids: [Hash256]
    if let parsed = block.pointee.assembly.check?.block ?? block.pointee.parsed, parsed.isFullyHashed {
      ids = kind == .txids ? parsed.txids : parsed.wtxids
    } else {
      guard var parsed = withBodyBytes(slot, { bytes in try? ParsedBlock(parsing: bytes) }) else { return }
      withBodyBytes(slot) { parsed.hashAll(in: $0) }
      counters.bytesHashed += UInt64(block.pointee.bodyBytes)
      ids = kind == .txids ? parsed.txids : parsed.wtxids
    }
    if kind == .wtxids, !ids.isEmpty { ids[0] = .zero }
    var bytes = ByteWriter(reserving: 32 * ids.count)
    for id in ids { bytes.hash(id) }
    guard let shape = try? ObjectShape(byteCount: 32 * ids.count, chunkSize: RelayLimits.chunkBytes),
      let encoder = try? Encoder(bytes.bytes.span.bytes, shape: shape)
    else { return }
    block.pointee.put(ObjectState(kind: kind, shape: shape, encoder: encoder, ownKey: ownKey), in: place)
  }
}
