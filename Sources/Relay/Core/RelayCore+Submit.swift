import Bitcoin
import ErasureCode
import Ground
import Mempool
import Wire

/// Why a block was not taken from this site.
public enum SubmitError: Error, Hashable, Sendable {
  /// No block: where and why.
  case malformed(DecodeError)
  /// The header is refused by the chain's rules; `unknownParent` asks for `submitHeaders` first.
  case header(HeaderRejection)
  /// Larger than a block may be, or not to be cut into chunks.
  case size(Int)
  /// Eight blocks of more work are in hand.
  case noRoom
  /// Ids and layout were given, but not of this block.
  case mismatch
}

extension RelayCore {
  /// Takes a block found or learned at this site and sends it to everyone.
  ///
  /// - Parameters:
  ///   - block: its serialisation; kept until the first packets are out, then copied.
  ///   - parsed: its structure, with all ids if they are known (a reconstructed compact block): saves parsing and
  ///     hashing.
  ///   - isChecked: the caller has verified Merkle root and commitment (a compact block reconstructed for the node, whose
  ///     root agreed): it goes out at once. Otherwise all checks of the body are made here first, in slices.
  ///   - explicit: transactions to send inline, ascending: those that no other site can have.
  ///   - arrival: when this site learned of it.
  /// - Returns: the block's hash. One that is complete here already is not sent again; nor is one that the node brings
  ///   (`isChecked`) after it was complete here and had to make room.
  @discardableResult
  public mutating func submit(
    _ bytes: [UInt8], parsed: ParsedBlock? = nil, isChecked: Bool = false, explicit: [Int] = [], arrival: Instant,
    now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) throws(SubmitError) -> Hash256 {
    let block = bytes.span.bytes
    let headerBytes: HeaderBytes
    let header: BlockHeader
    do throws(DecodeError) { header = try BlockHeader(parsing: block) } catch { throw .malformed(error) }
    headerBytes = HeaderBytes(block)
    let hash = headerBytes.withBytes { SHA256.double($0) }
    if hasBlock(hash) || isChecked && done.contains(hash) { return hash }

    var structure: ParsedBlock
    if let parsed {
      structure = parsed
      guard parsed.header == header, parsed.byteCount == block.byteCount, !parsed.transactions.isEmpty else {
        throw .mismatch
      }
    } else {
      do throws(DecodeError) { structure = try ParsedBlock(parsing: block) } catch { throw .malformed(error) }
    }
    guard let shape = try? ObjectShape(byteCount: block.byteCount, chunkSize: RelayLimits.chunkBytes),
      block.byteCount <= RelayLimits.bodyBytes, !structure.transactions.isEmpty
    else { throw .size(block.byteCount) }
    let isTrustworthy = isChecked && structure.isFullyHashed
    let acceptance: HeaderChain.Acceptance
    do throws(HeaderRejection) {
      acceptance = try chain.accept(header, now: unixTime(now), vouched: isTrustworthy)
    } catch { throw .header(error) }
    counters.blocksSubmitted += 1
    if parsed == nil { counters.transactionsChecked += UInt64(structure.transactions.count) }

    if isTrustworthy && explicit.isEmpty, let slot = blocks.find(hash), isAwaited(slot, structure) {
      blocks[slot].pointee.awaitedUntil = .never
      blocks[slot].pointee.submitted = bytes
      blocks[slot].pointee.parsed = structure
      if acceptance.isTip { tipChanged(now: now) }
      publish(slot, now: now, into: &sink)
      return hash
    }
    var chunkBytes = RelayLimits.chunkBytes
    var wholes = LinkSet.none
    if let slot = blocks.find(hash) {
      // It is on its way in as well: those who sent it are known to have some of it.
      chunkBytes = blocks[slot].pointee.chunkBytes
      wholes = blocks[slot].pointee.wholes
      while let rival = blocks.find(hash) { remove(rival) }
    }
    let bodyShape = (try? ObjectShape(byteCount: block.byteCount, chunkSize: chunkBytes)) ?? shape
    guard let slot = makeRoom(for: acceptance.entry.chainWork, now: now) else { throw .noRoom }
    openSubmitted(slot, structure, headerBytes, hash, acceptance.entry, bodyShape, arrival: arrival, now: now)
    blocks[slot].pointee.wholes = wholes
    blocks[slot].pointee.explicit = explicit.filter { $0 > 0 && $0 < structure.transactions.count }
    blocks[slot].pointee.submitted = bytes
    blocks[slot].pointee.parsed = structure
    if acceptance.isTip { tipChanged(now: now) }
    if isTrustworthy {
      publish(slot, now: now, into: &sink)
    } else {
      let rules = configuration.network.bodyRules(height: acceptance.entry.height)
      blocks[slot].pointee.assembly.check = BodyCheck(structure, rules: rules)
      addWork(slot)
    }
    return hash
  }

  /// Puts a block of this site into a free slot: what is known of it before its bytes.
  private mutating func openSubmitted(
    _ slot: Int, _ block: borrowing ParsedBlock, _ headerBytes: HeaderBytes, _ hash: Hash256,
    _ entry: HeaderChain.Entry, _ shape: ObjectShape, arrival: Instant, now: Instant
  ) {
    counters.blocksOpened += 1
    serial += 1
    var state = BlockState(
      hash: hash, headerBytes: headerBytes, header: block.header, height: entry.height, chainWork: entry.chainWork,
      bodyBytes: block.byteCount, transactionCount: block.transactions.count, chunkBytes: shape.chunkSize,
      serial: serial, stage: .submitted, maker: ownKey)
    state.report.isSubmitted = true
    state.report.firstPacket = arrival
    state.report.gatePassed = now
    state.put(ObjectState(kind: .body, shape: shape, ownKey: ownKey), in: BlockState.bodySlot)
    blocks.insert(state, at: slot)
    note(RelayEvent(.gatePassed, at: now, block: hash, a: UInt64(entry.height)))
    beginQuiet(now: now)
  }

  /// The same of bytes that the caller keeps: copied first.
  @discardableResult
  public mutating func submit(
    _ block: RawSpan, parsed: ParsedBlock? = nil, isChecked: Bool = false, explicit: [Int] = [], arrival: Instant,
    now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) throws(SubmitError) -> Hash256 {
    counters.bytesCopied += UInt64(block.byteCount)
    return try submit(
      block.withUnsafeBytes { [UInt8]($0) }, parsed: parsed, isChecked: isChecked, explicit: explicit,
      arrival: arrival, now: now, into: &sink)
  }

  /// Hands a submitted block's bytes to its body's encoder: 0.1 ms that the sketch doesn't wait for.
  mutating func takeIn(_ slot: Int) {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    counters.bytesCopied += UInt64(block.pointee.submitted.count)
    body.pointee.encoder = try? Encoder(block.pointee.submitted.span.bytes, shape: body.pointee.shape)
    block.pointee.submitted = []
  }

  /// A submitted block is checked: sketch it and send it.
  mutating func publish(_ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let block = blocks[slot]
    if let checked = block.pointee.assembly.check?.block { block.pointee.parsed = checked }
    block.pointee.report.knownBytes = block.pointee.bodyBytes
    if block.pointee.sketchDecoded < 0 { makeSketch(slot, explicit: block.pointee.explicit) }
    block.pointee.sketchSent = block.pointee.sketchDecoded
    complete(slot, now: now, into: &sink)
  }

  // MARK: Before the block is together

  /// How long the block itself may take after its sketch, before the sketch is forgotten.
  static let awaitMost = Interval.seconds(1)

  /// Sends a block's sketch on, to trusted neighbours, before its bytes are put together and its Merkle root is worked out:
  /// from a compact block of the site's own node and the mempool's mirror, whose short ids of 6 bytes are wrong less than
  /// once in a million blocks. `submit` follows, or `withdrawSketch`.
  ///
  /// - Parameters:
  ///   - block: its structure with all ids; `coinbase`: the first transaction's bytes.
  ///   - arrival: when this site learned of it.
  /// - Returns: false when the block is in hand already, or has to be submitted without this.
  public mutating func submitSketch(
    of block: borrowing ParsedBlock, coinbase: RawSpan, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let headerBytes = HeaderBytes(block.header.bytes.span.bytes)
    let hash = headerBytes.withBytes { SHA256.double($0) }
    guard configuration.redundancy == .adaptive, block.isFullyHashed, let first = block.transactions.first,
      first.byteCount == coinbase.byteCount, block.byteCount <= RelayLimits.bodyBytes, blocks.find(hash) == nil,
      !done.contains(hash), let shape = try? ObjectShape(byteCount: block.byteCount, chunkSize: RelayLimits.chunkBytes),
      let acceptance = try? chain.accept(block.header, now: unixTime(now), vouched: true),
      let slot = makeRoom(for: acceptance.entry.chainWork, now: now)
    else { return false }
    openSubmitted(slot, block, headerBytes, hash, acceptance.entry, shape, arrival: arrival, now: now)
    blocks[slot].pointee.awaitedUntil = now + RelayCore.awaitMost
    blocks[slot].pointee.isFresh = true
    // The index of the next block's short ids waits for the block itself: `submit` tells of the tip.
    let key = shortIDKey(parent: block.header.previous, epoch: sketchEpoch)
    let byteCounts = block.transactions.map { UInt32(clamping: $0.byteCount) }
    let bytes = Sketch.encode(
      wtxids: block.wtxids.span, byteCounts: byteCounts.span,
      explicit: [Sketch.Explicit(index: 0, bytes: 0..<coinbase.byteCount)], source: coinbase, key: key)
    counters.idsComputed += UInt64(block.transactions.count)
    putSketch(slot, bytes)
    guard blocks[slot].pointee.sketchDecoded >= 0 else {
      remove(slot)
      return false
    }
    blocks[slot].pointee.sketchSent = blocks[slot].pointee.sketchDecoded
    openLanes(slot, now: now)
    pump(slot, now: now, into: &sink)
    return true
  }

  /// The block whose sketch went out is another: what others made of the sketch fails their checks, and they get the block
  /// once it is submitted.
  public mutating func withdrawSketch(of hash: Hash256, now: Instant) {
    guard let slot = blocks.find(hash), blocks[slot].pointee.awaitedUntil != .never else { return }
    abandon(slot, reason: 4, now: now)
  }

  private func isAwaited(_ slot: Int, _ structure: borrowing ParsedBlock) -> Bool {
    let block = blocks[slot]
    return block.pointee.awaitedUntil != .never && block.pointee.bodyBytes == structure.byteCount
      && block.pointee.transactionCount == structure.transactions.count
  }

  /// Forgets sketches whose blocks didn't follow.
  mutating func expireAwaited(now: Instant) {
    var position = 0
    while position < blocks.count {
      let slot = blocks.slot(at: position)
      if blocks[slot].pointee.awaitedUntil <= now {
        abandon(slot, reason: 4, now: now)
      } else {
        position += 1
      }
    }
  }

  /// Headers from the site's own node (`vouched`) or another source; stops at the first bad one.
  @discardableResult
  public mutating func submitHeaders(
    _ headers: [BlockHeader], vouched: Bool, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) throws(HeaderRejection) -> HeaderChain.Acceptance? {
    let tip = chain.tip.hash
    defer {
      if chain.tip.hash != tip { tipChanged(now: now) }
      if pen.count > 0 { releaseAnnouncements(now: now, into: &sink) }
    }
    return try chain.accept(headers, now: unixTime(now), vouched: vouched)
  }

  /// Makes a settled block fit to be sent again.
  mutating func revive(_ slot: Int, now: Instant) {
    let block = blocks[slot]
    guard block.pointee.isSettled else { return }
    let bytes = block.pointee.kept
    guard let shape = try? ObjectShape(byteCount: bytes.count, chunkSize: block.pointee.chunkBytes),
      let encoder = try? Encoder(bytes.span.bytes, shape: shape),
      var parsed = try? ParsedBlock(parsing: bytes.span.bytes)
    else { return }
    parsed.hashAll(in: bytes.span.bytes)
    counters.bytesHashed += UInt64(bytes.count)
    block.pointee.put(
      ObjectState(kind: .body, shape: shape, encoder: encoder, ownKey: ownKey), in: BlockState.bodySlot)
    block.pointee.parsed = parsed
    block.pointee.isSettled = false
    block.pointee.kept = []
    block.pointee.completeAt = now
    makeSketch(slot, explicit: [])
    block.pointee.sketchSent = block.pointee.sketchDecoded
    noteProfile(slot)
  }
}
