import Bitcoin
import Foundation
import Ground
import Mempool
import NodeBridge
import Synchronization
import Uring

/// What a site tells the test and what the test tells it; one per site, shared with its engine thread.
final class SiteLog: Sendable {
  enum Order: Sendable {
    case deliver([UInt8])
    /// Keep the block for serving without telling anyone.
    case hold([UInt8])
  }
  struct State {
    var events: [NodeEvent] = []
    var blocks: [NodeBlock] = []
    var orders: [Order] = []
    var mempool = 0
    var tip = Hash256.zero
    var height = 0
    var newTransactions = 0
  }
  private let state = Mutex(State())

  func read<R: Sendable>(_ body: (State) -> sending R) -> R { state.withLock { body($0) } }
  func write(_ body: (inout State) -> Void) { state.withLock { body(&$0) } }
  func takeOrders() -> [Order] {
    state.withLock { state in
      defer { state.orders = [] }
      return state.orders
    }
  }

  func count(_ matches: @Sendable (NodeEvent) -> Bool) -> Int { read { $0.events.count(where: matches) } }
  func first<R: Sendable>(_ pick: @Sendable (NodeEvent) -> R?) -> R? { read { $0.events.lazy.compactMap(pick).first } }
}

/// The bridge's host without a relay behind it: store, chain and complete blocks.
struct TestHost: BridgeHost, ~Copyable {
  var store: TransactionStore
  var chain: HeaderChain
  var blocks: [Hash256: (block: ParsedBlock, bytes: [UInt8])] = [:]
  let log: SiteLog

  mutating func withMempool<R>(_ body: (inout TransactionStore) -> R) -> R { body(&store) }
  mutating func withChain<R>(_ body: (inout HeaderChain) -> R) -> R { body(&chain) }
  func unixTime(at now: Instant) -> UInt32 { UInt32(time(nil)) }
  mutating func withBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    guard let found = blocks[hash] else { return nil }
    return body(found.block, found.bytes.span.bytes)
  }
  func hasBlock(_ hash: Hash256) -> Bool { blocks[hash] != nil }
  mutating func blockFromNode(
    _ block: consuming NodeBlock, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    blocks[block.hash] = (block.block, block.bytes)
    _ = store.confirm(0..<block.block.transactions.count, of: block.block, in: block.bytes.span.bytes)
    let copy = block
    log.write { $0.blocks.append(copy) }
  }
  mutating func headersFromNode(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let tip = chain.tip
    log.write {
      $0.tip = tip.hash
      $0.height = tip.height
    }
  }
  mutating func transactionFromNode(slot: UInt32, now: Instant) { log.write { $0.newTransactions += 1 } }
  mutating func note(_ event: NodeEvent) { log.write { $0.events.append(event) } }
}

/// A site's core: nothing but the bridge.
struct SiteCore: DatagramCore, ~Copyable {
  var bridge: NodeBridge
  var host: TestHost
  var nextDeadline: Instant { bridge.nextDeadline }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {}
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}

  mutating func streamsReady(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    let error = bridge.start(host: &host, now: now, into: &sink)
    if error != 0 { host.log.write { $0.events.append(.inboundRefused(PeerAddress(high: 0, low: 0, port: 0), "\(error)")) } }
  }
  mutating func streamsTurn(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    for order in host.log.takeOrders() {
      let (bytes, isDelivered): ([UInt8], Bool) =
        switch order {
        case .deliver(let bytes): (bytes, true)
        case .hold(let bytes): (bytes, false)
        }
      guard var block = try? ParsedBlock(parsing: bytes.span.bytes) else { continue }
      block.hashAll(in: bytes.span.bytes)
      host.blocks[block.hash] = (block, bytes)
      if isDelivered {
        _ = try? host.chain.accept(block.header, now: UInt32(time(nil)))
        bridge.deliver(block.hash, host: &host, now: now, into: &sink)
        _ = host.store.confirm(0..<block.transactions.count, of: block, in: bytes.span.bytes)
      }
    }
    bridge.tick(host: &host, now: now, into: &sink)
    let mempool = host.store.counts(.node).transactions
    host.log.write { $0.mempool = mempool }
  }
  mutating func streamOpened(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) { bridge.opened(stream, host: &host, now: now, into: &sink) }
  mutating func streamAccepted(
    from peer: PeerAddress, on local: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) -> StreamID? { bridge.accepted(from: peer, host: &host, now: now) }
  mutating func streamReceived(
    _ bytes: RawSpan, on stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) { bridge.received(bytes, on: stream, host: &host, now: now, into: &sink) }
  mutating func streamClosed(
    _ stream: StreamID, error: Int32, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) { bridge.closed(stream, error: error, host: &host, now: now) }
}

/// A running site.
final class Site {
  let log = SiteLog()
  private let thread: EngineThread

  init(network: Network, nodes: [NodeConfiguration], listen: PeerAddress? = nil, inboundMax: Int = 8) throws {
    let log = log
    let configuration = BridgeConfiguration(
      network: network, nodes: nodes, listen: listen, inboundMax: inboundMax, nonce: UInt64.random(in: 1...(.max)))
    thread = try EngineThread.start(EngineConfiguration(listen: [PeerAddress("127.0.0.1:0")!])) { _ in
      SiteCore(
        bridge: NodeBridge(configuration),
        host: TestHost(
          store: TransactionStore(seed: 7), chain: HeaderChain(network: network), log: log))
    }
  }

  func order(_ order: SiteLog.Order) {
    log.write { $0.orders.append(order) }
    thread.handle.waker.signal()
  }
  func stop() { thread.stop() }
}

func eventually(seconds: Double = 15, _ condition: () -> Bool) -> Bool {
  let end = Date(timeIntervalSinceNow: seconds)
  while !condition() {
    if Date() > end { return false }
    usleep(2_000)
  }
  return true
}
