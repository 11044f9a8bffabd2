import Bitcoin
import ErasureCode
import Ground
import Wire

extension RelayCore {
  /// Announcements of one header with different sizes that are collected side by side.
  static let variantsMost = 4
  /// Of these, what one neighbour may have begun: what it passes on before it knows better, and what it then knows.
  static let variantsEach = 2
  /// An announcement that led nowhere for so long may be replaced by another of its header.
  static let variantTime = Interval.seconds(1)
  /// Sketches of one block that one neighbour may begin.
  private static let sketchesEach = 2

  /// A SKETCH packet: an announcement and a chunk of the sketch.
  mutating func receiveSketch(
    _ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) throws(DecodeError) {
    let sketch = try SketchMessage(parsing: message)
    var slot = blocks.find(header: sketch.head.header)
    if slot < 0 {
      let gated = gate(sketch.head, message, from, into: &sink)
      if gated < 0 { return }
      slot = gated
    } else if !matches(sketch.head, slot) {
      // The same header with other sizes: one of the two announcements is wrong. Each is collected by itself.
      slot = variant(of: slot, sketch.head, from)
      if slot < 0 { return }
    }
    let block = blocks[slot]
    if block.pointee.isComplete {
      late(slot, from, isWhole: sketch.head.flags.contains(.whole), bytes: message.byteCount, into: &sink)
      return
    }
    if sketch.head.flags.contains(.whole) { noteSized(slot, from.link) }
    let object = sketchSlot(slot, sketch.head, from)
    if object < 0 { return }
    let body = block.pointee.object(BlockState.bodySlot).pointee.lanes[from.link]
    body.pointee.promised = Int32(sketch.head.moreBody)
    // The body follows the sketch, however long that one takes on a narrow link.
    if sketch.head.moreBody > 0 { body.pointee.heard = from.now }
    collect(
      Chunk(
        index: sketch.head.index, maker: sketch.head.maker, more: sketch.head.more, flags: sketch.head.flags,
        messageBytes: message.byteCount),
      sketch.chunk, of: slot, object, from, into: &sink)
  }

  /// A CHUNK packet of any other kind.
  mutating func receiveChunk(
    _ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) throws(DecodeError) {
    let chunk = try ChunkMessage(parsing: message)
    let slot = self.slot(id8: chunk.block, from: from.link)
    if slot < 0 {
      if !isDone(id8: chunk.block) {
        counters.penned += 1
        pen.hold(message, of: chunk.block, isSketch: false, from: from.link, arrival: from.arrival)
      }
      return
    }
    let block = blocks[slot]
    if block.pointee.isComplete {
      late(slot, from, isWhole: chunk.flags.contains(.whole), bytes: message.byteCount, into: &sink)
      return
    }
    guard let object = block.pointee.slot(of: chunk.kind, with: from.link),
      chunk.chunk.byteCount == block.pointee.object(object).pointee.shape.chunkSize
    else {
      // A list that wasn't asked for, or another chunk size than the announcement's.
      counters.chunksNotStored += 1
      return
    }
    collect(
      Chunk(
        index: chunk.index, maker: chunk.maker, more: chunk.more, flags: chunk.flags, messageBytes: message.byteCount),
      chunk.chunk, of: slot, object, from, into: &sink)
  }

  /// The block that a neighbour means by `id8`: of several with the same header, the one that it announced.
  func slot(id8: UInt64, from link: LinkID) -> Int {
    let first = blocks.find(id8: id8)
    if first < 0 || blocks[first].pointee.isComplete { return first }
    var slot = first
    while slot >= 0 {
      if blocks[slot].pointee.sized.contains(link) { return slot }
      slot = blocks.find(id8: id8, from: slot + 1)
    }
    slot = first
    while slot >= 0 {
      for sketch in 0..<BlockState.sketchSlots where blocks[slot].pointee.has(sketch) {
        if blocks[slot].pointee.object(sketch).pointee.sources.contains(link) { return slot }
      }
      slot = blocks.find(id8: id8, from: slot + 1)
    }
    return first
  }

  private func matches(_ head: SketchHead, _ slot: Int) -> Bool {
    let block = blocks[slot]
    return block.pointee.isComplete
      || block.pointee.bodyBytes == Int(head.bodyBytes) && block.pointee.transactionCount == Int(head.transactionCount)
        && block.pointee.chunkBytes == Int(head.bodyChunkBytes)
  }

  func isDone(id8: UInt64) -> Bool { done.contains(id8: id8) }

  // MARK: The gate

  /// Judges a header that is not in hand; the new block's slot, or -1.
  private mutating func gate(
    _ head: SketchHead, _ message: RawSpan, _ from: Arrival, into sink: inout some DatagramSink & ~Copyable
  ) -> Int {
    let header = head.header.withBytes { try? BlockHeader(parsing: $0) }
    guard let header else { return -1 }
    let hash = head.header.withBytes { SHA256.double($0) }
    counters.bytesHashed += 80
    if done.contains(hash) {
      answerHave(hash, to: from, into: &sink)
      return -1
    }
    let entry: HeaderChain.Entry
    do throws(HeaderRejection) {
      entry = try chain.check(header, now: unixTime(from.now))
      try relevant(entry, hash)
    } catch {
      switch error {
      case .unknownParent(let parent):
        counters.penned += 1
        pen.hold(message, of: hash.w0, isSketch: true, from: from.link, arrival: from.arrival)
        wantHeaders(parent: parent, from: from.link, now: from.now, into: &sink)
      default:
        counters.gateRefusals += 1
        link(from.link).pointee.malformed += 1
        complain(
          RelayEvent(
            .gateRefused, link: from.link, at: from.now, block: hash, a: UInt64(GateRefusal(error).rawValue)), from)
      }
      return -1
    }
    guard let slot = open(head, header, hash, entry, from) else { return -1 }
    let acceptance = try? chain.accept(header, now: unixTime(from.now))
    let block = blocks[slot]
    block.pointee.report.firstPacket = from.arrival
    block.pointee.report.firstLink = from.link
    block.pointee.report.gatePassed = from.now
    note(RelayEvent(.firstPacket, link: from.link, at: from.arrival, block: hash))
    note(RelayEvent(.gatePassed, link: from.link, at: from.now, block: hash, a: UInt64(entry.height)))
    if acceptance?.isTip ?? false { tipChanged(now: from.now) }
    beginQuiet(now: from.now)
    openLanes(slot, now: from.now)
    release(id8: hash.w0, now: from.now, into: &sink)
    // What was released may have completed or displaced it.
    return blocks.isPresent(slot) && blocks[slot].pointee.hash == hash ? slot : -1
  }

  /// The rules beyond the chain's own: near the tip, and with about as much work, unless this relay asked for it.
  private func relevant(_ entry: HeaderChain.Entry, _ hash: Hash256) throws(HeaderRejection) {
    if catchUpWants(hash) { return }
    let tip = gateTip
    if entry.height - 1 < tip.height - 2 { throw .tooDeep(height: entry.height) }
    let two = Target.work(of: tip.bits).multipliedWrapping(by: 2)
    if entry.chainWork + two < tip.chainWork { throw .tooDeep(height: entry.height) }
  }

  /// Makes a slot for an announced block; nil when its sizes are refused or no slot can be had.
  private mutating func open(
    _ head: SketchHead, _ header: BlockHeader, _ hash: Hash256, _ entry: HeaderChain.Entry, _ from: Arrival
  ) -> Int? {
    guard let body = try? ObjectShape(byteCount: Int(head.bodyBytes), chunkSize: Int(head.bodyChunkBytes)),
      (try? ObjectShape(byteCount: Int(head.sketchBytes), chunkSize: RelayLimits.sketchChunkBytes)) != nil
    else {
      counters.gateRefusals += 1
      complain(
        RelayEvent(
          .gateRefused, link: from.link, at: from.now, block: hash, a: UInt64(GateRefusal.sizes.rawValue)), from)
      return nil
    }
    guard let slot = makeRoom(for: entry.chainWork, now: from.now) else { return nil }
    serial += 1
    var block = BlockState(
      hash: hash, headerBytes: head.header, header: header, height: entry.height, chainWork: entry.chainWork,
      bodyBytes: Int(head.bodyBytes), transactionCount: Int(head.transactionCount),
      chunkBytes: Int(head.bodyChunkBytes), serial: serial, stage: .collecting, maker: head.maker)
    block.isCatchUp = catchUpWants(hash)
    block.put(
      ObjectState(kind: .body, shape: body, decoder: decoders.take(body), ownKey: ownKey), in: BlockState.bodySlot)
    // Its sketch says what the mempool knows of it.
    block.object(BlockState.bodySlot).pointee.decoder!.awaitsKnown = configuration.redundancy == .adaptive
    blocks.insert(block, at: slot)
    counters.blocksOpened += 1
    return slot
  }

  /// A block with the header of `slot` but other sizes: the slot of that announcement, made when it may have one; -1.
  ///
  /// Nobody can tell which of several announcements is true until one leads to the block, so no neighbour may keep
  /// another's out: when all places are taken, one that had its second without leading anywhere makes room, as long as the
  /// neighbour that began it had at least as many turns as the one that comes.
  private mutating func variant(of slot: Int, _ head: SketchHead, _ from: Arrival) -> Int {
    let id8 = blocks[slot].pointee.id8
    var count = 0
    var own = 0
    var oldestOwn = -1
    var next = blocks.find(id8: id8)
    while next >= 0 {
      if matches(head, next) { return next }
      count += 1
      if blocks[next].pointee.report.firstLink == from.link {
        own += 1
        if oldestOwn < 0 || blocks[next].pointee.serial < blocks[oldestOwn].pointee.serial { oldestOwn = next }
      }
      next = blocks.find(id8: id8, from: next + 1)
    }
    let hash = blocks[slot].pointee.hash
    let header = blocks[slot].pointee.header
    var victim = -1
    if own >= RelayCore.variantsEach {
      // What it passed on before it knew better gives way to what it has whole, or after a while.
      let isFinal = head.flags.contains(.whole) && turns.of(id8, from.link) <= RelayCore.variantsEach
      if isFinal || isAged(oldestOwn, from.now) { victim = oldestOwn }
    } else if count >= RelayCore.variantsMost || blocksInHand >= configuration.limits.blocksInHand {
      victim = agedVariant(id8, for: from)
    }
    let isRoom =
      own < RelayCore.variantsEach && count < RelayCore.variantsMost && blocksInHand < configuration.limits.blocksInHand
    guard victim >= 0 || isRoom, let entry = chain.entry(hash)
    else {
      counters.chunksNotStored += 1
      return -1
    }
    if victim >= 0 { remove(victim) }
    guard let made = open(head, header, hash, entry, from) else { return -1 }
    turns.count(id8, from.link)
    blocks[made].pointee.report.firstPacket = from.arrival
    blocks[made].pointee.report.firstLink = from.link
    blocks[made].pointee.report.gatePassed = from.now
    openLanes(made, now: from.now)
    return made
  }

  private var blocksInHand: Int {
    var count = 0
    for position in 0..<blocks.count where !blocks[blocks.slot(at: position)].pointee.isComplete { count += 1 }
    return count
  }

  private func isAged(_ slot: Int, _ now: Instant) -> Bool {
    blocks[slot].pointee.report.gatePassed + RelayCore.variantTime < now
  }

  /// Of a header's announcements, all places taken, the one that makes room for `from`'s: of those that had their time the
  /// one whose neighbour had most turns, the oldest of these; -1 when `from` had more turns than any of them.
  private func agedVariant(_ id8: UInt64, for from: Arrival) -> Int {
    var victim = -1
    var most = turns.of(id8, from.link)
    var next = blocks.find(id8: id8)
    while next >= 0 {
      let had = turns.of(id8, blocks[next].pointee.report.firstLink)
      let isBetter =
        victim < 0
        ? had >= most : had > most || had == most && blocks[next].pointee.serial < blocks[victim].pointee.serial
      if isAged(next, from.now) && isBetter {
        victim = next
        most = had
      }
      next = blocks.find(id8: id8, from: next + 1)
    }
    return victim
  }

  /// The object slot of the sketch that a packet belongs to, made when it is the first of it; -1 when it can't be taken.
  private mutating func sketchSlot(_ slot: Int, _ head: SketchHead, _ from: Arrival) -> Int {
    let block = blocks[slot]
    if let found = block.pointee.sketch(head.sketchID, epoch: head.epoch, bytes: Int(head.sketchBytes)) { return found }
    var begun = 0
    for sketch in 0..<BlockState.sketchSlots where block.pointee.has(sketch) {
      if block.pointee.object(sketch).pointee.creator == from.link { begun += 1 }
    }
    guard begun < RelayCore.sketchesEach,
      let free = (0..<BlockState.sketchSlots).first(where: { !block.pointee.has($0) }),
      let shape = try? ObjectShape(byteCount: Int(head.sketchBytes), chunkSize: RelayLimits.sketchChunkBytes)
    else {
      counters.chunksNotStored += 1
      return -1
    }
    block.pointee.put(
      ObjectState(
        kind: .sketch, sketchID: head.sketchID, epoch: head.epoch, shape: shape, decoder: decoders.take(shape),
        ownKey: ownKey), in: free)
    block.pointee.object(free).pointee.creator = from.link
    if block.pointee.sketchSent < 0 {
      block.pointee.sketchSent = free
      block.pointee.report.sketchBytes = Int(head.sketchBytes)
      openSketchLanes(slot, now: from.now)
    }
    return free
  }

  /// A slot for a block with this much work: a free one, or that of the worst incomplete or oldest kept block. Second
  /// announcements of a header go first, those of fewest neighbours before others: they must not push out other headers.
  mutating func makeRoom(for work: UInt256, now: Instant) -> Int? {
    var inHand = 0
    var worst = -1
    var extra = -1
    for position in 0..<blocks.count {
      let slot = blocks.slot(at: position)
      let block = blocks[slot]
      if block.pointee.isComplete { continue }
      inHand += 1
      if worst < 0 || block.pointee.chainWork <= blocks[worst].pointee.chainWork { worst = slot }
      let first = blocks.find(id8: block.pointee.id8)
      let isAlone = first == slot && blocks.find(id8: block.pointee.id8, from: slot + 1) < 0
      if isAlone { continue }
      if extra < 0 || followers(slot) <= followers(extra) { extra = slot }
    }
    if inHand >= configuration.limits.blocksInHand {
      if extra >= 0 {
        remove(extra)
      } else {
        if worst < 0 || blocks[worst].pointee.chainWork > work { return nil }
        abandon(worst, reason: 1, now: now)
      }
    }
    if let free = blocks.freeSlot { return free }
    evictOldestKept()
    return blocks.freeSlot
  }

  /// Neighbours that sent something of a block.
  private func followers(_ slot: Int) -> Int {
    var links = LinkSet.none
    for object in 0..<BlockState.objectSlots where blocks[slot].pointee.has(object) {
      links = links | blocks[slot].pointee.object(object).pointee.sources
    }
    return links.count
  }

  /// Replays what waited in the pen for a block.
  mutating func release(id8: UInt64, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    replay(of: id8, sketchesOnly: false, now: now, into: &sink)
  }

  /// Replays announcements whose parents may be known now.
  mutating func releaseAnnouncements(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    replay(of: nil, sketchesOnly: true, now: now, into: &sink)
  }

  private mutating func replay(
    of id8: UInt64?, sketchesOnly: Bool, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    // What is released may go back into the pen: only what was there before has its turn.
    let last = pen.order
    let buffer = UnsafeMutableRawPointer.allocate(byteCount: Pen.cellBytes, alignment: 16)
    defer { buffer.deallocate() }
    while let packet = pen.release(of: id8, sketchesOnly: sketchesOnly, upTo: last, into: buffer) {
      let context = Arrival(link: packet.link, counter: 0, arrival: packet.arrival, now: now)
      handle(UnsafeRawBufferPointer(start: buffer, count: packet.count).bytes, context, into: &sink)
    }
  }
}

extension GateRefusal {
  init(_ rejection: HeaderRejection) {
    self =
      switch rejection {
      case .target, .proofOfWork: .proofOfWork
      case .difficulty: .difficulty
      case .timeTooOld, .timeTooNew, .timeWarp: .time
      case .version: .version
      case .tooDeep: .tooOld
      case .invalidated, .unknownParent: .invalidChain
      }
  }
}

extension RecentHashes {
  func contains(id8: UInt64) -> Bool { hashes.contains { $0.w0 == id8 } }
}
