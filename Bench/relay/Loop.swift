import Bitcoin
import Ground
import Harness
import Mempool
import Relay
import Session

/// Relays joined in memory without delay: sessions come up under a virtual clock, then the bench holds the real clock
/// against single calls.
final class Loop {
  struct Datagram {
    var from: Int
    var bytes: [UInt8]
    var at: Instant
  }

  let count: Int
  let cores: UnsafeMutablePointer<RelayCore>
  let sinks: UnsafeMutablePointer<LoopSink>
  var now = Instant(nanoseconds: 1_000_000_000)
  /// Datagrams on their way to each relay.
  var queues: [[Datagram]]
  var verified: [Bool]
  var lastNeeded: [Bool]

  /// `links[a]` lists the neighbours of relay a.
  init(_ links: [[Int]], block: [UInt8], height: Int) throws {
    count = links.count
    queues = Array(repeating: [], count: count)
    verified = Array(repeating: false, count: count)
    lastNeeded = verified
    cores = .allocate(capacity: count)
    sinks = .allocate(capacity: count)
    let header = try BlockHeader(parsing: block.span.bytes)
    let identities = (0..<count).map { Identity(generatedFrom: .predictable(seed: 100 + UInt64($0))) }
    let overlay = OverlaySecret(generatedFrom: .predictable(seed: 1))
    for node in 0..<count {
      (sinks + node).initialize(to: LoopSink())
      var configuration = RelayConfiguration(
        identity: identities[node], overlay: overlay,
        links: links[node].map { peer in
          RelayLink(
            id: LinkID(UInt16(peer)), peer: identities[peer].publicKey, address: Loop.address(peer),
            expectedDelay: .milliseconds(10 as Int64))
        },
        network: .mainnet,
        anchor: HeaderChain.Anchor(
          hash: header.previous, height: height - 1, bits: header.bits, time: header.time - 600,
          medianTimePast: header.time - 3_600),
        unixNanosecondsAtZero: Int64(header.time) * 1_000_000_000, randomness: .predictable(seed: 7 + UInt64(node)),
        seed: UInt64(node))
      configuration.relays = identities.map(\.publicKey)
      configuration.store = StoreLimits(nodeCount: 20_000, nodeBytes: 32 << 20, nodeInputs: 100_000)
      (cores + node).initialize(to: RelayCore(configuration))
    }
    for node in 0..<count { call(node) { core, sink, now in core.start(now: now, into: &sink) } }
  }

  deinit {
    cores.deinitialize(count: count)
    sinks.deinitialize(count: count)
    cores.deallocate()
    sinks.deallocate()
  }

  static func address(_ node: Int) -> PeerAddress { PeerAddress(ipv4: 10, 0, 0, UInt8(node), port: 8_000) }

  func call<R>(_ node: Int, _ body: (inout RelayCore, inout LoopSink, Instant) throws -> R) rethrows -> R {
    defer {
      drain(node)
      for (to, bytes, at) in sinks[node].sent { queues[to].append(Datagram(from: node, bytes: bytes, at: at)) }
      sinks[node].sent.removeAll(keepingCapacity: true)
    }
    return try body(&cores[node], &sinks[node], now)
  }

  func drain(_ node: Int) {
    while let event = cores[node].nextEvent() {
      if event.kind == .verified { verified[node] = true }
      if event.kind == .lastNeeded { lastNeeded[node] = true }
    }
  }

  func deliver(_ datagram: Datagram, to node: Int) {
    var bytes = datagram.bytes
    call(node) { core, sink, now in
      bytes.withUnsafeMutableBytes { buffer in
        var span = MutableRawSpan(_unsafeBytes: buffer)
        core.receive(&span, from: Loop.address(datagram.from), arrival: now, now: now, into: &sink)
      }
      core.batchEnded(now: now, into: &sink)
    }
  }

  /// Everything that is under way, and all timers, for so much virtual time.
  func run(_ time: Interval) {
    let end = now + time
    while now < end {
      var isQuiet = true
      for node in 0..<count {
        let due = queues[node]
        queues[node].removeAll(keepingCapacity: true)
        for datagram in due { deliver(datagram, to: node) }
        if !due.isEmpty { isQuiet = false }
        var slices = 0
        while cores[node].nextDeadline <= now && slices < 10_000 {
          call(node) { core, sink, now in core.deadlinePassed(now: now, into: &sink) }
          isQuiet = false
          slices += 1
        }
      }
      if isQuiet { now = now + .milliseconds(5 as Int64) }
    }
  }

  /// One relay's long work, to its end.
  func work(_ node: Int) {
    while cores[node].nextDeadline <= now {
      call(node) { core, sink, now in core.deadlinePassed(now: now, into: &sink) }
    }
  }

  func fill(_ node: Int, _ block: ParsedBlock, _ bytes: [UInt8], missing: Double, seed: UInt64) {
    var random = SeededRandom(seed: seed)
    cores[node].withMempool { store in
      for index in 1..<block.transactions.count where !random.chance(missing) {
        _ = try? store.insert(
          block.transactions[index], in: bytes.span.bytes, txid: block.txids[index], wtxid: block.wtxids[index],
          as: .node)
      }
    }
  }
}

/// Takes datagrams into a buffer set aside before, with the real time of each; copies them out only when `keeps`.
struct LoopSink: DatagramSink, ~Copyable {
  var sent: [(Int, [UInt8], Instant)] = []
  var keeps = true
  /// Datagrams and when the first of a SKETCH's and of a CHUNK's length went out.
  var count = 0
  var firstSketch: Instant?
  var firstChunk: Instant?
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2_048, alignment: 64)
  private var addresses: [PeerAddress?] = Array(repeating: nil, count: 64)

  deinit { buffer.deallocate() }

  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {
    addresses[Int(link.index)] = address
  }
  mutating func remove(_ link: LinkID) { addresses[Int(link.index)] = nil }

  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    guard let address = addresses[Int(link.index)] else { return false }
    return reply(to: address, capacity: capacity, write)
  }

  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool {
    var span = MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: buffer[0..<min(capacity, 2_048)]))
    let written = write(&span)
    if written == 0 { return true }
    count += 1
    if written == LoopSink.sketchBytes && firstSketch == nil { firstSketch = Harness.now() }
    if written == LoopSink.chunkBytes && firstChunk == nil { firstChunk = Harness.now() }
    if keeps { sent.append((Int(address.low & 0xFF), [UInt8](buffer[0..<written]), .zero)) }
    return true
  }

  /// Sealed lengths of a SKETCH and of a full CHUNK.
  static let sketchBytes = 1_144 + 32
  static let chunkBytes = 1_172 + 32

  mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  func room(on link: LinkID) -> Int { 1 << 20 }
}
