import Ground
import Relay

/// When blocks came to each stage at relays that aren't their origin: nanoseconds over the light path. What a stage's
/// call did after it counts for the next, so that `verified` is a little before the block is handed over.
public struct StageTimes: Sendable {
  public enum Stage: String, CaseIterable, Sendable {
    /// Of the block, in the receiver's kernel.
    case firstPacket = "first packet"
    case gatePassed = "gate passed"
    case sketchComplete = "sketch complete"
    case matched
    /// The packet that made the body solvable, in the receiver's kernel; or the match, when that came later.
    case lastNeeded = "last needed"
    case decoded
    case verified
  }
  private var times: [[Int64]] = Array(repeating: [], count: Stage.allCases.count)

  public init() {}

  mutating func note(_ report: BlockReport, since begin: UInt64, light: Interval, trueTime: (Instant) -> UInt64) {
    for (index, stage) in Stage.allCases.enumerated() {
      let at =
        switch stage {
        case .firstPacket: report.firstPacket
        case .gatePassed: report.gatePassed
        case .sketchComplete: report.sketchComplete
        case .matched: report.matched
        case .lastNeeded: report.lastNeeded
        case .decoded: report.decoded
        case .verified: report.verified
        }
      if at == .never { continue }
      times[index].append(Int64(trueTime(at)) - Int64(begin) - light.nanoseconds)
    }
  }

  mutating func merge(_ other: StageTimes) {
    for index in times.indices { times[index] += other.times[index] }
  }

  /// Nearest rank, in milliseconds; nil when no block came to the stage.
  public func milliseconds(_ stage: Stage, _ share: Double) -> Double? {
    let sorted = times[Stage.allCases.firstIndex(of: stage)!].sorted()
    if sorted.isEmpty { return nil }
    let rank = max(0, min(sorted.count - 1, Int((share * Double(sorted.count)).rounded(.up)) - 1))
    return Double(sorted[rank]) / 1e6
  }
}
