import Bitcoin
import BridgeSite
import Foundation
import Ground
import Mempool
import NodeBridge
import RegtestNode
import Testing

extension Site {
  /// The problems told of so far.
  var problems: [NodeProblem] {
    log.read { state in state.events.compactMap { if case .problem(_, let problem) = $0 { problem } else { nil } } }
  }
  /// Waits until the block has come from the node.
  func hears(_ hash: String, as form: AnnouncementForm? = nil) -> Bool {
    let hash = Hash256(hash)!
    return eventually { log.read { $0.blocks.contains { $0.hash == hash && (form == nil || $0.form == form) } } }
  }
  var connections: Int { log.count { if case .connected = $0 { true } else { false } } }
}

/// What an operator has wrong is said once, with the line of bitcoin.conf that mends it: against real nodes that have it
/// wrong.
@Suite(.serialized, .enabled(if: RealNodes.core != nil, "set BITCOIND")) struct RealDiagnosisTests {
  /// Runs a bridge against `node` until `isDone`, or some seconds.
  private func diagnose(
    _ node: RegtestNode, network: Network = .regtest, plainPort: Bool = false, mirrors: Bool = true,
    _ isDone: (Site) throws -> Bool
  ) throws -> [NodeProblem] {
    var configuration = node.configuration
    configuration.mirrorsMempool = mirrors
    // The port after the whitelisted one gives no permission at all.
    if plainPort { configuration.address.port += 1 }
    let site = try Site(network: network, nodes: [configuration])
    defer { site.stop() }
    #expect(try eventually { try isDone(site) }, "\(site.problems)")
    return site.problems
  }

  private func isListed(_ site: Site) -> Bool {
    site.log.count { if case .mempoolListed = $0 { true } else { false } } > 0
  }

  @Test func nothingIsWrongWithTheRecommendedLine() throws {
    let node = try RealNodes.start(.core)
    defer { node.remove() }
    try node.mine(1, to: try node.miningAddress())
    #expect(try diagnose(node) { isListed($0) } == [])
  }

  @Test func missingPermissions() throws {
    let node = try RealNodes.start(.core)
    defer { node.remove() }
    try node.mine(1, to: try node.miningAddress())
    // Core hangs up on `mempool`; the bridge comes back and works without the mirror.
    #expect(try diagnose(node, plainPort: true) { $0.connections == 2 } == [.noMempoolPermission])
    #expect("\(NodeProblem.noMempoolPermission)".contains("whitebind=noban,mempool,relay,download@"))

    // Without `noban` a body that is not its header's costs the connection.
    var bytes = try node.solve().bytes
    try #require(bytes.count > 100)
    bytes[bytes.count - 20] ^= 1
    let problems = try diagnose(node, plainPort: true, mirrors: false) { site in
      if site.connections == 1 && site.log.count({ if case .written = $0 { true } else { false } }) == 0 {
        if site.log.count({ if case .headersSynced = $0 { true } else { false } }) == 0 { return false }
        site.order(.deliver(bytes))
        #expect(eventually { site.log.count { if case .written = $0 { true } else { false } } > 0 })
      }
      return site.connections == 2
    }
    #expect(problems == [.notWhitelisted])
    #expect("\(NodeProblem.notWhitelisted)".contains("whitebind=noban,"))
  }

  /// Restarted with the permission, it lists.
  @Test func thePermissionComesWithARestart() throws {
    let node = try RealNodes.start(.core)
    defer { node.remove() }
    try node.mine(1, to: try node.miningAddress())
    var configuration = node.configuration
    configuration.address.port += 1
    let site = try Site(network: .regtest, nodes: [configuration])
    defer { site.stop() }
    #expect(eventually { !site.problems.isEmpty })
    #expect(site.problems == [.noMempoolPermission] && !isListed(site))
    node.stop()
    try node.start(["-whitelist=mempool,in@127.0.0.1"])
    #expect(eventually(seconds: 40) { isListed(site) })
  }

  @Test func wrongNetworkAndNobodyThere() throws {
    let node = try RealNodes.start(.core)
    defer { node.remove() }
    try node.mine(1, to: try node.miningAddress())
    let wrong = try diagnose(node, network: .mainnet) { !$0.problems.isEmpty }
    #expect(wrong == [.wrongNetwork(expected: "main")])
    #expect("\(wrong[0])".contains("chain="))
    node.kill()
    // Tried again and again, told once.
    let configuration = node.configuration
    let site = try Site(network: .regtest, nodes: [configuration])
    defer { site.stop() }
    #expect(eventually { !site.problems.isEmpty })
    usleep(800_000)
    #expect(site.problems == [.unreachable(errno: ECONNREFUSED)])
    // There, then gone again: that is news.
    try node.start()
    #expect(eventually { site.connections == 1 })
    node.kill()
    #expect(eventually { site.problems.count { $0 == .unreachable(errno: ECONNREFUSED) } == 2 }, "\(site.problems)")
  }

  /// With `relay` among the permissions such a node does not even say that it takes no transactions.
  @Test(arguments: [false, true]) func blocksOnly(plainPort: Bool) throws {
    let node = try RealNodes.start(.core, ["-blocksonly=1"])
    defer { node.remove() }
    try node.mine(1, to: try node.miningAddress())
    let problems = try diagnose(node, plainPort: plainPort) { plainPort ? $0.connections == 2 : isListed($0) }
    #expect(problems == (plainPort ? [.blocksOnly, .noMempoolPermission] : [.blocksOnly]))
    #expect("\(NodeProblem.blocksOnly)".contains("blocksonly"))
  }

  /// A fresh node is in initial download until its tip is of this day. The bridge waits, and goes on when it has ended.
  @Test func initialDownload() throws {
    let (node, other) = (try RealNodes.start(.core), try RealNodes.start(.core))
    defer {
      node.remove()
      other.remove()
    }
    let coins = try other.makeCoins(20)
    let problems = try diagnose(node) { site in
      guard isListed(site) else { return false }
      #expect(site.problems == [.initialDownload])
      try node.copyChain(of: other)
      let height = try node.blockCount()
      #expect(eventually { site.log.read { $0.height } == height })
      // Transactions are told again, and the next block comes as a compact block.
      try node.send(all: coins.map { node.spend($0).raw })
      #expect(eventually { site.log.read { $0.mempool } == coins.count })
      let mined = try node.mine(1, to: try node.miningAddress())[0]
      #expect(site.hears(mined, as: .compactBlock))
      return true
    }
    #expect(problems == [.initialDownload])
    #expect("\(NodeProblem.initialDownload)".contains("dbcache="))
  }

  /// Pruning is told and harms nothing: blocks flow both ways, and after a restart too.
  @Test func pruned() throws {
    let node = try RealNodes.start(.core, ["-prune=1", "-fastprune=1"])
    defer { node.remove() }
    try node.mine(320, to: try node.miningAddress())
    try node.rpc.call("pruneblockchain", [10])
    let problems = try diagnose(node) { site in
      guard isListed(site) else { return false }
      let mined = try node.mine(1, to: try node.miningAddress())[0]
      #expect(site.hears(mined))
      let solved = try node.solve()
      site.order(.deliver(solved.bytes))
      #expect(node.waitForTip(solved.hash))
      node.stop()
      try node.start()
      #expect(eventually { site.connections == 2 })
      return true
    }
    #expect(problems.filter { if case .unreachable = $0 { false } else { true } } == [.pruned])
    #expect("\(NodeProblem.pruned)".contains("prune="))
  }
}

/// The same, where a real node needs more time than a test has, or is not at hand.
@Suite struct DiagnosisTests {
  private func problems(_ bench: borrowing Bench) -> [NodeProblem] {
    bench.log.read { state in state.events.compactMap { if case .problem(_, let problem) = $0 { problem } else { nil } }
    }
  }

  /// A node that has `noban` without `mempool` for us neither lists nor hangs up. What it tells by and by stays.
  @Test func aListingWithheldIsToldAndSweepsNothing() throws {
    var random = SeededRandom(seed: 1)
    var bench = Bench()
    bench.shakeHands()
    func answerListing(_ bench: inout Bench) {
      let said = messages(bench.wire.written[0] ?? [])
      #expect(said.contains { if case .mempool = $0 { true } else { false } })
      for case .ping(let nonce?) in said { bench.receive(.pong(nonce)) }
    }
    answerListing(&bench)
    #expect(bench.log.count { if case .mempoolListed(_, 0) = $0 { true } else { false } } == 1)
    let bytes = block(after: bench.host.chain, 3, &random)
    let parsed = try ParsedBlock(parsing: bytes.span.bytes)
    for layout in parsed.transactions.dropFirst() {
      bench.receive(.tx(layout.bytes(in: bytes.span.bytes).withUnsafeBytes { [UInt8]($0) }))
    }
    #expect(bench.host.store.counts(.node).transactions == 3)
    bench.wire.written = [:]
    // Listed again after a minute, and again to nothing.
    for _ in 0..<61 {
      bench.receive(.ping(1))
      bench.now = bench.now + .seconds(1)
      bench.tick()
    }
    answerListing(&bench)
    #expect(bench.host.store.counts(.node).transactions == 3)
    #expect(problems(bench) == [.noMempoolPermission])
  }

  /// A node that was restarted lists what it has loaded so far, at first nothing: the mirror keeps the rest until the lists
  /// grow no more.
  @Test func aLoadingNodeEmptiesNoMirror() throws {
    var random = SeededRandom(seed: 1)
    var bench = Bench()
    func listing(_ bench: inout Bench, _ names: [InventoryItem]) {
      var pings: [UInt64] = []
      for _ in 0..<700 where pings.isEmpty {
        let said = messages(bench.wire.written[0] ?? [])
        bench.wire.written = [:]
        if said.contains(where: { if case .mempool = $0 { true } else { false } }) {
          pings = said.compactMap { if case .ping(let nonce) = $0 { nonce } else { nil } }
          break
        }
        bench.receive(.ping(1))
        bench.now = bench.now + .seconds(1)
        bench.tick()
      }
      #expect(!pings.isEmpty)
      bench.receive(.inv(names))
      for nonce in pings { bench.receive(.pong(nonce)) }
    }
    let bytes = block(after: bench.host.chain, 9, &random)
    let parsed = try ParsedBlock(parsing: bytes.span.bytes)
    var hashed = parsed
    hashed.hashAll(in: bytes.span.bytes)
    let names = hashed.wtxids.dropFirst().map { InventoryItem(.wtx, $0) }
    bench.shakeHands()
    listing(&bench, Array(names))
    for layout in parsed.transactions.dropFirst() {
      bench.receive(.tx(layout.bytes(in: bytes.span.bytes).withUnsafeBytes { [UInt8]($0) }))
    }
    listing(&bench, Array(names))
    #expect(bench.host.store.counts(.node).transactions == 9)
    bench.close(0)
    bench.now = bench.now + .seconds(20)
    bench.tick()
    bench.wire.written = [:]
    bench.shakeHands()
    let begin = bench.now
    for count in [0, 1, 3] {
      listing(&bench, Array(names.prefix(count)))
      #expect(bench.host.store.counts(.node).transactions == 9, "\(count)")
    }
    // Each a tenth of the usual time after the one before.
    #expect(bench.now - begin < .seconds(200))
    // No more than before: the node has the others no more.
    listing(&bench, Array(names.prefix(3)))
    #expect(bench.host.store.counts(.node).transactions == 3)
    #expect(problems(bench).allSatisfy { $0 != .noMempoolPermission })
  }

  /// The node takes a block in while it lists its mempool: what it says then is no reason to complain, or to take the
  /// mirror's word or its own for anything. It is asked again.
  @Test func aListingDuringABlockSaysNothing() throws {
    var random = SeededRandom(seed: 1)
    var bench = Bench()
    bench.shakeHands()
    func asked(_ bench: inout Bench) -> [UInt64] {
      defer { bench.wire.written = [:] }
      let said = messages(bench.wire.written[0] ?? [])
      guard said.contains(where: { if case .mempool = $0 { true } else { false } }) else { return [] }
      return said.compactMap { if case .ping(let nonce) = $0 { nonce } else { nil } }
    }
    for nonce in asked(&bench) { bench.receive(.pong(nonce)) }
    let bytes = block(after: bench.host.chain, 3, &random)
    let parsed = try ParsedBlock(parsing: bytes.span.bytes)
    for layout in parsed.transactions.dropFirst() {
      bench.receive(.tx(layout.bytes(in: bytes.span.bytes).withUnsafeBytes { [UInt8]($0) }))
    }
    var pings: [UInt64] = []
    for _ in 0..<70 where pings.isEmpty {
      bench.receive(.ping(1))
      bench.now = bench.now + .seconds(1)
      bench.tick()
      pings = asked(&bench)
    }
    // It lists nothing, for the block has all that it had.
    bench.receive(.headers([parsed.header]))
    for nonce in pings { bench.receive(.pong(nonce)) }
    #expect(problems(bench) == [])
    #expect(bench.host.store.counts(.node).transactions == 3)
    // The mirror learns of the block; then the node is asked again, and not before.
    _ = asked(&bench)
    bench.now = bench.now + .milliseconds(500)
    bench.tick()
    #expect(asked(&bench).isEmpty)
    bench.host.store.confirm(txids: try ids(parsed, bytes))
    bench.now = bench.now + .milliseconds(600)
    bench.tick()
    for nonce in asked(&bench) { bench.receive(.pong(nonce)) }
    #expect(problems(bench) == [])
    #expect(bench.log.count { if case .mempoolListed = $0 { true } else { false } } == 3)
  }

  private func ids(_ block: ParsedBlock, _ bytes: [UInt8]) throws -> [Hash256] {
    var block = block
    block.hashAll(in: bytes.span.bytes)
    return block.txids
  }

  /// A node that tells of more blocks than it has headers for, one that says so by its fee filter, one whose tip is old.
  @Test(arguments: 0..<3) func initialDownload(_ way: Int) throws {
    var random = SeededRandom(seed: 2)
    var bench = Bench()
    bench.bridge.opened(StreamID(0), host: &bench.host, now: bench.now, into: &bench.wire)
    var version = bench.version(5)
    if way == 0 { version.startHeight = 800_000 }
    bench.receive(.version(version))
    bench.receive(.verack)
    if way == 1 { bench.receive(.feefilter(9_170_997)) }
    if way == 0 { bench.receive(.feefilter(1_000)) }
    bench.receive(.headers([]))
    #expect(problems(bench) == [.initialDownload])
    if way != 1 { return }
    // It has caught up: headers and mempool are asked for anew.
    bench.wire.written = [:]
    bench.receive(.feefilter(1_000))
    let asked = commands(bench.wire.written[0] ?? [])
    #expect(asked.contains("getheaders") && asked.contains("mempool"))
    let bytes = block(after: bench.host.chain, 1, &random)
    bench.receive(.headers([try BlockHeader(parsing: bytes.span.bytes)]))
    #expect(bench.log.count { if case .headersSynced = $0 { true } else { false } } == 2)
    #expect(problems(bench) == [.initialDownload])
  }

  /// We end a connection that has grown silent, or it ends long after `mempool`: that refuses nothing, and the next one is
  /// asked. One that ends at once does; it is asked again when it may have restarted, or after ten minutes.
  @Test func onlyAHangUpOnTheQuestionIsARefusal() {
    var bench = Bench()
    bench.shakeHands()
    func isAsked(_ bench: inout Bench) -> Bool {
      defer { bench.wire.written = [:] }
      return commands(bench.wire.written[0] ?? []).contains("mempool")
    }
    func comeBack(_ bench: inout Bench, after interval: Interval) -> Bool {
      bench.now = bench.now + interval
      bench.tick()
      bench.close(0)
      bench.wire.closed = []
      bench.wire.written = [:]
      bench.shakeHands()
      return isAsked(&bench)
    }
    #expect(comeBack(&bench, after: .seconds(121)))
    #expect(comeBack(&bench, after: .seconds(60)))
    #expect(problems(bench) == [])
    #expect(!comeBack(&bench, after: .milliseconds(50)))
    #expect(problems(bench) == [.noMempoolPermission])
    // The next one, which was not asked, ends all the same: it may have been set up anew.
    #expect(comeBack(&bench, after: .seconds(1)))
    // Or nobody was there in between.
    bench.close(0)
    bench.now = bench.now + .seconds(10)
    bench.wire.connected = []
    bench.tick()
    #expect(comeBack(&bench, after: .zero))
    #expect(!comeBack(&bench, after: .milliseconds(50)))
    var wasAsked = false
    for _ in 0..<601 {
      bench.receive(.ping(1))
      bench.now = bench.now + .seconds(1)
      bench.tick()
      if isAsked(&bench) { wasAsked = true }
    }
    #expect(wasAsked)
  }

  @Test func aConnectionToOurselves() {
    var bench = Bench()
    bench.bridge.opened(StreamID(0), host: &bench.host, now: bench.now, into: &bench.wire)
    bench.receive(.version(bench.version(99)))
    #expect(problems(bench) == [.ourselves])
    #expect(bench.wire.closed == [0])
  }
}
