import Bitcoin
import Foundation
import Ground
import Mempool
import NodeBridge
import Synchronization
import Uring

/// What a site tells the test and what the test tells it; one per site, shared with its engine thread.
package final class SiteLog: Sendable {
  package init() {}
  package enum Order: Sendable {
    case deliver([UInt8])
    /// The same for a block whose structure and ids are known, as they are to a relay that has just completed it.
    case relay(NodeBlock)
    /// The same before it is checked; what is handed over may be another block under its header.
    case offer(NodeBlock)
    /// What was offered is wrong.
    case mistake(Hash256)
    /// Keep the block for serving without telling anyone.
    case hold([UInt8])
    /// Forget the mempool.
    case reset
    /// Add so many made-up transactions of so many bytes to the mempool.
    case fill(count: Int, bytes: Int)
    /// As if the node had listed its mempool, these (wtxids) before all others.
    case list(first: [Hash256])
    /// From now on blocks from the node count as known already, or again don't.
    case ignoreBlocks(Bool)
  }
  package struct State {
    package var events: [NodeEvent] = []
    package var blocks: [NodeBlock] = []
    package var orders: [Order] = []
    package var mempool = 0
    /// Orders to list that were carried out.
    package var listings = 0
    /// Of the mempool's store.
    package var heldBytes = 0
    package var tip = Hash256.zero
    package var height = 0
    package var newTransactions = 0
  }
  private let state = Mutex(State())
  /// Called on the site's thread with each block from the node, before anything else is done with it.
  package let onBlock = Mutex<(@Sendable (NodeBlock) -> Void)?>(nil)

  package func read<R: Sendable>(_ body: (State) -> sending R) -> R { state.withLock { body($0) } }
  package func write(_ body: (inout State) -> Void) { state.withLock { body(&$0) } }
  package func takeOrders() -> [Order] {
    state.withLock { state in
      defer { state.orders = [] }
      return state.orders
    }
  }

  package func count(_ matches: @Sendable (NodeEvent) -> Bool) -> Int { read { $0.events.count(where: matches) } }
  package func first<R: Sendable>(_ pick: @Sendable (NodeEvent) -> R?) -> R? {
    read { $0.events.lazy.compactMap(pick).first }
  }
}

/// The bridge's host without a relay behind it: store, chain and complete blocks.
package struct TestHost: BridgeHost, ~Copyable {
  package var store: TransactionStore
  package var chain: HeaderChain
  package var blocks: [Hash256: (block: ParsedBlock, bytes: [UInt8])] = [:]
  /// Put together and not checked.
  package var assembled: [Hash256: (block: ParsedBlock, bytes: [UInt8])] = [:]
  package var ignoresBlocks = false
  /// Blocks are told before they are put together; those that were, with their coinbases, and those taken back.
  package var takesPlans = false
  package var plans: [(block: ParsedBlock, coinbase: [UInt8])] = []
  package var mistaken: [Hash256] = []
  /// Blocks that the store has not been told of yet. That is no part of their way, and in a bench, where the two sites of
  /// two machines share one, it must not take a core from a node that is at work on the same block.
  package var unconfirmed: [(block: ParsedBlock, bytes: [UInt8])] = []
  package var confirmDue = Instant.never
  /// When the last block from a node arrived here.
  package var handed = Instant.zero
  let confirmsAfter: Interval
  private var random = SeededRandom(seed: 1)
  let log: SiteLog

  package init(
    store: consuming TransactionStore, chain: HeaderChain, log: SiteLog, confirmsAfter: Interval = .zero
  ) {
    self.confirmsAfter = confirmsAfter
    self.store = store
    self.chain = chain
    self.log = log
  }

  package mutating func withMempool<R>(_ body: (inout TransactionStore) -> R) -> R { body(&store) }
  package mutating func withChain<R>(_ body: (inout HeaderChain) -> R) -> R { body(&chain) }
  package func unixTime(at now: Instant) -> UInt32 { UInt32(time(nil)) }
  package mutating func withBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    guard let found = blocks[hash] else { return nil }
    return body(found.block, found.bytes.span.bytes)
  }
  package mutating func withAssembledBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    guard let found = assembled[hash] else { return nil }
    return body(found.block, found.bytes.span.bytes)
  }
  mutating func hold(_ block: ParsedBlock, _ bytes: [UInt8], now: Instant) {
    unconfirmed.append((block, bytes))
    confirmDue = now + confirmsAfter
  }

  package mutating func confirm(now: Instant) {
    if now < confirmDue { return }
    for (block, bytes) in unconfirmed {
      _ = store.confirm(0..<block.transactions.count, of: block, in: bytes.span.bytes)
    }
    unconfirmed = []
    confirmDue = .never
  }
  package func hasBlock(_ hash: Hash256) -> Bool { ignoresBlocks || blocks[hash] != nil }

  /// Transactions that no block will hold.
  package mutating func fill(count: Int, bytes: Int) {
    for _ in 0..<count {
      var raw = ByteWriter(reserving: bytes)
      raw.integer(UInt32(2))
      raw.compactSize(1)
      raw.append(random.bytes(36))
      raw.compactSize(0)
      raw.integer(UInt32.max)
      raw.compactSize(1)
      raw.integer(UInt64(5))
      let script = [UInt8](repeating: 0x6A, count: max(1, bytes - 64))
      raw.compactSize(script.count)
      raw.append(script)
      raw.integer(UInt32(0))
      _ = try? store.insert(raw.bytes.span.bytes, as: .node)
    }
  }
  package mutating func list(first: [Hash256]) {
    let known = Set(first)
    var order = first
    store.forEachLikely(.node) { slot in
      let wtxid = store.wtxid(slot)
      if !known.contains(wtxid) { order.append(wtxid) }
      return true
    }
    store.beginReconciliation()
    for wtxid in order { _ = store.listed(wtxid: wtxid) }
    _ = store.sweep()
    log.write { $0.listings += 1 }
  }

  package mutating func blockFromNode(
    _ block: consuming NodeBlock, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    handed = SystemClock.now()
    if let told = log.onBlock.withLock({ $0 }) { told(copy block) }
    blocks[block.hash] = (block.block, block.bytes)
    hold(block.block, block.bytes, now: now)
    let copy = block
    log.write { $0.blocks.append(copy) }
  }
  package mutating func blockComing(
    _ block: borrowing ParsedBlock, coinbase: RawSpan, announced: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    if takesPlans { plans.append((copy block, coinbase.withUnsafeBytes { [UInt8]($0) })) }
    return takesPlans
  }
  package mutating func blockMistaken(_ hash: Hash256, now: Instant) { mistaken.append(hash) }
  package mutating func headersFromNode(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let tip = chain.tip
    log.write {
      $0.tip = tip.hash
      $0.height = tip.height
    }
  }
  package mutating func transactionFromNode(slot: UInt32, now: Instant) { log.write { $0.newTransactions += 1 } }
  package mutating func note(_ event: NodeEvent) { log.write { $0.events.append(event) } }
}

/// A site's core: nothing but the bridge.
package struct SiteCore: DatagramCore, ~Copyable {
  var bridge: NodeBridge
  var host: TestHost
  /// Where the bench reads how long the last hand-overs took.
  let times: SiteTimes

  package init(bridge: consuming NodeBridge, host: consuming TestHost, times: SiteTimes = SiteTimes()) {
    self.bridge = bridge
    self.host = host
    self.times = times
  }

  package var nextDeadline: Instant { min(bridge.nextDeadline, host.confirmDue) }

  package mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  package mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {}
  package mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  package mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  package mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  package mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  package mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}

  package mutating func streamsReady(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    let error = bridge.start(host: &host, now: now, into: &sink)
    if error != 0 {
      host.log.write { $0.events.append(.inboundRefused(PeerAddress(high: 0, low: 0, port: 0), "\(error)")) }
    }
  }
  package mutating func streamsTurn(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    host.confirm(now: now)
    for order in host.log.takeOrders() { carryOut(order, now: now, into: &sink) }
    bridge.tick(host: &host, now: now, into: &sink)
    let (mempool, held) = (host.store.counts(.node).transactions, host.store.heldBytes)
    host.log.write {
      $0.mempool = mempool
      $0.heldBytes = held
    }
  }

  private mutating func carryOut(
    _ order: SiteLog.Order, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    switch order {
    case .deliver(let bytes), .hold(let bytes):
      guard var block = try? ParsedBlock(parsing: bytes.span.bytes) else { return }
      block.hashAll(in: bytes.span.bytes)
      if case .deliver = order {
        deliver(block, bytes, now: now, into: &sink)
      } else {
        host.blocks[block.hash] = (block, bytes)
      }
    case .relay(let block): deliver(block.block, block.bytes, now: now, into: &sink)
    case .offer(let block):
      host.assembled[block.hash] = (block.block, block.bytes)
      _ = try? host.chain.accept(block.block.header, now: UInt32(time(nil)))
      bridge.deliverUnchecked(block.hash, host: &host, now: now, into: &sink)
    case .mistake(let hash):
      host.assembled[hash] = nil
      bridge.mistaken(hash, host: &host)
    case .reset: host.store = TransactionStore(seed: 7)
    case .fill(let count, let bytes): host.fill(count: count, bytes: bytes)
    case .list(let first): host.list(first: first)
    case .ignoreBlocks(let ignores): host.ignoresBlocks = ignores
    }
  }

  private mutating func deliver(
    _ block: ParsedBlock, _ bytes: [UInt8], now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    host.blocks[block.hash] = (block, bytes)
    host.assembled[block.hash] = nil
    _ = try? host.chain.accept(block.header, now: UInt32(time(nil)))
    let start = SystemClock.now()
    bridge.deliver(block.hash, host: &host, now: now, into: &sink)
    times.completed.store(Int(start.nanoseconds), ordering: .releasing)
    times.written.store(Int(SystemClock.now().nanoseconds), ordering: .releasing)
    host.hold(block, bytes, now: now)
  }
  package mutating func streamOpened(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) { bridge.opened(stream, host: &host, now: now, into: &sink) }
  package mutating func streamAccepted(
    from peer: PeerAddress, on local: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) -> StreamID? { bridge.accepted(from: peer, host: &host, now: now) }
  package mutating func streamReceived(
    _ bytes: RawSpan, on stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    let (start, before) = (SystemClock.now(), host.blocks.count)
    bridge.received(bytes, on: stream, host: &host, now: now, into: &sink)
    if host.blocks.count > before {
      times.read.store(Int(start.nanoseconds), ordering: .releasing)
      times.handed.store(Int(host.handed.nanoseconds), ordering: .releasing)
    }
  }
  package mutating func streamClosed(
    _ stream: StreamID, error: Int32, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) { bridge.closed(stream, error: error, host: &host, now: now) }
}

/// When the last block passed, in nanoseconds since boot: the bench's.
package final class SiteTimes: Sendable {
  /// The bytes that completed it came off the node's socket.
  package let read = Atomic<Int>(0)
  /// It was in the host's hands.
  package let handed = Atomic<Int>(0)
  /// The host had it and told the bridge to deliver it.
  package let completed = Atomic<Int>(0)
  /// The message was in the queue of the node's socket.
  package let written = Atomic<Int>(0)
  package init() {}
}

/// A running site.
package final class Site {
  package let log = SiteLog()
  package let times = SiteTimes()
  private let thread: EngineThread

  package init(
    network: Network, nodes: [NodeConfiguration], listen: PeerAddress? = nil, inboundMax: Int = 8,
    confirmsAfter: Interval = .zero, reconciliationInterval: Interval = .seconds(600)
  ) throws {
    let (log, times) = (log, times)
    let configuration = BridgeConfiguration(
      network: network, nodes: nodes, listen: listen, inboundMax: inboundMax, nonce: UInt64.random(in: 1...(.max)),
      reconciliationInterval: reconciliationInterval)
    thread = try EngineThread.start(EngineConfiguration(listen: [PeerAddress("127.0.0.1:0")!])) { _ in
      SiteCore(
        bridge: NodeBridge(configuration),
        host: TestHost(
          store: TransactionStore(seed: 7), chain: HeaderChain(network: network), log: log,
          confirmsAfter: confirmsAfter), times: times)
    }
  }

  package var waker: WakeHandle { thread.handle.waker }
  package func order(_ order: SiteLog.Order) {
    log.write { $0.orders.append(order) }
    thread.handle.waker.signal()
  }
  package func stop() { thread.stop() }
}

package func eventually(seconds: Double = 15, _ condition: () throws -> Bool) rethrows -> Bool {
  let end = Date(timeIntervalSinceNow: seconds)
  while try !condition() {
    if Date() > end { return false }
    usleep(2_000)
  }
  return true
}
