import Bitcoin
import Ground
import Mempool
import NodeBridge
import RealBlocks
import Relay
import Session
import Site
import Testing
import Wire

/// A real block's transactions, and blocks of them under regtest headers.
struct Material {
  let bytes: [UInt8]
  let block: ParsedBlock
  /// All but the coinbase, serialised.
  let transactions: [[UInt8]]

  init(_ name: String = "426884", most: Int = 200) throws {
    let source = try RealBlocks.bytes(name)
    let parsed = try ParsedBlock(parsing: source.span.bytes)
    var all: [[UInt8]] = []
    for layout in parsed.transactions.dropFirst().prefix(most) {
      all.append(layout.bytes(in: source.span.bytes).withUnsafeBytes { [UInt8]($0) })
    }
    (bytes, block, transactions) = (source, parsed, all)
  }

  func mined(on tip: HeaderChain.Entry, _ transactions: [[UInt8]], extraNonce: UInt64 = 1) throws -> [UInt8] {
    var builder = BlockBuilder(on: tip)
    builder.extraNonce = extraNonce
    for raw in transactions { try builder.append(raw.span.bytes) }
    return builder.build()
  }
}

func blockHash(_ reply: SiteReply) -> Hash256? { if case .block(let hash) = reply { hash } else { nil } }

@Suite struct WiringTests {
  /// What one site's node learns between blocks is at the other site when the block comes.
  @Test(arguments: [true, false]) func transactionsGoBetweenBlocks(isOn: Bool) throws {
    let material = try Material()
    let (common, late) = (Array(material.transactions.dropLast(7)), Array(material.transactions.suffix(7)))
    let (nodeA, nodeB) = (FakeNode(mempool: common), FakeNode(mempool: common))
    let sites = TestSites(nodes: [[nodeA], [nodeB]]) { _, configuration in configuration.relaysTransactions = isOn }
    #expect(
      sites.run(.seconds(10)) {
        sites.areLinked() && (0..<2).allSatisfy { sites.snapshot($0).mempool[0].transactions == common.count }
      })
    for raw in late { nodeA.learn(raw) }
    sites.run(.seconds(3))
    #expect(sites.snapshot(0).mempool[0].transactions == material.transactions.count)
    // Into the side pool: its own node doesn't know them.
    #expect(sites.snapshot(1).mempool[0].transactions == common.count)
    #expect(sites.snapshot(1).mempool[1].transactions == (isOn ? late.count : 0))
    // The side pool counts when the block is put together.
    let tip = sites.with(0) { core, _, _ in core.snapshot(now: sites.now).tipHash }
    #expect(tip == Network.regtest.genesis.hash)
    let entry = HeaderChain(network: .regtest).tip
    let hash = try #require(blockHash(sites.ask(0, .submit(try material.mined(on: entry, material.transactions)))))
    #expect(sites.run(.seconds(5)) { nodeB.delivered.contains(hash) })
    let report = try #require(sites.snapshot(1).blocks.last?.report)
    #expect(report.hash == hash && report.missingTransactions == (isOn ? 0 : late.count))
  }

  @Test func neighboursHearHowFullTheMempoolIs() throws {
    let material = try Material(most: 150)
    let node = FakeNode(mempool: material.transactions)
    node.servesTransactions = false
    let sites = TestSites(nodes: [[node], []])
    func told() -> Readiness? { sites.snapshot(1).peers.first?.status.readiness }
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    sites.run(.seconds(2))
    #expect(told() == .cold, "its node's transactions are on the way, none is there")
    // One arrives: no longer cold, but far from whole.
    node.say(.tx(material.transactions[0]))
    #expect(sites.run(.seconds(3)) { told() == .starting })
    node.servesTransactions = true
    #expect(sites.run(.seconds(3)) { told() == .inStep })
    // The node is gone: what is held grows old.
    node.isUp = false
    #expect(sites.run(.seconds(3)) { told() == .starting })
    node.isUp = true
    #expect(sites.run(.seconds(15)) { told() == .inStep })
  }

  /// Without a node, how well the side pool served the last block says what may be expected.
  @Test func aSiteWithoutNodeIsJudgedByItsLastBlock() throws {
    let material = try Material()
    let node = FakeNode(mempool: [])
    let sites = TestSites(nodes: [[node], []])
    func told() -> Readiness? { sites.snapshot(0).peers.first?.status.readiness }
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    let chain = HeaderChain(network: .regtest)
    let first = try material.mined(on: chain.tip, Array(material.transactions.prefix(50)))
    #expect(blockHash(sites.ask(0, .submit(first))) != nil)
    #expect(sites.run(.seconds(5)) { sites.snapshot(1).blocksDelivered == 1 })
    sites.run(.seconds(2))
    #expect(told() == .cold)
    // Its neighbour passes on what its node learns; the next block is made of that.
    for raw in material.transactions.dropFirst(50) { node.learn(raw) }
    #expect(sites.run(.seconds(10)) { sites.snapshot(1).mempool[1].transactions >= material.transactions.count })
    var known = chain
    _ = try known.accept([try BlockHeader(parsing: first.span.bytes)], now: .max, vouched: true)
    let second = try material.mined(on: known.tip, Array(material.transactions.dropFirst(50)))
    #expect(blockHash(sites.ask(0, .submit(second))) != nil)
    #expect(sites.run(.seconds(5)) { sites.snapshot(1).blocksDelivered == 2 })
    #expect(sites.run(.seconds(3)) { told() == .inStep })
  }

  /// A site whose clock was slow at its start refuses headers of today, until it is told the right time.
  @Test func aClockThatWasSetIsFollowed() throws {
    let material = try Material(most: 20)
    let node = FakeNode()
    let slow = TestSites.unixAtZero - 3 * 3_600_000_000_000
    let sites = TestSites(nodes: [[], [node]]) { site, configuration in
      if site == 1 { configuration.relay.unixNanosecondsAtZero = slow }
    }
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    var chain = HeaderChain(network: .regtest)
    func block(_ number: UInt64) throws -> (hash: Hash256, bytes: [UInt8]) {
      var builder = BlockBuilder(on: chain.tip)
      builder.extraNonce = number
      builder.time = UInt32(TestSites.unixAtZero / 1_000_000_000) + UInt32(number)
      for raw in material.transactions { try builder.append(raw.span.bytes) }
      let bytes = builder.build()
      let header = try BlockHeader(parsing: bytes.span.bytes)
      _ = try chain.accept([header], now: .max, vouched: true)
      return (header.hash, bytes)
    }
    let first = try block(1)
    #expect(blockHash(sites.ask(0, .submit(first.bytes))) == first.hash)
    sites.run(.seconds(5))
    #expect(sites.snapshot(1).tipHeight == 0 && sites.snapshot(1).blocksDelivered == 0)
    guard case .done = sites.ask(1, .wallClock(TestSites.unixAtZero)) else { return #expect(Bool(false)) }
    let second = try block(2)
    #expect(blockHash(sites.ask(0, .submit(second.bytes))) == second.hash)
    #expect(sites.run(.seconds(20)) { sites.snapshot(1).tipHash == second.hash })
    #expect(sites.run(.seconds(20)) { node.delivered.contains(second.hash) })
    // And the bridge tells the node the time by the same clock.
    let time = sites.with(1) { core, _, now in core.unixTime(at: now) }
    #expect(Int64(time) == (TestSites.unixAtZero + Int64(sites.now.nanoseconds)) / 1_000_000_000)
  }

  /// Blocks that the node has are fetched from no neighbour; a site whose node lacks them fetches them.
  @Test(arguments: [true, false]) func whatTheNodeHasIsNotFetched(nodeHas: Bool) throws {
    let material = try Material(most: 20)
    var chain = HeaderChain(network: .regtest)
    var blocks: [[UInt8]] = []
    for index in 0..<3 {
      let block = try material.mined(on: chain.tip, material.transactions, extraNonce: UInt64(index))
      blocks.append(block)
      _ = try chain.accept([try BlockHeader(parsing: block.span.bytes)], now: .max, vouched: true)
    }
    let headers = try blocks.map { try BlockHeader(parsing: $0.span.bytes) }
    let node = FakeNode()
    if nodeHas { node.headers = headers }
    node.isUp = false
    let sites = TestSites(nodes: [[node], []])
    for block in blocks { #expect(blockHash(sites.ask(1, .submit(block))) != nil) }
    // The node is there before the neighbour has said a word.
    node.isUp = true
    #expect(sites.run(.seconds(20)) { sites.areLinked() && sites.snapshot(0).tipHeight == 3 })
    sites.run(.seconds(10))
    let fetched = sites.snapshot(0).blocks.count
    #expect(fetched == (nodeHas ? 0 : 3))
  }

  /// A number that goes to another neighbour brings it nothing of what the one before did.
  @Test func aNewNeighbourBeginsAtNothing() throws {
    let sites = TestSites(nodes: [[], [], []], neighbours: [[1], [0], []])
    #expect(sites.run(.seconds(5)) { (0..<2).allSatisfy { sites.snapshot($0).peers[0].status.isUp } })
    let material = try Material(most: 50)
    let block = try material.mined(on: HeaderChain(network: .regtest).tip, material.transactions)
    #expect(blockHash(sites.ask(0, .submit(block))) != nil)
    #expect(sites.run(.seconds(5)) { sites.snapshot(1).blocksDelivered == 1 })
    func counts() -> [UInt64] { sites.snapshot(1).peers.flatMap { [$0.blocksFirst, $0.blocksLast] } }
    #expect(counts() == [1, 1])
    var links = TestSites.links(of: 1, 3, sites.identities, [0])
    links.links[0].rate = LinkRate(bitsPerSecond: 50_000_000)
    sites.ask(1, .links(links))
    #expect(counts() == [1, 1], "the same neighbour")
    links.links[0] = RelayLink(id: LinkID(0), peer: sites.identities[2].publicKey, address: TestSites.address(2))
    sites.ask(1, .links(links))
    #expect(counts() == [0, 0])
  }

  @Test func anotherOverlaySecretAndFewerLinksWithoutDroppingTheRest() throws {
    let sites = TestSites(nodes: [[], [], []])
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    func epoch(_ site: Int, _ link: Int) -> UInt32? {
      sites.snapshot(site).peers.first { $0.link == LinkID(UInt16(link)) }?.status.session.parameters?.overlayEpoch
    }
    #expect(epoch(0, 1) == 1)
    let rotated = sites.overlay.rotated(from: .predictable(seed: 9))
    for site in 0..<3 {
      guard case .done = sites.ask(site, .overlay(rotated)) else {
        Issue.record("refused")
        return
      }
    }
    #expect(sites.run(.seconds(10)) { epoch(0, 1) == 2 && epoch(1, 2) == 2 && epoch(2, 0) == 2 })
    func losses() -> Int {
      sites.events.joined().count { event in
        if case .relay(let relay) = event { relay.kind == .linkDown } else { false }
      }
    }
    #expect(losses() == 0, "agreed anew without losing a session")
    // alice and carol part; the overlay still has three relays, and a block goes by way of bob.
    var links = TestSites.links(of: 0, 3, sites.identities)
    links.links.removeAll { $0.id == LinkID(2) }
    sites.ask(0, .links(links))
    links = TestSites.links(of: 2, 3, sites.identities)
    links.links.removeAll { $0.id == LinkID(0) }
    sites.ask(2, .links(links))
    sites.run(.seconds(3))
    #expect(sites.snapshot(0).peers.map(\.name) == ["bob"] && sites.areLinked())
    let before = losses()
    let material = try Material(most: 50)
    let block = try material.mined(on: HeaderChain(network: .regtest).tip, material.transactions)
    let hash = try #require(blockHash(sites.ask(0, .submit(block))))
    #expect(sites.run(.seconds(5)) { sites.snapshot(2).blocks.contains { $0.report.hash == hash } })
    // And back, with one relay less in the overlay.
    for site in 0..<3 { sites.ask(site, .links(TestSites.links(of: site, 3, sites.identities))) }
    #expect(sites.run(.seconds(5)) { sites.areLinked() })
    #expect(losses() == before)
  }
}
