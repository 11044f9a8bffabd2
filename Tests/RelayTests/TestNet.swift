import Bitcoin
import Ground
import MemorySink
import Mempool
import RealBlocks
import Relay
import Session

/// Relays joined in memory by links with delay and loss, under a virtual clock: a few lines, so that a test can see and
/// touch every packet. (The simulator is the real thing for figures.)
final class TestNet {
  struct Packet {
    var at: Instant
    var order: Int
    var from: Int
    var to: Int
    var bytes: [UInt8]
  }

  var now = Instant(nanoseconds: 1_000_000_000)
  var random: SeededRandom
  let count: Int
  private let cores: UnsafeMutablePointer<RelayCore>
  private let sinks: UnsafeMutablePointer<MemorySink>
  private var heap: [Packet] = []
  private var order = 0
  /// One-way delay and loss of each direction.
  var delay: [[Interval]]
  var loss: [[Double]]
  /// Changes, drops (nil) or just watches datagrams.
  var filter: (TestNet, Int, Int, [UInt8]) -> [UInt8]? = { _, _, _, bytes in bytes }
  /// What is sent takes the sink's room.
  var drainsRoom = false
  /// What each direction of a link takes, in bytes a millisecond, with room for two packets; nil: any number.
  var bytesPerMillisecond: Int? { didSet { refill() } }
  private var nextRefill = Instant.zero
  private(set) var events: [[RelayEvent]]
  var datagrams: [[Int]]
  var bytes: [[Int]]
  let identities: [Identity]

  /// `links[a]` lists the neighbours of relay a; `trust(a, b)` says whether a trusts b.
  init(
    _ links: [[Int]], block: [UInt8], height: Int, delay: Interval = .milliseconds(10 as Int64), seed: UInt64 = 1,
    trust: (Int, Int) -> Bool = { _, _ in true }, configure: (Int, inout RelayConfiguration) -> Void = { _, _ in }
  ) {
    count = links.count
    random = SeededRandom(seed: seed)
    identities = (0..<links.count).map { Identity(generatedFrom: .predictable(seed: seed &* 1_000 + UInt64($0))) }
    self.delay = Array(repeating: Array(repeating: delay, count: links.count), count: links.count)
    loss = Array(repeating: Array(repeating: 0, count: links.count), count: links.count)
    events = Array(repeating: [], count: links.count)
    datagrams = Array(repeating: Array(repeating: 0, count: links.count), count: links.count)
    bytes = datagrams
    cores = .allocate(capacity: links.count)
    sinks = .allocate(capacity: links.count)
    let overlay = OverlaySecret(generatedFrom: .predictable(seed: seed))
    let header = try! BlockHeader(parsing: block.span.bytes)
    for node in 0..<links.count {
      (sinks + node).initialize(to: MemorySink())
      var configuration = RelayConfiguration(
        identity: identities[node], overlay: overlay,
        links: links[node].map { peer in
          RelayLink(
            id: LinkID(UInt16(peer)), peer: identities[peer].publicKey, address: TestNet.address(peer),
            isTrusted: trust(node, peer), expectedDelay: delay)
        },
        network: .mainnet,
        anchor: HeaderChain.Anchor(
          hash: header.previous, height: height - 1, bits: header.bits, time: header.time - 600,
          medianTimePast: header.time - 3_600),
        unixNanosecondsAtZero: Int64(header.time) * 1_000_000_000,
        randomness: .predictable(seed: seed + 77 + UInt64(node)),
        seed: seed + UInt64(node))
      configuration.relays = identities.map(\.publicKey)
      configuration.store = StoreLimits(nodeCount: 20_000, nodeBytes: 32 << 20, nodeInputs: 100_000)
      configure(node, &configuration)
      (cores + node).initialize(to: RelayCore(configuration))
    }
  }

  /// Relays on regtest that know nothing of `chain` yet.
  convenience init(
    _ links: [[Int]], on chain: Regtest, delay: Interval = .milliseconds(10 as Int64), seed: UInt64 = 1,
    trust: (Int, Int) -> Bool = { _, _ in true }, configure: (Int, inout RelayConfiguration) -> Void = { _, _ in }
  ) {
    self.init(links, block: chain.blocks[0].bytes, height: 1, delay: delay, seed: seed, trust: trust) {
      $1.network = .regtest
      $1.anchor = nil
      $1.unixNanosecondsAtZero = Int64(chain.time) * 1_000_000_000
      configure($0, &$1)
    }
  }

  deinit {
    cores.deinitialize(count: count)
    sinks.deinitialize(count: count)
    cores.deallocate()
    sinks.deallocate()
  }

  static func address(_ node: Int) -> PeerAddress { PeerAddress(ipv4: 10, 0, 0, UInt8(node), port: 8_000) }
  static func node(_ address: PeerAddress) -> Int { Int(address.low & 0xFF) }

  /// Calls into a relay, then takes its events and packets.
  func with<R>(_ node: Int, _ body: (inout RelayCore, inout MemorySink, Instant) throws -> R) rethrows -> R {
    defer { collect(node) }
    return try body(&cores[node], &sinks[node], now)
  }

  private func collect(_ node: Int) {
    while let event = cores[node].nextEvent() { events[node].append(event) }
    let sent = sinks[node].sent
    sinks[node].sent.removeAll(keepingCapacity: true)
    for (address, bytes) in sent {
      let to = TestNet.node(address)
      datagrams[node][to] += 1
      self.bytes[node][to] += bytes.count
      if drainsRoom { sinks[node].room -= bytes.count }
      guard let bytes = filter(self, node, to, bytes) else { continue }
      if random.chance(loss[node][to]) { continue }
      order += 1
      push(Packet(at: now + delay[node][to], order: order, from: node, to: to, bytes: bytes))
    }
  }

  private func refill() {
    guard let rate = bytesPerMillisecond else { return }
    nextRefill = now + .milliseconds(1 as Int64)
    for node in 0..<count {
      for peer in sinks[node].addresses.keys {
        let full = max(rate, 2_408)
        sinks[node].rooms[peer] = min((sinks[node].rooms[peer] ?? full) + rate, full)
        with(node) { core, sink, now in core.roomAvailable(on: peer, now: now, into: &sink) }
      }
    }
  }

  /// A neighbour says this, as if it had sealed it.
  func hear(_ node: Int, from link: Int, _ bytes: [UInt8]) {
    with(node) { core, sink, now in
      core.receivePlaintext(bytes.span.bytes, from: LinkID(UInt16(link)), now: now, into: &sink)
      core.batchEnded(now: now, into: &sink)
    }
  }

  /// A datagram that the test kept, on its way again.
  func inject(_ bytes: [UInt8], from: Int, to: Int) {
    order += 1
    push(Packet(at: now + delay[from][to], order: order, from: from, to: to, bytes: bytes))
  }

  private func push(_ packet: Packet) {
    // Binary insertion from the end: packets come nearly in order.
    var low = 0
    var high = heap.count
    while low < high {
      let middle = (low + high) / 2
      let other = heap[middle]
      if (other.at, other.order) > (packet.at, packet.order) { low = middle + 1 } else { high = middle }
    }
    heap.insert(packet, at: low)
  }

  func start() {
    for node in 0..<count { with(node) { core, sink, now in core.start(now: now, into: &sink) } }
  }

  /// Runs until `until` holds or `limit` of virtual time has passed; true in the first case.
  @discardableResult
  func run(_ limit: Interval, until: () -> Bool = { false }) -> Bool {
    let end = now + limit
    while !until() {
      var next = heap.last?.at ?? .never
      var who = -1
      for node in 0..<count where cores[node].nextDeadline < next {
        next = cores[node].nextDeadline
        who = node
      }
      if bytesPerMillisecond != nil && nextRefill <= min(next, end) {
        now = max(now, nextRefill)
        refill()
        continue
      }
      if next > end {
        now = end
        return until()
      }
      now = max(now, next)
      if who >= 0 {
        // A core with work to do takes 50 µs of virtual time for a slice.
        if cores[who].nextDeadline < now { now = now + .microseconds(50) }
        with(who) { core, sink, now in core.deadlinePassed(now: now, into: &sink) }
        continue
      }
      var packet = heap.removeLast()
      with(packet.to) { core, sink, now in
        packet.bytes.withUnsafeMutableBytes { bytes in
          var span = MutableRawSpan(_unsafeBytes: bytes)
          core.receive(&span, from: TestNet.address(packet.from), arrival: now, now: now, into: &sink)
        }
        core.batchEnded(now: now, into: &sink)
      }
    }
    return true
  }

  func events(_ node: Int, _ kind: RelayEvent.Kind) -> [RelayEvent] { events[node].filter { $0.kind == kind } }
  func isComplete(_ node: Int, _ hash: Hash256) -> Bool {
    with(node) { core, _, _ in core.report(of: hash)?.isComplete ?? false }
  }

  /// Fills a relay's mempool with the block's transactions but for a share.
  func fill(_ node: Int, _ block: ParsedBlock, _ bytes: [UInt8], missing: Double) {
    var random = random.fork()
    with(node) { core, _, _ in
      core.withMempool { store in
        for index in 1..<block.transactions.count where !random.chance(missing) {
          _ = try? store.insert(
            block.transactions[index], in: bytes.span.bytes, txid: block.txids[index], wtxid: block.wtxids[index],
            as: .node)
        }
      }
    }
  }
}

extension TestNet {
  /// Sessions up, mempools filled, the block in at relay 0.
  func begin(_ block: TestBlock, missing: Double = 0.01, cold: Set<Int> = []) throws {
    start()
    for node in 0..<count where !cold.contains(node) { fill(node, block.parsed, block.bytes, missing: missing) }
    run(.seconds(4))
    try submit(block)
  }

  func submit(_ block: TestBlock, at node: Int = 0) throws {
    try with(node) { core, sink, now in
      _ = try core.submit(
        block.bytes.span.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
  }

  func key(_ node: Int) -> UInt32 { key4(of: identities[node].publicKey) }

  /// What a relay holds of a class.
  func held(_ node: Int, _ kind: TransactionClass) -> Int {
    with(node) { core, _, _ in core.withMempool { $0.counts(kind).transactions } }
  }

  /// A relay's node learns a transaction, as the bridge tells it.
  func learn(_ node: Int, _ index: Int, of block: TestBlock) throws {
    try with(node) { core, _, now in
      let handle = try core.withMempool { store in
        Result {
          try store.insert(
            block.parsed.transactions[index], in: block.bytes.span.bytes, txid: block.parsed.txids[index],
            wtxid: block.parsed.wtxids[index], as: .node
          ).handle
        }
      }.get()
      core.announce(handle!, now: now)
    }
  }

  func kind(_ node: Int, _ wtxid: Hash256) -> TransactionClass? {
    with(node) { core, _, _ in core.withMempool { store in store.slot(wtxid: wtxid).map { store.kind($0) } } }
  }

  func allComplete(_ block: TestBlock, but: Set<Int> = []) -> Bool {
    (0..<count).allSatisfy { but.contains($0) || isComplete($0, block.hash) }
  }

  func holds(_ node: Int, _ block: TestBlock) -> Bool {
    with(node) { core, _, _ in
      core.withBlock(block.hash) { bytes, _ in bytes.withUnsafeBytes { $0.elementsEqual(block.bytes) } }
    } == true
  }

  func report(_ node: Int, _ block: TestBlock) -> BlockReport {
    with(node) { core, _, _ in core.report(of: block.hash)! }
  }
}
