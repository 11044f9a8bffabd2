import Bitcoin
import Ground
import Mempool
import RealBlocks
import Relay
import Testing
import Wire

/// One honest neighbour that has the block suffices, whatever the others say and send: PROTOCOL.md, section 6. Each test is
/// a way in which liars once kept a block away for good.
@Suite struct RepairLivenessTests {
  /// What a neighbour says that holds a session and lies, in plain messages.
  private struct Liar {
    let block: TestBlock
    var random = SeededRandom(seed: 4)
    var bodyBytes: Int { block.bytes.count }

    mutating func sketch(_ index: Int, flags: ChunkFlags = [], more: Int = 0, bodyBytes: Int? = nil) -> [UInt8] {
      let chunk = random.bytes(RelayLimits.sketchChunkBytes)
      return write { out in
        SketchMessage(
          SketchHead(
            flags: flags, header: HeaderBytes(block.bytes.span.bytes), bodyBytes: UInt32(bodyBytes ?? self.bodyBytes),
            sketchBytes: 300, sketchID: 7, transactionCount: UInt32(block.parsed.transactions.count),
            bodyChunkBytes: UInt16(RelayLimits.chunkBytes), epoch: 1, maker: 99, more: UInt16(more),
            moreBody: UInt16(more), age: 0, index: UInt32(index)),
          chunk: chunk.span.bytes
        ).write(into: &out)
      }
    }

    mutating func chunk(_ kind: ObjectKind, _ index: Int, flags: ChunkFlags = [], more: Int = 0) -> [UInt8] {
      let chunk = random.bytes(RelayLimits.chunkBytes)
      return write { out in
        ChunkMessage(
          kind: kind, flags: flags, block: block.hash.w0, maker: 99, more: UInt16(more), index: UInt32(index),
          chunk: chunk.span.bytes
        ).write(into: &out)
      }
    }

    func have() -> [UInt8] {
      write { out in
        HaveMessage(
          block: block.hash.w0, flags: .checked, received: 0, useless: 0, needed: 0, missingBytes: 0,
          missing: SizeClassCounts()
        ).write(into: &out)
      }
    }

    private func write(_ body: (inout MutableRawSpan) -> Int) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: RelayLimits.messageBytes)
      let count = bytes.withUnsafeMutableBytes { buffer in
        var out = MutableRawSpan(_unsafeBytes: buffer)
        return body(&out)
      }
      return Array(bytes.prefix(count))
    }
  }

  private func say(_ bytes: [UInt8], _ net: TestNet, from: Int, to: Int) {
    net.with(to) { core, sink, now in
      core.receivePlaintext(bytes.span.bytes, from: LinkID(UInt16(from)), now: now, into: &sink)
      core.batchEnded(now: now, into: &sink)
    }
  }

  /// Runs in steps of 5 ms, between which the liars speak, until relay `node` has the block.
  private func run(
    _ net: TestNet, _ limit: Interval, until node: Int, _ block: TestBlock, _ lie: (Int) -> Void = { _ in }
  ) -> Bool {
    let steps = Int(limit.nanoseconds / 5_000_000)
    for step in 0..<steps {
      lie(step)
      if net.run(.milliseconds(5 as Int64), until: { net.isComplete(node, block.hash) }) { return true }
    }
    return false
  }

  private func poisoned(_ block: TestBlock, _ indexes: ClosedRange<Int>) -> [UInt8] {
    var bytes = block.bytes
    for index in indexes { bytes[block.parsed.transactions[index].end - 6] ^= 0x55 }
    return bytes
  }

  private func submit(_ bytes: [UInt8], as block: TestBlock, _ net: TestNet, at node: Int) {
    net.with(node) { core, sink, now in
      _ = try? core.submit(
        bytes.span.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
  }

  /// Promises of more, repeated for ever, once kept a relay from asking anybody.
  @Test func promisesKeepNobodyFromAsking() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    var liar = Liar(block: block)
    // Nothing of the honest neighbour's own comes unasked, not even that it has the block.
    var isDeaf = true
    net.filter = { _, from, _, bytes in isDeaf && from == 2 ? nil : bytes }
    try net.submit(block, at: 2)
    say(liar.sketch(0, more: 400), net, from: 0, to: 1)
    net.run(.milliseconds(200 as Int64))
    isDeaf = false
    let ok = run(net, .seconds(10), until: 1, block) { _ in
      say(liar.sketch(0, more: 400), net, from: 0, to: 1)
      say(liar.chunk(.body, 0, more: 400), net, from: 0, to: 1)
    }
    #expect(ok)
    #expect(net.holds(1, block))
  }

  /// A neighbour that keeps promising and sends something useful now and then is not waited for: it once kept the receiver
  /// from asking for two seconds and the time of the body.
  @Test func aDripOfChunksKeepsNobodyFromAsking() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    var liar = Liar(block: block)
    // The honest neighbour's packets are lost until it is asked.
    net.filter = { net, from, _, bytes in
      from == 2 && bytes.count > 1_000 && net.events(1, .asked).isEmpty ? nil : bytes
    }
    try net.submit(block, at: 2)
    let begin = net.now
    let size = RelayLimits.chunkBytes
    let ok = run(net, .seconds(10), until: 1, block) { step in
      say(liar.sketch(0, more: 400), net, from: 0, to: 1)
      // True chunks, so that the body gets on.
      let chunk = block.bytes.dropFirst(step * size).prefix(size)
      if chunk.count < size { return }
      let message = encoded {
        ChunkMessage(
          kind: .body, flags: [], block: block.hash.w0, maker: 99, more: 400, index: UInt32(step),
          chunk: Array(chunk).span.bytes
        ).write(into: &$0)
      }
      say(message, net, from: 0, to: 1)
    }
    #expect(ok)
    #expect(net.holds(1, block))
    // The slack of promises, a round trip for the sketch and one for the body, and their repetitions.
    #expect((net.now - begin).milliseconds < 150, "\((net.now - begin).milliseconds)")
  }

  /// An honest neighbour that passed on a liar's chunks before it had the block, and is not the nearest: what it sent then
  /// was once held against what it has now, in every round.
  @Test func whatANeighbourPassedOnEarlierIsNotHeldAgainstIt() throws {
    let block = try TestBlock("413567")
    // 0 lies to 1 and 2; 2 passes it on to 1, and has the truth later, from 3.
    let net = TestNet([[1, 2], [0, 2], [0, 1, 3], [2]], block: block.bytes, height: block.height)
    for (a, b, ms) in [(0, 1, 2), (0, 2, 2), (1, 2, 40), (2, 3, 30)] {
      net.delay[a][b] = .milliseconds(Int64(ms))
      net.delay[b][a] = .milliseconds(Int64(ms))
    }
    net.start()
    for node in 1...2 {
      net.with(node) { core, _, _ in
        core.withMempool { store in
          for index in 1..<block.parsed.transactions.count where !(100...110).contains(index) {
            _ = try? store.insert(
              block.parsed.transactions[index], in: block.bytes.span.bytes, txid: block.parsed.txids[index],
              wtxid: block.parsed.wtxids[index], as: .node)
          }
        }
      }
    }
    net.run(.seconds(4))
    submit(poisoned(block, 100...110), as: block, net, at: 0)
    net.run(.milliseconds(20 as Int64))
    try net.submit(block, at: 3)
    #expect(net.run(.seconds(10)) { net.isComplete(2, block.hash) })
    #expect(net.run(.seconds(10)) { net.isComplete(1, block.hash) })
    #expect(net.holds(1, block) && net.holds(2, block))
    // Its bodies are few: each turn is one, and the liar has no more of them than the honest neighbour.
    let failed = net.events(1, .failedChecks).count
    #expect(failed <= 12, "\(failed)")
  }

  /// Chunks that came from a liar are in a relay's log when it has the block by itself: it once passed them on as a relay
  /// that has the whole block, in answer to requests too.
  @Test func whoHasTheBlockAnswersWithTheTruth() throws {
    let block = try TestBlock("482683")
    // 1 gets the block from 2 and lies from 0; 3 has nobody but 1.
    let net = TestNet([[1], [0, 2, 3], [1], [1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    var liar = Liar(block: block)
    // 3 hears nothing until 1 has the block: it has to ask for everything.
    var isDeaf = true
    net.filter = { _, _, to, bytes in isDeaf && to == 3 && bytes.count > 200 ? nil : bytes }
    try net.submit(block, at: 2)
    net.run(.milliseconds(11 as Int64))
    for index in 0..<40 { say(liar.chunk(.body, index), net, from: 0, to: 1) }
    #expect(run(net, .seconds(10), until: 1, block))
    isDeaf = false
    #expect(run(net, .seconds(10), until: 3, block))
    #expect(net.holds(3, block))
    #expect(net.events(3, .failedChecks).isEmpty)
  }

  /// Who claims to have the block and keeps silent, or sends rubbish, loses its turn; each has one before anybody has two.
  @Test(arguments: [false, true]) func everyNeighbourHasItsTurn(withRubbish: Bool) throws {
    let block = try TestBlock("482683")
    // 0, 2, 3 and 4 lie, nearer than the honest 5.
    let net = TestNet([[1], [0, 2, 3, 4, 5], [1], [1], [1], [1]], block: block.bytes, height: block.height)
    for liar in [0, 2, 3, 4] { (net.delay[1][liar], net.delay[liar][1]) = (.milliseconds(3), .milliseconds(3)) }
    net.start()
    net.run(.seconds(4))
    var liars = [0, 2, 3, 4].map { (link: $0, words: Liar(block: block, random: SeededRandom(seed: UInt64($0)))) }
    // Answers of real neighbours at these links are kept out: only the liars speak there.
    net.filter = { _, from, _, bytes in from == 5 || from == 1 ? bytes : nil }
    for i in liars.indices {
      say(liars[i].words.sketch(i, flags: .whole, more: 9), net, from: liars[i].link, to: 1)
      say(liars[i].words.have(), net, from: liars[i].link, to: 1)
    }
    try net.submit(block, at: 5)
    let ok = run(net, .seconds(12), until: 1, block) { step in
      if !withRubbish || step % 4 != 0 { return }
      for i in liars.indices {
        for index in 0..<12 {
          say(liars[i].words.chunk(.body, index, flags: [.whole, .asked]), net, from: liars[i].link, to: 1)
        }
      }
    }
    #expect(ok)
    #expect(net.holds(1, block))
    // Not a flood of requests either: a bounded number to each.
    let asked = net.events(1, .asked).count
    #expect(asked < 120, "\(asked)")
  }

  /// All that the log holds is wrong and completes the body at once: the neighbour that has it must be asked all the same,
  /// even when its word that it has it was lost.
  @Test func aLogFullOfRubbishKeepsNobodyFromAsking() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    var liar = Liar(block: block)
    var isDeaf = true
    net.filter = { _, from, _, bytes in from == 0 || isDeaf && from == 2 ? nil : bytes }
    try net.submit(block, at: 2)
    say(liar.sketch(0, flags: .whole), net, from: 0, to: 1)
    for index in 0..<20 { say(liar.chunk(.body, index, flags: .whole), net, from: 0, to: 1) }
    net.run(.milliseconds(100 as Int64))
    isDeaf = false
    #expect(run(net, .seconds(10), until: 1, block))
    #expect(net.holds(1, block))
  }

  /// A sketch of which each chunk is wrong is given up after a few tries, not tried for ever.
  @Test func aSketchIsGivenUp() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    var liar = Liar(block: block)
    for index in 0..<400 { say(liar.sketch(index, flags: .whole, more: 9), net, from: 0, to: 1) }
    net.run(.milliseconds(50 as Int64))
    let failed = net.events(1, .failedChecks).count
    #expect(failed <= 4, "\(failed)")
    try net.submit(block, at: 2)
    let ok = run(net, .seconds(10), until: 1, block) { step in
      say(liar.sketch(400 + step, flags: .whole, more: 9), net, from: 0, to: 1)
    }
    #expect(ok)
    #expect(net.holds(1, block))
  }

  /// A neighbour that passed on wrong sizes, and then told the true ones as one that has the block, helps the announcement
  /// with the true ones; its chunks once went to the first that it had named.
  @Test func whoHasTheBlockIsBelievedAboutItsSizes() throws {
    let block = try TestBlock("482683")
    // 2 names other sizes first: it passes on what 0 says before it has the block from 3.
    let net = TestNet([[1, 2], [0, 2], [0, 1, 3], [2]], block: block.bytes, height: block.height)
    (net.delay[2][3], net.delay[3][2]) = (.milliseconds(60), .milliseconds(60))
    net.start()
    net.run(.seconds(4))
    var liar = Liar(block: block)
    net.filter = { _, from, _, bytes in from == 0 ? nil : bytes }
    for index in 0..<4 {
      let lie = liar.sketch(index, flags: .whole, more: 9, bodyBytes: block.bytes.count + 500)
      say(lie, net, from: 0, to: 1)
      say(lie, net, from: 0, to: 2)
    }
    say(liar.have(), net, from: 0, to: 1)
    net.run(.milliseconds(15 as Int64))
    try net.submit(block, at: 3)
    #expect(run(net, .seconds(10), until: 1, block))
    #expect(net.holds(1, block))
  }

  /// All packets of a block were lost, HAVE and STATUS with them: its sender doesn't leave it at that.
  @Test func aBlockThatWasLostAltogetherIsTriedAgain() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    var isDeaf = true
    net.filter = { _, from, _, bytes in isDeaf && from == 0 ? nil : bytes }
    try net.submit(block)
    net.run(.milliseconds(290 as Int64))
    isDeaf = false
    // Sooner than by STATUS and catch-up, which only brings what lies on the best branch.
    #expect(net.run(.milliseconds(400 as Int64)) { net.isComplete(1, block.hash) })
    // Once it says that it has the block there is nothing more of it.
    net.run(.milliseconds(500 as Int64))
    let packets = net.with(0) { core, _, _ in core.report(of: block.hash)?.packetsOut } ?? 0
    net.run(.seconds(20))
    #expect(net.with(0) { core, _, _ in core.report(of: block.hash)?.packetsOut } == packets)
  }

  /// A block whose body is nowhere once kept transactions and journeys from every neighbour that it was announced to, for as
  /// long as the relay ran.
  @Test func aBlockThatNeverComesHoldsNothingElseUp() throws {
    let block = try TestBlock("482683")
    let other = try TestBlock("413567")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.fill(1, other.parsed, other.bytes, missing: 0.5)
    net.run(.seconds(4))
    var liar = Liar(block: block)
    say(liar.sketch(0, more: 4), net, from: 0, to: 1)
    net.run(.seconds(5))
    let index = (1..<other.parsed.transactions.count).first { net.kind(1, other.parsed.wtxids[$0]) == nil }!
    try net.learn(1, index, of: other)
    let words = [UInt8](repeating: 7, count: 100)
    net.with(1) { core, sink, now in core.sendJourney(words.span.bytes, now: now, into: &sink) }
    #expect(net.run(.seconds(5)) { net.kind(2, other.parsed.wtxids[index]) != nil && !net.events(2, .journey).isEmpty })
  }

  /// A flood of refused headers or of noise is counted, and told of now and then: what is told waits in a queue that has
  /// more to carry.
  @Test func aFloodOfComplaintsIsToldNowAndThen() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    var liar = Liar(block: block)
    var sketch = liar.sketch(0)
    let nonce = try #require(
      (0..<sketch.count - 80).first { sketch[$0..<$0 + 80].elementsEqual(block.bytes.prefix(80)) })
    let before = net.with(1) { core, _, _ in (core.counters.gateRefusals, core.counters.messagesMalformed) }
    for index in 0..<2_000 {
      for byte in 0..<4 { sketch[nonce + 76 + byte] = UInt8(truncatingIfNeeded: index >> (8 * byte)) }
      say(sketch, net, from: 0, to: 1)
      say([200, 1], net, from: 0, to: 1)
    }
    let after = net.with(1) { core, _, _ in (core.counters.gateRefusals, core.counters.messagesMalformed) }
    #expect(after.0 - before.0 >= 1_999 && after.1 - before.1 >= 2_000)
    #expect(net.events(1, .gateRefused).count + net.events(1, .malformed).count <= 20)
    net.run(.seconds(3))
    say(sketch, net, from: 0, to: 1)
    #expect(net.events(1, .gateRefused).last?.at == net.now)
  }

  /// Whoever catches up is sent whole blocks, but no more of one than by asking for its chunks.
  @Test func gettingABlockOverAndOverHasAnEnd() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1, 2], [0], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    net.filter = { _, from, _, bytes in from == 0 && bytes.count > 600 ? nil : bytes }
    try net.submit(block)
    net.run(.seconds(1))
    let message = encoded { GetBlockMessage(hash: Bytes32(block.hash), flags: .source).write(into: &$0) }
    func ask() -> Int {
      let before = net.datagrams[0][1]
      say(message, net, from: 1, to: 0)
      net.run(.milliseconds(20 as Int64))
      return net.datagrams[0][1] - before
    }
    #expect(ask() >= 10)
    for _ in 0..<200 { _ = ask() }
    #expect(ask() < 8)
  }

  /// A neighbour's allowance of chunks is large, and is not gone for good.
  @Test func whoAskedTooOftenIsHelpedAgain() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1, 2], [0], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(4))
    // Neither gets the block, so that it stays as it is at 0.
    net.filter = { _, from, _, bytes in from == 0 && bytes.count > 600 ? nil : bytes }
    try net.submit(block)
    net.run(.seconds(1))
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = bytes.withUnsafeMutableBytes { buffer in
      var out = MutableRawSpan(_unsafeBytes: buffer)
      return NeedMessage(block: block.hash.w0, kind: .body, flags: [], count: 80).write(into: &out)
    }
    let need = Array(bytes.prefix(count))
    func ask() -> Int {
      let before = net.datagrams[0][1]
      say(need, net, from: 1, to: 0)
      net.run(.milliseconds(20 as Int64))
      return net.datagrams[0][1] - before
    }
    #expect(ask() >= 80)
    for _ in 0..<40 { _ = ask() }
    #expect(ask() < 8)
    net.run(.seconds(10))
    #expect(ask() > 30)
  }
}
