import Bitcoin
import BridgeSite
import Foundation
import Ground
import Mempool
import NodeBridge
import RegtestNode
import Testing

/// Blocks handed to a node while the host still works out their Merkle root.
@Suite struct UncheckedTests {
  /// A node that has shaken hands, and a block that the host has put together and not checked. The node has 40 of its 50
  /// transactions.
  struct Offered: ~Copyable {
    var bench: Bench
    private(set) var parsed: ParsedBlock
    private(set) var bytes: [UInt8]
    private var random = SeededRandom(seed: 5)
    var hash: Hash256 { parsed.hash }

    init(
      _ configure: (inout NodeConfiguration) -> Void = { _ in }, userAgent: String = "/Satoshi:30.0.0/"
    ) throws {
      bench = Bench(configure)
      bench.userAgent = userAgent
      bench.shakeHands()
      (parsed, bytes) = try Offered.assemble(&bench, &random)
    }

    /// The next block.
    mutating func goOn(known: Int = 40) throws {
      (parsed, bytes) = try Offered.assemble(&bench, &random, known: known)
    }

    private static func assemble(
      _ bench: inout Bench, _ random: inout SeededRandom, known: Int = 40
    ) throws -> (ParsedBlock, [UInt8]) {
      let bytes = block(after: bench.host.chain, 50, &random)
      var parsed = try ParsedBlock(parsing: bytes.span.bytes)
      parsed.hashAll(in: bytes.span.bytes)
      try bench.host.chain.accept(parsed.header, now: .max)
      bench.host.assembled[parsed.hash] = (parsed, bytes)
      for index in 1..<1 + known {
        _ = try bench.host.store.insert(parsed.transactions[index].bytes(in: bytes.span.bytes), as: .node)
      }
      bench.wire.written = [:]
      return (parsed, bytes)
    }

    mutating func offer() -> [String] {
      bench.bridge.deliverUnchecked(hash, host: &bench.host, now: bench.now, into: &bench.wire)
      return take()
    }

    /// The host's checks are done.
    mutating func prove() -> [String] {
      hold()
      return take()
    }
    mutating func hold() {
      bench.host.assembled[hash] = nil
      bench.host.blocks[hash] = (parsed, bytes)
      bench.deliver(hash)
    }

    mutating func mistake() {
      bench.host.assembled[hash] = nil
      bench.bridge.mistaken(hash, host: &bench.host)
    }

    /// What was written since the last look.
    mutating func take() -> [String] {
      defer { bench.wire.written[0] = [] }
      return commands(bench.wire.written[0] ?? [])
    }

    /// Nonces of the pings written since the last look.
    mutating func pings() -> [UInt64] {
      defer { bench.wire.written[0] = [] }
      return messages(bench.wire.written[0] ?? []).compactMap { if case .ping(let nonce) = $0 { nonce } else { nil } }
    }

    func written() -> [DeliveryMethod] {
      bench.log.read { state in
        state.events.compactMap { if case .written(_, _, let method, _, _, _) = $0 { method } else { nil } }
      }
    }
    func count(_ matches: @Sendable (NodeEvent) -> Bool) -> Int { bench.log.count(matches) }
  }

  /// Once, as a compact block with all that the node lacks; when it is checked nothing more is sent.
  @Test func goesOutOnce() throws {
    var test = try Offered()
    test.bench.bridge.deliverUnchecked(test.hash, host: &test.bench.host, now: test.bench.now, into: &test.bench.wire)
    let sent = messages(test.bench.wire.written[0] ?? [])
    #expect(test.take() == ["cmpctblock", "getheaders", "ping"])
    guard case .cmpctblock(let compact, _) = sent[0] else { return }
    #expect(compact.header == test.parsed.header && compact.prefilled.count == 11)
    #expect(test.offer() == [] && test.prove() == [])
    #expect(test.written() == [.compactBlock])
    test.bench.receive(.headers([test.parsed.header]))
    #expect(test.count { if case .tipUpdated(_, _, .compactBlock, _, _) = $0 { true } else { false } } == 1)
    #expect(test.count { if case .mistaken = $0 { true } else { false } } == 0)
  }

  /// Those that don't take compact blocks unasked, or shall have checked ones only, and a `block` message: it would be
  /// held against us.
  @Test(arguments: 0..<3) func notToEveryNode(_ kind: Int) throws {
    var test = try Offered(
      { node in
        if kind == 0 { node.takesUnchecked = false }
        if kind == 1 { node.deliveryMethods = [.block] }
      }, userAgent: kind == 2 ? "/Other:1/" : "/Satoshi:30.0.0/")
    if kind == 2 { test.bench.receive(.sendcmpct(SendCompact(highBandwidth: false, version: 2))) }
    #expect(test.offer() == [])
    #expect(test.prove().first == (kind == 0 ? "cmpctblock" : "block"))
    #expect(test.count { if case .deliveryFailed = $0 { true } else { false } } == 0)
  }

  /// What the node lacks is asked for while the block is checked, and sent after that.
  @Test func aRequestWaitsForTheCheck() throws {
    var test = try Offered()
    #expect(test.offer().first == "cmpctblock")
    test.bench.receive(.getblocktxn(BlockTransactionsRequest(block: test.hash, indexes: [3, 4])))
    #expect(test.take() == [])
    #expect(test.prove() == ["blocktxn", "getheaders", "ping"])
    // Or it is not sent at all, but the whole block.
    var wrong = try Offered()
    _ = wrong.offer()
    wrong.bench.receive(.getblocktxn(BlockTransactionsRequest(block: wrong.hash, indexes: [3, 4])))
    wrong.mistake()
    #expect(wrong.take() == [])
    #expect(wrong.prove() == ["block", "getheaders", "ping"])
  }

  /// The checks find it wrong. The true one is sent whole as soon as it is there, and compact blocks are no worse for it.
  @Test func aWrongOneIsMadeGood() throws {
    var test = try Offered()
    for _ in 0..<4 {
      #expect(test.offer().first == "cmpctblock")
      test.mistake()
      test.mistake()
      // The node asks for the whole block; it isn't there.
      test.bench.receive(.getdata([InventoryItem(.witnessBlock, test.hash)]))
      #expect(test.take() == ["notfound"])
      #expect(test.prove() == ["block", "getheaders", "ping"])
      test.bench.receive(.headers([test.parsed.header]))
      try test.goOn()
    }
    #expect(test.count { if case .mistaken = $0 { true } else { false } } == 4)
    #expect(test.offer().first == "cmpctblock")
  }

  /// The node has worked through all that was sent and doesn't have the block: it is sent whole, but not before the checks.
  @Test func aRefusedOneIsSentWholeWhenChecked() throws {
    var test = try Offered()
    test.bench.bridge.deliverUnchecked(test.hash, host: &test.bench.host, now: test.bench.now, into: &test.bench.wire)
    let pings = test.pings()
    #expect(pings.count == 1)
    for nonce in pings { test.bench.receive(.pong(nonce)) }
    #expect(test.take() == [])
    #expect(test.prove() == ["block", "getheaders", "ping"])
    #expect(test.written() == [.compactBlock, .block])
  }

  /// A node in initial download takes a block in no form, which says nothing about compact blocks. That it takes whole
  /// what it did not take so does.
  @Test(arguments: [false, true]) func aFormHasFailedWhenAnotherIsTaken(isTaken: Bool) throws {
    var test = try Offered()
    for round in 0..<7 {
      // The last is one of which the node has nothing: sent whole, and taken.
      if round == 6 { try test.goOn(known: 0) }
      test.hold()
      for _ in 0..<3 {
        if test.written().last == .block && (isTaken || round == 6) {
          test.bench.receive(.headers([test.parsed.header]))
        }
        for nonce in test.pings() { test.bench.receive(.pong(nonce)) }
      }
      if round < 5 || round == 6 { try test.goOn() }
    }
    let taken = test.count { if case .tipUpdated = $0 { true } else { false } }
    let failed = test.count { if case .deliveryFailed = $0 { true } else { false } }
    #expect(taken == (isTaken ? 7 : 1) && failed == 7 - taken)
    #expect(test.prove().first == (isTaken ? "block" : "cmpctblock"))
  }

  /// The block never comes: after a while that is told, and nothing is kept.
  @Test func oneThatNeverComesIsGivenUp() throws {
    var test = try Offered()
    _ = test.offer()
    test.mistake()
    for _ in 0..<30 {
      test.bench.now = test.bench.now + .seconds(1)
      test.bench.tick()
    }
    #expect(test.count { if case .deliveryFailed = $0 { true } else { false } } == 1)
    #expect(!test.take().contains("block"))
  }
}

/// The same with Bitcoin Core.
@Suite(.serialized, .enabled(if: RealNodes.core != nil, "set BITCOIND")) struct UncheckedNodeTests {
  /// A node, a site with it, and blocks that another node has mined, all of the same transactions known to both.
  private func far(
    _ body: (_ node: RegtestNode, _ site: Site, _ mine: () throws -> NodeBlock) throws -> Void, plain: Bool = false
  ) throws {
    // Without `noban`, and all the same with leave to have the mempool listed.
    let extra = plain ? ["-whitelist=mempool,relay,in@127.0.0.1"] : []
    let (a, b) = (try RealNodes.start(.core), try RealNodes.start(.core, extra))
    defer {
      a.remove()
      b.remove()
    }
    var coins = try a.makeCoins(50)
    try b.copyChain(of: a)
    let near = try Site(network: .regtest, nodes: [a.configuration])
    defer { near.stop() }
    var configuration = b.configuration
    if plain { configuration.address.port += 1 }
    let site = try Site(network: .regtest, nodes: [configuration])
    defer { site.stop() }
    let height = try b.blockCount()
    try #require(eventually { site.log.read { $0.height } == height })
    try body(b, site) {
      let spends = coins.map { a.spend($0, bytes: 250) }
      coins = spends.map(\.next)
      try a.send(all: spends.map(\.raw))
      try b.send(all: spends.map(\.raw))
      try #require(eventually { near.log.read { $0.mempool } == spends.count })
      try #require(eventually { site.log.read { $0.mempool } == spends.count })
      let text = try a.mine(1, to: try a.miningAddress())[0]
      let hash = Hash256(text)!
      try #require(eventually { near.log.read { $0.blocks.contains { $0.hash == hash } } })
      return near.log.read { $0.blocks.first { $0.hash == hash }! }
    }
  }

  /// The node has the block before the site has checked it.
  @Test func theNodeDoesNotWait() throws {
    try far { node, site, mine in
      for _ in 0..<2 {
        let block = try mine()
        site.order(.offer(block))
        #expect(node.waitForTip(block.hash.description))
        site.order(.relay(block))
        let hash = block.hash
        #expect(
          eventually { site.log.count { if case .tipUpdated(_, hash, _, _, _) = $0 { true } else { false } } == 1 })
        #expect(
          site.log.count { if case .written(_, hash, _, _, _, _) = $0 { true } else { false } } == 1)
      }
    }
  }

  /// A wrong body under a good header, handed over unchecked: the node stays connected, with and without `noban`, and takes
  /// the true block when it comes; and the next one unchecked again.
  @Test(arguments: [false, true]) func aWrongBodyIsNotHeldAgainstUs(plain: Bool) throws {
    try far(
      { node, site, mine in
        for isTold in [true, false] {
          let block = try mine()
          // Another coinbase: a witness nonce that is not the committed one.
          var wrong = block
          let coinbase = block.block.transactions[0]
          wrong.bytes[coinbase.end - 5] ^= 1
          var parsed = try ParsedBlock(parsing: wrong.bytes.span.bytes)
          parsed.hashAll(in: wrong.bytes.span.bytes)
          wrong.block = parsed
          site.order(.offer(wrong))
          let hash = block.hash
          #expect(
            eventually {
              site.log.count { if case .written(_, hash, .compactBlock, _, _, _) = $0 { true } else { false } } == 1
            })
          usleep(200_000)
          if isTold { site.order(.mistake(hash)) }
          usleep(50_000)
          #expect(try node.bestBlockHash() != hash.description)
          site.order(.relay(block))
          #expect(node.waitForTip(hash.description))
          #expect(
            site.log.count { if case .written(_, hash, .block, _, _, _) = $0 { true } else { false } } == 1)
        }
        let last = try mine()
        site.order(.offer(last))
        #expect(node.waitForTip(last.hash.description))
        #expect(site.log.count { if case .connected = $0 { true } else { false } } == 1, "never hung up on")
      }, plain: plain)
  }
}
