import Ground
import Histogram

/// A distribution of times in microseconds, kept by HdrHistogram: three significant digits, up to an hour. Negative
/// times (a block that the public network had first) are kept in a mirror.
public struct Distribution: Sendable {
  private static let greatest: UInt64 = 3_600_000_000
  private var positive = Histogram<UInt32>(highestTrackableValue: greatest, numberOfSignificantValueDigits: .three)
  private var negative: Histogram<UInt32>?
  public private(set) var sumMicroseconds = 0.0

  public init() {}

  public init(_ times: some Sequence<Interval>) {
    for time in times { add(time) }
  }

  public mutating func add(_ time: Interval) {
    let magnitude = min((time.nanoseconds.magnitude + 500) / 1_000, Distribution.greatest)
    if time.nanoseconds < 0 && magnitude > 0 {
      if negative == nil {
        negative = Histogram<UInt32>(
          highestTrackableValue: Distribution.greatest, numberOfSignificantValueDigits: .three)
      }
      negative!.record(magnitude)
      sumMicroseconds -= Double(magnitude)
    } else {
      positive.record(magnitude)
      sumMicroseconds += Double(magnitude)
    }
  }

  public var count: Int { Int(positive.totalCount + negativeCount) }
  private var negativeCount: UInt64 { negative?.totalCount ?? 0 }
  public var mean: Double? { count == 0 ? nil : sumMicroseconds / Double(count) / 1e3 }

  /// The time, in milliseconds, at or under which `percent` percent of all lie (nearest rank); nil without values.
  public func percentile(_ percent: Double) -> Double? {
    let total = UInt64(count)
    if total == 0 { return nil }
    let rank = min(max(UInt64((percent / 100 * Double(total)).rounded(.up)), 1), total)
    if rank <= negativeCount, let negative {
      // Rank r from below is rank n − r + 1 of the magnitudes.
      let mirrored = Double(negativeCount - rank + 1)
      return -Double(negative.valueAtPercentile((mirrored - 0.5) / Double(negativeCount) * 100)) / 1e3
    }
    let above = Double(rank - negativeCount) - 0.5
    return Double(positive.valueAtPercentile(above / Double(positive.totalCount) * 100)) / 1e3
  }
}
