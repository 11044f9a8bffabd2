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
    return JourneyCodec.encode([journey]).bytes
  }

  @Test func aPeersTimesComeToOurClockWithBounds() throws {
    var recorder = recorder()
    let truth = at(4_500)
    recorder.local(Journey(block: blockID(1), height: 1, isOrigin: false, first: at(4_520)))
    recorder.heard(message(1, first: truth + .seconds(5)).span.bytes, from: link, now: at(4_600))
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
    recorder.heard(message(2, first: at(9_500)).span.bytes, from: link, now: at(4_600))
    recorder.heard(message(2, first: at(9_500)).span.bytes, from: LinkID(9), now: at(4_600))
    #expect(recorder.take().journeys.isEmpty)
    recorder.local(Journey(block: blockID(2), height: 1, isOrigin: false, first: at(4_520)))
    #expect(recorder.take().journeys.map(\.site) == ["here", "there"])
  }

  @Test func liesAreBounded() {
    var recorder = recorder()
    for number in 0..<10_000 {
      recorder.heard(message(UInt64(number + 10), first: at(9_500)).span.bytes, from: link, now: at(4_600))
    }
    #expect(recorder.take().isEmpty)
    #expect(recorder.refused == UInt64(10_000 - Recorder.pendingPerPeer))
    // A time that no block of today has.
    recorder.local(Journey(block: blockID(5), height: 1, isOrigin: false, first: at(4_520)))
    _ = recorder.take()
    recorder.heard(message(5, first: at(1e8)).span.bytes, from: link, now: at(4_600))
    #expect(recorder.take().isEmpty)
    recorder.heard([1, 2, 3].span.bytes, from: link, now: at(4_600))
    #expect(recorder.malformed == 1)
    // Nobody takes: bounded.
    for number in 0..<6_000 { recorder.announced(blockID(UInt64(number)), by: "p", at: at(1)) }
    #expect(recorder.take().news.count == Recorder.outBound)
    #expect(recorder.dropped == UInt64(6_000 - Recorder.outBound))
    // No clock, no journey.
    var blind = self.recorder(exchanges: 0)
    blind.local(Journey(block: blockID(1), height: 1, isOrigin: false, first: at(4_520)))
    _ = blind.take()
    blind.heard(message(1, first: at(4_500)).span.bytes, from: link, now: at(4_600))
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
}
