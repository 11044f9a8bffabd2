import Wire

/// What one receiver is likely to lack of the next block: a miss probability for each size class of transactions, and how
/// far a block may stray from it. Learned from the HAVE of recent blocks. REDUNDANCY.md, section 2.
public struct MissEstimator: Sendable {
  /// What the controller reckons with.
  public struct Prediction: Hashable, Sendable {
    /// Per size class.
    public var probability: SIMD4<Double>
    /// The block's miss rate is the probabilities times a gamma variable of mean 1 and this shape (variance 1/shape).
    public var shape: Double

    public init(probability: SIMD4<Double>, shape: Double) {
      self.probability = probability
      self.shape = shape
    }
  }

  /// A block's weight when the next one comes: the last 6.7 blocks count.
  static let memory = 0.85
  /// Before anything is known: 2% in 200 transactions.
  static let priorRate = 0.02
  static let priorTransactions = 200.0
  /// A class is as the others are, to the worth of so many transactions.
  static let classTransactions = 30.0
  /// Variation from block to block: a relative variance of 1 in 0.3 of a block.
  static let priorSpreadWeight = 0.3

  private var missed = SIMD4<Double>(repeating: 0)
  private var seen = SIMD4<Double>(repeating: 0)
  private var spread = 0.0
  private var weight = 0.0
  public private(set) var blocks: UInt64 = 0

  public init() {}

  /// A block's outcome: how many transactions of each class the receiver lacked, of how many that were neither the
  /// coinbase nor explicit. Counts that can't be (more missing than there are) are clamped.
  public mutating func note(missing: SizeClassCounts, of total: SizeClassCounts) {
    if total.total == 0 { return }
    var m = SIMD4<Double>()
    var n = SIMD4<Double>()
    for i in 0..<4 {
      n[i] = Double(total[i])
      m[i] = min(Double(missing[i]), n[i])
    }
    // How far this block was from what was expected, in excess of the binomial noise.
    let expected = (prediction.probability * n).sum()
    let share = min(1, n.sum() / 200)
    if blocks > 0 && expected > 0 {
      let relative = m.sum() / expected - 1
      spread = spread * Self.memory + share * max(0, relative * relative - 1 / expected)
      weight = weight * Self.memory + share
    }
    missed = missed * Self.memory + m
    seen = seen * Self.memory + n
    blocks += 1
  }

  /// Forgets: the receiver restarted.
  public mutating func reset() { self = MissEstimator() }

  public var prediction: Prediction {
    let mean = (missed.sum() + Self.priorRate * Self.priorTransactions) / (seen.sum() + Self.priorTransactions)
    let classes = (missed + Self.classTransactions * mean) / (seen + Self.classTransactions)
    let between = (spread + Self.priorSpreadWeight) / (weight + Self.priorSpreadWeight)
    let estimation = 1 / (missed.sum() + Self.priorRate * Self.priorTransactions)
    let variance = min(max(between + estimation, 0.04), 4)
    return Prediction(
      probability: classes.clamped(lowerBound: .init(repeating: 1e-5), upperBound: .init(repeating: 1)),
      shape: 1 / variance)
  }
}
