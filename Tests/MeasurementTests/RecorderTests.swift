import Foundation
import Ground
import Measurement
import Testing

@Suite struct RecorderTests {
  private let link = LinkID(3)
  private func at(_ milliseconds: Double) -> Instant { Instant(nanoseconds: UInt64(1e12 + milliseconds * 1e6)) }

  /// Peer's clock is 5 s ahead; 20 ms there, 24 ms back.
  private func recorder(exchanges: Int = 5) -> Recorder {
    var recorder = Recorder(home: "here", unixNanosecondsAtZero: 1_700_000_000_000_000_000)
    recorder.setPeer(link, name: "there", leastDelay: .milliseconds(Int64(15)))
    for index in 0..<exchanges {
      let t = Double(index) * 1_000
      recorder.exchange(
        link, ClockExchange(t1: at(t), t2: at(t + 5_020), t3: at(t + 5_020), t4: at(t + 44)))
    }
    return recorder
  }

  private func message(_ number: UInt64, first: Instant) -> [UInt8] {
    var journey = Journey(block: blockID(number), height: 1, isOrigin: true, first: first)
    journey[.verified] = .milliseconds(Int64(1))
    return JourneyCodec.encode([told(journey)]).bytes
  }

  /// Who signed: 3 is the neighbour, 4 a relay beyond it, 5 this site.
  private static func judge(_ told: ToldJourney) -> String? {
    told.signature.first == UInt8(told.maker) ? [3: "there", 4: "beyond", 5: "here"][told.maker] : nil
  }
  private func hear(_ recorder: inout Recorder, _ bytes: [UInt8], from link: LinkID, now: Instant) {
    recorder.heard(bytes.span.bytes, from: link, now: now, judge: RecorderTests.judge)
  }

  @Test func aPeersTimesComeToOurClockWithBounds() throws {
    var recorder = recorder()
    let truth = at(4_500)
    recorder.local(Journey(block: blockID(1), height: 1, isOrigin: false, first: at(4_520)), now: at(4_590))
    hear(&recorder, message(1, first: truth + .seconds(5)), from: link, now: at(4_600))
    let output = recorder.take()
    #expect(output.journeys.count == 2)
    let theirs = try #require(output.journeys.last)
    #expect(theirs.site == "there" && theirs.journey.isOrigin)
    let error = theirs.firstUnix - recorder.unix(truth)
    #expect(error.magnitude <= UInt64(theirs.uncertainty.nanoseconds))
    // Round trip 44 ms less twice the 15 ms that light needs, halved; and what five seconds leave open of the drift.
    #expect(theirs.uncertainty.milliseconds >= 7 && theirs.uncertainty.milliseconds < 7.5)
    #expect(recorder.take().isEmpty)
  }

  @Test func journeysBeforeTheBlockWaitAndStrangersAreIgnored() {
    var recorder = recorder()
    hear(&recorder, message(2, first: at(9_500)), from: link, now: at(4_600))
    hear(&recorder, message(2, first: at(9_500)), from: LinkID(9), now: at(4_600))
    #expect(recorder.take().journeys.isEmpty)
    recorder.local(Journey(block: blockID(2), height: 1, isOrigin: false, first: at(4_520)), now: at(4_590))
    #expect(recorder.take().journeys.map(\.site) == ["here", "there"])
  }

  @Test func liesAreBounded() {
    var recorder = recorder()
    for number in 0..<10_000 {
      hear(&recorder, message(UInt64(number + 10), first: at(9_500)), from: link, now: at(4_600 + Double(number) * 100))
    }
    #expect(recorder.take().isEmpty)
    #expect(recorder.refused == UInt64(10_000 - Recorder.pendingPerPeer))
    // A time that no block of today has.
    recorder.local(Journey(block: blockID(5), height: 1, isOrigin: false, first: at(4_520)), now: at(4_590))
    _ = recorder.take()
    hear(&recorder, message(5, first: at(1e8)), from: link, now: at(4_600))
    #expect(recorder.take().isEmpty)
    hear(&recorder, [1, 2, 3], from: link, now: at(4_600))
    #expect(recorder.malformed == 1)
    // Nobody takes: bounded.
    for number in 0..<6_000 { recorder.announced(blockID(UInt64(number)), by: "p", at: at(1)) }
    #expect(recorder.take().news.count == Recorder.outBound)
    #expect(recorder.dropped == UInt64(6_000 - Recorder.outBound))
    // No clock, no journey.
    var blind = self.recorder(exchanges: 0)
    blind.local(Journey(block: blockID(1), height: 1, isOrigin: false, first: at(4_520)), now: at(4_590))
    _ = blind.take()
    hear(&blind, message(1, first: at(4_500)), from: link, now: at(4_600))
    #expect(blind.take().isEmpty && blind.refused == 1)
  }

  @Test func intervalsAndMetrics() throws {
    var recorder = recorder()
    recorder.endInterval(now: at(4_000), kernel: nil)
    _ = recorder.take()
    recorder.traffic(link, sentToPeer: 100, openedByPeer: 98, sentByPeer: 50, opened: 50)
    recorder.exchange(link, ClockExchange(t1: at(5_000), t2: at(10_020), t3: at(10_020), t4: at(5_044)))
    recorder.endInterval(
      now: at(64_000),
      kernel: KernelClock(state: .ok, maxError: .milliseconds(Int64(2)), estimatedError: .zero, frequencyPPM: 1))
    let output = recorder.take()
    #expect(output.links.count == 2)
    let out = try #require(output.links.first { $0.from == "here" })
    #expect(out.summary.loss == 0.02 && out.span == .seconds(60))
    #expect(out.summary.delayLow!.milliseconds <= 20 && out.summary.delayHigh!.milliseconds >= 20)
    let back = try #require(output.links.first { $0.to == "here" })
    #expect(back.summary.delayLow!.milliseconds <= 24 && back.summary.delayHigh!.milliseconds >= 24)
    #expect(output.clocks.map(\.site) == ["there", "here"])

    recorder.setPeer(LinkID(4), name: "evil\"} 1\nfake 2")
    var text = MetricsText()
    recorder.metrics(into: &text, now: at(5_100), kernel: KernelClock.read())
    #expect(!text.text.contains("\nfake"))
    #expect(text.text.contains("lightpath_clock_uncertainty_seconds{peer=\"there\"} 0.00"))
  }

  /// What the neighbour tells of a relay beyond it.
  private func relayed(_ number: UInt64, first: Instant, by teller: Instant, width: Interval, hops: Int = 1) -> [UInt8]
  {
    var journey = Journey(block: blockID(number), height: 1, isOrigin: true, first: first)
    journey[.verified] = .milliseconds(Int64(1))
    return JourneyCodec.encode([
      told(journey, maker: 4, passage: ToldJourney.Passage(hops: hops, first: teller, width: width))
    ]).bytes
  }

  @Test func boundsAddUpAlongTheWay() throws {
    var recorder = recorder()
    recorder.learn(blockID(1), now: at(4_520))
    let truth = at(4_500)
    // The relay beyond is 70 s ahead of us; the neighbour, 5 s ahead, knows that to 3 ms either side.
    let bytes = relayed(
      1, first: truth + .seconds(70), by: truth + .seconds(5) - .milliseconds(Int64(3)), width: .milliseconds(Int64(6)))
    hear(&recorder, bytes, from: link, now: at(4_600))
    recorder.endInterval(now: at(4_700), kernel: nil)
    let output = recorder.take()
    let stored = try #require(output.journeys.first)
    #expect(stored.site == "beyond" && stored.via == "there" && stored.hops == 1 && stored.journey.isOrigin)
    #expect((stored.firstUnix - recorder.unix(truth)).magnitude <= UInt64(stored.uncertainty.nanoseconds))
    // 3 ms of the neighbour's, 7 ms and drift of ours.
    #expect(stored.uncertainty.milliseconds >= 10 && stored.uncertainty.milliseconds < 10.5)
    let clock = try #require(output.clocks.first { $0.site == "beyond" })
    #expect(clock.via == "there" && clock.bounds!.low <= .seconds(70) && clock.bounds!.high >= .seconds(70))
    // It is passed on with the sum, by our clock.
    let passing = recorder.takePassing()
    #expect(passing.map(\.from) == [link])
    let passage = try #require(passing.first?.journey.passage)
    #expect(passage.hops == 2 && passage.first <= truth && passage.first + passage.width >= truth)
    #expect(passing.first?.journey.maker == 4 && passing.first?.journey.statement == told(stored.journey).statement)
    // Once: again, by another neighbour, after more hops.
    recorder.setPeer(LinkID(4), name: "elsewhere")
    recorder.exchange(LinkID(4), ClockExchange(t1: at(4_000), t2: at(4_001), t3: at(4_001), t4: at(4_002)))
    let checked = recorder.checked
    hear(&recorder, bytes, from: link, now: at(5_600))
    hear(&recorder, bytes, from: LinkID(4), now: at(5_600))
    #expect(recorder.take().isEmpty && recorder.takePassing().isEmpty && recorder.checked == checked)
    #expect(recorder.refused == 0, "a repetition is no offence")
  }

  /// The maker goes before those that tell of it; nothing is passed on twice, beyond the limit of hops, or back to here.
  @Test func theMakerGoesFirst() throws {
    var recorder = recorder()
    recorder.learn(blockID(1), now: at(4_520))
    recorder.setPeer(LinkID(4), name: "beyond")
    recorder.exchange(LinkID(4), ClockExchange(t1: at(4_000), t2: at(4_010), t3: at(4_010), t4: at(4_020)))
    let first = at(4_505)
    hear(
      &recorder, relayed(1, first: first, by: at(9_490), width: .milliseconds(Int64(20))), from: link, now: at(4_600))
    #expect(recorder.takePassing().count == 1)
    var journey = Journey(block: blockID(1), height: 1, isOrigin: true, first: first)
    journey[.verified] = .milliseconds(Int64(1))
    hear(&recorder, JourneyCodec.encode([told(journey, maker: 4)]).bytes, from: LinkID(4), now: at(4_700))
    #expect(recorder.take().journeys.map(\.via) == ["there", nil])
    #expect(recorder.takePassing().isEmpty)
    hear(
      &recorder, relayed(1, first: first, by: at(9_490), width: .milliseconds(Int64(20))), from: link, now: at(4_800))
    #expect(recorder.take().isEmpty)
    // As far as a journey goes, and no further.
    recorder.learn(blockID(2), now: at(4_520))
    let last = relayed(2, first: first, by: at(9_490), width: .zero, hops: JourneyCodec.hopsMax)
    hear(&recorder, last, from: link, now: at(4_600))
    #expect(recorder.take().journeys.count == 1 && recorder.takePassing().isEmpty)
    // This site's own comes back.
    hear(
      &recorder,
      JourneyCodec.encode([
        told(
          journey, maker: 5,
          passage: ToldJourney.Passage(
            hops: 1, first: at(9_490), width: .zero))
      ]).bytes, from: link, now: at(4_600))
    #expect(recorder.take().isEmpty && recorder.refused == 0)
  }

  @Test func forgedMakersFloodsAndTalesAreBounded() throws {
    var recorder = recorder()
    for number in 1...200 { recorder.learn(blockID(UInt64(number)), now: at(4_520)) }
    let now = at(4_600)
    // Another's signature; a maker that is none; a neighbour that speaks in its own name for another.
    var journey = Journey(block: blockID(1), height: 1, isOrigin: true, first: at(9_500))
    journey[.verified] = .milliseconds(Int64(1))
    var forged = told(journey, maker: 4, passage: ToldJourney.Passage(hops: 1, first: at(9_500), width: .zero))
    forged.signature[0] ^= 1
    let passage = ToldJourney.Passage(hops: 1, first: at(9_500), width: .zero)
    for lie in [forged, told(journey, maker: 77, passage: passage), told(journey, maker: 4)] {
      hear(&recorder, JourneyCodec.encode([lie]).bytes, from: link, now: now)
    }
    #expect(recorder.forged == 3 && recorder.take().isEmpty && recorder.takePassing().isEmpty)
    // The true one comes through all the same.
    hear(&recorder, relayed(1, first: at(9_500), by: at(9_500), width: .zero), from: link, now: now)
    #expect(recorder.take().journeys.map(\.site) == ["beyond"])
    // A time of no block of today; a time that says nothing.
    let refused = recorder.refused
    hear(&recorder, relayed(2, first: at(9_500), by: at(1e8), width: .zero), from: link, now: now)
    hear(&recorder, relayed(3, first: at(9_500), by: at(9_500), width: JourneyCodec.widthMax), from: link, now: now)
    #expect(recorder.refused == refused + 2 && recorder.take().isEmpty)
    // A flood costs so many signature checks and no more, and nothing of another neighbour's.
    recorder.setPeer(LinkID(4), name: "beyond")
    recorder.exchange(LinkID(4), ClockExchange(t1: at(4_000), t2: at(4_010), t3: at(4_010), t4: at(4_020)))
    var flood = told(
      Journey(block: blockID(150), height: 1, isOrigin: true, first: at(9_500)), maker: 4, passage: passage)
    flood.signature[0] ^= 1
    for _ in 0..<10_000 { hear(&recorder, JourneyCodec.encode([flood]).bytes, from: link, now: now) }
    #expect(recorder.checked <= UInt64(Recorder.checksBurst))
    hear(&recorder, relayed(4, first: at(9_500), by: at(9_500), width: .zero), from: link, now: now)
    #expect(recorder.take().isEmpty, "it has to wait now")
    journey = Journey(block: blockID(4), height: 1, isOrigin: true, first: at(4_505))
    hear(&recorder, JourneyCodec.encode([told(journey, maker: 4)]).bytes, from: LinkID(4), now: now)
    #expect(recorder.take().journeys.map(\.site) == ["beyond"])
    hear(&recorder, relayed(5, first: at(9_500), by: at(9_500), width: .zero), from: link, now: at(6_700))
    #expect(recorder.take().journeys.count == 1, "and not for ever")
    // Nobody takes what is to be passed on: bounded.
    _ = recorder.takePassing()
    for round in 0..<4 {
      for number in 0..<200 {
        let id = UInt64(1_000 + round * 200 + number)
        let moment = at(10_000 + Double(round) * 10_000)
        recorder.learn(blockID(id), now: moment)
        hear(
          &recorder, relayed(id, first: at(9_500), by: moment + .seconds(5), width: .zero), from: link, now: moment)
      }
    }
    #expect(recorder.takePassing().count == Recorder.passingMax && recorder.notPassedOn == 800 - 512)
  }

  /// A journey is told seconds after its block: the offset counts as it was at the block.
  @Test func driftBetweenBlockAndTelling() throws {
    var recorder = Recorder(home: "here", unixNanosecondsAtZero: 1_700_000_000_000_000_000)
    recorder.setPeer(link, name: "there")
    // 100 ppm fast, 1 ms of way each direction.
    func theirs(_ t: Double) -> Instant { at(t + t * 100e-6) }
    for index in 0..<120 {
      let t = Double(index) * 500
      recorder.exchange(
        link, ClockExchange(t1: at(t), t2: theirs(t + 1), t3: theirs(t + 1), t4: at(t + 2)))
    }
    recorder.learn(blockID(1), now: at(50_000))
    // Told 9.5 s later: 0.95 ms of drift.
    hear(&recorder, message(1, first: theirs(50_000)), from: link, now: at(59_502))
    let stored = try #require(recorder.take().journeys.first)
    let error = Double(stored.firstUnix - recorder.unix(at(50_000))) / 1e6
    #expect(abs(error) <= stored.uncertainty.milliseconds)
    #expect(stored.uncertainty.milliseconds < 1.05, "half the round trip and no more")
  }

  /// The clock is set by three hours while a block is told of: each block's records go by one clock, later ones by the new.
  @Test func aClockThatIsSetMovesWhatComesAfter() throws {
    let change: Int64 = 10_800_000_000_000
    var recorder = recorder()
    let zero = recorder.unix(.zero)
    recorder.learn(blockID(1), now: at(4_550))
    recorder.setWallClock(zero + change)
    recorder.local(Journey(block: blockID(1), height: 1, isOrigin: false, first: at(4_520)), now: at(4_590))
    hear(&recorder, message(1, first: at(4_500) + .seconds(5)), from: link, now: at(4_600))
    recorder.announced(blockID(1), by: "far", at: at(4_700))
    let before = recorder.take()
    #expect(before.journeys.count == 2 && before.news.count == 1)
    for time in before.journeys.map(\.firstUnix) + before.news.map(\.atUnix) {
      #expect((time - zero - Int64(at(4_500).nanoseconds)).magnitude < 1_000_000_000)
    }
    recorder.local(Journey(block: blockID(2), height: 2, isOrigin: false, first: at(4_800)), now: at(4_900))
    recorder.announced(blockID(2), by: "far", at: at(4_950))
    recorder.endInterval(now: at(5_000), kernel: nil)
    recorder.endInterval(now: at(6_000), kernel: nil)
    let after = recorder.take()
    let times =
      after.journeys.map(\.firstUnix) + after.news.map(\.atUnix) + after.links.map(\.atUnix)
      + after.clocks.map(\.atUnix)
    #expect(times.count >= 6)
    for time in times { #expect((time - zero - change - Int64(at(5_000).nanoseconds)).magnitude < 2_000_000_000) }
  }

  @Test func reorderingAndJitterOfLinksAreShown() throws {
    var recorder = recorder()
    recorder.endInterval(now: at(4_000), kernel: nil)
    recorder.traffic(
      link, sentToPeer: 100, openedByPeer: 98, sentByPeer: 50, opened: 50, reorderedByPeer: 7, reordered: 5)
    // A tale of more than there ever were.
    recorder.traffic(link, sentToPeer: 10, openedByPeer: 10, sentByPeer: 0, opened: 0, reorderedByPeer: 1_000)
    let figures = try #require(recorder.figures(of: link))
    #expect(figures.to.reordered == 108 && figures.from.reorderedShare == 0.1)
    recorder.endInterval(now: at(64_000), kernel: nil)
    let links = recorder.take().links
    #expect(links.first { $0.from == "there" }?.summary.reordered == 5)
    // Shown until the next interval has ended.
    #expect(recorder.figures(of: link)?.from.reorderedShare == 0.1)
    var text = MetricsText()
    recorder.metrics(into: &text, now: at(64_100), kernel: nil)
    for line in [
      "lightpath_link_reordered_ratio{peer=\"there\",direction=\"from\"} 0.1",
      "lightpath_link_reordered_packets_total{peer=\"there\",direction=\"to\"} 108",
      "lightpath_link_jitter_seconds{peer=\"there\",direction=\"to\"} 0",
      "lightpath_link_delay_seconds{peer=\"there\",direction=\"to\"} 0.0",
    ] { #expect(text.text.contains(line), "\(line)") }
    recorder.endInterval(now: at(124_000), kernel: nil)
    #expect(recorder.figures(of: link)?.from.reorderedShare == nil)
  }

  /// A pong tells what was opened, STATUS what of it was out of order: a second later, when next to nothing comes.
  @Test func reorderingToldLateIsNotCutShort() throws {
    var recorder = recorder()
    recorder.endInterval(now: at(4_000), kernel: nil)
    recorder.traffic(link, sentToPeer: 300, openedByPeer: 300, sentByPeer: 0, opened: 0)
    recorder.traffic(link, sentToPeer: 2, openedByPeer: 2, sentByPeer: 0, opened: 0, reorderedByPeer: 151)
    #expect(recorder.figures(of: link)?.to.reorderedShare == 0.5)
  }

  /// What a sender drops out of its own queue leaves gaps in its counters; they are no losses, also when told late.
  @Test func whatTheSenderWithdrewIsNotLost() throws {
    var recorder = recorder()
    recorder.endInterval(now: at(4_000), kernel: nil)
    recorder.traffic(link, sentToPeer: 100, openedByPeer: 80, sentByPeer: 100, opened: 80, withdrawn: 15)
    #expect(recorder.figures(of: link)?.to.loss == 5.0 / 85)
    #expect(recorder.figures(of: link)?.from.loss == 0.2)
    recorder.traffic(link, sentToPeer: 0, openedByPeer: 0, sentByPeer: 0, opened: 0, withdrawnByPeer: 20)
    #expect(recorder.figures(of: link)?.from.loss == 0)
    // More than is missing waits for what will be.
    recorder.traffic(link, sentToPeer: 0, openedByPeer: 0, sentByPeer: 0, opened: 0, withdrawnByPeer: 10)
    recorder.endInterval(now: at(64_000), kernel: nil)
    recorder.traffic(link, sentToPeer: 0, openedByPeer: 0, sentByPeer: 100, opened: 80)
    recorder.endInterval(now: at(124_000), kernel: nil)
    let inward = recorder.take().links.filter { $0.from == "there" }
    #expect(inward.map(\.summary.loss) == [0, 10.0 / 90])
  }

  /// A block's way is counted once, whichever end is told first, and less what light needs.
  @Test func waysAreCountedOverTheLightBound() throws {
    for order in [true, false] {
      var recorder = recorder()
      recorder.lightBounds = ["there": .milliseconds(Int64(15))]
      var own = Journey(block: blockID(1), height: 1, isOrigin: false, first: at(4_520))
      own[.verified] = .milliseconds(Int64(5))
      recorder.learn(blockID(1), now: at(4_525))
      if order { recorder.local(own, now: at(4_590)) }
      for _ in 0..<2 { hear(&recorder, message(1, first: at(9_500)), from: link, now: at(4_600)) }
      if !order { recorder.local(own, now: at(4_590)) }
      // Announced at 4,502 by our clock (the middle of the bounds), checked at 4,525.
      #expect(recorder.arrival.count == 1 && abs(recorder.arrival.percentile(50)! - 23) < 0.6)
      #expect(recorder.overLight.count == 1 && abs(recorder.overLight.percentile(50)! - 8) < 0.6)
      var text = MetricsText()
      recorder.metrics(into: &text, now: at(4_700), kernel: nil)
      #expect(text.text.contains("lightpath_block_over_light_seconds_count 1\n"))
      #expect(text.text.contains("lightpath_block_arrival_seconds{quantile=\"0.5\"} 0.02"))
    }
    // Two origins, the nearer told last: it is measured from the one that explains it.
    var two = self.recorder()
    two.lightBounds = ["there": .milliseconds(Int64(15)), "beyond": .milliseconds(Int64(60))]
    two.learn(blockID(1), now: at(4_525))
    var own = Journey(block: blockID(1), height: 1, isOrigin: false, first: at(4_520))
    own[.verified] = .milliseconds(Int64(5))
    two.local(own, now: at(4_590))
    hear(
      &two, relayed(1, first: at(4_490), by: at(9_490), width: .milliseconds(Int64(1))), from: link, now: at(4_600))
    #expect(two.arrival.count == 0, "35 ms where light needs 60")
    hear(&two, message(1, first: at(9_500)), from: link, now: at(4_600))
    #expect(two.arrival.count == 1 && abs(two.overLight.percentile(50)! - 8) < 0.6)
    // This site's own block has no way to here.
    var recorder = recorder()
    recorder.local(Journey(block: blockID(2), height: 1, isOrigin: true, first: at(4_520)), now: at(4_590))
    #expect(recorder.arrival.count == 0)
  }
}
