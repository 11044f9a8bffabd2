import Ground

/// FIBRE's published relay policy as a core, for a baseline in the same network: a fixed schedule, whatever the receiver
/// lacks.
///
/// An origin sends the header object's chunks, its repair chunks (1 ms of the link's rate and 10 more), three body chunks,
/// N + 10 repair chunks of the body, then the N plain ones. A receiver needs as many header chunks as the object has,
/// then as many useful body chunks as missing transactions touch; body chunks that come before the header object is
/// decoded and matched are thrown away. Useful chunks from trusted peers are passed on at once to all who aren't known to
/// have them. Whoever has decoded sends the whole schedule to all who aren't known to have the block, with chunks of its
/// own; 'I have it' keeps new sends away and leaves the queued ones.
///
/// Chunks are modelled by number: datagrams have their size, their bytes mean nothing.
public struct FibreLikeCore: SimulatedCore, ~Copyable {
  public struct Peer: Hashable, Sendable {
    public var link: LinkID
    public var address: PeerAddress
    public var rate: LinkRate
    public var isTrusted: Bool
    public init(link: LinkID, address: PeerAddress, rate: LinkRate, isTrusted: Bool) {
      self.link = link
      self.address = address
      self.rate = rate
      self.isTrusted = isTrusted
    }
  }

  /// What a node's mempool leaves of a block.
  public typealias Knowledge = (_ block: UInt64) -> (block: FibreBlock, missing: [UInt64], missingCount: Int)

  public struct Delivery: Hashable, Sendable {
    public var block: UInt64
    public var at: Instant
  }

  /// What was received of a block: from all trusted peers together, or from one that isn't.
  private struct Partial {
    var headerSeen: Set<UInt32> = []
    var bodySeen: Set<UInt32> = []
    var useful = 0
    /// Header decoded and matched; mempool chunks handed to the decoder.
    var isMatched = false
    var isFilled = false
    var isFilling = false
    var headerDone = false
  }

  private final class BlockState {
    let block: FibreBlock
    let missing: [UInt64]
    let missingCount: Int
    var partials: [Int: Partial] = [:]
    /// Decodable: later datagrams of it are ignored, as FIBRE does.
    var isClosed = false
    /// By peer: said that it has all; chunk numbers it is known to have.
    var peerHasAll: [Bool]
    var peerHeader: [Set<UInt32>]
    var peerBody: [Set<UInt32>]
    init(_ known: (block: FibreBlock, missing: [UInt64], missingCount: Int), peers: Int) {
      block = known.block
      missing = known.missing
      missingCount = known.missingCount
      peerHasAll = [Bool](repeating: false, count: peers)
      peerHeader = [Set<UInt32>](repeating: [], count: peers)
      peerBody = [Set<UInt32>](repeating: [], count: peers)
    }
  }

  /// Work that FIBRE does on another thread, and what follows it.
  private enum Step {
    case sendHeader, sendFirstBody, sendBody
    case matched(Int)
    case filled(Int)
    case decoded
  }

  /// Chunks that wait for a link, in the order they were put there.
  private struct Range {
    var block: UInt64
    var isBody: Bool
    var hasAll: Bool
    var next: UInt32
    var end: UInt32
  }

  private let node: Int
  private let peers: [Peer]
  private let costs: FibreCosts
  private let knowledge: Knowledge
  private var blocks: [UInt64: BlockState] = [:]
  private var oldest: UInt64 = 0
  private var steps: [(at: Instant, block: UInt64, step: Step)] = []
  private var queues: [[Range]]
  private var heads: [Int]
  private var peerOfAddress: [PeerAddress: Int] = [:]
  public private(set) var deliveries: [Delivery] = []
  public private(set) var workNanoseconds: UInt64 = 0
  public private(set) var nextDeadline = Instant.never

  public init(node: Int, peers: [Peer], costs: FibreCosts = FibreCosts(), knowledge: @escaping Knowledge) {
    self.node = node
    self.peers = peers
    self.costs = costs
    self.knowledge = knowledge
    queues = [[Range]](repeating: [], count: peers.count)
    heads = [Int](repeating: 0, count: peers.count)
    for (i, peer) in peers.enumerated() { peerOfAddress[peer.address] = i }
  }

  // MARK: Chunk numbers

  /// Repair chunks of a relay: a range of its own, so that no two sources make the same (FIBRE draws them at random).
  private func repairStart(_ chunks: Int) -> UInt32 { UInt32(chunks + (node + 1) << 16) }

  /// 1 ms of the slowest link's rate, in datagrams, and 10.
  private var headerRepair: Int {
    let slowest = peers.map(\.rate.bitsPerSecond).filter { $0 > 0 }.min() ?? 1_000_000_000
    return Int(slowest) / 8 / 1_000 / FibreBlock.datagramBytes + 10
  }

  private mutating func state(_ block: UInt64) -> BlockState {
    if let known = blocks[block] { return known }
    let new = BlockState(knowledge(block), peers: peers.count)
    blocks[block] = new
    // Blocks come in order; a handful at once is plenty.
    while blocks.count > 8 {
      blocks[oldest] = nil
      oldest += 1
    }
    return new
  }

  // MARK: A block at its origin

  public mutating func submit(_ block: UInt64, now: Instant) {
    let state = state(block)
    state.isClosed = true
    deliveries.append(Delivery(block: block, at: now))
    let ids = costs.perShortID * UInt64(state.block.transactions)
    let header = costs.encoderPerChunk * UInt64(state.block.headerChunks)
    let copied = costs.perCopiedChunk * UInt64(state.block.bodyChunks)
    let body = costs.encoderPerChunk * UInt64(state.block.bodyChunks)
    later(ids + header, block, .sendHeader, now)
    later(ids + header + copied, block, .sendFirstBody, now)
    later(ids + header + copied + body, block, .sendBody, now)
  }

  private mutating func later(_ nanoseconds: UInt64, _ block: UInt64, _ step: Step, _ now: Instant) {
    steps.append((now + Interval(nanoseconds: Int64(nanoseconds)), block, step))
    nextDeadline = steps.map(\.at).min() ?? .never
  }

  // MARK: Driver

  public mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for peer in peers { sink.assign(peer.link, to: peer.address, rate: peer.rate) }
  }
  public mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  public mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  public mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}

  public mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for (i, peer) in peers.enumerated() where peer.link == link { drain(i, &sink) }
  }

  public mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let due = steps.filter { $0.at <= now }.sorted { $0.at < $1.at }
    steps.removeAll { $0.at <= now }
    for item in due { perform(item.step, item.block, now, &sink) }
    nextDeadline = steps.map(\.at).min() ?? .never
  }

  private mutating func perform(
    _ step: Step, _ block: UInt64, _ now: Instant, _ sink: inout some DatagramSink & ~Copyable
  ) {
    let state = state(block)
    switch step {
    case .sendHeader:
      let chunks = state.block.headerChunks
      // All plain header chunks and the first three repair chunks are urgent.
      sendNow(block, isBody: false, 0..<UInt32(chunks), &sink)
      let first = repairStart(chunks)
      sendNow(block, isBody: false, first..<first + 3, &sink)
      enqueue(block, isBody: false, first + 3..<first + UInt32(headerRepair), &sink)
    case .sendFirstBody:
      sendNow(block, isBody: true, 0..<UInt32(min(3, state.block.bodyChunks)), &sink)
    case .sendBody:
      let chunks = state.block.bodyChunks
      let first = repairStart(chunks)
      sendNow(block, isBody: true, first..<first + 10, &sink)
      enqueue(block, isBody: true, first + 10..<first + UInt32(chunks + 10), &sink)
      enqueue(block, isBody: true, 0..<UInt32(chunks), &sink)
    case .matched(let key): state.partials[key]?.isMatched = true
    case .filled(let key):
      state.partials[key]?.isFilled = true
      checkDecodable(block, state, key, now)
    case .decoded:
      deliveries.append(Delivery(block: block, at: now))
      let repair = UInt64(state.block.bodyChunks + 10 + headerRepair)
      later(costs.perRepairChunk * repair, block, .sendHeader, now)
      later(costs.perRepairChunk * repair + 1, block, .sendBody, now)
    }
  }

  // MARK: Receiving

  public mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    workNanoseconds += costs.perDatagram
    guard datagram.byteCount == FibreBlock.datagramBytes, let peer = peerOfAddress[source] else { return }
    let flags = datagram.unsafeLoad(as: UInt8.self)
    let isBody = flags & 1 != 0
    let block = datagram.unsafeLoadUnaligned(fromUncheckedByteOffset: 1, as: UInt64.self)
    let chunk = datagram.unsafeLoadUnaligned(fromUncheckedByteOffset: 9, as: UInt32.self)
    if block < oldest { return }
    let state = state(block)
    if state.isClosed { return }
    if flags & 2 != 0 { state.peerHasAll[peer] = true }
    if isBody { state.peerBody[peer].insert(chunk) } else { state.peerHeader[peer].insert(chunk) }
    let isTrusted = peers[peer].isTrusted
    let key = isTrusted ? -1 : peer
    var isUseful = false
    if isBody {
      // Before the header object is decoded and matched: thrown away.
      guard state.partials[key]?.isMatched == true else { return }
      if state.partials[key]?.isFilling == false {
        state.partials[key]?.isFilling = true
        later(costs.perCopiedChunk * UInt64(state.block.bodyChunks), block, .filled(key), now)
      }
      guard state.partials[key]?.bodySeen.insert(chunk).inserted == true else { return }
      // A plain chunk that the mempool gave is there already.
      isUseful =
        chunk >= state.block.bodyChunks || state.missing[Int(chunk >> 6)] & (1 << UInt64(chunk & 63)) != 0
      if isUseful { state.partials[key]?.useful += 1 }
    } else {
      if state.partials[key] == nil { state.partials[key] = Partial() }
      if state.partials[key]?.headerDone == true {
        if isTrusted { forward(block, isBody: false, chunk, urgent: false, from: peer, &sink) }
        return
      }
      isUseful = state.partials[key]?.headerSeen.insert(chunk).inserted == true
      if (state.partials[key]?.headerSeen.count ?? 0) >= state.block.headerChunks {
        state.partials[key]?.headerDone = true
        let cost =
          costs.decoderPerChunk * UInt64(state.block.headerChunks)
          + costs.perShortID * UInt64(state.block.transactions)
        later(cost, block, .matched(key), now)
      }
    }
    if isUseful && isTrusted { forward(block, isBody: isBody, chunk, urgent: true, from: peer, &sink) }
    if isBody { checkDecodable(block, state, key, now) }
  }

  private mutating func checkDecodable(_ block: UInt64, _ state: BlockState, _ key: Int, _ now: Instant) {
    guard !state.isClosed, let partial = state.partials[key], partial.isFilled, partial.useful >= state.missingCount
    else { return }
    state.isClosed = true
    later(costs.decoderPerChunk * UInt64(state.block.bodyChunks), block, .decoded, now)
  }

  // MARK: Sending

  private func wants(_ peer: Int, _ state: BlockState, isBody: Bool, _ chunk: UInt32) -> Bool {
    !state.peerHasAll[peer] && !(isBody ? state.peerBody[peer] : state.peerHeader[peer]).contains(chunk)
  }

  private func send(
    _ peer: Int, _ block: UInt64, isBody: Bool, hasAll: Bool, _ chunk: UInt32, _ urgency: Urgency,
    _ sink: inout some DatagramSink & ~Copyable
  ) {
    sink.send(on: peers[peer].link, urgency: urgency, flow: .none, capacity: FibreBlock.datagramBytes) { span in
      span.storeBytes(of: (isBody ? 1 : 0) | (hasAll ? 2 : 0), as: UInt8.self)
      span.storeBytes(of: block, toByteOffset: 1, as: UInt64.self)
      span.storeBytes(of: chunk, toByteOffset: 9, as: UInt32.self)
      return FibreBlock.datagramBytes
    }
  }

  /// Chunks of this relay's own, urgent: to each peer in turn.
  private mutating func sendNow(
    _ block: UInt64, isBody: Bool, _ chunks: Swift.Range<UInt32>, _ sink: inout some DatagramSink & ~Copyable
  ) {
    let state = state(block)
    for chunk in chunks {
      for peer in peers.indices where wants(peer, state, isBody: isBody, chunk) {
        if isBody { state.peerBody[peer].insert(chunk) } else { state.peerHeader[peer].insert(chunk) }
        send(peer, block, isBody: isBody, hasAll: true, chunk, .block, &sink)
      }
    }
  }

  private mutating func enqueue(
    _ block: UInt64, isBody: Bool, _ chunks: Swift.Range<UInt32>, _ sink: inout some DatagramSink & ~Copyable
  ) {
    let state = state(block)
    for peer in peers.indices where !state.peerHasAll[peer] {
      queues[peer].append(
        Range(block: block, isBody: isBody, hasAll: true, next: chunks.lowerBound, end: chunks.upperBound))
      drain(peer, &sink)
    }
  }

  /// Moves what is queued for a peer to its link as there is room. What was queued before 'I have it' goes all the same.
  private mutating func drain(_ peer: Int, _ sink: inout some DatagramSink & ~Copyable) {
    while heads[peer] < queues[peer].count {
      let range = queues[peer][heads[peer]]
      if range.next == range.end {
        heads[peer] += 1
        continue
      }
      if sink.room(on: peers[peer].link) < FibreBlock.datagramBytes { return }
      queues[peer][heads[peer]].next += 1
      let known = blocks[range.block].map { range.isBody ? $0.peerBody[peer] : $0.peerHeader[peer] }
      if known?.contains(range.next) == true { continue }
      send(peer, range.block, isBody: range.isBody, hasAll: range.hasAll, range.next, .late, &sink)
    }
    queues[peer].removeAll(keepingCapacity: true)
    heads[peer] = 0
  }

  /// Passes a received chunk on to all who aren't known to have it.
  private mutating func forward(
    _ block: UInt64, isBody: Bool, _ chunk: UInt32, urgent: Bool, from source: Int,
    _ sink: inout some DatagramSink & ~Copyable
  ) {
    let state = state(block)
    for peer in peers.indices where peer != source && wants(peer, state, isBody: isBody, chunk) {
      if isBody { state.peerBody[peer].insert(chunk) } else { state.peerHeader[peer].insert(chunk) }
      send(peer, block, isBody: isBody, hasAll: false, chunk, urgent ? .block : .late, &sink)
    }
  }
}
