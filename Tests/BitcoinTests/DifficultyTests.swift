import Bitcoin
import Ground
import Testing

@Suite struct DifficultyTests {
  private func block(_ height: Int, _ time: UInt32, _ bits: UInt32) -> Difficulty.Block {
    Difficulty.Block(height: height, time: time, bits: bits)
  }

  /// Bitcoin Core's pow_tests: heights 32256 (mainnet's first change), 2016, 68544 and an invented 46368.
  @Test(
    arguments: [
      (1_261_130_161, 32_255, 1_262_152_739, 0x1D00_FFFF, 0x1D00_D86A),
      (1_231_006_505, 2_015, 1_233_061_996, 0x1D00_FFFF, 0x1D00_FFFF),
      (1_279_008_237, 68_543, 1_279_297_671, 0x1C05_A3F4, 0x1C01_68FD),
      (1_263_163_443, 46_367, 1_269_211_443, 0x1C38_7F6F, 0x1D00_E1FD),
    ] as [(UInt32, Int, UInt32, UInt32, UInt32)])
  func knownRetargets(first: UInt32, height: Int, last: UInt32, bits: UInt32, expected: UInt32) {
    #expect(Difficulty.retarget(bits: bits, first: first, last: last, on: .mainnet) == expected)
    let parent = block(height, last, bits)
    let required = Difficulty.required(after: parent, time: last + 600, on: .mainnet) {
      $0 == height - 2015 ? block($0, first, bits) : nil
    }
    #expect(required == .exactly(expected))
    // With the first block unknown the same change is within limits; a little beyond ÷4 and ×4 is not.
    guard
      case .between(let easiest, let hardest) = Difficulty.required(
        after: parent, time: last + 600, on: .mainnet, ancestor: { _ in nil })
    else {
      Issue.record("not a range")
      return
    }
    let target = Target.decode(expected).value
    #expect(target <= easiest && target >= hardest)
    if expected == 0x1C01_68FD { #expect(Target.decode(expected - 1).value < hardest) }
    if expected == 0x1D00_E1FD { #expect(Target.decode(expected + 1).value > easiest) }
  }

  /// Every difficulty change of mainnet up to height 832608, from the real headers around them.
  @Test func everyMainnetRetarget() throws {
    let headers = try Expected.headers("mainnet-periods.bin")
    var changes = Set<UInt32>()
    for number in 0..<(headers.count - 1) / 2 {
      let (first, last, next) = (headers[2 * number], headers[2 * number + 1], headers[2 * number + 2])
      #expect(next.previous == last.hash && next.hasProofOfWork(limit: Network.mainnet.powLimit))
      #expect(last.bits == first.bits)
      let height = 2016 * number + 2015
      let required = Difficulty.required(
        after: block(height, last.time, last.bits), time: next.time, on: .mainnet,
        ancestor: { $0 == height - 2015 ? block($0, first.time, first.bits) : nil })
      #expect(required == .exactly(next.bits), "height \(height + 1)")
      changes.insert(next.bits)
    }
    #expect(headers.count == 827 && changes.count > 300)
  }

  /// Chains of 10,180 blocks whose times provoke every branch of the rule: retargets with both limits, the 20-minute
  /// exception and its way back, BIP94's base, times that go backwards. Expected values from Python.
  @Test(arguments: [Network.mainnet, .testnet3, .testnet4, .signet])
  func chainsOfEveryRule(network: Network) throws {
    let chain = try #require(Expected.difficulty[network.name])
    func at(_ height: Int) -> Difficulty.Block { block(height, chain.times[height], chain.bits[height]) }
    for height in 1..<chain.times.count {
      let required = Difficulty.required(
        after: at(height - 1), time: chain.times[height], on: network, ancestor: { at($0) })
      #expect(required == .exactly(chain.bits[height]), "height \(height)")
    }
  }

  @Test func theTestnetExceptionStartsAfterTwentyMinutes() {
    let limit: UInt32 = 0x1D00_FFFF
    let real: UInt32 = 0x1B04_04CB
    for network in [Network.testnet3, .testnet4] {
      func required(_ height: Int, parent bits: UInt32, after seconds: UInt32, others: UInt32) -> Difficulty.Required {
        Difficulty.required(after: block(height - 1, 1_000_000, bits), time: 1_000_000 + seconds, on: network) {
          block($0, 900_000, others)
        }
      }
      #expect(required(100, parent: real, after: 1200, others: real) == .exactly(real))
      #expect(required(100, parent: real, after: 1201, others: real) == .exactly(limit))
      // Back to the last real difficulty after a minimum-difficulty block.
      #expect(required(100, parent: limit, after: 1, others: real) == .exactly(real))
      // Not across a period's start: its first block's difficulty stands.
      #expect(required(2017, parent: limit, after: 1, others: real) == .exactly(limit))
    }
    // A retarget on top of a minimum-difficulty block: testnet3 starts from it, BIP94 from the period's first block.
    func retarget(_ network: Network) -> Difficulty.Required {
      Difficulty.required(after: block(2015, 1_209_600, limit), time: 1_209_700, on: network) { block($0, 0, real) }
    }
    #expect(retarget(.testnet3) == .exactly(limit))
    #expect(retarget(.testnet4) == .exactly(real))
    // Signet and mainnet know no exception.
    for network in [Network.mainnet, .signet] {
      #expect(
        Difficulty.required(after: block(99, 0, real), time: 10_000, on: network) { _ in nil } == .exactly(real))
    }
  }

  @Test func regtestNeverRetargets() {
    for height in [143, 144, 2015, 2016] {
      #expect(
        Difficulty.required(after: block(height, 5, 0x207F_FFFF), time: 6, on: .regtest) { block($0, 0, 0x207F_FFFF) }
          == .exactly(0x207F_FFFF))
    }
  }
}
