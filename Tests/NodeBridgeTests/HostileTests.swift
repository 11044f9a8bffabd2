import Bitcoin
import BridgeSite
import Ground
import Mempool
import NodeBridge
import Testing

/// Collects what the bridge writes; streams are numbers here.
struct Wire: DatagramSink, StreamSink, ~Copyable {
  var written: [UInt16: [UInt8]] = [:]
  var closed: Set<UInt16> = []
  var connected: Set<UInt16> = []
  var bytesWritten: [UInt16: Int] = [:]
  /// What `queued` says: nothing, unless a test has it that the other end doesn't read.
  var unsent = 0
  /// Whether there is room for what is written.
  var takes = true
  /// Writes for which there was none.
  var refusals = 0

  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {}
  mutating func remove(_ link: LinkID) {}
  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool { false }
  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool { false }
  mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  func room(on link: LinkID) -> Int { 0 }

  mutating func connect(_ stream: StreamID, to address: PeerAddress) -> Bool { connected.insert(stream.index).inserted }
  mutating func listen(on address: PeerAddress, backlog: Int) -> Int32 { 0 }
  mutating func write(_ stream: StreamID, count: Int, _ write: (inout MutableRawSpan) -> Void) -> Bool {
    if !takes {
      refusals += 1
      return false
    }
    var bytes = [UInt8](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes { buffer in
      var span = MutableRawSpan(_unsafeBytes: buffer)
      write(&span)
    }
    written[stream.index, default: []] += bytes
    bytesWritten[stream.index, default: 0] += count
    // Nobody reads what is written here.
    if written[stream.index]!.count > 1 << 20 { written[stream.index] = [] }
    return true
  }
  func queued(_ stream: StreamID) -> Int { unsent }
  mutating func setReading(_ stream: StreamID, _ reading: Bool) {}
  mutating func close(_ stream: StreamID) { closed.insert(stream.index) }
}

/// A bridge with one node and room for inbound peers, no sockets.
struct Bench: ~Copyable {
  var bridge: NodeBridge
  var host: TestHost
  var wire = Wire()
  var now = Instant(nanoseconds: 1_000_000_000)
  let log = SiteLog()
  let network = Network.regtest

  /// What the node calls itself.
  var userAgent = "/Satoshi:30.0.0/"

  init(_ configure: (inout NodeConfiguration) -> Void = { _ in }) {
    var node = NodeConfiguration(name: "n", address: PeerAddress(ipv4: 127, 0, 0, 1, port: 1))
    configure(&node)
    bridge = NodeBridge(
      BridgeConfiguration(
        network: .regtest, nodes: [node],
        listen: PeerAddress(ipv4: 127, 0, 0, 1, port: 2), inboundMax: 4, nonce: 99))
    host = TestHost(
      store: TransactionStore(
        limits: StoreLimits(
          nodeCount: 2_000, nodeBytes: 4 << 20, nodeInputs: 10_000, sideCount: 1_000, sideBytes: 1 << 20,
          orphanCount: 10, orphanBytes: 1 << 16), seed: 1),
      chain: HeaderChain(network: .regtest), log: log)
    _ = bridge.start(host: &host, now: now, into: &wire)
  }

  mutating func receive(_ bytes: [UInt8], on stream: UInt16 = 0) {
    now = now + .microseconds(100)
    bridge.received(bytes.span.bytes, on: StreamID(stream), host: &host, now: now, into: &wire)
  }
  mutating func receive(_ message: Message, on stream: UInt16 = 0) { receive(message.framed(on: network), on: stream) }

  func has(_ hash: Hash256) -> Bool { host.hasBlock(hash) }
  mutating func tick() { bridge.tick(host: &host, now: now, into: &wire) }
  mutating func accept() -> StreamID? {
    bridge.accepted(from: PeerAddress(ipv4: 127, 0, 0, 1, port: 9), host: &host, now: now)
  }
  mutating func close(_ stream: UInt16) { bridge.closed(StreamID(stream), error: 0, host: &host, now: now) }
  mutating func deliver(_ hash: Hash256) { bridge.deliver(hash, host: &host, now: now, into: &wire) }

  /// The host gets a block, and its header where the chain goes on.
  mutating func hold(_ bytes: [UInt8]) throws -> ParsedBlock {
    var parsed = try ParsedBlock(parsing: bytes.span.bytes)
    parsed.hashAll(in: bytes.span.bytes)
    try host.chain.accept(parsed.header, now: .max)
    host.blocks[parsed.hash] = (parsed, bytes)
    return parsed
  }

  /// The node's side of a handshake.
  mutating func shakeHands() {
    bridge.opened(StreamID(0), host: &host, now: now, into: &wire)
    receive(.version(version(5)))
    receive(.sendcmpct(SendCompact(highBandwidth: true, version: 2)))
    receive(.verack)
    receive(.feefilter(100))
    receive(.headers([]))
  }
  func version(_ nonce: UInt64) -> Version {
    Version(services: [.network, .witness], time: 0, nonce: nonce, userAgent: userAgent, startHeight: 0)
  }
}

func block(after chain: HeaderChain, _ transactions: Int, _ random: inout SeededRandom) -> [UInt8] {
  var builder = BlockBuilder(on: chain.tip)
  builder.extraNonce = random.next()
  for _ in 0..<transactions {
    var raw = ByteWriter()
    raw.integer(UInt32(2))
    raw.compactSize(1)
    raw.append(random.bytes(36))
    raw.compactSize(0)
    raw.integer(UInt32.max)
    raw.compactSize(1)
    raw.integer(UInt64(5))
    let script = random.bytes(1 + random.below(300))
    raw.compactSize(script.count)
    raw.append(script)
    raw.integer(UInt32(0))
    try! builder.append(raw.bytes.span.bytes)
  }
  return builder.build()
}

/// Framed messages, decoded.
func messages(_ bytes: [UInt8]) -> [Message] {
  var stream = MessageStream(network: .regtest)
  stream.receive(bytes.span.bytes)
  var list: [Message] = []
  while let message = try? stream.next({ command, payload in try! Message(command, payload: payload) }) {
    list.append(message)
  }
  return list
}

/// The commands of framed messages.
func commands(_ bytes: [UInt8]) -> [String] { messages(bytes).map(\.command.description) }

@Suite struct HostileTests {
  /// A mutated body is dropped; the same hash is taken when the true body comes.
  @Test func aMutatedBlockBlacklistsNothing() throws {
    var random = SeededRandom(seed: 3)
    var bench = Bench()
    bench.shakeHands()
    let good = block(after: bench.host.chain, 20, &random)
    var bad = good
    bad[good.count - 30] ^= 0x40
    let hash = try BlockHeader(parsing: good.span.bytes).hash
    bench.receive(Framing.frame(.block, payload: bad.span.bytes, on: .regtest))
    #expect(bench.has(hash) == false)
    #expect(bench.log.count { if case .misbehaved = $0 { true } else { false } } == 1)
    bench.receive(Framing.frame(.block, payload: good.span.bytes, on: .regtest))
    #expect(bench.has(hash) == true)
    #expect(bench.wire.closed.isEmpty)
  }

  /// A compact block whose transactions the mirror lacks is asked for; a wrong answer makes the bridge ask for all of it.
  @Test func wrongBlocktxnFallsBackToTheWholeBlock() throws {
    var random = SeededRandom(seed: 4)
    var bench = Bench()
    bench.shakeHands()
    let bytes = block(after: bench.host.chain, 10, &random)
    var parsed = try ParsedBlock(parsing: bytes.span.bytes)
    parsed.hashAll(in: bytes.span.bytes)
    var compact = ByteWriter()
    CompactBlock.encode(parsed, in: bytes.span.bytes, nonce: 7, to: &compact)
    bench.wire.written = [:]
    bench.receive(Framing.frame(.cmpctblock, payload: compact.bytes.span.bytes, on: .regtest))
    #expect(commands(bench.wire.written[0] ?? []).contains("getblocktxn"))
    // Right in number, wrong in kind: another block's transactions.
    let other = block(after: bench.host.chain, 10, &random)
    var otherParsed = try ParsedBlock(parsing: other.span.bytes)
    otherParsed.hashAll(in: other.span.bytes)
    var wrong = ByteWriter()
    try BlockTransactions.encode(
      BlockTransactionsRequest(block: parsed.hash, indexes: Array(1...10)), from: otherParsed, in: other.span.bytes,
      to: &wrong)
    bench.wire.written = [:]
    bench.receive(Framing.frame(.blocktxn, payload: wrong.bytes.span.bytes, on: .regtest))
    #expect(bench.has(parsed.hash) == false)
    #expect(commands(bench.wire.written[0] ?? []).contains("getdata"))
    bench.receive(Framing.frame(.block, payload: bytes.span.bytes, on: .regtest))
    #expect(bench.has(parsed.hash) == true)
  }

  /// Garbage, cut and flipped messages, absurd counts, in any state, from node and inbound peers: no crash, bounded
  /// memory, and the bridge still serves.
  @Test(arguments: 0..<24)
  func garbageNeverHarms(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    var bench = Bench()
    let whole = block(after: bench.host.chain, 8, &random)
    var parsed = try ParsedBlock(parsing: whole.span.bytes)
    parsed.hashAll(in: whole.span.bytes)
    var compact = ByteWriter()
    CompactBlock.encode(parsed, in: whole.span.bytes, nonce: 1, to: &compact)
    let hash = parsed.hash
    let samples: [Message] = [
      .version(bench.version(random.next())), .verack, .wtxidrelay, .sendaddrv2, .ping(3), .pong(1), .sendheaders,
      .inv((0..<300).map { _ in InventoryItem(.wtx, Hash256(random.bytes(32).span.bytes)) }),
      .inv([InventoryItem(.block, hash)]), .getdata([InventoryItem(.witnessBlock, hash)]),
      .notfound([InventoryItem(.block, hash)]), .headers([parsed.header]), .getheaders(GetHeaders(locator: [hash])),
      .getblocks(GetHeaders(locator: [])), .block(whole), .mempool, .feefilter(-1),
      .sendcmpct(SendCompact(highBandwidth: true, version: 2)),
      .sendcmpct(SendCompact(highBandwidth: false, version: 9)),
      .getblocktxn(BlockTransactionsRequest(block: hash, indexes: [0, 65_000])), .addr([]), .getaddr,
      .filterclear, .tx(Array(whole[81...])),
    ]
    for _ in 0..<40 {
      // A connection, perhaps shaken hands on, then a burst of rubbish.
      let inbound = bench.accept()
      let stream = random.chance(0.5) ? inbound?.index ?? 0 : 0
      if stream == 0 && random.chance(0.7) { bench.shakeHands() }
      for _ in 0..<30 {
        var bytes: [UInt8]
        switch random.below(5) {
        case 0: bytes = random.bytes(random.below(400))
        case 1: bytes = Framing.frame(.cmpctblock, payload: compact.bytes.span.bytes, on: .regtest)
        default: bytes = samples[random.below(samples.count)].framed(on: .regtest)
        }
        if random.chance(0.5), !bytes.isEmpty {
          // Inside the payload, with a checksum that fits: decoders and handlers see it.
          if bytes.count > 24 {
            for _ in 0..<1 + random.below(6) { bytes[24 + random.below(bytes.count - 24)] = UInt8(random.below(256)) }
            let sum = Framing.checksum(bytes.span.bytes.extracting(24..<bytes.count))
            withUnsafeBytes(of: sum.littleEndian) { for i in 0..<4 { bytes[20 + i] = $0[i] } }
          } else {
            bytes[random.below(bytes.count)] ^= UInt8(1 << random.below(8))
          }
        }
        if random.chance(0.2) { bytes.removeLast(random.below(bytes.count + 1)) }
        if !bytes.isEmpty { bench.receive(bytes, on: stream) }
        if random.chance(0.05) {
          bench.now = bench.now + .seconds(Int64(random.below(40)))
          bench.tick()
        }
      }
      for index in bench.wire.closed.union([0]) {
        bench.bridge.closed(StreamID(index), error: 104, host: &bench.host, now: bench.now)
      }
      if let inbound { bench.bridge.closed(inbound, error: 0, host: &bench.host, now: bench.now) }
      bench.wire.closed = []
      bench.wire.connected = []
    }
    // The bounds hold, and a well-behaved node is served as if nothing had been.
    #expect(bench.bridge.status[0].requested <= 402_000)
    #expect(bench.bridge.inboundCount == 0)
    bench.close(0)
    bench.shakeHands()
    let next = block(after: bench.host.chain, 5, &random)
    let nextHash = try BlockHeader(parsing: next.span.bytes).hash
    bench.receive(Framing.frame(.block, payload: next.span.bytes, on: .regtest))
    #expect(bench.has(nextHash) == true, "seed \(seed)")
  }

  /// Announcements without end cost a stated amount of memory and no more.
  @Test func aFloodOfInventoryIsBounded() {
    var random = SeededRandom(seed: 8)
    var bench = Bench()
    bench.shakeHands()
    for _ in 0..<20 {
      let items = (0..<50_000).map { _ in
        InventoryItem(.wtx, Hash256(w0: random.next(), w1: random.next(), w2: random.next(), w3: random.next()))
      }
      bench.receive(.inv(items))
    }
    #expect(bench.bridge.status[0].requested <= 402_000)
  }

  /// A node that stalls in the handshake, or says nothing for two minutes, is dropped.
  @Test func stallsEnd() {
    var bench = Bench()
    bench.bridge.opened(StreamID(0), host: &bench.host, now: bench.now, into: &bench.wire)
    bench.now = bench.now + .seconds(29)
    bench.tick()
    #expect(bench.wire.closed.isEmpty)
    bench.now = bench.now + .seconds(2)
    bench.tick()
    #expect(bench.wire.closed == [0])
    bench.close(0)
    bench.wire.closed = []
    bench.shakeHands()
    bench.now = bench.now + .seconds(121)
    bench.tick()
    #expect(bench.wire.closed == [0])
  }

  /// All places taken, a peer that talks before the handshake, one that floods: refused, told, and the places free again.
  @Test func inboundPeersAreBounded() {
    var bench = Bench()
    let streams = (0..<5).map { _ in bench.accept() }
    #expect(streams.compactMap { $0 }.count == 4)
    #expect(streams[4] == nil)
    bench.receive(.getheaders(GetHeaders(locator: [])), on: streams[0]!.index)
    #expect(bench.wire.closed.contains(streams[0]!.index))
    bench.receive(.version(bench.version(1)), on: streams[1]!.index)
    bench.receive(.verack, on: streams[1]!.index)
    #expect(!bench.wire.closed.contains(streams[1]!.index))
    for _ in 0..<2_100 { bench.receive(Message.ping(1).framed(on: .regtest), on: streams[1]!.index) }
    #expect(bench.wire.closed.contains(streams[1]!.index))
    // Ourselves.
    bench.receive(.version(bench.version(99)), on: streams[2]!.index)
    #expect(bench.wire.closed.contains(streams[2]!.index))
  }
}

@Suite struct BridgeToBridgeTests {
  /// One bridge connected to another over real sockets: the inbound side serves headers and blocks, and announces new
  /// ones in the form asked for.
  @Test func blocksFlowFromAnInboundPeersSide() throws {
    var random = SeededRandom(seed: 11)
    var chain = HeaderChain(network: .regtest)
    var blocks: [[UInt8]] = []
    for _ in 0..<4 {
      let bytes = block(after: chain, 30, &random)
      try chain.accept(BlockHeader(parsing: bytes.span.bytes), now: chain.tip.time + 600)
      blocks.append(bytes)
    }
    let port = UInt16.random(in: 33_000..<60_000)
    let address = PeerAddress("127.0.0.1:\(port)")!
    let server = try Site(network: .regtest, nodes: [], listen: address)
    defer { server.stop() }
    server.order(.deliver(blocks[0]))
    let client = try Site(network: .regtest, nodes: [NodeConfiguration(name: "server", address: address)])
    defer { client.stop() }
    #expect(eventually { client.log.read { $0.height } == 1 })
    for (index, bytes) in blocks.enumerated().dropFirst() {
      server.order(.deliver(bytes))
      let hash = try BlockHeader(parsing: bytes.span.bytes).hash
      #expect(eventually { client.log.read { $0.blocks.contains { $0.hash == hash } } }, "block \(index)")
    }
    #expect(client.log.read { $0.blocks.map(\.bytes) } == Array(blocks[1...]))
    // From the second on it came as a compact block, unasked.
    #expect(client.log.read { $0.blocks.last?.form } == .compactBlock)
  }
}
