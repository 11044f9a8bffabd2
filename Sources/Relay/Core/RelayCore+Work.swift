import Bitcoin
import ErasureCode
import Ground
import Mempool
import Wire

// Long work, in slices of about 100 µs: after each the driver gets to see packets again.

extension RelayCore {
  /// Bytes that one slice copies out of the mempool, hashes, or parses.
  static let copySlice = 256 << 10
  static let hashSlice = 192 << 10
  /// The same while the chunk that completes the block may come at any moment, and what is hashed isn't what the block's
  /// hand-over waits for.
  static let aheadHashSlice = 48 << 10
  /// The decoder prepares for what is to come when it lacks no more chunks than this.
  static let preparedMost = 256
  /// Transactions that one slice adds to the mempool.
  static let learnSlice = 100

  mutating func addWork(_ slot: Int) {
    blocks[slot].pointee.hasWork = true
    workDue = true
  }

  /// Does one slice of what is due: what was to be sent, then the newest block's work, then the background's.
  mutating func runSlice(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    workDue = false
    if !pumpAgain.isEmpty {
      let links = pumpAgain & upLinks
      pumpAgain = .none
      pumpLinks(links, now: now, into: &sink)
      // What is ready to leave goes before what makes more of it; a block on its way in waits for neither.
      if !pumpAgain.isEmpty && !isPuttingTogether {
        lookAtTouched(now: now, into: &sink)
        return
      }
      announceFresh(now: now, into: &sink)
    }
    var worked = false
    var position = 0
    while position < blocks.count {
      let slot = blocks.slot(at: position)
      position += 1
      if !blocks[slot].pointee.hasWork { continue }
      if worked {
        workDue = true
        break
      }
      worked = true
      let serial = blocks[slot].pointee.serial
      let more = work(on: slot, now: now, into: &sink)
      // The block may have been abandoned meanwhile.
      if blocks.isPresent(slot) && blocks[slot].pointee.serial == serial {
        blocks[slot].pointee.hasWork = more
        if more { workDue = true }
        touched |= 1 << UInt64(slot)
      } else {
        workDue = true
        break
      }
    }
    lookAtTouched(now: now, into: &sink)
    if quietEnds != .never { return }
    // The background's work comes after the last of the blocks', which isn't the last of all.
    if worked && (map.needsRecompute || !isIndexReady || decoders.needsRefill || pool.needsCells) { workDue = true }
    if !worked && map.needsRecompute {
      if !map.recompute() { workDue = true }
      worked = true
      if !isIndexReady { workDue = true }
    }
    if !worked && !isIndexReady {
      isIndexReady = store.advanceShortIDs()
      counters.idsComputed += 1_500
      if !isIndexReady { workDue = true }
    }
    if !worked && isIndexReady && (decoders.refill(sketchBytes: 64 << 10, bodyBytes: 2_000_000) || pool.prepare()) {
      workDue = true
    }
  }

  /// Work is due on a block that is not whole here.
  private var isPuttingTogether: Bool {
    for position in 0..<blocks.count {
      let block = blocks[blocks.slot(at: position)]
      if block.pointee.hasWork && block.pointee.isIncoming { return true }
    }
    return false
  }

  /// One slice of a block's work; true when there is more to do at once.
  private mutating func work(
    on slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    switch blocks[slot].pointee.stage {
    case .collecting: return tryWithoutSketch(slot, now: now) || workAhead(slot, now: now)
    case .matching: return match(slot, now: now)
    case .filling: return fillKnown(slot, now: now)
    case .gathering: return gather(slot, now: now)
    case .checking, .submitted: return check(slot, now: now, into: &sink)
    case .complete: return encode(slot, now: now, into: &sink)
    case .refused: return false
    }
  }

  // MARK: Putting together

  /// A relay that gets all of the body's chunks needs no sketch.
  private mutating func tryWithoutSketch(_ slot: Int, now: Instant) -> Bool {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    // What was told ahead isn't proved: then the sketch is waited for.
    if block.pointee.assembly.matchedCount > 0 { return false }
    guard body.pointee.decoder!.needed == 0 else { return false }
    block.pointee.assembly.reset()
    return solve(slot, now: now)
  }

  /// Looks the sketch's ids up in the mempool, as far as they weren't before it was whole. Entries are kept as handles:
  /// the owner may change the store between slices.
  private mutating func match(_ slot: Int, now: Instant) -> Bool {
    let block = blocks[slot]
    matchRest(slot)
    // Budgets of those who are sent the block through here; who else gets some is reckoned when it is whole.
    if hasForwardees(slot) { noteProfile(slot) }
    // Header, count and what the sketch has inline are known too.
    tellPrefix(slot)
    tellExplicit(slot)
    block.pointee.report.knownBytes += block.pointee.assembly.matchedBytes
    block.pointee.stage = .filling
    return true
  }

  /// What lies before the first transaction: header and count.
  private func prefix(of slot: Int) -> [UInt8] {
    let block = blocks[slot]
    var prefix = ByteWriter(reserving: 96)
    block.pointee.header.write(to: &prefix)
    prefix.compactSize(block.pointee.transactionCount)
    return prefix.bytes
  }

  func tellPrefix(_ slot: Int) {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    let bytes = prefix(of: slot)
    try? body.pointee.decoder!.addKnown(0..<bytes.count, bytes.span.bytes)
    block.pointee.report.knownBytes = bytes.count
  }

  func tellExplicit(_ slot: Int) {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    let sketch = block.pointee.assembly.sketch!
    let object = block.pointee.object(block.pointee.sketchDecoded)
    guard object.pointee.encoder != nil else { return }
    for transaction in sketch.explicit {
      let range = sketch.range(transaction.index)
      let bytes = object.pointee.bytes.bytes.extracting(transaction.bytes)
      try? body.pointee.decoder!.addKnown(range, bytes)
      block.pointee.report.knownBytes += range.count
    }
  }

  /// Copies matched transactions into their places, a slice at a time.
  private mutating func fillKnown(_ slot: Int, now: Instant) -> Bool {
    let block = blocks[slot]
    let before = block.pointee.assembly.matchedBytes
    fill(slot, before: block.pointee.assembly.matches.count, bytes: RelayCore.copySlice)
    block.pointee.report.knownBytes += block.pointee.assembly.matchedBytes - before
    if block.pointee.assembly.next < block.pointee.assembly.matches.count { return true }
    finishFilling(slot, now: now)
    return true
  }

  /// Tells the body's decoder matched transactions before `end`, about so many bytes of them.
  mutating func fill(_ slot: Int, before end: Int, bytes: Int) {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    let wholeChunks = configuration.redundancy == .fibreLike
    var left = bytes
    while block.pointee.assembly.next < end && left > 0 {
      let begin = block.pointee.assembly.next
      let run = matchedRun(slot, before: end, bytes: left)
      // Only what this decoder takes is known: some may have been told before, to one that is gone.
      if run.isEmpty {
        block.pointee.assembly.layouts[begin] = nil
        block.pointee.assembly.next += 1
        continue
      }
      block.pointee.assembly.next = run.upperBound
      let isTold = !wholeChunks && tellTogether(run, slot)
      for index in run {
        let range = block.pointee.assembly.range(index)
        let entry = runEntries[index - begin]
        left -= range.count + 256
        counters.transactionsFilled += 1
        counters.bytesFilled += UInt64(range.count)
        guard isTold || tell(store.bytes(entry), at: range, to: body, wholeChunks: wholeChunks) else {
          // A chunk that came before says otherwise: leave it to the decoder, and the checks.
          block.pointee.assembly.matches[index] = nil
          block.pointee.assembly.layouts[index] = nil
          continue
        }
        block.pointee.assembly.layouts[index] = store.layout(entry, at: range.lowerBound)
        block.pointee.assembly.txids[index] = store.txid(entry)
        block.pointee.assembly.wtxids[index] = store.wtxid(entry)
        block.pointee.assembly.matchedCount += 1
        block.pointee.assembly.matchedBytes += range.count
      }
    }
  }

  /// Transactions that are told together.
  private static let runMost = 32

  /// The matches from the next transaction on that are in the store, up to the first that isn't; their slots are in
  /// `runEntries`.
  private mutating func matchedRun(_ slot: Int, before end: Int, bytes: Int) -> Range<Int> {
    let block = blocks[slot]
    let begin = block.pointee.assembly.next
    let (facts, content) = (16, 8)
    var (index, left) = (begin, bytes)
    runEntries.removeAll(keepingCapacity: true)
    while index < end && index - begin < RelayCore.runMost && left > 0 {
      // Nothing of it is in the caches: blocks are ten minutes apart.
      if index + facts < end, let later = block.pointee.assembly.matches[index + facts] {
        store.prefetchFacts(later.slot)
      }
      if index + content < end, let later = block.pointee.assembly.matches[index + content] { store.prefetch(later) }
      guard let handle = block.pointee.assembly.matches[index] else { break }
      let count = block.pointee.assembly.range(index).count
      guard let entry = store.slot(handle), store.byteCount(entry) == count else {
        block.pointee.assembly.matches[index] = nil
        break
      }
      runEntries.append(entry)
      index += 1
      left -= count + 256
    }
    return begin..<index
  }

  /// Tells the body's decoder a run of transactions at once; false when it knows some of that already.
  private func tellTogether(_ run: Range<Int>, _ slot: Int) -> Bool {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    let start = Int(block.pointee.assembly.offsets[run.lowerBound])
    let range = start..<Int(block.pointee.assembly.offsets[run.upperBound])
    let isTold = try? body.pointee.decoder!.addKnown(range) { place in
      for index in run {
        let entry = runEntries[index - run.lowerBound]
        let at = Int(block.pointee.assembly.offsets[index]) - start
        store.bytes(entry).withUnsafeBytes {
          (place.baseAddress! + at).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
        }
      }
    }
    return isTold ?? false
  }

  /// Tells the body's decoder a known range; of FIBRE's kind only the chunks that lie wholly within.
  private func tell(
    _ bytes: RawSpan, at range: Range<Int>, to body: UnsafeMutablePointer<ObjectState>, wholeChunks: Bool
  ) -> Bool {
    var known = range
    if wholeChunks {
      let size = body.pointee.shape.chunkSize
      let first = (range.lowerBound + size - 1) / size * size
      let last = range.upperBound / size * size
      if first >= last { return true }
      known = first..<last
    }
    do throws(ErasureError) {
      try body.pointee.decoder!.addKnown(
        known, bytes.extracting(known.lowerBound - range.lowerBound..<known.upperBound - range.lowerBound))
      return true
    } catch {
      return false
    }
  }

  private mutating func finishFilling(_ slot: Int, now: Instant) {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    block.pointee.stage = .gathering
    body.pointee.decoder!.awaitsKnown = false
    countMissing(slot)
    block.pointee.report.matched = now
    block.pointee.report.neededChunks = body.pointee.decoder!.mostUnknown
    note(
      RelayEvent(
        .matched, at: now, block: block.pointee.hash, a: UInt64(block.pointee.report.knownBytes),
        b: UInt64(block.pointee.bodyBytes)))
    if body.pointee.decoder!.needed == 0 && block.pointee.report.lastNeeded == .never {
      block.pointee.report.lastNeeded = now
      note(RelayEvent(.lastNeeded, at: now, block: block.pointee.hash))
    }
  }

  func countMissing(_ slot: Int) {
    let block = blocks[slot]
    let sketch = block.pointee.assembly.sketch!
    var explicit = 0
    block.pointee.missing = SizeClassCounts()
    block.pointee.report.missingTransactions = 0
    block.pointee.report.missingBytes = 0
    for index in 0..<sketch.transactionCount {
      if explicit < sketch.explicit.count && sketch.explicit[explicit].index == index {
        explicit += 1
        continue
      }
      if block.pointee.assembly.matches[index] != nil { continue }
      let count = Int(sketch.byteCounts[index])
      block.pointee.missing[SizeClassCounts.index(bytes: count)] += 1
      block.pointee.report.missingTransactions += 1
      block.pointee.report.missingBytes += count
    }
  }

  /// Keeps the decoder's sums up to date; solves once there is enough.
  private mutating func gather(_ slot: Int, now: Instant) -> Bool {
    let body = blocks[slot].pointee.object(BlockState.bodySlot)
    if blocks[slot].pointee.repair.awaitsList { return false }
    let needed = body.pointee.decoder!.needed
    if needed == 0 { return solve(slot, now: now) }
    // While so much is to come, much of what is prepared now would have to be done again.
    if needed > RelayCore.preparedMost { return hashAhead(slot) }
    let before = body.pointee.workDone
    let status = body.pointee.decoder!.work()
    counters.workDecoded += UInt64(body.pointee.workDone - before)
    return status == .more || hashAhead(slot)
  }

  /// Works out what the checks will need of the ids' trees, as far as the matches go; true when there is more to do. A
  /// match that proves wrong costs its work and no more: the checks compare the leaves.
  private mutating func hashAhead(_ slot: Int) -> Bool {
    let block = blocks[slot]
    let count = block.pointee.assembly.layouts.count
    if count == 0 || block.pointee.repair.step != .none { return false }
    guard block.pointee.assembly.txidTree != nil else {
      block.pointee.assembly.beginTrees()
      counters.transactionsChecked += UInt64(count)
      return true
    }
    let pairs = block.pointee.assembly.advanceTrees(pairs: RelayCore.aheadHashSlice / BodyCheck.bytesPerPair)
    counters.bytesHashed += UInt64(pairs * BodyCheck.bytesPerPair)
    return pairs > 0
  }

  private mutating func solve(_ slot: Int, now: Instant) -> Bool {
    let block = blocks[slot]
    let body = block.pointee.object(BlockState.bodySlot)
    let before = body.pointee.workDone
    do throws(ErasureError) { try body.pointee.decoder!.finish() } catch { return false }
    counters.workSolved += UInt64(body.pointee.workSolved)
    counters.workDecoded += UInt64(body.pointee.workDone - before)
    block.pointee.report.decoded = now
    note(RelayEvent(.decoded, at: now, block: block.pointee.hash))
    block.pointee.stage = .checking
    block.pointee.assembly.check = nil
    return true
  }

  // MARK: Checking

  /// Parses what was missing, then runs all checks of the body; both for blocks that came in and for submitted ones.
  private mutating func check(
    _ slot: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    let block = blocks[slot]
    if block.pointee.assembly.check == nil {
      guard let parsed = parse(slot) else {
        bodyFailed(slot, now: now, into: &sink)
        return blocks.isPresent(slot) && blocks[slot].pointee.hasWork
      }
      let rules = configuration.network.bodyRules(height: block.pointee.height)
      let trees = block.pointee.assembly.takeTrees()
      block.pointee.assembly.check = BodyCheck(parsed, rules: rules, txids: trees.txids, wtxids: trees.wtxids)
      counters.transactionsChecked += UInt64(parsed.transactions.count)
    }
    let before = block.pointee.assembly.check!.bytesHashed
    if mayBeHandedOver(slot) {
      let isHashed = withBodyBytes(slot) { bytes in
        block.pointee.assembly.check!.hash(in: bytes, budget: RelayCore.hashSlice)
      }
      counters.bytesHashed += UInt64(block.pointee.assembly.check!.bytesHashed - before)
      if isHashed {
        block.pointee.isAssembled = true
        note(RelayEvent(.assembled, at: now, block: block.pointee.hash))
      }
      return true
    }
    let verdict = withBodyBytes(slot) { bytes in
      block.pointee.assembly.check!.advance(in: bytes, budget: RelayCore.hashSlice)
    }
    counters.bytesHashed += UInt64(block.pointee.assembly.check!.bytesHashed - before)
    guard let verdict else { return true }
    switch verdict {
    case .valid:
      if block.pointee.stage == .submitted {
        publish(slot, now: now, into: &sink)
      } else {
        complete(slot, now: now, into: &sink)
      }
    case .mutated:
      bodyFailed(slot, now: now, into: &sink)
    case .invalid:
      // The header commits to this very body, and it breaks a rule: nobody should ever get it.
      chain.invalidate(block.pointee.hash)
      abandon(slot, reason: 2, now: now)
    }
    return blocks.isPresent(slot) && blocks[slot].pointee.hasWork
  }

  /// The block came in, and there is no reason to doubt what it was made of: its ids are worked out first and the owner is
  /// told, before the trees are.
  private func mayBeHandedOver(_ slot: Int) -> Bool {
    let block = blocks[slot]
    return block.pointee.stage == .checking && !block.pointee.isAssembled && !block.pointee.hasUntrusted
      && block.pointee.report.failedChecks == 0
  }

  /// The body's bytes, from decoder or encoder, or as they were submitted.
  func withBodyBytes<R>(_ slot: Int, _ body: (RawSpan) -> R) -> R {
    if !blocks[slot].pointee.submitted.isEmpty { return body(blocks[slot].pointee.submitted.span.bytes) }
    return body(blocks[slot].pointee.object(BlockState.bodySlot).pointee.bytes.bytes)
  }

  /// The block's structure with the ids that are known; nil when the bytes are no block of the announced layout.
  private mutating func parse(_ slot: Int) -> ParsedBlock? {
    let block = blocks[slot]
    return withBodyBytes(slot) { (bytes) -> ParsedBlock? in
      if block.pointee.assembly.layouts.isEmpty {
        guard let parsed = try? ParsedBlock(parsing: bytes), parsed.header == block.pointee.header,
          parsed.transactions.count == block.pointee.transactionCount
        else { return nil }
        return parsed
      }
      // All of what lies before the first transaction: a wrong chunk that came before the matches stands there still.
      let prefix = prefix(of: slot)
      guard let sketch = block.pointee.assembly.sketch, bytes.byteCount >= prefix.count,
        bytes.extracting(0..<prefix.count).withUnsafeBytes({ $0.elementsEqual(prefix) })
      else { return nil }
      var layouts: [TransactionLayout] = []
      layouts.reserveCapacity(sketch.transactionCount)
      var unhashed: [Int] = []
      for index in 0..<sketch.transactionCount {
        if let layout = block.pointee.assembly.layouts[index] {
          layouts.append(layout)
          continue
        }
        unhashed.append(index)
        let range = sketch.range(index)
        guard let layout = try? TransactionLayout(parsing: bytes.extracting(range)) else { return nil }
        layouts.append(layout.moved(to: range.lowerBound))
      }
      return ParsedBlock(
        header: block.pointee.header, transactions: layouts, byteCount: bytes.byteCount,
        txids: block.pointee.assembly.txids, wtxids: block.pointee.assembly.wtxids, unhashed: unhashed)
    }
  }
}
