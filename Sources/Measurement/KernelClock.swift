import CTimex
import Ground

/// The kernel's own opinion of CLOCK_REALTIME (adjtimex(2)).
public struct KernelClock: Hashable, Sendable {
  public enum State: Int32, Sendable, CaseIterable {
    case ok = 0
    case leapInsert = 1
    case leapDelete = 2
    case leapInProgress = 3
    case leapDone = 4
    /// No one disciplines the clock, or it has drifted out of its bound.
    case unsynchronised = 5
  }
  public var state: State
  public var isSynchronised: Bool { state != .unsynchronised }
  /// Largest error that the kernel admits: grows by 500 ppm between updates by NTP or PTP.
  public var maxError: Interval
  public var estimatedError: Interval
  /// Correction of the oscillator, parts per million.
  public var frequencyPPM: Double

  public init(state: State, maxError: Interval, estimatedError: Interval, frequencyPPM: Double) {
    (self.state, self.maxError, self.estimatedError, self.frequencyPPM) =
      (state, maxError, estimatedError, frequencyPPM)
  }

  /// Asks the kernel; changes nothing. nil where the system call is refused.
  public static func read() -> KernelClock? {
    var status = timex()
    let answer = adjtimex(&status)
    guard answer >= 0 else { return nil }
    let unsynchronised = status.status & STA_UNSYNC != 0
    return KernelClock(
      state: unsynchronised ? .unsynchronised : State(rawValue: answer) ?? .unsynchronised,
      maxError: .microseconds(Int64(status.maxerror)), estimatedError: .microseconds(Int64(status.esterror)),
      frequencyPPM: Double(status.freq) / 65_536)
  }
}
