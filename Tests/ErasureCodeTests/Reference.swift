import ErasureCode
import Ground

/// The code by its definition, with arithmetic of its own: no table, transform or formula of the module is used.
struct SlowField {
  /// Cantor basis elements in polynomial coordinates.
  let basis: [UInt32]
  private let toCantor: [UInt16]
  private let log: [Int]
  private let exp: [UInt16]

  static let shared = SlowField()

  static func polynomialProduct(_ a: UInt32, _ b: UInt32) -> UInt32 {
    var product: UInt32 = 0
    for bit in 0..<16 where b >> UInt32(bit) & 1 == 1 { product ^= a << UInt32(bit) }
    for bit in stride(from: 31, through: 16, by: -1) where product >> UInt32(bit) & 1 == 1 {
      product ^= 0x1_002D << UInt32(bit - 16)
    }
    return product
  }

  init() {
    var basis: [UInt32] = [1]
    while basis.count < 16 {
      let root = (0..<UInt32(65_536)).first { Self.polynomialProduct($0, $0) ^ $0 == basis.last! && $0 & 1 == 0 }
      basis.append(root!)
    }
    self.basis = basis
    var toCantor = [UInt16](repeating: 0, count: 65_536)
    for a in 0..<65_536 { toCantor[Int(Self.toPolynomial(UInt16(a), basis))] = UInt16(a) }
    self.toCantor = toCantor
    // Powers of x, to multiply fast in the large tests; `product` below is the schoolbook one, and they are compared.
    var log = [Int](repeating: 0, count: 65_536)
    var exp = [UInt16](repeating: 0, count: 2 * 65_535)
    var power: UInt32 = 1
    for i in 0..<65_535 {
      exp[i] = toCantor[Int(power)]
      exp[i + 65_535] = exp[i]
      log[Int(exp[i])] = i
      power = Self.polynomialProduct(power, 2)
    }
    self.log = log
    self.exp = exp
  }

  static func toPolynomial(_ a: UInt16, _ basis: [UInt32]) -> UInt32 {
    (0..<16).reduce(0) { $0 ^ (a >> UInt16($1) & 1 == 1 ? basis[$1] : 0) }
  }

  /// Schoolbook.
  func product(_ a: UInt16, _ b: UInt16) -> UInt16 {
    toCantor[Int(Self.polynomialProduct(Self.toPolynomial(a, basis), Self.toPolynomial(b, basis)))]
  }

  func times(_ a: UInt16, _ b: UInt16) -> UInt16 { a == 0 || b == 0 ? 0 : exp[log[Int(a)] + log[Int(b)]] }
  func over(_ a: UInt16, _ b: UInt16) -> UInt16 { a == 0 ? 0 : exp[log[Int(a)] + 65_535 - log[Int(b)]] }
}

/// The code's definition: the source symbols of a column are the values at the points 0 ..< N of the polynomial of
/// degree below K that is zero at N ..< K; repair symbol i is its value at point K + i.
struct SlowCode {
  let shape: ObjectShape
  let points: Int
  let field = SlowField.shared

  init(_ shape: ObjectShape) {
    self.shape = shape
    var k = 1
    while k < shape.sourceCount { k *= 2 }
    points = k
  }

  /// Lagrange's formula for the value at point K + index: one factor for each source chunk.
  func row(_ index: Int) -> [UInt16] {
    let x = points + index
    return (0..<shape.sourceCount).map { j in
      var (above, below): (UInt16, UInt16) = (1, 1)
      for m in 0..<points where m != j {
        above = field.times(above, UInt16(x ^ m))
        below = field.times(below, UInt16(j ^ m))
      }
      return field.over(above, below)
    }
  }

  func symbol(_ object: [UInt8], _ chunk: Int, _ column: Int) -> UInt16 {
    let at = chunk * shape.chunkSize + 2 * column
    return (at < object.count ? UInt16(object[at]) : 0) | (at + 1 < object.count ? UInt16(object[at + 1]) << 8 : 0)
  }

  /// Where a repair chunk holds the symbol of a column: 64 bytes are 32 low halves, then 32 high halves.
  static func place(_ column: Int) -> (low: Int, high: Int) {
    (column / 32 * 64 + column % 32, column / 32 * 64 + 32 + column % 32)
  }

  func repair(_ object: [UInt8], _ index: Int) -> [UInt8] {
    let factors = row(index)
    var chunk = [UInt8](repeating: 0, count: shape.chunkSize)
    for column in 0..<shape.chunkSize / 2 {
      var sum: UInt16 = 0
      for j in 0..<shape.sourceCount { sum ^= field.times(factors[j], symbol(object, j, column)) }
      let (low, high) = Self.place(column)
      chunk[low] = UInt8(truncatingIfNeeded: sum)
      chunk[high] = UInt8(sum >> 8)
    }
    return chunk
  }

  /// Solves every column on its own by Gauss–Jordan elimination. `known[k]`: byte k of the object is given.
  /// Returns nil where the repair chunks do not suffice.
  func decode(_ bytes: [UInt8], known: [Bool], repairs: [(index: Int, bytes: [UInt8])]) -> [UInt8]? {
    var result = bytes
    let rows = repairs.map { row($0.index) }
    for column in 0..<shape.chunkSize / 2 {
      var unknown: [Int] = []
      for j in 0..<shape.sourceCount {
        let at = j * shape.chunkSize + 2 * column
        let isKnown = (at >= known.count || known[at]) && (at + 1 >= known.count || known[at + 1])
        if !isKnown { unknown.append(j) }
      }
      if unknown.count > repairs.count { return nil }
      if unknown.isEmpty { continue }
      // One row a repair chunk: factors of the unknown, then the right-hand side.
      var matrix: [[UInt16]] = []
      let (low, high) = Self.place(column)
      for (i, repair) in repairs.enumerated().prefix(unknown.count) {
        var right = UInt16(repair.bytes[low]) | UInt16(repair.bytes[high]) << 8
        for j in 0..<shape.sourceCount where !unknown.contains(j) {
          right ^= field.times(rows[i][j], symbol(bytes, j, column))
        }
        matrix.append(unknown.map { rows[i][$0] } + [right])
      }
      let n = unknown.count
      for pivot in 0..<n {
        guard let found = (pivot..<n).first(where: { matrix[$0][pivot] != 0 }) else { return nil }
        matrix.swapAt(pivot, found)
        let lead = matrix[pivot][pivot]
        for c in pivot...n { matrix[pivot][c] = field.over(matrix[pivot][c], lead) }
        for r in 0..<n where r != pivot && matrix[r][pivot] != 0 {
          let factor = matrix[r][pivot]
          for c in pivot...n { matrix[r][c] ^= field.times(factor, matrix[pivot][c]) }
        }
      }
      for (i, j) in unknown.enumerated() {
        let at = j * shape.chunkSize + 2 * column
        if at < result.count { result[at] = UInt8(truncatingIfNeeded: matrix[i][n]) }
        if at + 1 < result.count { result[at + 1] = UInt8(matrix[i][n] >> 8) }
      }
    }
    return result
  }
}

extension Encoder {
  init(_ object: [UInt8], _ chunkSize: Int, kernel: Kernel = .best) throws {
    let shape = try ObjectShape(byteCount: object.count, chunkSize: chunkSize)
    try self.init(object.span.bytes, shape: shape, kernel: kernel)
  }
}

extension Decoder {
  mutating func addKnown(_ range: Range<Int>, of object: [UInt8]) throws(ErasureError) {
    try addKnown(range, object.span.bytes.extracting(range))
  }
  mutating func addRepair(_ index: Int, _ bytes: [UInt8]) throws(ErasureError) {
    try addRepair(index, bytes.span.bytes)
  }
  mutating func addSource(_ index: Int, _ bytes: [UInt8]) throws(ErasureError) {
    try addSource(index, bytes.span.bytes)
  }
  func array() -> [UInt8] { bytes.withUnsafeBytes { [UInt8]($0) } }
}

/// Byte ranges of `count` bytes cut at random, a fraction of them missing.
func randomRanges(_ count: Int, mean: Int, missing: Double, _ random: inout SeededRandom) -> (
  known: [Range<Int>], missing: [Range<Int>]
) {
  var (known, gone): ([Range<Int>], [Range<Int>]) = ([], [])
  var at = 0
  while at < count {
    let end = min(count, at + 1 + random.below(2 * mean))
    if random.chance(missing) { gone.append(at..<end) } else { known.append(at..<end) }
    at = end
  }
  return (known, gone)
}

/// The error that `body` throws, if any; `#expect(throws:)` can't capture noncopyable values.
func refusal(_ body: () throws(ErasureError) -> Void) -> ErasureError? {
  do {
    try body()
    return nil
  } catch {
    return error
  }
}
