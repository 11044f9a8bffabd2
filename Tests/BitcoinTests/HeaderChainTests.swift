import Bitcoin
import Ground
import Testing

/// A chain that tests can mine: regtest's target with rules of other networks and short periods.
private func minable(
  interval: Int = 12, exception: Bool = false, bip94: Bool = false, retargets: Bool = true
) -> Network {
  var network = Network.regtest
  network.retargetInterval = interval
  network.neverRetargets = !retargets
  network.allowsMinimumDifficulty = exception
  network.enforcesBIP94 = bip94
  return network
}

private let clock: UInt32 = 2_000_000_000

private func mine(
  on parent: Hash256, time: UInt32, bits: UInt32 = 0x207F_FFFF, version: Int32 = 4, salt: UInt64 = 0,
  solved: Bool = true, limit: UInt256 = Network.regtest.powLimit
) -> BlockHeader {
  var header = BlockHeader(
    version: version, previous: parent, merkleRoot: Hash256(w0: salt, w1: 0, w2: 0, w3: 0), time: time, bits: bits,
    nonce: 0)
  while header.hasProofOfWork(limit: limit) != solved { header.nonce += 1 }
  return header
}

extension HeaderChain {
  /// Mines and adds `count` headers on a block; returns their hashes.
  fileprivate mutating func grow(
    _ count: Int, on parent: Hash256? = nil, salt: UInt64 = 0, spacing: UInt32 = 600
  ) throws -> [Hash256] {
    var hashes: [Hash256] = []
    for _ in 0..<count {
      let on = entry(hashes.last ?? parent ?? tip.hash)!
      let header = mine(on: on.hash, time: max(on.time, on.medianTimePast) + spacing, bits: on.bits, salt: salt)
      hashes.append(try accept(header, now: clock).entry.hash)
    }
    return hashes
  }
}

@Suite struct RealHeaderChainTests {
  /// Heights 822528 … 824547 of mainnet through the whole of the checks, with the retarget at 824544 and a stale block.
  @Test func mainnetAcrossARetarget() throws {
    let headers = try Expected.headers("mainnet-822528.bin")
    let stale = try #require(try Expected.headers("mainnet-stale-823226.bin").first)
    let first = headers[0]
    let anchor = HeaderChain.Anchor(
      hash: first.hash, height: 822_528, bits: first.bits, time: first.time, medianTimePast: first.time - 3600)
    var chain = HeaderChain(network: .mainnet, anchor: anchor)
    let now = headers.last!.time
    for (number, header) in headers.dropFirst().enumerated() {
      let accepted = try chain.accept(header, now: now)
      #expect(accepted.isNew && accepted.isTip && accepted.disconnected == 0)
      #expect(accepted.entry.height == 822_529 + number && accepted.entry.isDifficultyVerified)
    }
    #expect(chain.tip.height == 824_547 && chain.tip.bits != first.bits)
    #expect(headers[2015].bits == first.bits && headers[2016].bits != first.bits)
    #expect(chain.entry(atHeight: 824_544)?.header == headers[2016])
    // The stale block is a fork of one, with no more work.
    let fork = try chain.accept(stale, now: now)
    #expect(fork.entry.height == 823_226 && !fork.isTip)
    #expect(!chain.isOnBestBranch(stale.hash))
    #expect(chain.lastCommonAncestor(stale.hash, chain.tip.hash)?.height == 823_225)
    #expect(chain.entry(atHeight: 823_226)?.header == headers[823_226 - 822_528])
    // Work adds up by the two targets.
    let old = Target.work(of: first.bits)
    let new = Target.work(of: headers[2016].bits)
    #expect(chain.tip.chainWork == old.multipliedWrapping(by: 2016) + new.multipliedWrapping(by: 4))

    // A retarget with other bits is refused, though its proof of work can't be made here: the check is the rule's.
    let wrong = Difficulty.required(
      after: .init(height: 824_543, time: headers[2015].time, bits: first.bits), time: headers[2016].time,
      on: .mainnet, ancestor: { $0 == 822_528 ? .init(height: $0, time: first.time, bits: first.bits) : nil })
    #expect(wrong == .exactly(headers[2016].bits))
  }

  /// Anchored in the middle of a period, the retarget can only be bounded: accepted and marked, unless vouched for.
  @Test func anchoredInThePeriod() throws {
    let headers = try Expected.headers("mainnet-822528.bin")
    let start = headers[2000]
    let anchor = HeaderChain.Anchor(
      hash: start.hash, height: 824_528, bits: start.bits, time: start.time, medianTimePast: start.time - 3600)
    for vouched in [false, true] {
      var chain = HeaderChain(network: .mainnet, anchor: anchor)
      let last = try chain.accept(Array(headers[2001...]), now: headers.last!.time, vouched: vouched)
      #expect(last?.isTip == true && chain.tip.height == 824_547)
      #expect(chain.entry(headers[2015].hash)?.isDifficultyVerified == true)
      #expect(chain.entry(headers[2016].hash)?.isDifficultyVerified == vouched)
      #expect(chain.tip.isDifficultyVerified == vouched)
      #expect(chain.locator().last == anchor.hash)
    }
  }

  @Test func tamperedRealHeadersLackWork() throws {
    let headers = try Expected.headers("mainnet-822528.bin")
    let first = headers[0]
    var chain = HeaderChain(
      network: .mainnet,
      anchor: .init(hash: first.hash, height: 822_528, bits: first.bits, time: first.time, medianTimePast: first.time))
    var header = headers[1]
    header.time += 1
    #expect(thrown { () throws(HeaderRejection) in try chain.accept(header, now: clock) } == .proofOfWork)
    header = headers[1]
    header.bits = 0x1D00_FFFF + 1
    #expect(thrown { () throws(HeaderRejection) in try chain.accept(header, now: clock) } == .target(bits: header.bits))
    #expect(
      thrown { () throws(HeaderRejection) in try chain.accept(headers[2], now: clock) }
        == .unknownParent(headers[1].hash))
    // More than two hours before its time.
    let early = headers[1].time - HeaderChain.maxFuture - 1
    #expect(
      thrown { () throws(HeaderRejection) in try chain.accept(headers[1], now: early) }
        == .timeTooNew(limit: headers[1].time - 1))
    #expect(thrown { () throws(HeaderRejection) in try chain.accept(headers[1], now: early + 1) } == nil)
  }
}

@Suite struct HeaderChainTests {
  private func refusal(_ chain: inout HeaderChain, _ header: BlockHeader, now: UInt32 = clock) -> HeaderRejection? {
    do throws(HeaderRejection) {
      _ = try chain.check(header, now: now)
      return nil
    } catch { return error }
  }

  @Test func mostWorkWinsAndTheFirstAmongEquals() throws {
    var chain = HeaderChain(network: .regtest)
    let main = try chain.grow(5)
    let side = try chain.grow(5, on: chain.network.genesis.hash, salt: 1)
    #expect(chain.tip.hash == main[4])
    let header = mine(on: side[4], time: chain.entry(side[4])!.time + 1, salt: 1)
    let accepted = try chain.accept(header, now: clock)
    #expect(accepted.isTip && accepted.disconnected == 5 && chain.tip.height == 6)
    #expect(chain.entry(atHeight: 3)?.hash == side[2] && !chain.isOnBestBranch(main[2]))
    // Known headers are no news.
    let again = try chain.accept(header, now: clock)
    #expect(!again.isNew && again.isTip && again.disconnected == 0)
    // And back.
    let back = try chain.grow(2, on: main[4], salt: 2)
    #expect(chain.tip.hash == back[1] && chain.entry(atHeight: 5)?.hash == main[4])
    #expect(chain.lastCommonAncestor(back[1], side[4])?.height == 0)
  }

  @Test func headersMessages() throws {
    var source = HeaderChain(network: .regtest)
    _ = try source.grow(300)
    var copy = HeaderChain(network: .regtest)
    let list = source.headers(after: copy.locator(), stop: .zero)
    #expect(list.count == 300)
    let last = try copy.accept(list, now: clock)
    #expect(last?.isTip == true && copy.tip == source.tip)
    #expect(source.headers(after: copy.locator(), stop: .zero).isEmpty)
    #expect(try copy.accept([], now: clock) == nil)
    // A fork in one message: what it leaves out is counted over the whole.
    var forked = HeaderChain(network: .regtest)
    _ = try forked.accept(Array(list[..<290]), now: clock)
    _ = try forked.grow(20, salt: 9)
    let side = forked.headers(after: [list[289].hash], stop: .zero)
    #expect(side.count == 20)
    let switched = try copy.accept(side, now: clock)
    #expect(switched?.disconnected == 10 && copy.tip == forked.tip)
    // Stops where it is told to, and answers for a single block without a locator.
    let stop = list[4].hash
    #expect(source.headers(after: [source.network.genesis.hash], stop: stop).map(\.hash) == list[..<5].map(\.hash))
    #expect(source.headers(after: [], stop: stop) == [list[4]])
    // Nothing in common: from genesis on.
    #expect(source.headers(after: [Hash256(w0: 9, w1: 9, w2: 9, w3: 9)], stop: .zero).count == 300)
  }

  @Test func locatorsThinOut() throws {
    var chain = HeaderChain(network: .regtest)
    _ = try chain.grow(200)
    let heights = chain.locator().map { chain.entry($0)!.height }
    #expect(heights == [200, 199, 198, 197, 196, 195, 194, 193, 192, 191, 189, 185, 177, 161, 129, 65, 0])
    #expect(chain.locator(from: .zero).isEmpty)
  }

  @Test func timesFollowTheMedian() throws {
    var chain = HeaderChain(network: .regtest)
    let hashes = try chain.grow(20)
    let tip = chain.tip
    // The median of the last 11 is the sixth from the top.
    #expect(tip.medianTimePast == chain.entry(hashes[14])!.time)
    let median = tip.medianTimePast
    #expect(refusal(&chain, mine(on: tip.hash, time: median)) == .timeTooOld(median: median))
    #expect(refusal(&chain, mine(on: tip.hash, time: median + 1)) == nil)
    #expect(refusal(&chain, mine(on: tip.hash, time: clock + 7201)) == .timeTooNew(limit: clock + 7200))
    #expect(refusal(&chain, mine(on: tip.hash, time: clock + 7200)) == nil)
    #expect(refusal(&chain, mine(on: tip.hash, time: .max), now: .max) == nil)
  }

  /// A chain from an anchor accepts all that a chain with the whole history accepts.
  @Test func anchorsAreNeverTooStrictAboutTime() throws {
    var random = SeededRandom(seed: 5)
    for _ in 0..<20 {
      var whole = HeaderChain(network: .regtest)
      var headers: [BlockHeader] = []
      for _ in 0..<40 {
        // Times anywhere from just after the median.
        let time = whole.tip.medianTimePast + 1 + UInt32(random.below(3000))
        headers.append(mine(on: whole.tip.hash, time: time))
        try whole.accept(headers.last!, now: clock)
      }
      let start = whole.entry(atHeight: 20)!
      var anchored = HeaderChain(
        network: .regtest,
        anchor: .init(
          hash: start.hash, height: 20, bits: start.bits, time: start.time, medianTimePast: start.medianTimePast))
      for header in headers[20...] {
        try anchored.accept(header, now: clock)
        #expect(anchored.tip.medianTimePast <= whole.entry(anchored.tip.hash)!.medianTimePast)
      }
      // With 11 of its own the median is the true one.
      #expect(anchored.tip.medianTimePast == whole.tip.medianTimePast)
      // And nothing at or below the anchor's own median is let in.
      let old = mine(on: start.hash, time: start.medianTimePast, salt: 1)
      #expect(refusal(&anchored, old) == .timeTooOld(median: start.medianTimePast))
    }
  }

  @Test func retargetsAndTheirRefusals() throws {
    var chain = HeaderChain(network: minable())
    _ = try chain.grow(11, spacing: 300)
    let tip = chain.tip
    let first = chain.entry(atHeight: 0)!
    let bits = Difficulty.retarget(bits: tip.bits, first: first.time, last: tip.time, on: chain.network)
    #expect(bits != tip.bits)
    let stale = mine(on: tip.hash, time: tip.time + 300)
    #expect(refusal(&chain, stale) == .difficulty(stated: tip.bits, required: .exactly(bits)))
    let right = mine(on: tip.hash, time: tip.time + 300, bits: bits)
    #expect(try chain.accept(right, now: clock).isTip)
    // In the period the difficulty stands.
    let easy = mine(on: right.hash, time: right.time + 300)
    #expect(refusal(&chain, easy) == .difficulty(stated: 0x207F_FFFF, required: .exactly(bits)))
    // Harder blocks count for more: two of them outweigh three easy ones.
    #expect(Target.work(of: bits) > Target.work(of: tip.bits))
  }

  @Test func minimumDifficultyInAChain() throws {
    var network = minable(interval: 12, exception: true)
    network.powLimit = ~UInt256.zero >> 1
    let real: UInt32 = 0x2030_0000
    let anchor = HeaderChain.Anchor(
      hash: Hash256(w0: 1, w1: 1, w2: 1, w3: 1), height: 13, bits: real, time: 1_000_000, medianTimePast: 990_000)
    var chain = HeaderChain(network: network, anchor: anchor)
    let normal = mine(on: anchor.hash, time: 1_000_600, bits: real)
    try chain.accept(normal, now: clock)
    let soon = mine(on: normal.hash, time: 1_001_800, bits: 0x207F_FFFF)
    #expect(refusal(&chain, soon) == .difficulty(stated: 0x207F_FFFF, required: .exactly(real)))
    let late = mine(on: normal.hash, time: 1_001_801, bits: 0x207F_FFFF)
    try chain.accept(late, now: clock)
    // Afterwards the real difficulty again.
    let after = mine(on: late.hash, time: late.time + 5, bits: 0x207F_FFFF)
    #expect(refusal(&chain, after) == .difficulty(stated: 0x207F_FFFF, required: .exactly(real)))
    try chain.accept(mine(on: late.hash, time: late.time + 5, bits: real), now: clock)
    #expect(chain.tip.isDifficultyVerified)
    // An anchor that is itself a minimum-difficulty block hides the real one: anything within the limit, and marked.
    var blind = HeaderChain(
      network: network,
      anchor: .init(hash: anchor.hash, height: 15, bits: 0x207F_FFFF, time: 1_000_000, medianTimePast: 990_000))
    let guess = try blind.accept(mine(on: anchor.hash, time: 1_000_600, bits: real), now: clock)
    #expect(!guess.entry.isDifficultyVerified)
  }

  @Test func timeWarps() throws {
    for bip94 in [false, true] {
      var chain = HeaderChain(network: minable(bip94: bip94, retargets: false))
      _ = try chain.grow(11, spacing: 1200)
      let tip = chain.tip
      #expect(refusal(&chain, mine(on: tip.hash, time: tip.time - 601)) == (bip94 ? .timeWarp : nil))
      #expect(refusal(&chain, mine(on: tip.hash, time: tip.time - 600)) == nil)
      // Only at a period's start.
      _ = try chain.grow(1, spacing: 1200)
      #expect(refusal(&chain, mine(on: chain.tip.hash, time: chain.tip.time - 601)) == nil)
    }
  }

  @Test func versions() throws {
    var network = Network.regtest
    (network.bip34Height, network.bip66Height, network.bip65Height) = (2, 3, 4)
    var chain = HeaderChain(network: network)
    for (height, least) in [(1, Int32.min), (2, 2), (3, 3), (4, 4), (5, 4)] as [(Int, Int32)] {
      let tip = chain.tip
      #expect(tip.height + 1 == height)
      for version in [-1, 0, 1, 2, 3, 4, 0x2000_0000] as [Int32] {
        let expected: HeaderRejection? = version < least ? .version(version, required: least) : nil
        #expect(refusal(&chain, mine(on: tip.hash, time: tip.time + 600, version: version)) == expected)
      }
      _ = try chain.grow(1)
    }
  }

  @Test func invalidBlocksAndTheirDescendants() throws {
    var chain = HeaderChain(network: .regtest)
    let main = try chain.grow(10)
    let side = try chain.grow(4, on: main[3], salt: 1)
    let isKnown = chain.invalidate(main[5])
    #expect(isKnown)
    // Side: 4 + 4 blocks; main is left with 5 before the bad one.
    #expect(chain.tip.hash == side[3] && chain.tip.height == 8)
    #expect(chain.entry(main[9])?.isInvalid == true && chain.entry(main[4])?.isInvalid == false)
    let child = mine(on: main[9], time: chain.entry(main[9])!.time + 600)
    #expect(refusal(&chain, child) == .invalidated)
    let bad = try #require(chain.entry(main[9])?.header)
    #expect(thrown { () throws(HeaderRejection) in try chain.accept(bad, now: clock) } == .invalidated)
    let unknown = chain.invalidate(.zero)
    let root = chain.invalidate(chain.network.genesis.hash)
    #expect(!unknown && !root)
    chain.invalidate(side[0])
    #expect(chain.tip.hash == main[4])
  }

  /// Memory is bounded: old blocks and old side branches go, the best branch's end stays and goes on growing.
  @Test func forgetting() throws {
    let network = minable(interval: 12, retargets: false)
    var chain = HeaderChain(network: network, capacity: 100)
    #expect(chain.capacity == 100 && chain.depth == 40)
    var best: [Hash256] = []
    for round in 0..<100 {
      best += try chain.grow(3, on: best.last)
      // Side branches at many heights.
      _ = try chain.grow(2, on: best[max(0, best.count - 5)], salt: UInt64(round + 1))
      #expect(chain.count <= chain.capacity)
      #expect(chain.tip.hash == best.last)
    }
    #expect(chain.tip.height == 300 && chain.lowestHeight > 200)
    for height in chain.lowestHeight...300 { #expect(chain.entry(atHeight: height)?.hash == best[height - 1]) }
    #expect(300 - chain.lowestHeight >= chain.depth - 1)
    #expect(chain.entry(best[10]) == nil)
    #expect(chain.locator().last == chain.entry(atHeight: chain.lowestHeight)?.hash)
    // Blocks that far down are refused, whether the parent is still known or not.
    let deep = chain.entry(atHeight: chain.lowestHeight)!
    if deep.height + 1 <= 300 - chain.depth {
      #expect(refusal(&chain, mine(on: deep.hash, time: deep.time + 1, salt: 77)) == .tooDeep(height: deep.height + 1))
    }
    let unknown = mine(on: best[10], time: clock)
    #expect(refusal(&chain, unknown) == .unknownParent(best[10]))
  }

  @Test func proofOfWorkComesFirst() throws {
    var chain = HeaderChain(network: .regtest)
    let unsolved = mine(on: Hash256(w0: 5, w1: 5, w2: 5, w3: 5), time: 1, solved: false)
    #expect(refusal(&chain, unsolved) == .proofOfWork)
  }
}
