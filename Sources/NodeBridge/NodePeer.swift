import Bitcoin
import Ground
import Mempool

/// One connection to a node, made by us: handshake, headers, mempool mirror, blocks in, blocks out. Sans-IO; what it
/// says goes into the sink, what it learns to the host.
///
/// Bounds: one message of at most 4 MB while it arrives, `requestsMax` transactions asked for, `waitingMax` more waiting
/// to be asked for, `pendingMax` incomplete blocks.
struct NodePeer {
  static let requestsMax = 2_000
  static let waitingMax = 400_000
  static let pendingMax = 8
  /// Pings in flight that only wake the node; twice as many with those whose answer is waited for.
  static let pingsMax = 256
  static let handshakeLimit = Interval.seconds(30)
  static let silenceLimit = Interval.seconds(120)
  static let problemInterval = Interval.seconds(600)

  enum Phase: Hashable {
    case waiting(until: Instant)
    case connecting(since: Instant)
    case handshake(since: Instant)
    case ready
  }

  let index: Int
  let stream: StreamID
  let network: Network
  let configuration: NodeConfiguration
  var phase = Phase.waiting(until: .zero)
  var framing: MessageStream
  var attempts = 0
  /// We end this connection: nothing that is still to come on it is looked at.
  var isCut = false
  var readySince = Instant.zero
  /// What a watched peer may send, and what is told of any node's mistakes.
  var messages = RateLimit(most: InboundPeer.messagesPerSecond, per: .seconds(1))
  var complaints = RateLimit(most: 10, per: .seconds(60))

  // Handshake.
  var ours = Version(services: [.witness], time: 0, nonce: 0, userAgent: "", startHeight: 0)
  var theirs: Version?
  var relaysByWtxid = false
  /// BIP152's version that both speak; nil before the node said.
  var compactVersion: CompactBlockVersion?
  /// The node has chosen us as one of those whose `cmpctblock` it takes unasked.
  var selectedUs = false
  /// BIP133, in satoshi per 1,000 virtual bytes; nil before the node said.
  var feeFilter: Int64?
  var isDownloading = false
  var bytesReceived = 0
  var lastHeard = Instant.zero
  var lastSpoke = Instant.zero

  // Pings in flight, oldest first: the answer to one says that all sent before it was processed.
  var pings: [(nonce: UInt64, sent: Instant, purpose: PingPurpose)] = []
  var nextPing: UInt64 = 1
  var roundTrip: Interval?

  /// When each was last told; kept from one connection to the next.
  var problems: [NodeProblem: Instant] = [:]

  // Headers.
  var headersSynced = false
  var tip: Hash256?
  var headersAsked = Instant.zero
  /// The last `getheaders` to a watched peer is not answered yet.
  var isAsking = false
  /// Blocks of which a watched peer has told and whose headers are not here yet, with the moment.
  var told: [(hash: Hash256, form: AnnouncementForm, at: Instant)] = []

  // Mirror.
  var mempoolAsked = Instant.zero
  var mempoolListed = false
  /// It hung up when it was asked: not asked again before this.
  var mempoolAgain = Instant.zero
  var requested: [Hash256: Instant] = [:]
  var waiting: [InventoryItem] = []
  var waitingStart = 0
  var listedCount = 0
  /// Once what the first listing brought is here, the node is asked to list again: only a list of what the store holds
  /// tells it which are likely.
  var ranksSoon = false
  /// Transactions told between listings, since the last one.
  var learnedCount = 0
  var nextReconciliation = Instant.never
  /// What the last list named that was far shorter than the mirror, and how many of these came on this connection.
  var lastShort = -1
  var shortLists = 0
  /// When a block was last told of by the node, or handed to it.
  var lastBlock = Instant.zero

  // Blocks.
  var has = RecentHashes()
  var pending: [PendingBlock] = []
  var spare = SpareBlock()
  /// A block that the host was told of and that is still to be put together: at once, but after what that had sent.
  var planned: (pending: PendingBlock, block: PlannedBlock)?
  var deliveries: [Delivery] = []
  /// Blocks to be handed over after the present one, in order.
  var owed: [Hash256] = []
  var statistics = DeliveryStatistics()

  enum PingPurpose: Hashable {
    case wake
    case mempoolListed
    case delivered(Hash256)
  }

  init(index: Int, stream: StreamID, network: Network, configuration: NodeConfiguration) {
    self.index = index
    self.stream = stream
    self.network = network
    self.configuration = configuration
    framing = MessageStream(network: network)
  }

  var isLocal: Bool { configuration.role == .local }
  var isReady: Bool { phase == .ready }
  var mirrors: Bool { isLocal && configuration.mirrorsMempool }
  var speaksWitness: Bool { theirs?.services.contains(.witness) ?? false }

  /// When something is due at the latest.
  var deadline: Instant {
    // Also when the connection has just gone: everything of it is here.
    if planned != nil { return .zero }
    if isCut { return .never }
    switch phase {
    case .waiting(let until): return until
    case .connecting(let since), .handshake(let since): return since + NodePeer.handshakeLimit
    case .ready:
      var due = lastSpoke + (mirrors ? configuration.wakeInterval : .seconds(30))
      for block in pending { due = min(due, block.asked + PendingBlock.limit) }
      for delivery in deliveries { due = min(due, min(delivery.written + Delivery.limit, delivery.fenceAgain)) }
      return due
    }
  }

  /// Says what is wrong, once: again after `problemInterval`, and of a node that can't be reached after it was there.
  mutating func tell(_ problem: NodeProblem, host: inout some BridgeHost & ~Copyable, now: Instant) {
    if let last = problems[problem], now - last < NodePeer.problemInterval { return }
    // Error numbers are the only ones of many kinds.
    if problems.count >= 64 { problems = [:] }
    problems[problem] = now
    host.note(.problem(node: index, problem))
  }

  /// Says what a node did wrong, some times a minute and no more: anyone may be at the other end of a watched peer.
  mutating func misbehaved(_ what: @autoclosure () -> String, host: inout some BridgeHost & ~Copyable) {
    if complaints.allows(now: lastHeard) { host.note(.misbehaved(node: index, what())) }
  }

  /// What `parse` reads in a payload; nil, and told, when it can't be read. The connection goes on.
  mutating func parsed<T>(
    _ command: Command, _ host: inout some BridgeHost & ~Copyable, _ parse: () throws(DecodeError) -> T
  ) -> T? {
    do { return try parse() } catch {
      misbehaved("\(command): \(error)", host: &host)
      return nil
    }
  }

  /// Ends the connection; `closed` follows.
  mutating func cut(_ sink: inout some StreamSink & ~Copyable) {
    isCut = true
    sink.close(stream)
  }

  mutating func send(_ message: Message, now: Instant, _ sink: inout some StreamSink & ~Copyable) {
    write(message.framed(on: network), now: now, &sink)
  }

  /// False when there was no room: the connection ends then.
  @discardableResult
  mutating func write(_ bytes: [UInt8], now: Instant, _ sink: inout some StreamSink & ~Copyable) -> Bool {
    lastSpoke = now
    let taken = sink.write(stream, count: bytes.count) { span in
      span.withUnsafeMutableBytes { target in bytes.withUnsafeBytes { target.copyMemory(from: $0) } }
    }
    // A node that takes 16 MB late is stuck; the connection starts over.
    if !taken { cut(&sink) }
    return taken
  }

  /// Writes a message whose payload is borrowed, with one copy into the stream's queue; returns the message's bytes.
  mutating func write(
    _ command: Command, _ payload: RawSpan, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) -> Int {
    lastSpoke = now
    var header = ByteWriter(reserving: Framing.headerByteCount)
    Framing.writeHeader(command, payload: payload, on: network, to: &header)
    let count = Framing.headerByteCount + payload.byteCount
    let taken = sink.write(stream, count: count) { span in
      span.withUnsafeMutableBytes { target in
        header.bytes.withUnsafeBytes { target.copyMemory(from: $0) }
        payload.withUnsafeBytes { source in
          UnsafeMutableRawBufferPointer(rebasing: target[Framing.headerByteCount...]).copyMemory(from: source)
        }
      }
    }
    if !taken { cut(&sink) }
    return count
  }

  mutating func ping(_ purpose: PingPurpose, now: Instant, _ sink: inout some StreamSink & ~Copyable) {
    // A node that reads but doesn't answer is not spoken to more often for that: `lastSpoke` is when it was last tried.
    lastSpoke = now
    // One whose answer something waits for is sent all the same, or that would wait for good.
    if pings.count >= (purpose == .wake ? NodePeer.pingsMax : 2 * NodePeer.pingsMax) { return }
    pings.append((nextPing, now, purpose))
    send(.ping(nextPing), now: now, &sink)
    nextPing &+= 1
  }

  var heldBytes: Int {
    framing.pending + spare.heldBytes + pending.reduce(planned?.block.heldBytes ?? 0) { $0 + $1.heldBytes }
      + waiting.capacity * MemoryLayout<InventoryItem>.stride
      + requested.capacity * (MemoryLayout<Hash256>.stride + MemoryLayout<Instant>.stride + 1)
  }

  /// The connection is gone: all that belonged to it goes too; what was measured stays.
  mutating func reset(retryAt: Instant) {
    phase = .waiting(until: retryAt)
    framing = MessageStream(network: network)
    isCut = false
    isAsking = false
    told = []
    theirs = nil
    relaysByWtxid = false
    compactVersion = nil
    selectedUs = false
    feeFilter = nil
    isDownloading = false
    bytesReceived = 0
    pings = []
    headersSynced = false
    tip = nil
    mempoolListed = false
    mempoolAsked = .zero
    requested = [:]
    waiting = []
    waitingStart = 0
    listedCount = 0
    learnedCount = 0
    ranksSoon = false
    nextReconciliation = .never
    lastShort = -1
    shortLists = 0
    pending = []
    deliveries = []
    owed = []
    has = RecentHashes()
  }
}

/// So many of something in so long.
struct RateLimit {
  let most: Int
  let per: Interval
  private var since = Instant.zero
  private var count = 0

  init(most: Int, per: Interval) { (self.most, self.per) = (most, per) }

  /// Counts one more.
  mutating func allows(now: Instant) -> Bool {
    if now - since >= per { (since, count) = (now, 0) }
    count += 1
    return count <= most
  }
}

/// The last few block hashes of some kind.
struct RecentHashes {
  static let capacity = 64
  private var hashes: [Hash256] = []

  func contains(_ hash: Hash256) -> Bool { hashes.contains(hash) }

  /// True when it is new.
  @discardableResult
  mutating func insert(_ hash: Hash256) -> Bool {
    if hashes.contains(hash) { return false }
    if hashes.count == RecentHashes.capacity { hashes.removeFirst() }
    hashes.append(hash)
    return true
  }
}
