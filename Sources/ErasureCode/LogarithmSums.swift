import CKernels

/// For a set of points within one coset of the K source points, the sum of log(x + y) over its members y, for any x:
/// modulo 65,535, by Walsh–Hadamard convolution (Didier 2009), in K log K steps for all x of a coset at once.
struct LogarithmSums {
  /// More than any sum of logarithms over distinct chunks.
  static let margin = UInt32(Field.order) * UInt32(ObjectShape.maxSourceChunks)

  /// Cosets whose logarithms stay transformed.
  static let kernelLimit = 16

  private var bits = 0
  /// The set's indicator, and its transform when it was made.
  private var members: [Int32] = []
  private var isTransformed = false
  // Arrays are kept when they are no longer of use, and overwritten: the second solution of a size allocates nothing.
  /// Results, the first `cosets.count` of them in use, each for the coset in `cosets`.
  private var cosets: [Int] = []
  private var results: [[Int32]] = []
  /// Transforms of the logarithms of a coset, valid while K stays the same; the oldest makes room.
  private var kernelCosets: [Int] = []
  private var kernels: [[Int32]] = []
  private var oldestKernel = 0

  mutating func reset(_ shape: ObjectShape) {
    if bits != shape.bits {
      kernelCosets.removeAll(keepingCapacity: true)
      oldestKernel = 0
    }
    bits = shape.bits
    members.removeAll(keepingCapacity: true)
    cosets.removeAll(keepingCapacity: true)
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
    let slot = cosets.count
    if slot == results.count { results.append([]) }
    let kernel = kernel(coset)
    results[slot].removeAll(keepingCapacity: true)
    results[slot].append(contentsOf: members)
    gf16_walsh_multiply(
      &results[slot], kernels[kernel], members.count, UInt32((1 << (16 - bits)) % Field.order))
    gf16_walsh(&results[slot], UInt32(bits))
    results[slot].withUnsafeMutableBufferPointer { result in
      for i in result.indices {
        let value = Int(result[i]) % Field.order
        result[i] = Int32(value < 0 ? value + Field.order : value)
      }
    }
    cosets.append(coset)
    return UInt32(results[slot][place])
  }

  /// Where in `kernels` that of `coset` is.
  private mutating func kernel(_ coset: Int) -> Int {
    for i in kernelCosets.indices where kernelCosets[i] == coset { return i }
    var slot = kernelCosets.count
    if slot < Self.kernelLimit {
      kernelCosets.append(coset)
      if slot == kernels.count { kernels.append([]) }
    } else {
      slot = oldestKernel
      oldestKernel = (oldestKernel + 1) % Self.kernelLimit
      kernelCosets[slot] = coset
    }
    let count = 1 << bits
    let log = Field.shared.log + (coset << bits)
    kernels[slot].removeAll(keepingCapacity: true)
    kernels[slot].reserveCapacity(count)
    for i in 0..<count { kernels[slot].append(Int32(log[i])) }
    gf16_walsh(&kernels[slot], UInt32(bits))
    return slot
  }
}
