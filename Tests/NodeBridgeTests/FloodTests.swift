import Bitcoin
import BridgeSite
import Ground
import Mempool
import NodeBridge
import Testing

/// A node that floods, stalls or counts absurdly: what it costs has a bound, stated in the README, and the bridge serves
/// a sound node as before.
@Suite struct FloodTests {
  /// What the store of `Bench` may hold, with its tables.
  static let storeMost = 16 << 20
  /// One message while it arrives, eight incomplete blocks, the next block's memory, requests.
  static let bridgeMost = 4_000_100 + 8 * (4_000_100 + 65_536 * 200) + 4_000_100 + 30_000_000

  private func check(_ bench: inout Bench, _ what: String) throws {
    #expect(bench.bridge.heldBytes <= FloodTests.bridgeMost, "\(what): \(bench.bridge.heldBytes)")
    #expect(bench.host.store.heldBytes <= FloodTests.storeMost, "\(what): \(bench.host.store.heldBytes)")
    if bench.wire.closed.contains(0) {
      bench.close(0)
      bench.wire.closed = []
      bench.shakeHands()
    }
    var random = SeededRandom(seed: 99)
    let bytes = block(after: bench.host.chain, 5, &random)
    bench.receive(Framing.frame(.block, payload: bytes.span.bytes, on: .regtest))
    #expect(bench.has(try BlockHeader(parsing: bytes.span.bytes).hash), "\(what)")
  }

  /// A transaction of `bytes` that spends nothing known.
  private func transaction(_ bytes: Int, _ random: inout SeededRandom) -> [UInt8] {
    var raw = ByteWriter(reserving: bytes + 70)
    raw.append([2, 0, 0, 0, 1] + random.bytes(36) + [0, 255, 255, 255, 255, 1, 5, 0, 0, 0, 0, 0, 0, 0])
    raw.compactSize(bytes)
    raw.append([UInt8](repeating: 0x6A, count: bytes))
    raw.integer(UInt32(0))
    return raw.bytes
  }

  @Test func transactionsWithoutEnd() throws {
    var random = SeededRandom(seed: 1)
    var bench = Bench()
    bench.shakeHands()
    for _ in 0..<4_000 { bench.receive(.tx(transaction(3_000, &random))) }
    let counts = bench.host.store.counts(.node)
    #expect(counts.transactions > 1_000 && counts.transactions <= 2_000 && counts.bytes <= 4 << 20)
    try check(&bench, "transactions")
  }

  /// It tells of ever new blocks and never gives what is missing of them.
  @Test func blocksWithoutEnd() throws {
    var random = SeededRandom(seed: 2)
    var bench = Bench()
    bench.shakeHands()
    for _ in 0..<40 {
      // Mostly prefilled, 1.9 MB each, and one transaction that isn't there.
      var builder = BlockBuilder(on: bench.host.chain.tip)
      builder.extraNonce = random.next()
      for _ in 0..<20 { try builder.append(transaction(95_000, &random).span.bytes) }
      let bytes = builder.build()
      var parsed = try ParsedBlock(parsing: bytes.span.bytes)
      parsed.hashAll(in: bytes.span.bytes)
      var compact = ByteWriter()
      CompactBlock.encode(parsed, in: bytes.span.bytes, nonce: 1, prefill: Array(0..<20), to: &compact)
      bench.receive(Framing.frame(.cmpctblock, payload: compact.bytes.span.bytes, on: .regtest))
      #expect(bench.bridge.heldBytes <= FloodTests.bridgeMost)
    }
    // Eight of them were kept, and not for long.
    #expect(bench.bridge.heldBytes > 8 * 1_800_000)
    for _ in 0..<8 {
      bench.now = bench.now + .seconds(1)
      bench.tick()
    }
    #expect(bench.bridge.heldBytes < 8_000_000)
    try check(&bench, "blocks")
  }

  @Test func headersAndInventoryWithoutEnd() throws {
    var random = SeededRandom(seed: 3)
    var bench = Bench()
    bench.shakeHands()
    var tip = bench.host.chain.tip
    for _ in 0..<10 {
      var headers: [BlockHeader] = []
      var chain = bench.host.chain
      for _ in 0..<2_000 {
        var builder = BlockBuilder(on: tip)
        builder.time = tip.time + 1
        headers.append(try BlockHeader(parsing: builder.build().span.bytes))
        try chain.accept(headers.last!, now: .max)
        tip = chain.tip
      }
      bench.receive(.headers(headers))
      // Blocks of which nothing else is ever heard.
      bench.receive(.inv((0..<1_000).map { _ in InventoryItem(.block, Hash256(random.bytes(32).span.bytes)) }))
      bench.receive(.notfound((0..<1_000).map { _ in InventoryItem(.wtx, Hash256(random.bytes(32).span.bytes)) }))
      bench.receive(.addr([]))
    }
    try check(&bench, "headers")
  }

  /// Pings to be answered, requests to be served: when it doesn't read the answers the connection starts over.
  @Test func whoDoesNotReadIsLeft() throws {
    var bench = Bench()
    bench.shakeHands()
    for nonce in 0..<10_000 { bench.receive(.ping(UInt64(nonce))) }
    #expect(bench.wire.closed.isEmpty)
    bench.wire.takes = false
    bench.receive(.ping(1))
    #expect(bench.wire.closed == [0])
    bench.wire.takes = true
    try check(&bench, "pings")
  }

  /// Counts that no message could hold, in frames that are sound: named, without memory for what isn't there.
  @Test(arguments: [
    Command.inv, .headers, .cmpctblock, .blocktxn, .getdata, .tx, .block, .getheaders, .notfound,
  ])
  func absurdCounts(_ command: Command) throws {
    let name = command.description
    var bench = Bench()
    bench.shakeHands()
    let header = [UInt8](repeating: 1, count: 80)
    let before: [String: [UInt8]] = [
      "cmpctblock": header + [UInt8](repeating: 2, count: 8), "blocktxn": [UInt8](repeating: 3, count: 32),
      "block": header, "tx": [2, 0, 0, 0], "getheaders": [1, 0, 0, 0],
    ]
    for count: [UInt8] in [
      [0xFE, 0xFF, 0xFF, 0xFF, 0xFF], [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
      [0xFF] + [UInt8](repeating: 0xFF, count: 8), [0xFE, 0x01, 0x00, 0x01, 0x00],
    ] {
      let payload = (before[name] ?? []) + count + [UInt8](repeating: 0, count: 100)
      bench.receive(Framing.frame(command, payload: payload.span.bytes, on: .regtest))
    }
    #expect(bench.log.count { if case .misbehaved = $0 { true } else { false } } == 4)
    #expect(bench.wire.closed.isEmpty && bench.bridge.heldBytes < 100_000)
    try check(&bench, name)
  }

  /// A message of 4 MB that never ends is all that a slow sender can have kept; one of more is refused at its header.
  @Test func messagesWithoutEnd() throws {
    var bench = Bench()
    bench.shakeHands()
    var start = Message.ping(1).framed(on: .regtest)
    start.replaceSubrange(16..<20, with: [0x00, 0x09, 0x3D, 0x00])  // 4,000,000
    bench.receive(Array(start[..<24]))
    for _ in 0..<80 { bench.receive([UInt8](repeating: 0, count: 49_999)) }
    #expect(bench.bridge.heldBytes > 3_900_000 && bench.bridge.heldBytes < 8_500_000, "\(bench.bridge.heldBytes)")
    // It says nothing more: left after two minutes.
    bench.now = bench.now + .seconds(121)
    bench.tick()
    #expect(bench.wire.closed == [0])
    bench.close(0)
    bench.wire.closed = []
    bench.shakeHands()
    start.replaceSubrange(16..<20, with: [0x01, 0x09, 0x3D, 0x00])
    bench.receive(Array(start[..<24]))
    #expect(bench.wire.closed == [0])
    try check(&bench, "messages")
  }
}
