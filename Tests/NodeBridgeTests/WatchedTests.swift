import Bitcoin
import BridgeSite
import Ground
import NodeBridge
import Testing

/// Public peers that are only listened to: anyone may be at the other end.
@Suite struct WatchedTests {
  private func watching() -> Bench {
    var bench = Bench {
      $0.role = .watched
      $0.mirrorsMempool = false
    }
    bench.shakeHands()
    bench.wire.written = [:]
    return bench
  }

  private func announced(_ bench: borrowing Bench) -> [(hash: Hash256, form: AnnouncementForm, at: Instant)] {
    bench.log.read { state in
      state.events.compactMap { event in
        if case .announced(_, let hash, let form, let at) = event { (hash, form, at) } else { nil }
      }
    }
  }

  private func random(_ random: inout SeededRandom) -> Hash256 { Hash256(random.bytes(32).span.bytes) }

  /// Neither blocks nor transactions nor headers, in whatever way it asks.
  @Test func isToldNothing() throws {
    var random = SeededRandom(seed: 1)
    var bench = watching()
    let held = try bench.hold(block(after: bench.host.chain, 5, &random))
    bench.receive(.getdata([InventoryItem(.witnessBlock, held.hash), InventoryItem(.compactBlock, held.hash)]))
    bench.receive(.getblocktxn(BlockTransactionsRequest(block: held.hash, indexes: [0, 1])))
    bench.receive(.getblocks(GetHeaders(locator: [Network.regtest.genesis.hash])))
    bench.receive(.mempool)
    bench.receive(.getheaders(GetHeaders(locator: [Network.regtest.genesis.hash])))
    bench.receive(.ping(7))
    bench.deliver(held.hash)
    let said = messages(bench.wire.written[0] ?? [])
    #expect(said.map(\.command.description) == ["headers", "pong"])
    guard case .headers(let headers) = said[0] else { return }
    #expect(headers.isEmpty)
    // Nor is anything of it taken.
    let other = block(after: bench.host.chain, 5, &random)
    bench.receive(.block(other))
    bench.receive(.tx(Array(other[81...])))
    #expect(bench.log.read { $0.blocks.isEmpty } && announced(bench).isEmpty)
  }

  /// Hashes that nobody has seen work behind are no announcements, and one question stands for all of them.
  @Test func inventedBlocksAreNoNews() {
    var random = SeededRandom(seed: 2)
    var bench = watching()
    for _ in 0..<500 { bench.receive(.inv([InventoryItem(.block, self.random(&random))])) }
    #expect(announced(bench).isEmpty)
    #expect(commands(bench.wire.written[0] ?? []) == ["getheaders"])
    // Each answer lets it ask once more, for what came meanwhile.
    bench.receive(.headers([]))
    bench.receive(.headers([]))
    #expect(commands(bench.wire.written[0] ?? []) == ["getheaders", "getheaders"])
    #expect(bench.wire.closed.isEmpty)
  }

  /// What counts is when the peer told of the block, not when its header came, and from whom.
  @Test(arguments: [0, 1, 2]) func theMomentIsKept(way: Int) throws {
    var random = SeededRandom(seed: 3)
    var bench = watching()
    let bytes = block(after: bench.host.chain, 1, &random)
    let header = try BlockHeader(parsing: bytes.span.bytes)
    bench.receive(.inv([InventoryItem(.block, header.hash)]))
    let moment = bench.now
    #expect(announced(bench).isEmpty)
    bench.receive(.inv([InventoryItem(.block, self.random(&random))]))
    switch way {
    case 0: bench.receive(.headers([header]))
    case 1:
      // The overlay was quicker than the peer's answer, which is empty.
      try bench.host.chain.accept(header, now: .max)
      bench.receive(.headers([]))
    default:
      try bench.host.chain.accept(header, now: .max)
      bench.now = bench.now + .seconds(31)
      bench.tick()
    }
    bench.receive(.headers([header]))
    let told = announced(bench)
    #expect(told.count == 1 && told[0].hash == header.hash && told[0].form == .inventory && told[0].at == moment)
  }

  /// A compact block is news when its header is good, and at once.
  @Test func aCompactBlockIsNews() throws {
    var random = SeededRandom(seed: 4)
    var bench = watching()
    func frame(_ bytes: [UInt8]) throws -> [UInt8] {
      var parsed = try ParsedBlock(parsing: bytes.span.bytes)
      parsed.hashAll(in: bytes.span.bytes)
      var compact = ByteWriter()
      CompactBlock.encode(parsed, in: bytes.span.bytes, nonce: 7, to: &compact)
      return Framing.frame(.cmpctblock, payload: compact.bytes.span.bytes, on: .regtest)
    }
    let good = block(after: bench.host.chain, 3, &random)
    var bad = good
    // Another nonce, with which there is no proof of work.
    let limit = Network.regtest.powLimit
    repeat { bad[76] &+= 1 } while try BlockHeader(parsing: bad.span.bytes).hasProofOfWork(limit: limit)
    bench.receive(try frame(bad))
    #expect(announced(bench).isEmpty)
    bench.receive(try frame(good))
    let told = announced(bench)
    #expect(told.count == 1 && told[0].form == .compactBlock && told[0].at == bench.now)
    #expect(bench.log.read { $0.blocks.isEmpty })
  }

  /// Headers known for long are no news, however often they come.
  @Test func oldHeadersAreNoNews() throws {
    var random = SeededRandom(seed: 5)
    var bench = watching()
    var headers: [BlockHeader] = []
    for _ in 0..<150 {
      headers.append(try BlockHeader(parsing: block(after: bench.host.chain, 0, &random).span.bytes))
      try bench.host.chain.accept(headers.last!, now: .max)
    }
    for _ in 0..<4 {
      for start in [0, 50, 100] { bench.receive(.headers(Array(headers[start..<start + 50]))) }
    }
    #expect(announced(bench).count <= 32)
  }

  /// More than an inbound peer may say in a second ends the connection, in the midst of what has arrived.
  @Test func itsMessagesAreCounted() {
    var bench = watching()
    var bytes: [UInt8] = []
    for nonce in 0..<4_000 { bytes += Message.ping(UInt64(nonce)).framed(on: .regtest) }
    bench.receive(bytes)
    #expect(bench.wire.closed == [0])
    #expect(commands(bench.wire.written[0] ?? []).count <= 2_001)
    // So do frames that are not even whole.
    var other = watching()
    var broken = Message.ping(1).framed(on: .regtest)
    broken[30] ^= 1
    other.receive(Array(repeating: broken, count: 4_000).flatMap { $0 })
    #expect(other.wire.closed == [0])
    #expect(other.log.count { if case .misbehaved = $0 { true } else { false } } == 10)
  }

  /// A peer that takes the connection and hangs up at once is left alone ever longer; one that stayed is asked back soon.
  @Test func whoHangsUpIsAskedEverLater() {
    var bench = watching()
    func wait(after seconds: Int64, _ bench: inout Bench) -> Interval {
      bench.now = bench.now + .seconds(seconds)
      bench.close(0)
      return bench.bridge.nextDeadline - bench.now
    }
    var waits: [Interval] = []
    for _ in 0..<9 {
      waits.append(wait(after: 1, &bench))
      bench.shakeHands()
    }
    #expect(waits.first == .milliseconds(100 as Int64) && waits.last == .seconds(10))
    #expect(wait(after: 11, &bench) == .milliseconds(100 as Int64))
  }
}

/// Who asks for blocks and doesn't read them: nothing more is made ready for it.
@Suite struct UnreadTests {
  @Test(arguments: [false, true]) func theFirstAnswerWithoutRoomIsTheLast(isInbound: Bool) throws {
    var random = SeededRandom(seed: 6)
    var bench = Bench()
    bench.shakeHands()
    var stream: UInt16 = 0
    if isInbound {
      let accepted = bench.accept()
      stream = try #require(accepted).index
      bench.receive(.version(bench.version(1)), on: stream)
      bench.receive(.verack, on: stream)
    }
    let held = try bench.hold(block(after: bench.host.chain, 5, &random))
    let request = Message.getdata(Array(repeating: InventoryItem(.witnessBlock, held.hash), count: 16))
    bench.wire.takes = false
    bench.receive(Array(repeating: request.framed(on: .regtest), count: 20).flatMap { $0 }, on: stream)
    #expect(bench.wire.refusals == 1 && bench.wire.closed == [stream])
  }
}
