import Bitcoin
import BridgeSite
import Ground
import Mempool
import NodeBridge
import Testing

/// Blocks put together from compact blocks, and what the bridge does in time.
@Suite struct BlockInTests {
  private func compact(_ bytes: [UInt8]) throws -> (ParsedBlock, frame: [UInt8]) {
    var parsed = try ParsedBlock(parsing: bytes.span.bytes)
    parsed.hashAll(in: bytes.span.bytes)
    var compact = ByteWriter()
    CompactBlock.encode(parsed, in: bytes.span.bytes, nonce: 7, to: &compact)
    return (parsed, Framing.frame(.cmpctblock, payload: compact.bytes.span.bytes, on: .regtest))
  }

  /// Whatever share of a block the mirror holds, and whether or not the memory for it has been made ready, the block
  /// that comes out is the node's, byte by byte, with its structure and ids.
  @Test(arguments: [0, 1, 7, 49, 50], [false, true])
  func aBlockComesOutWhole(missing: Int, isReady: Bool) throws {
    var random = SeededRandom(seed: UInt64(missing))
    var bench = Bench()
    bench.shakeHands()
    if isReady {
      for _ in 0..<40 {
        bench.now = bench.now + .milliseconds(20)
        bench.tick()
      }
    }
    // Twice: the second takes the memory that the first has left.
    for _ in 0..<2 {
      let bytes = block(after: bench.host.chain, 50, &random)
      let (parsed, frame) = try compact(bytes)
      let lacking = (1...50).filter { ($0 * 37) % 50 < missing }
      for index in 1...50 where !lacking.contains(index) {
        _ = try bench.host.store.insert(parsed.transactions[index].bytes(in: bytes.span.bytes), as: .node)
      }
      bench.wire.written = [:]
      bench.receive(frame)
      if missing > 0 {
        #expect(bench.has(parsed.hash) == false)
        #expect(commands(bench.wire.written[0] ?? []).contains("getblocktxn"))
        var answer = ByteWriter()
        try BlockTransactions.encode(
          BlockTransactionsRequest(block: parsed.hash, indexes: lacking), from: parsed, in: bytes.span.bytes,
          to: &answer)
        bench.receive(Framing.frame(.blocktxn, payload: answer.bytes.span.bytes, on: .regtest))
      }
      let got = try #require(bench.log.read { $0.blocks.last })
      #expect(got.bytes == bytes)
      #expect(got.block.transactions == parsed.transactions)
      #expect(got.block.txids == parsed.txids && got.block.wtxids == parsed.wtxids)
      #expect(got.block.isFullyHashed && got.block.byteCount == bytes.count)
    }
  }

  /// A bench whose mirror has a block's transactions, with that block's compact form. `isWrong`: two short ids changed
  /// places, as if they had meant each other's transactions.
  private func planned(_ bench: inout Bench, isWrong: Bool = false) throws -> (ParsedBlock, [UInt8], frame: [UInt8]) {
    var random = SeededRandom(seed: 3)
    bench.shakeHands()
    bench.host.takesPlans = true
    let bytes = block(after: bench.host.chain, 50, &random)
    let (parsed, frame) = try compact(bytes)
    for index in 1...50 {
      _ = try bench.host.store.insert(parsed.transactions[index].bytes(in: bytes.span.bytes), as: .node)
    }
    bench.wire.written = [:]
    if !isWrong { return (parsed, bytes, frame) }
    var wtxids = parsed.wtxids
    wtxids.swapAt(7, 8)
    let wrong = ParsedBlock(
      header: parsed.header, transactions: parsed.transactions, byteCount: bytes.count, txids: parsed.txids,
      wtxids: wtxids, unhashed: [])
    var writer = ByteWriter()
    CompactBlock.encode(wrong, in: bytes.span.bytes, nonce: 7, to: &writer)
    return (parsed, bytes, Framing.frame(.cmpctblock, payload: writer.bytes.span.bytes, on: .regtest))
  }

  /// The host hears what the block will be first, and has it with the next turn.
  @Test func aBlockIsToldBeforeItIsPutTogether() throws {
    var bench = Bench()
    let (parsed, bytes, frame) = try planned(&bench)
    let held = bench.bridge.heldBytes
    bench.receive(frame)
    #expect(bench.bridge.heldBytes > held)
    let plan = try #require(bench.host.plans.first)
    #expect(bench.host.plans.count == 1 && bench.has(parsed.hash) == false && bench.bridge.nextDeadline <= bench.now)
    #expect(plan.block.transactions == parsed.transactions && plan.block.wtxids == parsed.wtxids)
    #expect(plan.block.txids == parsed.txids && plan.block.isFullyHashed && plan.block.byteCount == bytes.count)
    #expect(plan.coinbase == Array(bytes[parsed.transactions[0].offset..<parsed.transactions[0].end]))
    bench.tick()
    let got = try #require(bench.log.read { $0.blocks.last })
    #expect(got.bytes == bytes && got.block.transactions == parsed.transactions && bench.host.mistaken.isEmpty)
    #expect(bench.bridge.nextDeadline > bench.now)
  }

  /// The connection goes before that: nothing of the block is lacking.
  @Test func aPlannedBlockOutlivesItsConnection() throws {
    var bench = Bench()
    let (parsed, _, frame) = try planned(&bench)
    bench.receive(frame)
    bench.close(0)
    bench.tick()
    #expect(bench.has(parsed.hash) == true)
  }

  @Test func whatTheMirrorLetGoOfIsFetched() throws {
    var bench = Bench()
    let (parsed, _, frame) = try planned(&bench)
    bench.receive(frame)
    bench.host.store = TransactionStore(seed: 7)
    bench.tick()
    #expect(bench.has(parsed.hash) == false && bench.host.mistaken.isEmpty)
    #expect(commands(bench.wire.written[0] ?? []).contains("getdata"))
  }

  @Test func aWrongRootTakesBackWhatWasTold() throws {
    var bench = Bench()
    let (parsed, bytes, frame) = try planned(&bench, isWrong: true)
    bench.receive(frame)
    #expect(bench.host.plans.count == 1 && bench.host.mistaken.isEmpty)
    bench.tick()
    #expect(bench.host.mistaken == [parsed.hash] && bench.has(parsed.hash) == false)
    #expect(commands(bench.wire.written[0] ?? []).contains("getdata"))
    bench.receive(Framing.frame(.block, payload: bytes.span.bytes, on: .regtest))
    #expect(bench.log.read { $0.blocks.last?.bytes } == bytes)
  }

  /// Short ids are cheap to send: a compact block that names more of the mirror than a block can hold copies nothing.
  @Test func aCompactBlockLargerThanABlockIsRefused() throws {
    var random = SeededRandom(seed: 5)
    var bench = Bench()
    bench.shakeHands()
    var builder = BlockBuilder(on: bench.host.chain.tip)
    for _ in 0..<42 {
      var raw = ByteWriter()
      raw.integer(UInt32(2))
      raw.compactSize(1)
      raw.append(random.bytes(36))
      raw.compactSize(0)
      raw.integer(UInt32.max)
      raw.compactSize(1)
      raw.integer(UInt64(5))
      raw.compactSize(98_000)
      raw.append([UInt8](repeating: 1, count: 98_000))
      raw.integer(UInt32(0))
      _ = try bench.host.store.insert(raw.bytes.span.bytes, as: .node)
      try builder.append(raw.bytes.span.bytes)
    }
    let (parsed, frame) = try compact(builder.build())
    #expect(parsed.byteCount > 4_000_000)
    bench.receive(frame)
    #expect(bench.has(parsed.hash) == false)
    #expect(
      bench.log.count { if case .misbehaved(_, let what) = $0 { what.contains("more bytes") } else { false } } == 1)
  }

  /// A node that reads and never answers a ping leaves the bridge a deadline that lies ahead.
  @Test func unansweredPingsDoNotSpin() {
    var bench = Bench()
    bench.shakeHands()
    for _ in 0..<400 {
      bench.now = bench.now + .milliseconds(20)
      bench.tick()
      #expect(bench.bridge.nextDeadline > bench.now)
    }
    // It speaks again: what it answers last answers all before, and pings go on.
    bench.receive(.pong(256))
    bench.wire.written = [:]
    bench.now = bench.now + .milliseconds(25)
    bench.tick()
    #expect(commands(bench.wire.written[0] ?? []) == ["ping"])
  }

  /// Nor does such a stall, when the mempool is listed again in it, end the listing for good.
  @Test func unansweredPingsDoNotEndTheListing() {
    var bench = Bench()
    bench.shakeHands()
    func listings(_ bench: borrowing Bench) -> Int {
      bench.log.count { if case .mempoolListed = $0 { true } else { false } }
    }
    func asked(_ bench: inout Bench) -> Bool {
      defer { bench.wire.written = [:] }
      return commands(bench.wire.written[0] ?? []).contains("mempool")
    }
    bench.receive(.pong(1))
    #expect(listings(bench) == 1 && asked(&bench))
    // An empty list is asked for again after a minute.
    var isAsked = false
    var newest: UInt64 = 1
    for step in 0..<3_100 {
      bench.now = bench.now + .milliseconds(20)
      if step % 50 == 0 { bench.receive(.ping(1)) }
      bench.tick()
      for case .ping(let nonce?) in messages(bench.wire.written[0] ?? []) { newest = nonce }
      if asked(&bench) { isAsked = true }
    }
    #expect(isAsked && listings(bench) == 1)
    bench.receive(.pong(newest))
    #expect(listings(bench) == 2)
    isAsked = false
    for _ in 0..<62 {
      bench.receive(.ping(1))
      bench.now = bench.now + .seconds(1)
      bench.tick()
      if asked(&bench) { isAsked = true }
    }
    #expect(isAsked)
  }
}

@Suite struct DeliveryStatisticsTests {
  private let methods: [DeliveryMethod] = [.compactBlock, .block]

  /// On a machine three times slower than the one of the prior the order of the methods stays.
  @Test func aSlowMachineIsNoReasonToSwitch() {
    var statistics = DeliveryStatistics()
    #expect(statistics.best(of: methods, .warm) == .compactBlock)
    for _ in 0..<20 { statistics.succeeded(.compactBlock, .warm, milliseconds: 8, bytes: 1_000_000) }
    #expect(statistics.best(of: methods, .warm) == .compactBlock)
    #expect(statistics.best(of: methods, .cold) == .block)
  }

  /// A form that has become slow, beside what this node was seen to do, is left for the other; measured slower still,
  /// that one is left again.
  @Test func theChoiceFollowsTheMeasurements() {
    var statistics = DeliveryStatistics()
    statistics.succeeded(.compactBlock, .warm, milliseconds: 3, bytes: 1_000_000)
    for _ in 0..<8 { statistics.succeeded(.compactBlock, .warm, milliseconds: 40, bytes: 1_000_000) }
    #expect(statistics.best(of: methods, .warm) == .block)
    for _ in 0..<8 { statistics.succeeded(.block, .warm, milliseconds: 200, bytes: 1_000_000) }
    #expect(statistics.best(of: methods, .warm) == .compactBlock)
  }

  @Test func whatFailsThreeTimesIsLeftAlone() {
    var statistics = DeliveryStatistics()
    for _ in 0..<3 { statistics.failed(.compactBlock) }
    #expect(statistics.best(of: methods, .warm) == .block)
    #expect(statistics.best(of: [.compactBlock], .warm) == .compactBlock)
  }
}
