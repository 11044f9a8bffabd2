import Bitcoin
import Foundation
import Ground
import MemorySink
import Relay
import Session
import Testing
import Wire

/// JOURNEY beyond neighbours, and what is told of the order in which packets come.
@Suite struct JourneyTests {
  private func net(_ links: [[Int]]) throws -> (TestNet, TestBlock) {
    let block = try TestBlock("482683")
    let net = TestNet(links, block: block.bytes, height: block.height)
    net.start()
    // STATUS comes once a second, and MAP after it.
    net.run(.seconds(8))
    return (net, block)
  }

  private func take(_ net: TestNet, _ node: Int) -> [(from: UInt16, bytes: [UInt8])] {
    net.with(node) { core, _, _ in
      var all: [(UInt16, [UInt8])] = []
      while core.takeJourney({ link, bytes in all.append((link.index, bytes.withUnsafeBytes { [UInt8]($0) })) }) {}
      return all
    }
  }

  private func key(_ net: TestNet, _ node: Int) -> UInt32 { key4(of: net.identities[node].publicKey) }

  /// 0 – 1 – 2 with 3 linked to 0 and 1: what 0 made goes from 1 to 2, not back, not to 3 who hears 0 itself.
  @Test func passedOnToThoseThatHearItBestFromHere() throws {
    let (net, _) = try net([[1, 3], [0, 2, 3], [1], [0, 1]])
    let words: [UInt8] = [1, 2, 3]
    net.with(1) { core, sink, now in
      core.passJourney(words.span.bytes, maker: key(net, 0), from: LinkID(0), now: now, into: &sink)
    }
    net.run(.milliseconds(200 as Int64))
    #expect(take(net, 2).map(\.bytes) == [words])
    #expect(take(net, 0).isEmpty && take(net, 3).isEmpty)
    // A maker that the map doesn't know: to all but the neighbour that told it.
    net.with(1) { core, sink, now in
      core.passJourney(words.span.bytes, maker: 0xDEAD_BEEF, from: LinkID(2), now: now, into: &sink)
    }
    net.run(.milliseconds(200 as Int64))
    #expect(take(net, 2).isEmpty && take(net, 0).map(\.from) == [1] && take(net, 3).map(\.from) == [1])
    // One's own neighbour made it: it isn't told its own.
    net.with(1) { core, sink, now in
      core.passJourney(words.span.bytes, maker: key(net, 2), from: LinkID(3), now: now, into: &sink)
    }
    net.run(.milliseconds(200 as Int64))
    #expect(take(net, 2).isEmpty)
  }

  /// In a ring the short way round carries it, and only that one.
  @Test func theShortWayCarriesIt() throws {
    let (net, _) = try net([[1, 4], [0, 2], [1, 3], [2, 4], [3, 0]])
    let words: [UInt8] = [7]
    // 2 hears 0 through 1; through 3 it would be one hop further.
    for (teller, from) in [(1, 0), (3, 4)] {
      net.with(teller) { core, sink, now in
        core.passJourney(words.span.bytes, maker: key(net, 0), from: LinkID(UInt16(from)), now: now, into: &sink)
      }
    }
    net.run(.milliseconds(200 as Int64))
    #expect(take(net, 2).map(\.from) == [1])
  }

  /// While a block is due to a neighbour its link carries nothing else.
  @Test func aBlockGoesBeforeJourneys() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    // A slow link: the block takes a while.
    net.bytesPerMillisecond = 4_000
    try net.begin(block, cold: [1])
    let words: [UInt8] = [9]
    net.with(0) { core, sink, now in core.sendJourney(words.span.bytes, now: now, into: &sink) }
    #expect(net.with(0) { core, _, _ in core.counters.journeysSent } == 0)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    #expect(net.events(1, .journey).isEmpty, "not before the block's data")
    #expect(net.run(.seconds(20)) { !net.events(1, .journey).isEmpty })
    #expect(take(net, 1).map(\.bytes) == [words])
  }

  @Test func whatWaitsIsBounded() throws {
    let (net, _) = try net([[1, 2], [0], [0]])
    net.with(0) { core, sink, now in
      sink.rooms = [LinkID(1): 0, LinkID(2): 0]
      for number in 0..<1_000 {
        let words = withUnsafeBytes(of: UInt32(number)) { [UInt8]($0) }
        core.sendJourney(words.span.bytes, now: now, into: &sink)
      }
    }
    #expect(net.with(0) { core, _, _ in core.counters.journeysDropped } == 1_000 - 256)
    // A neighbour that goes takes what waits for it along.
    net.with(0) { core, sink, now in
      sink.rooms = [:]
      core.updateLinks(core.configuration.links.filter { $0.id.index == 1 }, now: now, into: &sink)
      core.roomAvailable(on: LinkID(1), now: now, into: &sink)
    }
    net.run(.seconds(1))
    let heard = take(net, 1)
    #expect(heard.count == 256 && heard.first?.bytes == withUnsafeBytes(of: UInt32(744)) { [UInt8]($0) })
    #expect(net.with(0) { core, _, _ in core.counters.journeysSent } == 256)
  }

  /// One neighbour that floods is cut off; another is heard.
  @Test func aFloodCostsItsOwnBudget() throws {
    let (net, _) = try net([[1, 2], [0], [0]])
    let flood = [RelayMessageType.journey.rawValue, 1]
    var held = 0
    for _ in 0..<10_000 {
      net.hear(0, from: 1, flood)
      held += take(net, 0).count
    }
    #expect(held == 600)
    #expect(net.with(0) { core, _, _ in core.counters.journeysRefused } == 9_400)
    net.hear(0, from: 2, flood)
    #expect(take(net, 0).map(\.from) == [2])
    net.run(.seconds(1))
    for _ in 0..<1_000 { net.hear(0, from: 1, flood) }
    #expect(take(net, 0).count == 100, "so many a second")
  }

  // MARK: Order

  private func status(_ net: TestNet, _ node: Int, of peer: Int) -> RelayLinkStatus {
    net.with(node) { core, _, _ in core.status(of: LinkID(UInt16(peer)))! }
  }

  /// Nothing is out of order on a line that keeps it, whatever overtakes what in the sender's queue: control messages are
  /// delivered here before the block's packets that were sealed before them.
  @Test func priorityIsNoReordering() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    var waiting: [(Int, Int, [UInt8])] = []
    net.filter = { net, from, to, bytes in
      // Everything long waits until the next short datagram has gone: as in a driver's queue with priorities.
      if bytes.count > 600 {
        waiting.append((from, to, bytes))
        return nil
      }
      let held = waiting
      waiting = []
      defer { for (from, to, bytes) in held { net.inject(bytes, from: from, to: to) } }
      return bytes
    }
    try net.begin(block)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    #expect(status(net, 1, of: 0).reorderedFrom == 0 && status(net, 0, of: 1).reorderedFrom == 0)
  }

  /// Every tenth of a block's packets is overtaken by the next one: so many are counted, here and, by STATUS, there.
  @Test func overtakenPacketsAreCounted() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    var (long, overtaken) = (0, 0)
    var late: [UInt8]?
    net.filter = { net, from, to, bytes in
      guard from == 0, bytes.count > 1_100 else { return bytes }
      if let kept = late {
        late = nil
        // One of the same lane goes first; of another one it isn't known here, so such pairs are left in order.
        if kept.count == bytes.count {
          overtaken += 1
          net.inject(bytes, from: from, to: to)
          net.inject(kept, from: from, to: to)
        } else {
          net.inject(kept, from: from, to: to)
          net.inject(bytes, from: from, to: to)
        }
        return nil
      }
      long += 1
      if long % 10 == 0 {
        late = bytes
        return nil
      }
      return bytes
    }
    try net.begin(block, cold: [1])
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    net.run(.seconds(3))
    #expect(overtaken > 50, "\(long)")
    #expect(status(net, 1, of: 0).reorderedFrom == UInt64(overtaken))
    #expect(status(net, 0, of: 1).reorderedTo == UInt32(overtaken), "the sender is told")
    #expect(status(net, 0, of: 1).reorderedFrom == 0)
  }
}

@Suite struct OrderMeterTests {
  @Test func lanesAreJudgedByThemselves() {
    var meter = OrderMeter()
    func hear(_ counter: UInt64, _ message: [UInt8]) {
      message.withUnsafeBytes { meter.received(counter: counter, message: $0) }
    }
    func chunk(_ block: UInt8) -> [UInt8] {
      [RelayMessageType.chunk.rawValue, 1] + [UInt8](repeating: block, count: 20)
    }
    func sketch(_ block: UInt8) -> [UInt8] { [RelayMessageType.sketch.rawValue] + [UInt8](repeating: block, count: 60) }
    let need = [RelayMessageType.need.rawValue]
    let journey = [RelayMessageType.journey.rawValue]
    for counter in 10...20 { hear(UInt64(counter), chunk(1)) }
    hear(5, need)
    hear(6, [])
    hear(4, journey)
    hear(3, sketch(1))
    hear(2, chunk(2))
    #expect(meter.reordered == 0)
    hear(1, chunk(2))
    hear(2, sketch(1))
    hear(5, [RelayMessageType.have.rawValue])
    hear(3, [RelayMessageType.map.rawValue])
    #expect(meter.reordered == 4)
    // New keys count from 0 again.
    meter.restart()
    hear(0, chunk(2))
    hear(1, [])
    #expect(meter.reordered == 4)
    // Nothing that a peer can say is too short.
    for length in 0..<64 {
      for type in 0..<20 { hear(9, [UInt8(type)] + [UInt8](repeating: 0, count: length)) }
    }
  }
}
