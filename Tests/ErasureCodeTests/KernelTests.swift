import CKernels
import ErasureCode
import Ground
import Testing

/// The portable kernel against schoolbook arithmetic, and every other kernel against the portable one.
@Suite struct KernelTests {
  static let portable = Kernel.available[0]
  static let others = Kernel.available.dropFirst().map(\.name)
  static let all = Kernel.available.map(\.name)
  static let multipliers: [UInt16] = [0, 1, 2, 255, 256, 257, 0x8000, 0xFFFF, 0x00FF, 0xFF00, 0x1234, 0xACCA]

  static func symbol(_ block: ArraySlice<UInt8>, _ k: Int) -> UInt16 {
    UInt16(block[block.startIndex + k]) | UInt16(block[block.startIndex + 32 + k]) << 8
  }

  @Test func thisMachineRuns() {
    #expect(Self.all.first == "portable")
    #expect(Kernel.best.name == Self.all.last)
    #expect(Kernel.named("none such") == nil)
    #expect(Set(Self.all).count == Self.all.count)
  }

  @Test func cantorBasis() {
    let field = SlowField.shared
    for i in 1..<16 {
      let b = UInt16(1) << UInt16(i)
      #expect(field.product(b, b) ^ b == b >> 1)
    }
  }

  @Test func tablesAgreeWithSchoolbook() {
    let slow = SlowField.shared
    let fast = Field.shared
    for a in 1..<65_536 {
      #expect(fast.exp[Int(fast.log[a])] == UInt16(a))
      if slow.times(UInt16(a), fast.inverse[a]) != 1 { Issue.record("inverse of \(a)") }
    }
    var random = SeededRandom(seed: 1)
    for _ in 0..<3_000 {
      let (a, b) = (UInt16(random.below(65_536)), UInt16(random.below(65_536)))
      let product = slow.product(a, b)
      #expect(product == slow.times(a, b))
      #expect(product == gf16_multiply_slow(a, b))
      #expect(Int(product) == fast.product(Int(a), Int(b)))
    }
  }

  @Test func portableAgreesWithSchoolbook() {
    var random = SeededRandom(seed: 2)
    let field = SlowField.shared
    for round in 0..<300 {
      let m = round < Self.multipliers.count ? Self.multipliers[round] : UInt16(random.below(65_536))
      let source = random.bytes(128)
      var out = [UInt8](repeating: 0, count: 128)
      Self.portable.ops.pointee.mul(&out, source, 2, m)
      for block in 0..<2 {
        let (from, to) = (source[block * 64..<block * 64 + 64], out[block * 64..<block * 64 + 64])
        for k in 0..<32 { #expect(Self.symbol(to, k) == field.product(Self.symbol(from, k), m)) }
      }
    }
  }

  /// All lengths a chunk can have, and the strips of a transform; every alignment of source and destination.
  @Test(arguments: all) func multiplyAnyLengthAnyAlignment(_ name: String) {
    let kernel = Kernel.named(name)!.ops.pointee
    let reference = Self.portable.ops.pointee
    var random = SeededRandom(seed: 3)
    let source = random.bytes(40 * 64 + 128)
    for blocks in Array(0...25) + [32, 40] {
      let alignments = blocks == 3 ? Array(0..<64) : [0, 1, random.below(64)]
      for from in alignments {
        for to in blocks == 3 ? [0, random.below(64)] : [random.below(64)] {
          let m = random.chance(0.3) ? Self.multipliers[random.below(12)] : UInt16(random.below(65_536))
          let before = random.bytes(40 * 64 + 128)
          for operation in 0..<3 {
            var (got, expected) = (before, before)
            source.withUnsafeBufferPointer { source in
              got.withUnsafeMutableBufferPointer { got in
                expected.withUnsafeMutableBufferPointer { expected in
                  let (s, g, e) = (source.baseAddress! + from, got.baseAddress! + to, expected.baseAddress! + to)
                  switch operation {
                  case 0:
                    kernel.mul(g, s, blocks, m)
                    reference.mul(e, s, blocks, m)
                  case 1:
                    kernel.muladd(g, s, blocks, m)
                    reference.muladd(e, s, blocks, m)
                  default:
                    kernel.add(g, s, blocks)
                    for i in 0..<blocks * 64 { e[i] ^= s[i] }
                  }
                }
              }
            }
            let isSame = got == expected
            #expect(isSame, "\(blocks) blocks, from \(from) to \(to), operation \(operation), times \(m)")
          }
        }
      }
    }
  }

  @Test(arguments: all) func multiplyInPlace(_ name: String) {
    let kernel = Kernel.named(name)!.ops.pointee
    var random = SeededRandom(seed: 4)
    for m in Self.multipliers {
      let source = random.bytes(5 * 64)
      var (apart, inPlace) = (source, source)
      Self.portable.ops.pointee.mul(&apart, source, 5, m)
      inPlace.withUnsafeMutableBufferPointer { kernel.mul($0.baseAddress!, $0.baseAddress!, 5, m) }
      #expect(apart == inPlace)
      // m x + x = (m + 1) x
      var sum = source
      sum.withUnsafeMutableBufferPointer { kernel.muladd($0.baseAddress!, $0.baseAddress!, 5, m) }
      Self.portable.ops.pointee.mul(&apart, source, 5, m ^ 1)
      #expect(apart == sum)
    }
  }

  /// Segments of columns that begin and end anywhere, each with its factor; the columns between stay.
  @Test(arguments: all) func scaleSegments(_ name: String) {
    let kernel = Kernel.named(name)!.ops.pointee
    let field = SlowField.shared
    var random = SeededRandom(seed: 5)
    for round in 0..<400 {
      let columns = 32 * (1 + random.below(6))
      var (begin, end, factors): ([UInt16], [UInt16], [UInt16]) = ([], [], [])
      var column = random.below(3)
      let mean = 1 + random.below(70)
      while column < columns {
        let to = min(columns, column + 1 + random.below(mean))
        begin.append(UInt16(column))
        end.append(UInt16(to))
        factors.append(random.chance(0.1) ? Self.multipliers[random.below(12)] : UInt16(random.below(65_536)))
        column = to + (random.chance(0.5) ? 0 : random.below(40))
      }
      let source = random.bytes(columns * 2)
      var got = round % 3 == 0 ? source : random.bytes(columns * 2)
      var expected = got
      if round % 3 == 0 {
        got.withUnsafeMutableBufferPointer {
          kernel.scale_segments($0.baseAddress!, $0.baseAddress!, begin.count, begin, end, factors)
        }
      } else {
        kernel.scale_segments(&got, source, begin.count, begin, end, factors)
      }
      for i in begin.indices {
        for column in Int(begin[i])..<Int(end[i]) {
          let (low, high) = SlowCode.place(column)
          let value = field.times(UInt16(source[low]) | UInt16(source[high]) << 8, factors[i])
          expected[low] = UInt8(truncatingIfNeeded: value)
          expected[high] = UInt8(value >> 8)
        }
      }
      let isSame = got == expected
      #expect(isSame, "round \(round)")
    }
  }

  @Test(arguments: all) func splitAndJoin(_ name: String) {
    let kernel = Kernel.named(name)!.ops.pointee
    var random = SeededRandom(seed: 6)
    for round in 0..<100 {
      let rows = 1 + random.below(20)
      let natural = random.bytes(rows * 64)
      var planar = [UInt8](repeating: 0, count: rows * 64)
      kernel.split(&planar, 64, natural, 64, rows)
      for i in 0..<rows * 32 {
        let (low, high) = SlowCode.place(i)
        #expect(planar[low] == natural[2 * i] && planar[high] == natural[2 * i + 1])
      }
      let masks = (0..<rows).map { _ in round < 5 ? UInt64.max : random.chance(0.2) ? 0 : random.next() }
      let before = random.bytes(rows * 64)
      var got = before
      kernel.join(&got, planar, masks, rows)
      let expected = before.indices.map { i in
        masks[i / 64] >> UInt64(i % 64) & 1 == 1 ? before[i] ^ natural[i] : before[i]
      }
      let isSame = got == expected
      #expect(isSame)
    }
  }

  /// Basis polynomial i of the transform at point x: the product of the subspace polynomials s_l(x) over the bits l of
  /// i, each by its definition, the product of x - v over the points v below 2^l, divided by its value at 2^l.
  static func basisPolynomial(_ i: Int, _ x: Int) -> UInt16 {
    let field = SlowField.shared
    var value: UInt16 = 1
    for level in 0..<16 where i >> level & 1 == 1 {
      for v in 0..<1 << level {
        value = field.times(value, UInt16(x ^ v))
        value = field.over(value, UInt16(1 << level ^ v))
      }
    }
    return value
  }

  @Test func portableTransformAgreesWithDefinition() {
    let field = SlowField.shared
    var random = SeededRandom(seed: 7)
    for bits in 0...5 {
      let count = 1 << bits
      for offset in [0, count, 5 * count, (random.below(65_536) >> bits) << bits, 65_536 - count] {
        let coefficients = random.bytes(count * 64)
        var values = coefficients
        Self.portable.ops.pointee.fft(&values, UInt32(bits), UInt32(offset), 0, UInt32(count))
        for row in 0..<count {
          let factors = (0..<count).map { Self.basisPolynomial($0, offset + row) }
          for k in [0, 17, 31] {
            var sum: UInt16 = 0
            for i in 0..<count {
              sum ^= field.times(factors[i], Self.symbol(coefficients[i * 64..<i * 64 + 64], k))
            }
            #expect(Self.symbol(values[row * 64..<row * 64 + 64], k) == sum)
          }
        }
        Self.portable.ops.pointee.ifft(&values, UInt32(bits), UInt32(offset), 0, UInt32(count))
        #expect(values == coefficients)
      }
    }
  }

  /// Rows outside lo ..< hi: garbage that counts as zero going in, and may be garbage coming out.
  @Test(arguments: all) func partialTransforms(_ name: String) {
    let kernel = Kernel.named(name)!.ops.pointee
    let reference = Self.portable.ops.pointee
    var random = SeededRandom(seed: 8)
    func check(_ bits: Int, _ lo: Int, _ hi: Int, _ offset: Int) {
      let count = 1 << bits
      let rows = random.bytes(count * 64)
      var zeroed = rows
      for i in 0..<count * 64 where i < lo * 64 || i >= hi * 64 { zeroed[i] = 0 }
      var (got, expected) = (rows, zeroed)
      kernel.ifft(&got, UInt32(bits), UInt32(offset), UInt32(lo), UInt32(hi))
      reference.ifft(&expected, UInt32(bits), UInt32(offset), 0, UInt32(count))
      let same = got == expected
      #expect(same, "ifft \(bits) \(lo)..<\(hi) at \(offset)")
      (got, expected) = (rows, rows)
      kernel.fft(&got, UInt32(bits), UInt32(offset), UInt32(lo), UInt32(hi))
      reference.fft(&expected, UInt32(bits), UInt32(offset), 0, UInt32(count))
      let part = got[lo * 64..<hi * 64] == expected[lo * 64..<hi * 64]
      #expect(part, "fft \(bits) \(lo)..<\(hi) at \(offset)")
    }
    for bits in 0...4 {
      for lo in 0..<1 << bits {
        for hi in lo + 1...1 << bits { check(bits, lo, hi, (lo + 2 * hi) % 9 << bits) }
      }
    }
    for bits in 5...11 {
      for _ in 0..<(bits > 8 ? 3 : 8) {
        let lo = random.below(1 << bits)
        check(bits, lo, lo + 1 + random.below((1 << bits) - lo), random.below(65_536 >> bits) << bits)
      }
    }
  }

  @Test func walshTransformConvolves() {
    var random = SeededRandom(seed: 9)
    for bits in [0, 1, 4, 7, 9, 10] {
      let count = 1 << bits
      let a = (0..<count).map { _ in Int32(random.below(65_536)) }
      let b = (0..<count).map { _ in Int32(random.chance(0.5) ? 1 : 0) }
      var (x, y) = (a, b)
      gf16_walsh(&x, UInt32(bits))
      gf16_walsh(&y, UInt32(bits))
      gf16_walsh_multiply(&x, y, count, UInt32((1 << (16 - bits)) % 65_535))
      gf16_walsh(&x, UInt32(bits))
      for i in 0..<count {
        let sum = (0..<count).reduce(0) { $0 + Int(a[$1]) * Int(b[$1 ^ i]) }
        #expect(((Int(x[i]) % 65_535) + 65_535) % 65_535 == sum % 65_535)
      }
    }
  }
}
