import Ground
import Relay
import Testing
import Wire

@Suite struct LossTailTests {
  /// P(more than m of n are lost) on a Gilbert channel, exactly: a walk over packets, losses and the channel's state.
  private func exactTail(packets: Int, rate: Double, burst: Double) -> [Double] {
    let leave = 1 / burst
    let enter = rate / ((1 - rate) * burst)
    var good = [Double](repeating: 0, count: packets + 2)
    var bad = good
    good[0] = 1 - rate
    bad[0] = rate
    for _ in 0..<packets {
      for m in stride(from: packets, through: 0, by: -1) {
        // Downwards in place: losses only grow.
        let fromGood = good[m]
        let fromBad = m > 0 ? bad[m - 1] : 0
        good[m] = fromGood * (1 - enter) + fromBad * leave
        bad[m] = fromGood * enter + fromBad * (1 - leave)
      }
    }
    var tail = [Double](repeating: 0, count: packets + 1)
    var sum = 0.0
    for m in stride(from: packets, through: 0, by: -1) {
      tail[m] = sum
      sum += good[m] + bad[m]
    }
    return tail
  }

  /// The bound is safe, and close, against the exact distribution.
  @Test(arguments: [(0.01, 4.0), (0.05, 4.0), (0.002, 2.0), (0.1, 2.0), (0.03, 10.0)])
  func isABoundAndCloseToTheExactDistribution(channel: (Double, Double)) {
    let loss = LinkLoss(rate: channel.0, burst: channel.1, observed: 1e9)
    for packets in [1, 5, 20, 60, 200, 500] {
      let tail = exactTail(packets: packets, rate: channel.0, burst: channel.1)
      for risk in [1e-3, 2e-5, 1e-6] {
        let bound = LossTail.quantile(packets: packets, loss: loss, risk: risk)
        let exact = tail.firstIndex { $0 <= risk }!
        #expect(bound >= exact, "\(packets) packets, \(channel), risk \(risk)")
        #expect(bound <= exact + 3 + exact / 4, "\(packets) packets, \(channel), risk \(risk): \(bound) for \(exact)")
      }
    }
  }

  @Test func enoughArriveAndNotManyMoreAreSent() {
    let loss = LinkLoss(rate: 0.01, burst: 4, observed: 1e9)
    for wanted in [1, 18, 180, 1_200, 3_473] {
      let sent = LossTail.packets(delivering: wanted, loss: loss, risk: 2e-5)
      #expect(sent - LossTail.quantile(packets: sent, loss: loss, risk: 2e-5) >= wanted)
      #expect(sent - 1 - LossTail.quantile(packets: sent - 1, loss: loss, risk: 2e-5) < wanted)
      print("loss 1% burst 4: \(wanted) wanted, \(sent) sent")
    }
    #expect(LossTail.packets(delivering: 0, loss: loss, risk: 1e-5) == 0)
    #expect(LossTail.packets(delivering: 7, loss: LinkLoss(rate: 0, burst: 1, observed: 1), risk: 1e-5) == 7)
    // Absurd channels end, too.
    let worst = LinkLoss(rate: 0.5, burst: 64, observed: 0)
    #expect(LossTail.packets(delivering: 31_250, loss: worst, risk: 1e-6) < 120_000)
  }
}

@Suite struct BlockProfileTests {
  /// The model against counting, on real blocks: how often more is needed than predicted at a risk of 1 in 1,000, and how
  /// far the prediction lies above the empirical quantile.
  @Test(arguments: ["413567", "426884", "702861", "mainnet-0021868c2c", "928831", "482683"], [0.002, 0.01, 0.03, 0.1])
  func predictsWhatIsNeeded(name: String, missing: Double) throws {
    let block = try BlockSizes(name)
    var scratch = BlockProfile.Scratch()
    let prediction = MissEstimator.Prediction(probability: SIMD4(repeating: missing), shape: 1e6)
    let risk = 0.001
    let b = block.profile.chunksNeeded(prediction, risk: risk, scratch: &scratch)
    var random = SeededRandom(seed: 11)
    var counter = ColumnCounter()
    let draws = 20_000
    var needed: [Int] = []
    for _ in 0..<draws {
      needed.append(counter.needed(random.subset(of: block.lengths.count, probability: missing), in: block))
    }
    needed.sort()
    let over = needed.count { $0 > b }
    let empirical = needed[draws - 1 - Int(Double(draws) * risk)]
    print(
      "\(name) \(missing * 100)% missing: mean \(Double(needed.reduce(0, +)) / Double(draws)), p50 \(needed[draws / 2]),",
      "p99.9 \(empirical), predicted \(b), over \(over) of \(draws)")
    // Expected 20 at most; five deviations above.
    #expect(over <= 42)
    #expect(Double(b) <= 1.15 * Double(empirical) + 6)
  }

  @Test func odditiesAreBounded() {
    var scratch = BlockProfile.Scratch()
    let none: [UInt32] = []
    let empty = BlockProfile(lengths: none.span, bodyBytes: 300, chunkBytes: 1_152)
    let certain = MissEstimator.Prediction(probability: SIMD4(repeating: 1), shape: 1)
    #expect(empty.chunksNeeded(certain, risk: 1e-5, scratch: &scratch) == 0)
    let huge = [UInt32](repeating: 60_000, count: 66)
    let profile = BlockProfile(lengths: huge.span, bodyBytes: 3_990_000, chunkBytes: 1_152)
    #expect(profile.chunksNeeded(certain, risk: 1e-5, scratch: &scratch) == profile.chunkCount)
    let small = [UInt32](repeating: 60, count: 66_000)
    let many = BlockProfile(lengths: small.span, bodyBytes: 3_990_000, chunkBytes: 128)
    #expect(many.chunksNeeded(certain, risk: 1e-5, scratch: &scratch) == many.chunkCount)
    let few = MissEstimator.Prediction(probability: SIMD4(repeating: 0.001), shape: 25)
    #expect(many.chunksNeeded(few, risk: 1e-5, scratch: &scratch) < 200)
  }
}

@Suite struct MissEstimatorTests {
  private func counts(_ n: UInt32) -> SizeClassCounts { SizeClassCounts(tiny: n) }

  @Test func startsCarefulAndLearnsInAFewBlocks() {
    var estimator = MissEstimator()
    #expect(estimator.prediction.probability[0] == 0.02)
    #expect(estimator.prediction.shape < 1)
    for _ in 0..<5 { estimator.note(missing: counts(25), of: counts(2_500)) }
    #expect(abs(estimator.prediction.probability[0] - 0.01) < 0.001)
    #expect(estimator.prediction.shape > 4)
  }

  @Test func aBadBlockWidensAtOnce() {
    var estimator = MissEstimator()
    for _ in 0..<20 { estimator.note(missing: counts(25), of: counts(2_500)) }
    let before = estimator.prediction
    estimator.note(missing: counts(200), of: counts(2_500))
    let after = estimator.prediction
    #expect(after.probability[0] > 1.5 * before.probability[0])
    #expect(after.shape < before.shape / 2)
    for _ in 0..<30 { estimator.note(missing: counts(25), of: counts(2_500)) }
    #expect(abs(estimator.prediction.probability[0] - 0.01) < 0.002)
  }

  @Test func aClassThatIsLackingIsSeen() {
    var estimator = MissEstimator()
    for _ in 0..<8 {
      estimator.note(missing: SizeClassCounts(tiny: 10, large: 8), of: SizeClassCounts(tiny: 2_000, large: 10))
    }
    let p = estimator.prediction.probability
    #expect(p[0] < 0.008 && p[3] > 0.4)
  }

  @Test func liesAreClamped() {
    var estimator = MissEstimator()
    estimator.note(missing: SizeClassCounts(tiny: .max, large: .max), of: SizeClassCounts(tiny: 10))
    estimator.note(missing: SizeClassCounts(tiny: 5), of: SizeClassCounts())
    let p = estimator.prediction
    for i in 0..<4 { #expect(p.probability[i] > 0 && p.probability[i] <= 1) }
    #expect(p.shape >= 0.25 && p.shape <= 25)
  }
}
