import Bitcoin
import Ground

/// The bridge between a relay and its site's nodes. Sans-IO: the daemon routes the streams numbered
/// `configuration.firstStream ..< firstStream + streamCount` here.
///
/// It learns of blocks from nodes (`BridgeHost.blockFromNode`), mirrors the first node's mempool into the host's store,
/// hands complete blocks to nodes (`deliver`) and lets other local nodes connect to it.
public struct NodeBridge: ~Copyable {
  public let configuration: BridgeConfiguration
  var nodes: [NodePeer]
  /// By stream number less the first inbound one.
  var inbound: [InboundPeer?]

  public init(_ configuration: BridgeConfiguration) {
    precondition(configuration.nodes.count + configuration.inboundMax <= 1_000)
    self.configuration = configuration
    nodes = configuration.nodes.enumerated().map { index, node in
      NodePeer(
        index: index, stream: StreamID(configuration.firstStream + UInt16(index)), network: configuration.network,
        configuration: node)
    }
    inbound = Array(repeating: nil, count: configuration.inboundMax)
  }

  /// Stream numbers used.
  public var streamCount: Int { nodes.count + inbound.count }

  /// Begins listening, if configured, and connecting. Returns the errno of a failed listen, else 0.
  public mutating func start(
    host: inout some BridgeHost & ~Copyable, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) -> Int32 {
    let error = configuration.listen.map { sink.listen(on: $0, backlog: 16) } ?? 0
    tick(host: &host, now: now, into: &sink)
    return error
  }

  /// When `tick` is due.
  public var nextDeadline: Instant {
    var due = Instant.never
    for node in nodes { due = min(due, node.deadline) }
    for case let peer? in inbound { due = min(due, peer.deadline) }
    return due
  }

  public mutating func tick(
    host: inout some BridgeHost & ~Copyable, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    for index in nodes.indices where nodes[index].deadline <= now {
      nodes[index].putTogether(host: &host, now: now, &sink)
      nodes[index].tick(host: &host, now: now, &sink)
    }
    for case let peer? in inbound where peer.deadline <= now { sink.close(peer.stream) }
  }

  // MARK: Streams

  public mutating func opened(
    _ stream: StreamID, host: inout some BridgeHost & ~Copyable, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    guard let index = nodeIndex(stream) else { return }
    nodes[index].opened(
      nonce: configuration.nonce, userAgent: configuration.userAgent, host: &host, now: now, &sink)
  }

  /// A connection came in: the number it shall have, or nil to refuse it.
  public mutating func accepted(
    from peer: PeerAddress, host: inout some BridgeHost & ~Copyable, now: Instant
  ) -> StreamID? {
    guard let free = inbound.firstIndex(where: { $0 == nil }) else {
      host.note(.inboundRefused(peer, "all \(inbound.count) places are taken"))
      return nil
    }
    let stream = StreamID(configuration.firstStream + UInt16(nodes.count + free))
    inbound[free] = InboundPeer(stream: stream, address: peer, network: configuration.network, now: now)
    return stream
  }

  public mutating func received(
    _ bytes: RawSpan, on stream: StreamID, host: inout some BridgeHost & ~Copyable, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    if let index = nodeIndex(stream) {
      nodes[index].received(
        bytes, reconcileIn: configuration.reconciliationInterval, host: &host, now: now, &sink)
    } else if let index = inboundIndex(stream), inbound[index] != nil {
      let reason = inbound[index]!.received(
        bytes, nonce: configuration.nonce, userAgent: configuration.userAgent, host: &host, now: now, &sink)
      if let reason {
        host.note(.inboundRefused(inbound[index]!.address, reason))
        sink.close(stream)
      }
    }
  }

  public mutating func closed(
    _ stream: StreamID, error: Int32, host: inout some BridgeHost & ~Copyable, now: Instant
  ) {
    if let index = nodeIndex(stream) {
      nodes[index].closed(error: error, host: &host, now: now)
    } else if let index = inboundIndex(stream) {
      inbound[index] = nil
    }
  }

  // MARK: Blocks

  /// Hands a complete, checked block that `host` holds to every node and inbound peer that lacks it. Call it before the
  /// block's transactions leave the store's class `node`: what the node lacks is read from there.
  public mutating func deliver(
    _ hash: Hash256, host: inout some BridgeHost & ~Copyable, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    // The structure is held by reference; the bytes stay where the host has them.
    guard let block = host.withBlock(hash, { block, _ in copy block }) else { return }
    for index in nodes.indices { nodes[index].deliver(hash, block, isChecked: true, host: &host, now: now, &sink) }
    for index in inbound.indices where inbound[index] != nil {
      inbound[index]!.announce(hash, block, host: &host, &sink)
    }
  }

  /// Hands complete blocks to a node that has come back without them, the lowest first, each after the one before;
  /// what `deliver` brings meanwhile comes behind them. At most 32 wait.
  public mutating func deliver(
    _ hashes: [Hash256], to node: Int, host: inout some BridgeHost & ~Copyable, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    guard nodes[node].isLocal, nodes[node].isReady else { return }
    nodes[node].owe(hashes, host: &host)
    nodes[node].deliverOwed(host: &host, now: now, &sink)
  }

  /// Hands a block that `host` has put together and still checks to every node that takes such a one: as a compact block,
  /// which a node checks itself. `deliver` follows, or `mistaken` and later `deliver`.
  public mutating func deliverUnchecked(
    _ hash: Hash256, host: inout some BridgeHost & ~Copyable, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    guard let block = host.withAssembledBlock(hash, { block, _ in copy block }) else { return }
    for index in nodes.indices { nodes[index].deliver(hash, block, isChecked: false, host: &host, now: now, &sink) }
  }

  /// The block of `deliverUnchecked` failed its checks.
  public mutating func mistaken(_ hash: Hash256, host: inout some BridgeHost & ~Copyable) {
    for index in nodes.indices { nodes[index].mistaken(hash, host: &host) }
  }

  // MARK: What `status` shows

  public struct NodeStatus: Sendable {
    public var name: String
    public var isReady: Bool
    public var userAgent: String
    public var selectedUs: Bool
    public var roundTrip: Interval?
    public var mempoolListed: Bool
    public var requested: Int
    public var tip: Hash256?
  }

  public var status: [NodeStatus] {
    nodes.map { node in
      NodeStatus(
        name: node.configuration.name, isReady: node.isReady,
        userAgent: node.theirs.map { String(decoding: $0.userAgent, as: UTF8.self) } ?? "", selectedUs: node.selectedUs,
        roundTrip: node.roundTrip, mempoolListed: node.mempoolListed,
        requested: node.requested.count + node.waiting.count - node.waitingStart, tip: node.tip)
    }
  }

  /// Bytes kept for connections: messages in arrival, blocks that are not whole, requests, the next block's memory. The
  /// mempool and complete blocks are the host's.
  public var heldBytes: Int {
    nodes.reduce(0) { $0 + $1.heldBytes } + inbound.reduce(0) { $0 + ($1?.framing.pending ?? 0) }
  }

  public var inboundCount: Int { inbound.reduce(0) { $0 + ($1 == nil ? 0 : 1) } }

  private func nodeIndex(_ stream: StreamID) -> Int? {
    let index = Int(stream.index) - Int(configuration.firstStream)
    return nodes.indices.contains(index) ? index : nil
  }

  private func inboundIndex(_ stream: StreamID) -> Int? {
    let index = Int(stream.index) - Int(configuration.firstStream) - nodes.count
    return inbound.indices.contains(index) ? index : nil
  }
}
