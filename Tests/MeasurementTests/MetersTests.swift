import Ground
import Measurement
import Testing

private func at(_ milliseconds: Double) -> Instant {
  Instant(nanoseconds: 1_000_000_000_000 + UInt64(milliseconds * 1e6))
}

@Suite struct LinkMeterTests {
  @Test func lossReorderingAndDuplicatesByHand() {
    var meter = LinkMeter()
    // Sent 10...19; 12 and 15 lost; 17 overtaken by 18; 13 twice.
    for (index, sequence) in [10, 11, 13, 13, 14, 16, 18, 17, 19].enumerated() {
      meter.packet(sequence: UInt64(sequence), received: at(Double(index)))
    }
    let summary = meter.take()
    #expect(summary.expected == 10)
    #expect(summary.received == 8)
    #expect(summary.reordered == 1)
    #expect(summary.duplicates == 1)
    #expect(summary.loss == 0.2)
    #expect(meter.take().loss == nil)
    // 64 back is still remembered; a new session is no loss.
    meter.packet(sequence: 83, received: at(20))
    meter.packet(sequence: 19, received: at(21))
    meter.packet(sequence: 20, received: at(22))
    meter.packet(sequence: 1 << 40, received: at(23))
    let second = meter.take()
    #expect(second.duplicates == 1)
    #expect(second.reordered == 1)
    #expect(second.expected == 65)
    #expect(second.received == 3)
  }

  /// RFC 3550, 6.4.1: J += (|D| − J) / 16.
  @Test func jitterByHand() {
    var meter = LinkMeter()
    for (index, delay) in [20.0, 20, 36, 36].enumerated() {
      let sent = Double(index) * 10
      meter.packet(sequence: UInt64(index), sent: at(sent), received: at(sent + delay))
    }
    // 16 ms of difference once: 1 ms; then J falls by a sixteenth.
    #expect(abs(meter.take().jitter.milliseconds - 0.9375) < 0.001)
  }

  @Test func delayLiesWithinBoundsWhateverTheClocks() {
    var random = SeededRandom(seed: 3)
    for _ in 0..<200 {
      let offset = (random.unit() - 0.5) * 5_000
      let (there, back) = (5 + random.unit() * 100, 5 + random.unit() * 100)
      let exchange = ClockExchange(
        t1: at(1_000_000), t2: at(1_000_000 + there + offset), t3: at(1_000_000 + there + offset),
        t4: at(1_000_000 + there + back))
      var filter = ClockFilter(floor: .milliseconds(5.0))
      filter.add(exchange)
      let bounds = filter.bounds(at: exchange.t4)
      var (outward, inward) = (LinkMeter(), LinkMeter())
      outward.exchange(exchange, clock: bounds, outward: true)
      inward.exchange(exchange, clock: bounds, outward: false)
      for (summary, truth) in [(outward.take(), there), (inward.take(), back)] {
        #expect(summary.delayLow!.milliseconds <= truth + 1e-5)
        #expect(summary.delayHigh!.milliseconds >= truth - 1e-5)
        #expect(summary.delayUncertainty!.milliseconds <= (there + back) / 2 - 5 + 1e-3)
        #expect(abs(summary.roundTrip!.milliseconds - there - back) < 1e-5)
      }
    }
  }
}

@Suite struct DistributionTests {
  @Test func percentilesOfBothSigns() {
    var distribution = Distribution()
    #expect(distribution.percentile(50) == nil)
    for value in -100...100 { distribution.add(.milliseconds(Int64(value))) }
    #expect(distribution.count == 201)
    func near(_ percent: Double, _ value: Double) {
      let found = distribution.percentile(percent)!
      #expect(abs(found - value) <= abs(value) * 0.002 + 0.001, "\(percent) %: \(found), not \(value)")
    }
    near(0, -100)
    near(25, -50)  // rank 51 of 201
    near(50, 0)
    near(75, 50)
    near(99, 98)  // rank 199
    near(100, 100)
    #expect(abs(distribution.mean!) < 1e-9)
  }
}

@Suite struct LeadTests {
  @Test func leadsByHand() {
    var tracker = LeadTracker(capacity: 4)
    tracker.overlay(blockID(1), at: at(100))
    tracker.announced(blockID(1), by: "a", at: at(180))
    tracker.announced(blockID(1), by: "b", at: at(150))
    tracker.overlay(blockID(1), at: at(900))  // the first time counts
    tracker.announced(blockID(2), by: "a", at: at(200))
    tracker.overlay(blockID(2), at: at(210))
    tracker.overlay(blockID(3), at: at(300))  // nobody announced it: no lead yet
    let standing = tracker.standing
    #expect(standing.blocks == 2 && standing.wins == 1 && standing.winRate == 0.5)
    #expect(abs(standing.distribution.percentile(100)! - 50) < 0.1)
    #expect(abs(standing.distribution.percentile(0)! + 10) < 0.1)
    // Wilson, 1 of 2 at 95 %: 0.0945 ... 0.9055.
    #expect(abs(standing.winRateInterval!.low - 0.0945) < 0.0005)
    #expect(abs(standing.winRateInterval!.high - 0.9055) < 0.0005)
    for number in 4..<10 { tracker.overlay(blockID(UInt64(number)), at: at(1)) }
    #expect(tracker.standing.blocks == 0)
  }
}

@Suite struct MetricsTextTests {
  @Test func theFormatByHand() {
    var text = MetricsText()
    text.family("lightpath_x_seconds", .summary, help: "A\nhelp\\")
    text.summary(Distribution([.milliseconds(Int64(250))]), [("peer", "a\"b\\c\nd")])
    text.family("up", .gauge, help: "h")
    text.sample(3)
    text.sample(.infinity)
    #expect(
      text.text == """
        # HELP lightpath_x_seconds A\\nhelp\\\\
        # TYPE lightpath_x_seconds summary
        lightpath_x_seconds{peer="a\\"b\\\\c\\nd",quantile="0.5"} 0.25
        lightpath_x_seconds{peer="a\\"b\\\\c\\nd",quantile="0.9"} 0.25
        lightpath_x_seconds{peer="a\\"b\\\\c\\nd",quantile="0.99"} 0.25
        lightpath_x_seconds_sum{peer="a\\"b\\\\c\\nd"} 0.25
        lightpath_x_seconds_count{peer="a\\"b\\\\c\\nd"} 1
        # HELP up h
        # TYPE up gauge
        up 3
        up +Inf

        """)
  }

  /// Whatever a label holds, the line stays one line with an even number of unescaped quotes.
  @Test func hostileLabelsStayOnTheirLine() {
    var random = SeededRandom(seed: 4)
    for _ in 0..<2_000 {
      let value = String(decoding: random.bytes(random.below(40)), as: UTF8.self)
      var text = MetricsText()
      text.family("m", .gauge, help: "h")
      text.sample(1.0, [("l", value)])
      let lines = text.text.split(separator: "\n", omittingEmptySubsequences: false)
      #expect(lines.count == 4)
      let middle = lines[2].dropFirst(5).dropLast(4)
      var escaped = false
      for scalar in middle.unicodeScalars {
        if escaped { escaped = false } else if scalar == "\\" { escaped = true } else { #expect(scalar != "\"") }
      }
      #expect(!escaped)
    }
  }
}

@Suite struct KernelClockTests {
  @Test func theKernelAnswers() throws {
    let clock = try #require(KernelClock.read())
    #expect(clock.maxError >= .zero)
    #expect(abs(clock.frequencyPPM) <= 500)
  }
}
