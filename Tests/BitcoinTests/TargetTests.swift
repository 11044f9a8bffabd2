import Bitcoin
import Ground
import Testing

@Suite struct UInt256Tests {
  private func random(_ random: inout SeededRandom) -> UInt256 {
    let value = UInt256(w0: random.next(), w1: random.next(), w2: random.next(), w3: random.next())
    return value >> random.below(257)
  }

  @Test func arithmeticIsConsistent() {
    var generator = SeededRandom(seed: 4)
    for _ in 0..<2000 {
      let a = random(&generator)
      let b = random(&generator)
      if a.bitWidth < 256 && b.bitWidth < 256 {
        #expect((a + b) - b == a)
      }
      #expect(a - a == .zero && (a <= b || b < a))
      if b != .zero {
        let q = a.divided(by: b)
        // a = q b + r with r < b, checked through 64-bit quotients.
        if q.bitWidth <= 64 {
          let product = b.multipliedWrapping(by: q.w0)
          #expect(product <= a && a - product < b)
        }
        if b.bitWidth <= 64 { #expect(q == a.divided(by: b.w0)) }
      }
      let n = generator.below(256)
      let upper = (a >> n) << n
      #expect(upper <= a && a - upper < UInt256(1) << n)
      #expect((a >> n).bitWidth == max(0, a.bitWidth - n))
    }
    #expect(UInt256.max + UInt256(1) == .max)
    #expect(UInt256(1) - UInt256(2) == .zero)
    #expect(UInt256(1) << 256 == .zero && UInt256.max >> 256 == .zero)
  }
}

@Suite struct TargetTests {
  /// Bitcoin Core's `arith_uint256` tests of SetCompact and GetCompact.
  @Test(
    arguments: [
      (0x0000_0000, "0", 0, false, false), (0x0012_3456, "0", 0, false, false), (0x0100_3456, "0", 0, false, false),
      (0x0200_0056, "0", 0, false, false), (0x0300_0000, "0", 0, false, false), (0x0400_0000, "0", 0, false, false),
      (0x0092_3456, "0", 0, false, false), (0x0180_3456, "0", 0, false, false),
      (0x0112_3456, "12", 0x0112_0000, false, false),
      (0x01FE_DCBA, "7e", 0x017E_0000, true, false), (0x0212_3456, "1234", 0x0212_3400, false, false),
      (0x0312_3456, "123456", 0x0312_3456, false, false), (0x0412_3456, "12345600", 0x0412_3456, false, false),
      (0x0492_3456, "12345600", 0x0412_3456, true, false), (0x0500_9234, "92340000", 0x0500_9234, false, false),
      (
        0x2012_3456, "1234560000000000000000000000000000000000000000000000000000000000", 0x2012_3456, false, false
      ),
    ] as [(UInt32, String, UInt32, Bool, Bool)])
  func compactForms(bits: UInt32, hex: String, back: UInt32, isNegative: Bool, overflows: Bool) throws {
    let digits = String(repeating: "0", count: 64 - hex.count) + hex
    let decoded = Target.decode(bits)
    #expect(decoded.value == UInt256(try #require(Hash256(digits))))
    #expect(decoded.isNegative == isNegative && decoded.overflows == overflows)
    #expect(Target.bits(of: decoded.value) == back)
  }

  @Test func overflowingForms() {
    #expect(Target.decode(0xFF12_3456).overflows)
    #expect(Target.decode(0x2300_0001).overflows)
    #expect(!Target.decode(0x2200_0001).overflows)
    #expect(Target.decode(0x2200_0100).overflows)
    #expect(Target.decode(0x2101_0000).overflows)
  }

  /// Bitcoin Core's CheckProofOfWork tests.
  @Test func proofOfWorkLimits() {
    let limit = Network.mainnet.powLimit
    let one = Hash256(w0: 1, w1: 0, w2: 0, w3: 0)
    #expect(Target.meets(one, bits: Target.bits(of: limit), limit: limit))
    #expect(!Target.meets(one, bits: Target.bits(of: limit) | 0x80_0000, limit: limit))
    #expect(!Target.meets(one, bits: ~0x0080_0000, limit: limit))
    #expect(!Target.meets(one, bits: Target.bits(of: limit << 1), limit: limit))
    #expect(!Target.meets(one, bits: 0, limit: limit))
    let high = Target.decode(Target.bits(of: limit)).value << 1
    #expect(
      !Target.meets(
        Hash256(w0: high.w0, w1: high.w1, w2: high.w2, w3: high.w3), bits: Target.bits(of: limit), limit: limit))
  }

  @Test func workOfKnownTargets() {
    #expect(Target.work(of: 0x1D00_FFFF) == UInt256(0x1_0001_0001))
    #expect(Target.work(of: 0x207F_FFFF) == UInt256(2))
    #expect(Target.work(of: 0) == .zero && Target.work(of: 0x0492_3456) == .zero)
  }

  @Test(arguments: Network.all)
  func genesisBlocks(network: Network) throws {
    let hashes = [
      "main": "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
      "test": "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943",
      "testnet4": "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043",
      "signet": "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6",
      "regtest": "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
    ]
    #expect(network.genesis.hash.description == hashes[network.name])
    #expect(network.genesis.hasProofOfWork(limit: network.powLimit))
    #expect(Network(named: network.name) == network)
  }

  @Test func signetMagicComesFromTheChallenge() throws {
    // BIP325's default challenge.
    let challenge = try #require(
      Hex.decode(
        "512103ad5e0edad18cb1f0fc0d28a3d4f1f3e445640337489abb10404f2d1e086be430210359ef5021964fe22d6f8e05b2463c9540ce96883fe3b278760f048f5189f2e6c452ae"
      ))
    #expect(Network.signet(challenge: challenge).magic == Network.signet.magic)
    #expect(Network.signet(challenge: [0x51]).magic != Network.signet.magic)
  }
}
