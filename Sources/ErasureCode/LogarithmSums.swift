import CKernels

/// For a set of points within one coset of the K source points, the sum of log(x + y) over its members y, for any x:
/// modulo 65,535, by Walsh–Hadamard convolution (Didier 2009), in K log K steps for all x of a coset at once.
struct LogarithmSums {
  /// More than any sum of logarithms over distinct chunks.
  static let margin = UInt32(Field.order) * UInt32(ObjectShape.maxSourceChunks)

  private var bits = 0
  /// The set's indicator, and its transform when it was made.
  private var members: [Int32] = []
  private var isTransformed = false
  /// Results by coset.
  private var cosets: [Int] = []
  private var results: [[Int32]] = []
  /// Transforms of the logarithms of a coset, kept while K stays the same.
  private var kernelCosets: [Int] = []
  private var kernels: [[Int32]] = []

  mutating func reset(_ shape: ObjectShape) {
    if bits != shape.bits {
      kernelCosets.removeAll()
      kernels.removeAll()
    }
    bits = shape.bits
    members.removeAll(keepingCapacity: true)
    cosets.removeAll(keepingCapacity: true)
    results.removeAll(keepingCapacity: true)
    isTransformed = false
  }

  /// Adds a point, by its place in its coset.
  mutating func insert(_ place: Int) {
    if members.isEmpty { members.append(contentsOf: repeatElement(0, count: 1 << bits)) }
    members[place & ((1 << bits) - 1)] = 1
  }

  /// The sum at `x`, seen from the set: for a set in coset a, give x + (a << bits).
  mutating func value(at x: Int) -> UInt32 {
    let coset = x >> bits
    let place = x & ((1 << bits) - 1)
    for i in cosets.indices where cosets[i] == coset { return UInt32(results[i][place]) }
    if !isTransformed {
      gf16_walsh(&members, UInt32(bits))
      isTransformed = true
    }
    var result = members
    gf16_walsh_multiply(&result, kernel(coset), result.count, UInt32((1 << (16 - bits)) % Field.order))
    gf16_walsh(&result, UInt32(bits))
    for i in result.indices {
      let value = Int(result[i]) % Field.order
      result[i] = Int32(value < 0 ? value + Field.order : value)
    }
    cosets.append(coset)
    results.append(result)
    return UInt32(result[place])
  }

  private mutating func kernel(_ coset: Int) -> [Int32] {
    if let known = kernelCosets.firstIndex(of: coset) { return kernels[known] }
    if kernels.count == 16 {
      kernelCosets.removeFirst()
      kernels.removeFirst()
    }
    var kernel = (0..<1 << bits).map { Int32(Field.shared.log[coset << bits | $0]) }
    gf16_walsh(&kernel, UInt32(bits))
    kernelCosets.append(coset)
    kernels.append(kernel)
    return kernel
  }
}
