import Bitcoin
import BridgeSite
import Ground
import Mempool
import NodeBridge
import Testing

/// A peer that has connected to the bridge: what it is served, and what it can't do. Its side is written here message by
/// message; real nodes do the same in `RealNodeTests`.
@Suite struct InboundPeerTests {
  /// A bridge that holds some blocks, and a connection to it.
  private final class Served {
    var bench = Bench()
    var blocks: [[UInt8]] = []
    var hashes: [Hash256] = []
    let stream: UInt16

    init(blocks count: Int = 6, shakesHands: Bool = true) throws {
      var random = SeededRandom(seed: 3)
      for _ in 0..<count {
        let bytes = block(after: bench.host.chain, 12, &random)
        hashes.append(try bench.hold(bytes).hash)
        blocks.append(bytes)
      }
      stream = bench.accept()!.index
      if shakesHands { _ = ask(.version(bench.version(7)), .verack) }
    }

    /// What is answered to these messages.
    func ask(_ asked: Message...) -> [Message] {
      bench.wire.written[stream] = []
      for message in asked { bench.receive(message, on: stream) }
      return messages(bench.wire.written[stream] ?? [])
    }
    var isClosed: Bool { bench.wire.closed.contains(stream) }
    var refusals: [String] {
      bench.log.read { state in
        state.events.compactMap { if case .inboundRefused(_, let why) = $0 { why } else { nil } }
      }
    }
  }

  @Test func handshake() throws {
    let served = try Served(shakesHands: false)
    let answer = served.ask(.version(served.bench.version(7)))
    guard case .version(let version) = answer.first else {
      Issue.record("no version: \(answer)")
      return
    }
    // It has the last blocks only, and relays no transactions.
    #expect(version.services == [.witness, .networkLimited] && version.startHeight == 6 && !version.relay)
    #expect(answer.map(\.command) == [.version, .sendaddrv2, .verack])
    #expect(served.ask(.wtxidrelay, .sendaddrv2, .verack).map(\.command) == [.sendheaders, .sendcmpct, .sendcmpct])
    #expect(served.ask(.verack).isEmpty)
    guard case .pong(42)? = served.ask(.ping(42)).first else {
      Issue.record("no pong")
      return
    }
  }

  @Test func headers() throws {
    let served = try Served()
    let genesis = Network.regtest.genesis.hash
    func headers(_ served: Served, _ locator: [Hash256], stop: Hash256 = .zero) -> [Hash256]? {
      guard case .headers(let list)? = served.ask(.getheaders(GetHeaders(locator: locator, stop: stop))).first else {
        return nil
      }
      return list.map(\.hash)
    }
    let all = served.hashes
    #expect(headers(served, [genesis]) == all)
    #expect(headers(served, [all[2], genesis]) == Array(all[3...]))
    #expect(headers(served, [genesis], stop: all[1]) == Array(all[...1]))
    // A locator of which nothing is known starts at the beginning; at the tip the answer is an empty list.
    #expect(headers(served, [Hash256(w0: 1, w1: 2, w2: 3, w3: 4)]) == all)
    #expect(headers(served, [all[5]]) == [])
  }

  /// `getheaders` brings at most 2,000 at a time, `getblocks` 500.
  @Test func longChainsComeInPieces() throws {
    let served = try Served()
    for _ in 0..<2_100 {
      let bytes = BlockBuilder(on: served.bench.host.chain.tip).build()
      try served.bench.host.chain.accept(try BlockHeader(parsing: bytes.span.bytes), now: .max)
    }
    let genesis = Network.regtest.genesis.hash
    var known = [genesis]
    while true {
      guard case .headers(let list)? = served.ask(.getheaders(GetHeaders(locator: [known.last!]))).first else {
        Issue.record("no headers")
        return
      }
      #expect(list.count <= 2_000)
      if list.isEmpty { break }
      known += list.map(\.hash)
    }
    #expect(known.count == 2_107)
    guard case .inv(let items)? = served.ask(.getblocks(GetHeaders(locator: [genesis]))).first else {
      Issue.record("no inv")
      return
    }
    #expect(items == known[1...500].map { InventoryItem(.block, $0) })
    #expect(served.ask(.getblocks(GetHeaders(locator: [known.last!]))).isEmpty)
  }

  /// Blocks whole, without witnesses, and compact in both versions, byte by byte; what isn't there is said to be so.
  @Test func getdataOfBlocks() throws {
    let served = try Served()
    let (bytes, hash) = (served.blocks[4], served.hashes[4])
    guard case .block(let whole)? = served.ask(.getdata([InventoryItem(.witnessBlock, hash)])).first else {
      Issue.record("no block")
      return
    }
    #expect(whole == bytes)
    guard case .block(let stripped)? = served.ask(.getdata([InventoryItem(.block, hash)])).first else {
      Issue.record("no block without witness")
      return
    }
    var plain = try ParsedBlock(parsing: stripped.span.bytes)
    plain.hashAll(in: stripped.span.bytes)
    #expect(plain.hash == hash && !plain.hasWitness && stripped.count < bytes.count)
    for version in CompactBlockVersion.allCases {
      _ = served.ask(.sendcmpct(SendCompact(highBandwidth: false, version: version.rawValue)))
      guard
        case .cmpctblock(let compact, _)? = served.ask(.getdata([InventoryItem(.compactBlock, hash)])).first
      else {
        Issue.record("no compact block")
        return
      }
      var parsed = try ParsedBlock(parsing: bytes.span.bytes)
      parsed.hashAll(in: bytes.span.bytes)
      let ids = version == .one ? parsed.txids : parsed.wtxids
      #expect(compact.hash == hash && compact.shortIDs == ids.dropFirst().map { compact.key.shortID($0) })
      guard
        case .blocktxn(let answer, let payload)? = served.ask(
          .getblocktxn(BlockTransactionsRequest(block: hash, indexes: [0, 3, 12]))
        ).first
      else {
        Issue.record("no blocktxn")
        return
      }
      let txids = answer.transactions.map { $0.txid(in: payload.span.bytes) }
      #expect(answer.block == hash && txids == [0, 3, 12].map { parsed.txids[$0] })
    }
    let unknown = [
      InventoryItem(.block, .zero), InventoryItem(.witnessBlock, Hash256(w0: 9, w1: 9, w2: 9, w3: 9)),
      InventoryItem(.compactBlock, .zero),
    ]
    let mixed = served.ask(.getdata([unknown[0], InventoryItem(.witnessBlock, hash), unknown[1], unknown[2]]))
    #expect(mixed.map(\.command) == [.block, .notfound])
    guard case .notfound(let items)? = mixed.last else { return }
    #expect(items == unknown)
    // Beyond the block, or of no block here: no answer, and no harm.
    #expect(served.ask(.getblocktxn(BlockTransactionsRequest(block: hash, indexes: [13]))).isEmpty)
    #expect(served.ask(.getblocktxn(BlockTransactionsRequest(block: .zero, indexes: [0]))).isEmpty)
    #expect(!served.isClosed)
  }

  /// Transactions that the site's node has, by txid and wtxid; not those that only others have told of.
  @Test func getdataOfTransactions() throws {
    let served = try Served()
    let bytes = served.blocks[0]
    let parsed = try ParsedBlock(parsing: bytes.span.bytes)
    func raw(_ index: Int) -> [UInt8] {
      parsed.transactions[index].bytes(in: bytes.span.bytes).withUnsafeBytes { [UInt8]($0) }
    }
    _ = try served.bench.host.store.insert(raw(1).span.bytes, as: .node)
    _ = try served.bench.host.store.insert(raw(2).span.bytes, as: .side)
    let ids = (1...3).map { parsed.transactions[$0].hashes(in: bytes.span.bytes) }
    for item in [
      InventoryItem(.wtx, ids[0].wtxid), InventoryItem(.transaction, ids[0].txid),
      InventoryItem(.witnessTransaction, ids[0].txid),
    ] {
      guard case .tx(let found)? = served.ask(.getdata([item])).first else {
        Issue.record("no tx for \(item)")
        continue
      }
      #expect(found == raw(1))
    }
    let lacking = [InventoryItem(.wtx, ids[1].wtxid), InventoryItem(.transaction, ids[2].txid)]
    guard case .notfound(let items)? = served.ask(.getdata(lacking)).first else {
      Issue.record("no notfound")
      return
    }
    #expect(items == lacking)
  }

  /// A new block is told in the form asked for: pushed whole, as a header, or as inventory; once.
  @Test(arguments: 0..<3) func newBlocks(_ form: Int) throws {
    let served = try Served()
    if form > 0 { _ = served.ask(.sendheaders) }
    if form > 1 { _ = served.ask(.sendcmpct(SendCompact(highBandwidth: true, version: 2))) }
    // It has said where it is: what it doesn't know the parent of is not pushed to it.
    _ = served.ask(.getheaders(GetHeaders(locator: [served.hashes[4]])))
    var random = SeededRandom(seed: 8)
    let bytes = block(after: served.bench.host.chain, 5, &random)
    let parsed = try served.bench.hold(bytes)
    served.bench.wire.written = [:]
    for _ in 0..<2 { served.bench.deliver(parsed.hash) }
    let told = messages(served.bench.wire.written[served.stream] ?? [])
    #expect(told.map(\.command) == [[.inv, .headers, .cmpctblock][form]])
    switch told.first {
    case .inv(let items): #expect(items == [InventoryItem(.block, parsed.hash)])
    case .headers(let headers): #expect(headers == [parsed.header])
    case .cmpctblock(let compact, _): #expect(compact.hash == parsed.hash)
    default: break
    }
  }

  /// What it offers is not read: nothing is asked for, nothing is taken, and the chain stays.
  @Test func offersChangeNothing() throws {
    let served = try Served()
    var random = SeededRandom(seed: 4)
    let bytes = block(after: served.bench.host.chain, 5, &random)
    let parsed = try ParsedBlock(parsing: bytes.span.bytes)
    let raw = parsed.transactions[1].bytes(in: bytes.span.bytes).withUnsafeBytes { [UInt8]($0) }
    let tip = served.bench.host.chain.tip.hash
    #expect(
      served.ask(
        .inv([InventoryItem(.block, parsed.hash), InventoryItem(.wtx, .zero)]), .headers([parsed.header]),
        .block(bytes), .tx(raw), .notfound([InventoryItem(.block, tip)]), .addr([])
      ).isEmpty)
    #expect(served.bench.host.chain.tip.hash == tip && !served.bench.has(parsed.hash))
    #expect(served.bench.host.store.count == 0 && served.bench.log.read { $0.blocks.isEmpty })
    #expect(!served.isClosed)
  }

  /// Answers are bounded by a second's budget, by what it has not read, by blocks and transactions a request.
  @Test func answersAreBounded() throws {
    let served = try Served()
    // A block of 3.9 MB.
    var builder = BlockBuilder(on: served.bench.host.chain.tip)
    for number in 0..<390 {
      var raw = ByteWriter()
      raw.append([2, 0, 0, 0, 1] + [UInt8](repeating: UInt8(number & 255), count: 32))
      raw.integer(UInt32(number))
      raw.append([0, 255, 255, 255, 255, 1, 5, 0, 0, 0, 0, 0, 0, 0])
      raw.compactSize(9_900)
      raw.append([UInt8](repeating: 0x6A, count: 9_900))
      raw.integer(UInt32(0))
      try builder.append(raw.bytes.span.bytes)
    }
    let bytes = builder.build()
    let parsed = try served.bench.hold(bytes)
    let request = Message.getdata([InventoryItem(.witnessBlock, parsed.hash)])
    for _ in 0..<50 { _ = served.ask(request) }
    let sent = served.bench.wire.bytesWritten[served.stream]!
    #expect((16_000_000...20_100_000).contains(sent), "\(sent)")
    // Over its budget it is not served, but not cut off either; a second later it is served again.
    guard case .pong(1)? = served.ask(.ping(1)).first else {
      Issue.record("no pong")
      return
    }
    served.bench.now = served.bench.now + .seconds(1)
    _ = served.ask(request)
    #expect(served.bench.wire.bytesWritten[served.stream]! > sent + 3_800_000)
    // Sixteen blocks a request.
    served.bench.now = served.bench.now + .seconds(1)
    let many = served.ask(.getdata((0..<20).map { _ in InventoryItem(.witnessBlock, served.hashes[0]) }))
    #expect(many.map(\.command) == Array(repeating: .block, count: 16) + [.notfound])
    // It doesn't read: 12 MB wait for it, and no more is added.
    #expect(!served.isClosed)
    served.bench.wire.unsent = 11_000_000
    _ = served.ask(request)
    #expect(served.isClosed)
  }

  @Test func misbehaviourEndsTheConnection() throws {
    func why(_ handshake: Bool, _ say: (Served) -> Void) throws -> String? {
      let served = try Served(blocks: 1, shakesHands: handshake)
      say(served)
      return served.isClosed ? served.refusals.last : nil
    }
    #expect(try why(false) { _ = $0.ask(.verack) } == "verack before version")
    #expect(try why(true) { _ = $0.ask(.version($0.bench.version(7))) } == "version twice")
    #expect(try why(false) { _ = $0.ask(.getdata([])) }?.contains("before the handshake") == true)
    #expect(try why(true) { $0.bench.receive([1, 2, 3, 4] + [UInt8](repeating: 0, count: 40), on: $0.stream) } != nil)
    // A header that claims 32 MB, and one without end before the handshake.
    var huge = Message.ping(1).framed(on: .regtest)
    huge.replaceSubrange(16..<20, with: [0, 0, 0, 2])
    #expect(try why(true) { $0.bench.receive(huge, on: $0.stream) } != nil)
    huge.replaceSubrange(16..<20, with: [0, 0, 0x30, 0])
    let early = try why(false) { served in
      served.bench.receive(huge, on: served.stream)
      for _ in 0..<80 where !served.isClosed {
        served.bench.receive([UInt8](repeating: 0, count: 1_000), on: served.stream)
      }
    }
    #expect(early == "64 KB without a handshake")
    // Absurd counts inside a valid frame.
    var count = ByteWriter()
    count.compactSize(4_000_000_000)
    let absurd = Framing.frame(.getdata, payload: count.bytes.span.bytes, on: .regtest)
    #expect(try why(true) { $0.bench.receive(absurd, on: $0.stream) } != nil)
  }

  /// Silence: 30 s without a handshake, 20 minutes after it.
  @Test(arguments: [false, true]) func silenceEndsIt(afterHandshake: Bool) throws {
    let served = try Served(blocks: 1, shakesHands: afterHandshake)
    let limit: Int64 = afterHandshake ? 20 * 60 : 30
    let start = served.bench.now
    served.bench.now = start + .seconds(limit - 1)
    served.bench.tick()
    #expect(!served.isClosed && served.bench.bridge.nextDeadline <= start + .seconds(limit))
    served.bench.now = start + .seconds(limit + 1)
    served.bench.tick()
    #expect(served.isClosed)
    served.bench.close(served.stream)
    #expect(served.bench.bridge.inboundCount == 0)
  }
}
