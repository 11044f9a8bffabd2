import Bitcoin
import ErasureCode
import Ground
import Mempool
import Session
import Wire

/// The relay: blocks in, datagrams out. A deterministic state machine owned by one thread (`DatagramCore`); PROTOCOL.md
/// is what it says to its neighbours, README.md how to drive it.
///
/// It holds everything in tables of fixed size. A packet that is forwarded is opened once, copied into the block's log
/// once, and sealed for each neighbour straight from there; nothing is allocated or reference-counted for it.
public struct RelayCore: ~Copyable {
  public let configuration: RelayConfiguration
  /// key4 of this relay.
  public let ownKey: UInt32
  public internal(set) var counters = RelayCounters()
  /// The wall clock at `Instant.zero`: `RelayConfiguration`'s, then as `setWallClock` said.
  var unixNanosecondsAtZero: Int64
  /// Of the last MAP about a neighbour, before it is cut to 32 bits.
  var mapSequence: Int64 = 0
  /// Every relay of the overlay: `RelayConfiguration.relays`, then as `updateLinks` said.
  var relays: [PublicKey]
  /// The known headers; fed by `submitHeaders`, by peers and by announcements.
  public internal(set) var chain: HeaderChain

  var sessions: SessionTable
  var store: TransactionStore
  let links: UnsafeMutablePointer<LinkState>
  let blocks: BlockTable
  var pool: ChunkPool
  var pen = Pen()
  var turns = AnnouncementTurns()
  var events: EventRing
  var controller: RedundancyController
  /// Links with a session.
  var upLinks = LinkSet.none
  /// Who is cut through to and from.
  var ledger = TrustLedger()
  /// The overlay's links, as everyone states them.
  var map: OverlayMap
  var catchUp = CatchUp()
  var transactions: TransactionRelay
  /// The best block that is complete here or at the node; told in STATUS.
  var bestHere: Hash256?
  /// Blocks that the node has said to have.
  var nodeHas = RecentHashes(capacity: 256)
  /// The network's first block, which nobody needs to send.
  let genesis: Hash256
  /// The packet that lies ready in `template`: which block, object and chunk.
  var templateSerial: UInt64 = 0
  var templateObject = -1
  var templateIndex: UInt32 = 0
  var templateMaker: UInt32 = 0
  var templateIsOwn = false
  var journeys: [(LinkID, [UInt8])] = []
  /// Journeys that wait until nothing of a block is due to a neighbour; for whom each still is.
  var journeysOut: [(records: [UInt8], to: LinkSet)] = []
  var nextBackground = Instant.never
  /// Blames that wait for their block; at most 64.
  var blames: [PendingBlame] = []
  /// What is lost on the way here, link by link.
  let meters: UnsafeMutablePointer<LossMeter>
  var nextStatus = Instant.zero
  var statusRows: [StatusRow] = []
  /// What short ids are keyed with, by epoch.
  var epochSecrets: [(epoch: UInt32, secret: [UInt8])] = []
  /// Of sketches made here.
  var sketchEpoch: UInt32 = 0
  /// As the owner says; nil: by whether the store holds anything.
  var statedReadiness: Readiness?
  /// The store was of no use for the last block: cold until it holds so many of the node's transactions.
  var coldBelow: Int?
  /// Hashes of blocks that were complete here, the last 256, so that a late packet of one long gone starts nothing.
  var done = RecentHashes(capacity: 256)
  var serial: UInt64 = 0
  /// Blocks (slots) whose need is to be looked at when the batch ends.
  var touched: UInt64 = 0
  /// Blocks (slots) with more of a sketch than was worked on: begun when nothing has arrived, never between a packet and
  /// its forwarding.
  var aheadDue: UInt64 = 0
  /// Slices of long work are due.
  var workDue = false
  /// Neighbours that a pass over the links left with something to send.
  var pumpAgain = LinkSet.none
  var isIndexReady = false
  /// While it is ahead, work that nobody waits for is left for later: a block is just complete, and its node reads it, or
  /// its neighbours get it.
  var quietEnds = Instant.never
  /// The last HAVE for a block that is gone: not repeated within a round trip.
  var lastAnswer = (hash: Hash256.zero, link: RelayEvent.noLink, at: Instant.zero)
  /// The earliest of all timers but the session's.
  var timer = Instant.never
  var nextTick = Instant.never
  /// The parent for whose child the mempool's index is (being) made.
  var indexedParent = Hash256.zero
  let scratch: UnsafeMutableRawPointer
  static let scratchBytes = 4_096
  var matchSlots: [UInt32] = []
  var matchIDs: [UInt64] = []
  /// Store slots of a run of matches that are told together.
  var runEntries: [UInt32] = []
  var decoders = DecoderPool()

  public init(_ configuration: RelayConfiguration) {
    self.configuration = configuration
    unixNanosecondsAtZero = configuration.unixNanosecondsAtZero
    ownKey = key4(of: configuration.identity.publicKey)
    genesis = configuration.network.genesis.hash
    relays = configuration.relays
    if let anchor = configuration.anchor {
      chain = HeaderChain(network: configuration.network, anchor: anchor)
    } else {
      chain = HeaderChain(network: configuration.network)
    }
    sessions = SessionTable(
      identity: configuration.identity, network: configuration.network.name, overlay: configuration.overlay,
      offer: configuration.offer, capacity: LinkSet.capacity, settings: configuration.session,
      random: configuration.randomness)
    store = TransactionStore(
      limits: configuration.store, seed: configuration.seed, shortIDBits: configuration.shortIDBits)
    transactions = TransactionRelay(epoch: 0, key: SipHash(k0: 0, k1: 0))
    links = .allocate(capacity: LinkSet.capacity)
    links.initialize(repeating: LinkState(), count: LinkSet.capacity)
    blocks = BlockTable(capacity: configuration.limits.blocksInHand + configuration.limits.blocksKept + 2)
    pool = ChunkPool(
      maxSlabs: max(1, configuration.limits.logBytes / (ChunkPool.cellBytes * ChunkPool.cellsPerSlab)))
    events = EventRing(capacity: configuration.limits.events)
    let others = configuration.relays.map { key4(of: $0) }
    map = OverlayMap(
      own: ownKey, relays: others, links: configuration.links.map { (link: $0.id, key: key4(of: $0.peer)) })
    controller = RedundancyController(
      RedundancyController.Configuration(receivers: max(others.count - 1, configuration.links.count, 1)))
    scratch = .allocate(byteCount: RelayCore.scratchBytes, alignment: 64)
    meters = .allocate(capacity: LinkSet.capacity)
    meters.initialize(repeating: LossMeter(), count: LinkSet.capacity)
    statusRows.reserveCapacity(LinkSet.capacity)
    deriveSecrets(configuration.overlay)
    sketchEpoch = configuration.overlay?.epochs.last ?? 0
    rekeyTransactions()
  }

  deinit {
    links.deallocate()
    scratch.deallocate()
    meters.deallocate()
  }

  @inline(__always)
  func link(_ id: LinkID) -> UnsafeMutablePointer<LinkState> {
    precondition(Int(id.index) < LinkSet.capacity)
    return links + Int(id.index)
  }

  /// Seconds since 1970 at an instant.
  func unixTime(_ now: Instant) -> UInt32 {
    let elapsed = Int64(clamping: now.nanoseconds)
    let (sum, overflow) = unixNanosecondsAtZero.addingReportingOverflow(elapsed)
    return overflow ? .max : UInt32(clamping: sum / 1_000_000_000)
  }

  @inline(__always)
  mutating func note(_ event: RelayEvent) { events.push(event) }

  // MARK: For the owner

  /// The wall clock shows this at `Instant.zero` from now on, in nanoseconds since 1970: someone has set it.
  public mutating func setWallClock(_ unixNanosecondsAtZero: Int64) {
    self.unixNanosecondsAtZero = unixNanosecondsAtZero
  }

  /// The next thing that happened, in order; nil when there is nothing more. Drain after every call into the core.
  public mutating func nextEvent() -> RelayEvent? { events.pop() }

  /// Events that were dropped because nobody drained them.
  public var eventsDropped: UInt64 { events.dropped }

  /// Lends the mempool store, which the bridge and the core share.
  public mutating func withMempool<R: ~Copyable>(_ body: (inout TransactionStore) -> R) -> R { body(&store) }

  /// Lends a complete block's serialisation; nil when it is not (any more) here.
  public func withBlock<R>(_ hash: Hash256, _ body: (RawSpan, BlockReport) -> R) -> R? {
    guard let slot = blocks.find(hash) else { return nil }
    let block = blocks[slot]
    guard block.pointee.isComplete else { return nil }
    if block.pointee.isSettled { return body(block.pointee.kept.span.bytes, block.pointee.report) }
    guard block.pointee.has(BlockState.bodySlot) else { return nil }
    return withBodyBytes(slot) { body($0, block.pointee.report) }
  }

  /// How a block came and went; nil when it is not in hand.
  public func report(of hash: Hash256) -> BlockReport? { blocks.find(hash).map { blocks[$0].pointee.report } }

  /// What the session layer counted.
  public var sessionCounters: SessionCounters { sessions.counters }

  /// Bytes held for chunks, blocks and packets: to be watched, and to be compared with the limits.
  public var heldBytes: Int { pool.bytesHeld + blocks.heldBytes }
}

/// The last few hashes, oldest overwritten.
struct RecentHashes {
  private(set) var hashes: [Hash256] = []
  private var next = 0
  private let capacity: Int

  init(capacity: Int) {
    self.capacity = capacity
    hashes.reserveCapacity(capacity)
  }

  func contains(_ hash: Hash256) -> Bool { hashes.contains(hash) }

  mutating func insert(_ hash: Hash256) {
    if contains(hash) { return }
    if hashes.count < capacity {
      hashes.append(hash)
    } else {
      hashes[next] = hash
      next = (next + 1) % capacity
    }
  }
}
