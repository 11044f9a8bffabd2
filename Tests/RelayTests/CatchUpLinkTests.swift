import Bitcoin
import Ground
import Relay
import Testing
import Wire

/// Whom a relay asks while it catches up, and when: one side of the exchange, answered by hand.
private final class Seeker {
  var chain = HeaderChain(network: .regtest)
  var catchUp = CatchUp()
  var now = Instant.zero
  var present: Set<Hash256> = []

  init(_ links: Int) {
    for link in 0..<links { catchUp.linkUp(LinkID(UInt16(link))) }
  }

  func accept(_ headers: [BlockHeader]) {
    for header in headers { _ = try! chain.accept(header, now: .max - 10_000) }
  }

  func hear(tip: Hash256, height: Int, work: UInt64 = 1, on link: Int) {
    let status = StatusHead(
      flags: [], readiness: .inStep, height: UInt32(height), tip: Bytes32(tip),
      work: Bytes32(w0: work, w1: 0, w2: 0, w3: 0), mempoolTransactions: 1, mempoolBytes: 1, loss: 0, burst: 256,
      observed: 0)
    catchUp.note(status, on: LinkID(UInt16(link)), chain: chain)
  }

  func decide() { catchUp.decide(now: now, chain: chain) { present.contains($0) } }

  /// What goes out on a link now; nil for nothing.
  func say(_ link: Int) -> [UInt8]? {
    let id = LinkID(UInt16(link))
    if !catchUp.hasMessage(for: id) { return nil }
    return encoded { catchUp.next(on: id, now: now, chain: chain, into: &$0).count }
  }

  func asksForHeaders(_ link: Int) -> Bool {
    say(link).map { (try? RelayMessageType(of: $0.span.bytes)) == .getHeaders } ?? false
  }

  func answer(_ headers: [BlockHeader], height: Int, on link: Int) -> CatchUp.HeadersOutcome {
    let bytes = headers.map { HeaderBytes($0.bytes.span.bytes) }
    let message = encoded {
      HeadersMessage.write(
        startHeight: UInt32(height), lastHeight: UInt32(height + headers.count - 1), headers: bytes.span, into: &$0)
    }
    return catchUp.receive(
      try! HeadersMessage(parsing: message.span.bytes), from: LinkID(UInt16(link)), chain: &chain,
      unixTime: .max - 10_000, now: now)
  }
}

@Suite struct CatchUpLinkTests {
  private func seconds(_ instants: [Instant]) -> [Double] {
    instants.map { ($0 - .zero).milliseconds / 1_000 }
  }

  /// When each of the links is asked for headers within 60 s that nobody answers, driven by `nextDeadline` alone.
  private func askedInAMinute(_ seeker: Seeker, _ links: Int) -> [[Double]] {
    var asked = Array(repeating: [Instant](), count: links)
    seeker.decide()
    while seeker.now < .zero + .microseconds(60_000_000) {
      for link in 0..<links where seeker.asksForHeaders(link) { asked[link].append(seeker.now) }
      let next = seeker.catchUp.nextDeadline
      #expect(next > seeker.now, "what was looked at is not due again at once")
      if next <= seeker.now { break }
      seeker.now = next
      seeker.decide()
    }
    return asked.map { seconds($0) }
  }

  /// The only line loses everything for a while: asked every second, and with the first that gets through all is well.
  @Test func theOnlyOneIsAskedOn() {
    let seeker = Seeker(1)
    seeker.hear(tip: Hash256(w0: 7, w1: 7, w2: 7, w3: 7), height: 5, on: 0)
    #expect(askedInAMinute(seeker, 1) == [(0..<60).map { Double($0) }])
  }

  /// One that claims more work and never answers is asked first, and after three times rests, ever longer, while the other
  /// is asked; that one leaves requests unanswered too, and both have their turns.
  @Test func whoDoesNotAnswerComesAfterTheOthers() {
    let seeker = Seeker(2)
    seeker.hear(tip: Hash256(w0: 7, w1: 7, w2: 7, w3: 7), height: 5, work: 9, on: 0)
    seeker.hear(tip: Hash256(w0: 8, w1: 8, w2: 8, w3: 8), height: 5, work: 1, on: 1)
    let asked = askedInAMinute(seeker, 2)
    #expect(asked[0].prefix(3) == [0, 2, 4] && asked[1].prefix(3) == [1, 3, 5], "\(asked)")
    #expect(asked[0].count + asked[1].count == 60 && min(asked[0].count, asked[1].count) >= 20, "\(asked)")
  }

  /// Its answer held nothing new because another's came first: it stays the one to be asked for blocks.
  @Test func whoWasSlowerIsStillAskedForBlocks() throws {
    let seeker = Seeker(2)
    let news = minedHeaders(3, on: seeker.chain, from: seeker.chain.tip.hash)
    seeker.hear(tip: news[2].hash, height: 3, work: 9, on: 0)
    seeker.decide()
    #expect(seeker.asksForHeaders(0))
    // The headers come from elsewhere; 1 has none of the blocks.
    seeker.accept(news)
    guard case .waiting = seeker.answer(news, height: 1, on: 0) else {
      Issue.record("an answer without news is no news")
      return
    }
    seeker.now = seeker.now + .microseconds(10_000)
    seeker.decide()
    seeker.now = seeker.catchUp.nextDeadline
    seeker.decide()
    let request = try #require(seeker.say(0))
    #expect(try GetBlockMessage(parsing: request.span.bytes).hash == Bytes32(news[2].hash))
    #expect(seeker.say(1) == nil)
  }

  /// Nothing new, and its tip as unknown as before: it leads nowhere, and the other one is asked.
  @Test func whoLeadsNowhereIsLeftForTenSeconds() {
    let seeker = Seeker(2)
    let news = minedHeaders(2, on: seeker.chain, from: seeker.chain.tip.hash)
    seeker.accept(news)
    let fake = Hash256(w0: 7, w1: 7, w2: 7, w3: 7)
    seeker.hear(tip: fake, height: 9, work: 100, on: 0)
    seeker.decide()
    #expect(seeker.asksForHeaders(0))
    _ = seeker.answer(news, height: 1, on: 0)
    seeker.hear(tip: fake, height: 9, work: 100, on: 0)
    seeker.decide()
    #expect(!seeker.asksForHeaders(0))
    // A faster neighbour with an unknown tip is not kept waiting for it.
    seeker.hear(tip: Hash256(w0: 8, w1: 8, w2: 8, w3: 8), height: 3, on: 1)
    seeker.decide()
    #expect(seeker.asksForHeaders(1))
    seeker.catchUp.linkDown(LinkID(1))
    seeker.now = .zero + .microseconds(9_900_000)
    seeker.decide()
    #expect(!seeker.asksForHeaders(0))
    #expect(seconds([seeker.catchUp.nextDeadline]) == [10])
    seeker.now = .zero + .microseconds(10_000_000)
    seeker.decide()
    #expect(seeker.asksForHeaders(0))
  }

  /// A neighbour whose best header's body is kept back names a tip beside the best branch: the question names it, and
  /// the answer is its branch.
  @Test func aTipBesideTheBestBranchIsAskedForAndTold() throws {
    let teller = Seeker(1)
    let common = minedHeaders(5, on: teller.chain, from: teller.chain.tip.hash)
    teller.accept(common)
    let best = minedHeaders(2, on: teller.chain, from: common[4].hash, salt: 1)
    teller.accept(best)
    let beside = minedHeaders(1, on: teller.chain, from: common[4].hash, salt: 2)
    teller.accept(beside)
    #expect(teller.chain.tip.hash == best[1].hash)
    // One that knows the best branch as far as the teller does.
    let seeker = Seeker(1)
    seeker.accept(common)
    seeker.accept(best)
    seeker.hear(tip: beside[0].hash, height: 6, on: 0)
    seeker.decide()
    let question = try #require(seeker.say(0))
    let asked = try GetHeadersMessage(parsing: question.span.bytes)
    let wanted = asked.stop
    #expect(wanted == Bytes32(beside[0].hash))
    teller.catchUp.receive(asked, from: LinkID(0), chain: teller.chain)
    let reply = try #require(teller.say(0))
    let headers = try HeadersMessage(parsing: reply.span.bytes)
    let (told, branch) = (headers.count, headers.header(0))
    #expect(told == 1 && branch == HeaderBytes(beside[0].bytes.span.bytes))
    #expect(teller.say(0) == nil)
    guard case .accepted = seeker.answer(beside, height: 6, on: 0) else {
      Issue.record("the branch was not taken")
      return
    }
    #expect(seeker.chain.entry(beside[0].hash) != nil)
    // Its block is wanted as well, though it lies beside.
    #expect(CatchUp.candidates(seeker.chain).contains(beside[0].hash))
  }

  /// What lies beside is judged by the best block that is here, as the gate does, not by a header whose body is kept back.
  @Test func whatTheGateWouldLetInIsWantedUnderAKeptBackHeader() {
    let seeker = Seeker(1)
    let root = seeker.chain.tip.hash
    let best = minedHeaders(4, on: seeker.chain, from: root)
    let here = best[2].hash
    seeker.accept(best)
    let beside = minedHeaders(1, on: seeker.chain, from: root, salt: 1)
    seeker.accept(beside)
    #expect(!CatchUp.candidates(seeker.chain).contains(beside[0].hash))
    #expect(CatchUp.candidates(seeker.chain, near: seeker.chain.entry(here)).contains(beside[0].hash))
  }

  /// What fell due before anybody looked is due, not forgotten.
  @Test func whatIsDueAlreadyIsNotSkipped() throws {
    let seeker = Seeker(1)
    let news = minedHeaders(4, on: seeker.chain, from: seeker.chain.tip.hash)
    seeker.accept(news)
    seeker.hear(tip: news[3].hash, height: 4, on: 0)
    seeker.decide()
    #expect(seeker.say(0) == nil, "it may be on its way")
    let due = seeker.catchUp.nextDeadline
    #expect(seconds([due]) == [0.25])
    // Another message comes later than that and re-arms the timer.
    seeker.now = .zero + .microseconds(300_000)
    #expect(seeker.catchUp.nextDeadline == due)
    seeker.decide()
    // Two are asked for at once, the newest first; the others wait for their end and don't spin.
    for expected in [news[3], news[2]] {
      let request = try #require(seeker.say(0))
      #expect(try GetBlockMessage(parsing: request.span.bytes).hash == Bytes32(expected.hash))
    }
    #expect(seeker.say(0) == nil)
    #expect(seconds([seeker.catchUp.nextDeadline]) == [2.3])
  }

  /// Silence is asked again, NOBLOCK is not, and a new tip ends the pause.
  @Test func aPauseEndsEarlyForANewTip() throws {
    let seeker = Seeker(1)
    let news = minedHeaders(1, on: seeker.chain, from: seeker.chain.tip.hash)
    seeker.accept(news)
    seeker.hear(tip: news[0].hash, height: 1, on: 0)
    seeker.now = .zero + .microseconds(1_000)
    seeker.decide()
    var asked: [Instant] = []
    while seeker.now < .zero + .microseconds(11_000_000) {
      if seeker.say(0) != nil { asked.append(seeker.now) }
      seeker.now = max(seeker.catchUp.nextDeadline, seeker.now + .microseconds(1))
      seeker.decide()
    }
    // Three times two seconds of silence, then four of rest.
    #expect(seconds(asked) == [0.251, 2.251, 4.251, 10.251])
    seeker.catchUp.receive(NoBlockMessage(hash: Bytes32(news[0].hash)), from: LinkID(0), now: seeker.now)
    seeker.decide()
    #expect(seeker.say(0) == nil)
    let more = minedHeaders(1, on: seeker.chain, from: news[0].hash)
    seeker.accept(more)
    seeker.hear(tip: more[0].hash, height: 2, on: 0)
    seeker.decide()
    let request = try #require(seeker.say(0))
    #expect(try GetBlockMessage(parsing: request.span.bytes).hash == Bytes32(news[0].hash))
  }
}
