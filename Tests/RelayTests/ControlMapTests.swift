import Ground
import Relay
import Testing
import Wire

/// Relays with symmetric delays, telling each other about their links.
private struct Overlay {
  var delays: [[UInt32?]]
  var count: Int { delays.count }
  func key(_ i: Int) -> UInt32 { 0x1000 + UInt32(i) * 7 }
  func links(_ i: Int) -> [Int] { (0..<count).filter { delays[i][$0] != nil } }

  func rows(_ i: Int) -> [StatusRow] {
    links(i).map { StatusRow(neighbour: key($0), delay: delays[i][$0]!, flags: [.up, .trusted]) }
  }

  func map(_ i: Int) -> OverlayMap {
    OverlayMap(
      own: key(i), relays: (0..<count).map(key),
      links: links(i).enumerated().map { (LinkID(UInt16($0.offset)), key($0.element)) })
  }

  /// The map that a relay draws from its own rows, its neighbours' STATUS and the others' MAP.
  func drawn(by i: Int) -> OverlayMap {
    var map = map(i)
    let own = rows(i)
    map.noteOwn(own.span)
    for (link, neighbour) in links(i).enumerated() {
      _ = map.hear(rows(neighbour), on: link)
    }
    for other in 0..<count where other != i && !links(i).contains(other) {
      #expect(map.pass(key(other), 1, rows(other)) == true)
    }
    draw(&map)
    return map
  }

  /// Shortest delay by relaxation (Bellman and Ford), an algorithm of its own.
  func shortest(from a: Int, to b: Int, avoiding c: Int) -> UInt32? {
    var distance = [UInt32?](repeating: nil, count: count)
    distance[a] = 0
    for _ in 0..<count {
      for i in 0..<count where i != c {
        guard let so = distance[i] else { continue }
        for j in 0..<count where j != c {
          if let hop = delays[i][j], so + hop < distance[j] ?? .max { distance[j] = so + hop }
        }
      }
    }
    return distance[b]
  }
}

private func draw(_ map: inout OverlayMap) {
  var slices = 0
  while !map.recompute() {
    slices += 1
    precondition(slices < 1_000)
  }
}

extension OverlayMap {
  /// A STATUS with these rows comes over a link.
  fileprivate mutating func hear(_ rows: [StatusRow], on link: Int, now: Instant = .zero) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 1_200)
    var span = buffer.mutableSpan
    var bytes = span.mutableBytes
    let head = StatusHead(
      flags: [], readiness: .inStep, height: 0, tip: .zero, work: .zero, mempoolTransactions: 0, mempoolBytes: 0,
      loss: 0, burst: 256, observed: 0)
    let count = StatusMessage.write(head, rows: rows.span, into: &bytes)
    let message = try! StatusMessage(parsing: buffer.span.bytes.extracting(first: count))
    return note(message, on: LinkID(UInt16(link)), now: now)
  }

  /// A MAP comes.
  fileprivate mutating func pass(
    _ origin: UInt32, _ sequence: UInt32, _ rows: [StatusRow], now: Instant = .zero
  ) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 1_200)
    var span = buffer.mutableSpan
    var bytes = span.mutableBytes
    let count = MapMessage.write(origin: origin, sequence: sequence, rows: rows.span, into: &bytes)
    let message = try! MapMessage(parsing: buffer.span.bytes.extracting(first: count))
    return note(message, now: now)
  }
}

@Suite struct OverlayMapTests {
  private func random(_ seed: UInt64, relays: Int, density: Double) -> Overlay {
    var random = SeededRandom(seed: seed)
    var delays = [[UInt32?]](repeating: Array(repeating: nil, count: relays), count: relays)
    for a in 0..<relays {
      for b in 0..<a where random.chance(density) || b == a - 1 {
        delays[a][b] = UInt32(50 + random.below(15_000))
        delays[b][a] = delays[a][b]
      }
    }
    return Overlay(delays: delays)
  }

  /// Against another algorithm, on random overlays, dense and sparse; and somebody is primary for everybody.
  @Test(arguments: 0..<30 as Range<UInt64>)
  func primariesFollowTheShortestPaths(seed: UInt64) {
    let overlay = random(seed, relays: 3 + Int(seed % 10), density: seed % 2 == 0 ? 0.9 : 0.3)
    let maps = (0..<overlay.count).map { overlay.drawn(by: $0) }
    for maker in 0..<overlay.count {
      for receiver in 0..<overlay.count where receiver != maker {
        var senders = 0
        for sender in overlay.links(receiver) {
          let link = LinkID(UInt16(overlay.links(sender).firstIndex(of: receiver)!))
          let isPrimary = maps[sender].primaries(for: overlay.key(maker)).contains(link)
          let through = overlay.shortest(from: maker, to: sender, avoiding: -1)! + overlay.delays[sender][receiver]!
          let around = overlay.shortest(from: maker, to: receiver, avoiding: sender)
          let expected = sender == maker || around == nil || through <= around! + OverlayMap.tolerance
          #expect(isPrimary == expected, "seed \(seed): \(maker) → \(sender) → \(receiver)")
          if isPrimary { senders += 1 }
        }
        #expect(senders > 0, "seed \(seed): nobody is primary for \(receiver)")
      }
    }
  }

  @Test func theLargerClaimCounts() {
    // 0 – 1 – 2 and 0 – 2: 1 claims a short link to 2, 2 says that it is long.
    let overlay = Overlay(delays: [[nil, 1_000, 5_000], [1_000, nil, 1_000], [5_000, 1_000, nil]])
    var map = overlay.map(1)
    map.noteOwn(overlay.rows(1).span)
    _ = map.hear(overlay.rows(0), on: 0)
    let honest = [
      StatusRow(neighbour: overlay.key(0), delay: 5_000, flags: [.up, .trusted]),
      StatusRow(neighbour: overlay.key(1), delay: 9_000, flags: [.up, .trusted]),
    ]
    _ = map.hear(honest, on: 1)
    draw(&map)
    #expect(map.role(for: overlay.key(0), to: LinkID(1)) == .spare)
    _ = map.hear(overlay.rows(2), on: 1)
    draw(&map)
    #expect(map.role(for: overlay.key(0), to: LinkID(1)) == .primary)
  }

  @Test func linksThatAreDownAndUnknownMakers() {
    let overlay = Overlay(delays: [[nil, 1_000, 1_000], [1_000, nil, 1_000], [1_000, 1_000, nil]])
    var map = overlay.drawn(by: 1)
    #expect(map.role(for: overlay.key(0), to: LinkID(1)) == .spare)
    #expect(map.primaries(for: 0xFFFF_FFFF).bits == .max)
    let down = [StatusRow(neighbour: overlay.key(0), delay: 1_000, flags: [.trusted])]
    #expect(map.hear(down, on: 1, now: .zero + .microseconds(1_000_000)) == true)
    draw(&map)
    #expect(map.role(for: overlay.key(0), to: LinkID(1)) == .primary)
  }

  @Test func strangersAreIgnored() {
    let overlay = Overlay(delays: [[nil, 1_000, 1_000], [1_000, nil, 1_000], [1_000, 1_000, nil]])
    var map = overlay.drawn(by: 1)
    let rows = [StatusRow(neighbour: 0xBAD, delay: 1, flags: [.up, .trusted])] + overlay.rows(2)
    #expect(map.hear(rows, on: 1) == false)
    #expect(map.pass(0xBAD, 1, rows, now: .zero) == false)
    #expect(map.hear(rows, on: 40) == false)
    #expect(!map.needsRecompute)
  }

  @Test func mapsGoRoundOnceAndAge() {
    let overlay = random(3, relays: 6, density: 0)
    var map = overlay.map(0)
    let far = overlay.key(5)
    #expect(map.pass(far, 10, overlay.rows(5), now: .zero) == true)
    #expect(map.pass(far, 10, overlay.rows(5), now: .zero) == false)
    #expect(map.pass(far, 9, overlay.rows(5), now: .zero) == false)
    #expect(map.pass(far, 11, overlay.rows(5), now: .zero) == false, "at most once a second")
    let later = Instant.zero + .microseconds(2_000_000)
    #expect(map.pass(far, 12, overlay.rows(5), now: later) == true)
    // After a restart the sequence begins again: accepted once the old rows are stale.
    let stale = later + .microseconds(16_000_000)
    #expect(map.pass(far, 1, overlay.rows(5), now: stale) == true)
    draw(&map)
    map.expire(now: stale + .microseconds(20_000_000))
    #expect(map.needsRecompute)
  }

  @Test func wanderingDelaysDoNotRedrawTheMap() {
    let overlay = Overlay(delays: [[nil, 1_000, 1_000], [1_000, nil, 1_000], [1_000, 1_000, nil]])
    var map = overlay.drawn(by: 1)
    let rows = overlay.rows(2).map { StatusRow(neighbour: $0.neighbour, delay: $0.delay + 9, flags: $0.flags) }
    #expect(map.hear(rows, on: 1) == false)
  }

  @Test func theLargestMapIsDrawn() {
    let overlay = random(9, relays: 200, density: 0.15)
    var map = overlay.map(0)
    map.noteOwn(overlay.rows(0).span)
    for other in 1..<overlay.count {
      _ = map.pass(overlay.key(other), 1, overlay.rows(other))
    }
    draw(&map)
    #expect(map.primaries(for: overlay.key(0)).count == overlay.links(0).count)
  }
}

@Suite struct TrustLedgerTests {
  private let minute = Interval.microseconds(60_000_000)
  private func blame(_ block: UInt64, index: UInt32 = 0) -> BlameMessage {
    BlameMessage(block: block, kind: .body, index: index, maker: 9)
  }
  private func ledger() -> TrustLedger {
    var ledger = TrustLedger()
    ledger.configure(LinkID(0), isTrusted: true, now: start)
    ledger.configure(LinkID(1), isTrusted: true, now: start)
    ledger.configure(LinkID(2), isTrusted: false, now: start)
    return ledger
  }
  private let start = Instant(nanoseconds: 1_000_000_000_000_000)

  @Test func demotionsDoubleAndEnd() {
    var ledger = ledger()
    #expect(ledger.trusted.bits == 0b11)
    var now = start
    for (i, minutes) in ([10, 20, 40, 80, 160, 320, 640, 1_280, 1_440, 1_440] as [Int64]).enumerated() {
      #expect(
        ledger.proveWrong(blame(UInt64(i)), from: LinkID(0), now: now) == .demoted(until: now + minute * minutes))
      #expect(!ledger.isTrusted(LinkID(0)) && ledger.isTrusted(LinkID(1)))
      now = ledger.nextDeadline
      #expect(ledger.expire(now: now - Interval(nanoseconds: 1)) == .none)
      #expect(ledger.expire(now: now) == LinkSet(LinkID(0)))
      #expect(ledger.isTrusted(LinkID(0)))
    }
    // A day without an offence wipes the slate.
    now = now + TrustLedger.day + minute
    #expect(ledger.proveWrong(blame(99), from: LinkID(0), now: now) == .demoted(until: now + minute * 10))
  }

  @Test func oneBlockIsOneOffence() {
    var ledger = ledger()
    #expect(ledger.proveWrong(blame(1, index: 1), from: LinkID(0), now: start) == .demoted(until: start + minute * 10))
    for i in 2..<500 as Range<UInt32> {
      #expect(ledger.proveWrong(blame(1, index: i), from: LinkID(0), now: start) == .counted)
    }
    #expect(ledger.nextDeadline == start + minute * 10)
  }

  @Test func pointingMovesTheDemotion() {
    var ledger = ledger()
    _ = ledger.proveWrong(blame(1), from: LinkID(0), now: start)
    let point = PointMessage(blame: blame(1), source: 5)
    let now = start + .microseconds(1_000)
    #expect(
      ledger.point(point, from: LinkID(0), own: false, neighbour: LinkID(1), now: now)
        == .moved(to: LinkID(1), until: now + minute))
    #expect(ledger.trusted == .none)
    #expect(ledger.expire(now: now + minute).bits == 0b11)
    // Twice the same answer isn't one.
    #expect(ledger.point(point, from: LinkID(0), own: false, neighbour: LinkID(1), now: now) == .unasked)
    // The forwarder's next offence is again its first.
    #expect(
      ledger.proveWrong(blame(2), from: LinkID(0), now: now + minute * 2)
        == .demoted(until: now + minute * 12))
  }

  @Test func pointsThatNobodyAskedForDoNothing() {
    var ledger = ledger()
    let point = PointMessage(blame: blame(1), source: 5)
    #expect(ledger.point(point, from: LinkID(0), own: false, neighbour: LinkID(1), now: start) == .unasked)
    _ = ledger.proveWrong(blame(1), from: LinkID(0), now: start)
    #expect(ledger.point(point, from: LinkID(1), own: false, neighbour: LinkID(0), now: start) == .unasked)
    #expect(ledger.point(point, from: LinkID(0), own: false, neighbour: LinkID(1), now: start + minute * 2) == .unasked)
    #expect(ledger.trusted.bits == 0b10)
  }

  @Test func standingByAChunkShortensNothing() {
    var ledger = ledger()
    _ = ledger.proveWrong(blame(1), from: LinkID(0), now: start)
    let point = PointMessage(blame: blame(1), source: 5)
    #expect(ledger.point(point, from: LinkID(0), own: true, neighbour: nil, now: start) == .ownWork)
    #expect(ledger.demotedUntil(LinkID(0)) == start + minute * 10)
  }

  @Test func threePointsADay() {
    var ledger = ledger()
    var now = start
    var outcomes: [TrustLedger.PointOutcome] = []
    for i in 0..<5 as Range<UInt64> {
      _ = ledger.proveWrong(blame(i), from: LinkID(0), now: now)
      outcomes.append(
        ledger.point(PointMessage(blame: blame(i), source: 5), from: LinkID(0), own: false, neighbour: nil, now: now))
      now = now + minute * 30
    }
    #expect(outcomes == [.shortened, .shortened, .shortened, .tooMany, .tooMany])
    #expect(!ledger.isTrusted(LinkID(0)) || ledger.nextDeadline == .never)
  }

  @Test func verifiedOnlyStaysThatAndRemovalForgets() {
    var ledger = ledger()
    _ = ledger.proveWrong(blame(1), from: LinkID(2), now: start)
    _ = ledger.expire(now: start + minute * 11)
    #expect(!ledger.isTrusted(LinkID(2)))
    _ = ledger.proveWrong(blame(2), from: LinkID(0), now: start)
    ledger.remove(LinkID(0), now: start)
    ledger.configure(LinkID(0), isTrusted: true, now: start)
    #expect(ledger.isTrusted(LinkID(0)))
  }

  /// Whatever happens, a demotion ends within a day, and only configured trust is given back.
  @Test(arguments: 0..<20 as Range<UInt64>) func demotionsAreBounded(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var ledger = ledger()
    var now = start
    for _ in 0..<2_000 {
      now = now + Interval(nanoseconds: Int64(random.below(600_000_000_000)))
      let link = LinkID(UInt16(random.below(3)))
      let b = blame(UInt64(random.below(50)), index: UInt32(random.below(3)))
      switch random.below(3) {
      case 0: _ = ledger.proveWrong(b, from: link, now: now)
      case 1:
        let neighbour = random.chance(0.5) ? LinkID(UInt16(random.below(3))) : nil
        _ = ledger.point(
          PointMessage(blame: b, source: 1), from: link, own: random.chance(0.2), neighbour: neighbour, now: now)
      default: _ = ledger.expire(now: now)
      }
      for i in 0..<3 as Range<UInt16> {
        if let until = ledger.demotedUntil(LinkID(i)) { #expect(until <= now + TrustLedger.longestDemotion) }
      }
      #expect(!ledger.isTrusted(LinkID(2)))
    }
  }
}
