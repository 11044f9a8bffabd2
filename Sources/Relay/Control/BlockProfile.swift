import Wire

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A block's transaction sizes, prepared once so that the number of body chunks that a receiver will need can be
/// predicted in microseconds for each receiver. REDUNDANCY.md, section 3.
///
/// Off the packet path: making one allocates, once a block.
public struct BlockProfile: Sendable {
  /// Transactions of more chunks than this are reckoned one by one, the 24 largest of them.
  static let binsMax = 32
  static let largestCount = 24
  /// A symbol of the code is two bytes and unknown when either is.
  static let symbolSlack = 1

  public let chunkBytes: Int
  public let bodyBytes: Int
  /// Source chunks of the body.
  public let chunkCount: Int
  /// Transactions by size class, coinbase and explicit ones not among them.
  public let counts: SizeClassCounts

  /// For a number of chunks v: how many transactions of each class cover a random column v times.
  private var values: [Int] = []
  private var covering: [SIMD4<Double>] = []
  /// And how many have v whole chunks, so that a column at their start goes from v to v + 1.
  private var starts: [SIMD4<Double>] = []
  private var largest: [Large] = []

  private struct Large: Sendable {
    var whole: Int
    /// Share of columns that it covers once more.
    var part: Double
    var sizeClass: Int
  }

  /// `lengths` are the serialised lengths of the transactions that a receiver may lack: all but the coinbase and the
  /// explicit ones.
  public init(lengths: Span<UInt32>, bodyBytes: Int, chunkBytes: Int) {
    precondition(chunkBytes > 0 && bodyBytes >= 0)
    self.chunkBytes = chunkBytes
    self.bodyBytes = bodyBytes
    chunkCount = (bodyBytes + chunkBytes - 1) / chunkBytes
    let bins = Self.binsMax + 2
    let zero = SIMD4<Double>(repeating: 0)
    var covering = [SIMD4<Double>](repeating: zero, count: bins)
    var starts = covering
    var counts = SizeClassCounts()
    var largest: [Large] = []
    let per = 1 / Double(chunkBytes)
    for i in lengths.indices {
      let length = Int(lengths[i])
      let sizeClass = SizeClassCounts.index(bytes: length)
      counts[sizeClass] += 1
      let whole = (length + Self.symbolSlack) / chunkBytes
      let part = Double((length + Self.symbolSlack) - whole * chunkBytes) * per
      if whole > Self.binsMax {
        largest.append(Large(whole: whole, part: part, sizeClass: sizeClass))
      } else {
        covering[whole][sizeClass] += 1 - part
        covering[whole + 1][sizeClass] += part
        starts[whole][sizeClass] += 1
      }
    }
    self.counts = counts
    for v in 0..<bins where covering[v] != zero || starts[v] != zero { add(v, covering[v], starts[v]) }
    if largest.count > Self.largestCount {
      largest.sort { $0.whole > $1.whole }
      // The rest, rounded up to multiples of 8 chunks, joins the bins, in ascending order.
      while largest.count > Self.largestCount {
        let value = (largest[largest.count - 1].whole + 1 + 7) / 8 * 8
        var sum = zero
        while largest.count > Self.largestCount, let last = largest.last, (last.whole + 1 + 7) / 8 * 8 == value {
          sum[last.sizeClass] += 1
          largest.removeLast()
        }
        add(value, sum, sum)
      }
    }
    self.largest = largest
  }

  private mutating func add(_ value: Int, _ cover: SIMD4<Double>, _ start: SIMD4<Double>) {
    values.append(value)
    covering.append(cover)
    starts.append(start)
  }

  /// Buffers for `chunksNeeded`, kept by the caller so that nothing is allocated for a receiver.
  public struct Scratch: Sendable {
    var mass: [Double] = []
    var next: [Double] = []
    var values: [Int] = []
    var rates: [Double] = []
    var startRates: [Double] = []
    public init() {}
  }

  /// The least b such that the receiver needs more than b chunks with probability at most `risk` (as the model bounds
  /// it); at most `chunkCount`.
  public func chunksNeeded(
    _ prediction: MissEstimator.Prediction, risk: Double, scratch: inout Scratch
  ) -> Int {
    let probability = prediction.probability.clamped(lowerBound: .init(repeating: 0), upperBound: .init(repeating: 1))
    scratch.values.removeAll(keepingCapacity: true)
    scratch.rates.removeAll(keepingCapacity: true)
    scratch.startRates.removeAll(keepingCapacity: true)
    var events = 0.0
    for i in values.indices {
      let rate = values[i] == 0 ? 0 : (covering[i] * probability).sum()
      let start = (starts[i] * probability).sum()
      if rate > 0 || start > 0 {
        scratch.values.append(values[i])
        scratch.rates.append(rate)
        scratch.startRates.append(start)
        events += rate
      }
    }
    smallMass(events: events, shape: prediction.shape, risk: risk, scratch: &scratch)
    for large in largest { convolve(large, probability[large.sizeClass], &scratch) }

    // P(max over columns > b) ≤ P(one column > b) + the expected number of steps from b to b + 1 along the columns.
    var left = 1.0
    for b in 0..<scratch.mass.count {
      left -= scratch.mass[b]
      if left > risk { continue }
      var crossings = 0.0
      for i in scratch.values.indices where b >= scratch.values[i] {
        crossings += scratch.startRates[i] * scratch.mass[b - scratch.values[i]]
      }
      for large in largest where b >= large.whole {
        crossings += probability[large.sizeClass] * scratch.mass[b - large.whole]
      }
      if max(left, 0) + crossings <= risk { return min(b, chunkCount) }
    }
    return chunkCount
  }

  /// How often a column is covered by what isn't in `largest`: compound negative binomial, by Panjer's recursion, as far
  /// as the mass matters.
  private func smallMass(events: Double, shape: Double, risk: Double, scratch: inout Scratch) {
    scratch.mass.removeAll(keepingCapacity: true)
    let beta = events / shape
    let a = beta / (1 + beta)
    let b = (shape - 1) * a
    var sum = exp(-shape * log(1 + beta))
    scratch.mass.append(sum)
    if events <= 0 { return }
    let enough = 1 - risk / 50
    let scale = 1 / events
    var k = 1
    while sum < enough && k <= chunkCount {
      var mass = 0.0
      let perK = b / Double(k)
      for i in scratch.values.indices {
        let v = scratch.values[i]
        if v > k { break }
        if v > 0 { mass += (a + perK * Double(v)) * scratch.rates[i] * scratch.mass[k - v] }
      }
      mass = max(mass * scale, 0)
      scratch.mass.append(mass)
      sum += mass
      k += 1
    }
  }

  private func convolve(_ large: Large, _ p: Double, _ scratch: inout Scratch) {
    if p <= 0 { return }
    let old = scratch.mass.count
    let count = min(chunkCount + 1, old + large.whole + 1)
    if count > old { scratch.mass.append(contentsOf: repeatElement(0, count: count - old)) }
    // Downwards in place: what is read lies below what is written.
    let atWhole = p * (1 - large.part)
    let above = p * large.part
    scratch.mass.withUnsafeMutableBufferPointer { mass in
      var k = count - 1
      while k >= 0 {
        var value = mass[k] * (1 - p)
        if k >= large.whole { value += atWhole * mass[k - large.whole] }
        if k > large.whole { value += above * mass[k - large.whole - 1] }
        mass[k] = value
        k -= 1
      }
    }
  }
}
