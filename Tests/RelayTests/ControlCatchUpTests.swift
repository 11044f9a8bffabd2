import Bitcoin
import Ground
import Relay
import Testing
import Wire

/// A relay as far as catching up goes.
private struct Node {
  var chain = HeaderChain(network: .regtest)
  var catchUp = CatchUp()
  var blocks: Set<Hash256> = []
  /// Blocks that it names as its tip but won't give.
  var isMute = false

  mutating func mine(_ count: Int, salt: UInt64 = 0, on parent: Hash256? = nil) {
    for header in minedHeaders(count, on: chain, from: parent ?? chain.tip.hash, salt: salt) {
      blocks.insert(try! chain.accept(header, now: .max - 10_000).entry.hash)
    }
  }

  mutating func take(_ message: borrowing HeadersMessage, from link: LinkID, now: Instant) {
    _ = catchUp.receive(message, from: link, chain: &chain, unixTime: .max - 10_000, now: now)
  }

  var status: StatusHead {
    CatchUp.status(
      tip: chain.tip, mempoolTransactions: 10, mempoolBytes: 100, isListed: true, recentMissRate: nil, loss: .unknown,
      asksForAnswer: false)
  }
}

/// Nodes that are all linked with each other, over links that lose and delay messages.
private struct Network2 {
  var nodes: [Node]
  var random: SeededRandom
  var loss: Double
  var now = Instant.zero
  var flying: [(time: Instant, from: Int, to: Int, bytes: [UInt8])] = []
  var requests = 0

  init(_ nodes: [Node], seed: UInt64, loss: Double) {
    self.nodes = nodes
    self.loss = loss
    random = SeededRandom(seed: seed)
    for i in nodes.indices {
      for j in nodes.indices where j != i { self.nodes[i].catchUp.linkUp(LinkID(UInt16(j))) }
    }
  }

  mutating func run(seconds: Int) {
    for step in 0..<seconds * 20 {
      now = now + .microseconds(50_000)
      if step % 20 == 0 {
        for i in nodes.indices {
          for j in nodes.indices where j != i && !random.chance(loss) {
            nodes[i].catchUp.note(nodes[j].status, on: LinkID(UInt16(j)), chain: nodes[i].chain)
          }
        }
      }
      let arriving = flying.filter { $0.time <= now }
      flying.removeAll { $0.time <= now }
      for packet in arriving { deliver(packet.bytes, from: packet.from, to: packet.to) }
      for i in nodes.indices {
        let blocks = nodes[i].blocks
        nodes[i].catchUp.decide(now: now, chain: nodes[i].chain) { blocks.contains($0) }
        for j in nodes.indices where j != i {
          while nodes[i].catchUp.hasMessage(for: LinkID(UInt16(j))) {
            var buffer = [UInt8](repeating: 0, count: RelayLimits.messageBytes)
            var span = buffer.mutableSpan
            var bytes = span.mutableBytes
            let (count, _) = nodes[i].catchUp.next(
              on: LinkID(UInt16(j)), now: now, chain: nodes[i].chain, into: &bytes)
            precondition(count > 0)
            send(Array(buffer[..<count]), from: i, to: j)
          }
        }
      }
    }
  }

  mutating func send(_ bytes: [UInt8], from: Int, to: Int) {
    if random.chance(loss) { return }
    flying.append((now + .microseconds(Int64(20_000 + random.below(100_000))), from, to, bytes))
  }

  mutating func deliver(_ bytes: [UInt8], from: Int, to: Int) {
    let link = LinkID(UInt16(from))
    let span = bytes.span.bytes
    switch try! RelayMessageType(of: span) {
    case .getHeaders:
      requests += 1
      nodes[to].catchUp.receive(try! GetHeadersMessage(parsing: span), from: link, chain: nodes[to].chain)
    case .headers:
      nodes[to].take(try! HeadersMessage(parsing: span), from: link, now: now)
    case .getBlock:
      requests += 1
      let hash = Hash256(try! GetBlockMessage(parsing: span).hash)
      if nodes[to].isMute { return }
      var answer = [UInt8](repeating: 0, count: 40)
      var out = answer.mutableSpan
      var raw = out.mutableBytes
      // The block itself comes by SKETCH and CHUNK; here a GETBLOCK going back stands for it.
      let count =
        nodes[to].blocks.contains(hash)
        ? PointMessage(blame: BlameMessage(block: hash.w0, kind: .body, index: 0, maker: 0), source: 0).write(
          into: &raw)
        : NoBlockMessage(hash: Bytes32(hash)).write(into: &raw)
      send(Array(answer[..<count]), from: to, to: from)
    case .noBlock: nodes[to].catchUp.receive(try! NoBlockMessage(parsing: span), from: link, now: now)
    case .point:
      let id = try! PointMessage(parsing: span).blame.block
      if let hash = nodes[from].blocks.first(where: { $0.w0 == id }) {
        nodes[to].blocks.insert(hash)
        nodes[to].catchUp.blockDone(hash)
      }
    default: Issue.record("unexpected message")
    }
  }
}

@Suite struct CatchUpTests {
  @Test(arguments: [0, 0.1, 0.3], 0..<4 as Range<UInt64>)
  func aRelayThatComesBackLearnsTheTipAndTheLastBlocks(loss: Double, seed: UInt64) {
    var ahead = Node()
    ahead.mine(700)
    var network = Network2([Node(), ahead, ahead], seed: seed, loss: loss)
    network.run(seconds: loss == 0 ? 6 : 120)
    #expect(network.nodes[0].chain.tip.hash == ahead.chain.tip.hash)
    var height = 700
    for _ in 0..<CatchUp.blocksBack {
      let hash = ahead.chain.entry(atHeight: height)!.hash
      #expect(network.nodes[0].blocks.contains(hash), "block at \(height), loss \(loss), seed \(seed)")
      height -= 1
    }
    #expect(network.nodes[0].blocks.count == CatchUp.blocksBack)
    let before = network.requests
    network.run(seconds: 30)
    #expect(network.requests == before, "nothing to ask for")
    if loss == 0 { #expect(before <= 8) }
  }

  @Test func moreThanOneAnswerfulOfHeaders() {
    var ahead = Node()
    ahead.mine(4_500)
    var network = Network2([Node(), ahead], seed: 1, loss: 0)
    network.run(seconds: 10)
    #expect(network.nodes[0].chain.tip.height == 4_500)
  }

  @Test func theLongerBranchWins() {
    var common = Node()
    common.mine(20)
    var a = common
    var b = common
    a.mine(3, salt: 1)
    b.mine(5, salt: 2)
    var network = Network2([a, b], seed: 3, loss: 0.1)
    network.run(seconds: 60)
    #expect(network.nodes[0].chain.tip.hash == b.chain.tip.hash)
    #expect(network.nodes[0].blocks.contains(b.chain.tip.hash))
    #expect(network.nodes[1].chain.tip.hash == b.chain.tip.hash)
    #expect(network.nodes[1].chain.entry(a.chain.tip.hash) != nil)
  }

  @Test func onePeerThatWontGiveDoesNotMatter() {
    var mute = Node()
    mute.mine(10)
    var good = mute
    mute.isMute = true
    good.isMute = false
    var network = Network2([Node(), mute, good], seed: 3, loss: 0)
    network.run(seconds: 30)
    #expect(network.nodes[0].blocks.count == CatchUp.blocksBack)
  }

  @Test func aFakeTipCostsARequestNowAndThen() {
    var liar = Node()
    liar.mine(5)
    var network = Network2([liar, liar], seed: 3, loss: 0)
    var fake = liar.status
    fake.tip = Bytes32(w0: 1, w1: 2, w2: 3, w3: 4)
    fake.work = Bytes32(w0: .max, w1: .max, w2: .max, w3: .max)
    for _ in 0..<60 {
      network.nodes[0].catchUp.note(fake, on: LinkID(1), chain: network.nodes[0].chain)
      network.run(seconds: 1)
    }
    #expect(network.requests <= 8)
  }

  @Test func badHeadersEndTheExchange() {
    var node = Node()
    node.mine(3)
    let link = LinkID(4)
    node.catchUp.linkUp(link)
    node.catchUp.noteUnknownParent(from: link)
    node.catchUp.decide(now: .zero, chain: node.chain) { _ in true }
    var buffer = [UInt8](repeating: 0, count: RelayLimits.messageBytes)
    var span = buffer.mutableSpan
    var bytes = span.mutableBytes
    #expect(node.catchUp.next(on: link, now: .zero, chain: node.chain, into: &bytes).isRequest)
    var unsolved = BlockHeader(
      version: 4, previous: node.chain.tip.hash, merkleRoot: .zero, time: node.chain.tip.time + 1, bits: 0x207F_FFFF,
      nonce: 0)
    while unsolved.hasProofOfWork(limit: Network.regtest.powLimit) { unsolved.nonce += 1 }
    let headers = [HeaderBytes(unsolved.bytes.span.bytes)]
    var message = [UInt8](repeating: 0, count: 200)
    var out = message.mutableSpan
    var raw = out.mutableBytes
    let count = HeadersMessage.write(startHeight: 4, lastHeight: 4, headers: headers.span, into: &raw)
    func receive(from link: LinkID) -> CatchUp.HeadersOutcome {
      node.catchUp.receive(
        try! HeadersMessage(parsing: message.span.bytes.extracting(first: count)), from: link, chain: &node.chain,
        unixTime: .max - 10_000, now: .zero)
    }
    guard case .ignored = receive(from: LinkID(5)) else {
      Issue.record("an answer that nobody asked for was taken")
      return
    }
    guard case .refused(.proofOfWork) = receive(from: link) else {
      Issue.record("a header without work was taken")
      return
    }
    node.catchUp.noteUnknownParent(from: link)
    node.catchUp.decide(now: .zero, chain: node.chain) { _ in true }
    #expect(!node.catchUp.hasMessage(for: link))
  }

  @Test func readinessIsWhatPeersNeedToKnow() {
    let tip = Node().chain.tip
    func readiness(_ transactions: Int, _ isListed: Bool, _ rate: Double?) -> Readiness {
      CatchUp.status(
        tip: tip, mempoolTransactions: transactions, mempoolBytes: 0, isListed: isListed, recentMissRate: rate,
        loss: .unknown, asksForAnswer: false
      ).readiness
    }
    #expect(readiness(0, true, nil) == .cold)
    #expect(readiness(100, false, nil) == .starting)
    #expect(readiness(100, false, 0.5) == .starting)
    #expect(readiness(100, false, 0.02) == .inStep)
    #expect(readiness(100, true, nil) == .inStep)
  }

  /// Noise from an authenticated peer, at random times: nothing traps and nothing grows.
  @Test(arguments: 0..<10 as Range<UInt64>) func noiseIsHarmless(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var node = Node()
    node.mine(12)
    for i in 0..<3 as Range<UInt16> { node.catchUp.linkUp(LinkID(i)) }
    var now = Instant.zero
    var message = [UInt8](repeating: 0, count: RelayLimits.messageBytes)
    for _ in 0..<3_000 {
      now = now + Interval(nanoseconds: Int64(random.below(400_000_000)))
      let link = LinkID(UInt16(random.below(4)))
      var out = message.mutableSpan
      var raw = out.mutableBytes
      switch random.below(6) {
      case 0:
        var status = node.status
        status.tip = Bytes32(w0: random.next(), w1: 0, w2: 0, w3: 0)
        node.catchUp.note(status, on: link, chain: node.chain)
      case 1:
        let headers = (0..<1 + random.below(14)).map { _ in HeaderBytes(random.bytes(80).span.bytes) }
        let count = HeadersMessage.write(
          startHeight: UInt32(truncatingIfNeeded: random.next()), lastHeight: UInt32(truncatingIfNeeded: random.next()),
          headers: headers.span, into: &raw)
        _ = node.catchUp.receive(
          try! HeadersMessage(parsing: message.span.bytes.extracting(first: count)), from: link, chain: &node.chain,
          unixTime: .max - 10_000, now: now)
      case 2:
        let locator = (0..<1 + random.below(32)).map { _ in Bytes32(w0: random.next(), w1: 0, w2: 0, w3: 0) }
        let count = GetHeadersMessage.write(locator: locator.span, stop: .zero, into: &raw)
        node.catchUp.receive(
          try! GetHeadersMessage(parsing: message.span.bytes.extracting(first: count)), from: link, chain: node.chain)
      case 3: node.catchUp.receive(NoBlockMessage(hash: Bytes32(node.chain.tip.hash)), from: link, now: now)
      case 4:
        if random.chance(0.5) { node.catchUp.linkDown(link) } else { node.catchUp.linkUp(LinkID(link.index)) }
      default:
        let has = random.chance(0.5)
        node.catchUp.decide(now: now, chain: node.chain) { _ in has }
        while node.catchUp.hasMessage(for: link) {
          let sent = node.catchUp.next(on: link, now: now, chain: node.chain, into: &raw)
          #expect(sent.count > 0)
        }
        #expect(node.catchUp.nextDeadline > .zero)
      }
    }
    #expect(node.chain.tip.height == 12)
  }
}
