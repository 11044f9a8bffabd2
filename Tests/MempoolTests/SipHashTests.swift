import Bitcoin
import CKernels
import Ground
import Testing

@Suite struct SipHashTests {
  static let kernels = [LP_SIPHASH_PORTABLE, LP_SIPHASH_AVX2, LP_SIPHASH_AVX512].filter {
    $0.rawValue <= lp_siphash_best().rawValue
  }

  /// The first 32-byte vector of the reference implementation: key 00…0f, message 00…1f.
  @Test func referenceVector() {
    let message = (0..<32).map { UInt8($0) }
    #expect(lp_siphash24_32_one(0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908, message) == 0x7127_512F_72F2_7CCE)
  }

  @Test func everyKernelAgreesWithThePortableOneOnEveryCount() {
    var random = SeededRandom(seed: 1)
    let messages = random.bytes(32 * 70 + 1)
    for kernel in SipHashTests.kernels {
      for count in 0...70 {
        let (k0, k1) = (random.next(), random.next())
        let shift = count & 1
        var out = [UInt64](repeating: 0, count: count + 1)
        messages.withUnsafeBufferPointer {
          lp_siphash24_32(kernel, k0, k1, $0.baseAddress! + shift, count, &out)
        }
        #expect(out[count] == 0)
        for index in 0..<count {
          let id = Hash256(messages.span.bytes, at: shift + 32 * index)
          #expect(out[index] == SipHash(k0: k0, k1: k1).hash(id))
        }
      }
    }
  }

  @Test func theFilterPassesExactlyWhatItsBitmapSays() {
    var random = SeededRandom(seed: 2)
    let messages = random.bytes(32 * 500)
    for kernel in SipHashTests.kernels {
      for _ in 0..<200 {
        let (k0, k1) = (random.next(), random.next())
        let bits = 6 + random.below(8)
        let count = random.below(100)
        // A third of the slots are holes.
        let slots = (0..<count).map { _ in random.below(3) == 0 ? UInt32.max : UInt32(random.below(500)) }
        let filter = (0..<(1 << bits) / 64).map { _ in random.next() & random.next() }
        var hitSlots = [UInt32](repeating: 0, count: count + 8)
        var hitHashes = [UInt64](repeating: 0, count: count + 8)
        let hits = lp_siphash24_32_filter(
          kernel, k0, k1, messages, slots, count, filter, UInt32(bits), &hitSlots, &hitHashes)
        var expected: [(UInt32, UInt64)] = []
        for slot in slots.reversed() where slot != .max {
          let hash = SipHash(k0: k0, k1: k1).hash(Hash256(messages.span.bytes, at: 32 * Int(slot)))
          let bit = hash & (1 << UInt64(bits) - 1)
          if filter[Int(bit >> 6)] >> (bit & 63) & 1 == 1 { expected.append((slot, hash)) }
        }
        #expect(hits == expected.count)
        #expect(hitSlots.prefix(hits).elementsEqual(expected.map(\.0)))
        #expect(hitHashes.prefix(hits).elementsEqual(expected.map(\.1)))
      }
    }
  }
}
