import Foundation
import Ground

/// What every bench prints and how it times.
public enum Harness {
  /// One JSON object a line: `{"bench":…,"metric":…,"value":…,"unit":…}`.
  public static func report(_ bench: String, _ metric: String, _ value: Double, _ unit: String) {
    print("{\"bench\":\"\(bench)\",\"metric\":\"\(metric)\",\"value\":\(number(value)),\"unit\":\"\(unit)\"}")
    fflush(nil)
  }

  static func number(_ value: Double) -> String {
    value.isFinite ? String(format: abs(value) >= 100 ? "%.1f" : "%.5g", value) : "null"
  }

  /// CLOCK_MONOTONIC.
  public static func now() -> Instant {
    var t = timespec()
    clock_gettime(CLOCK_MONOTONIC, &t)
    return Instant(nanoseconds: UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec))
  }

  /// Runs `body` until `seconds` have passed and at least `least` runs are made; returns the runs' times in ms, sorted.
  public static func times(least: Int = 5, seconds: Double = 1, _ body: () throws -> Void) rethrows -> [Double] {
    try body()  // warm caches
    var result: [Double] = []
    let begin = now()
    while result.count < least || (now() - begin).seconds < seconds {
      let start = now()
      try body()
      result.append((now() - start).milliseconds)
    }
    return result.sorted()
  }

  public static func median(_ sorted: [Double]) -> Double { percentile(sorted, 0.5) }

  /// Nearest rank on sorted values.
  public static func percentile(_ sorted: [Double], _ p: Double) -> Double {
    precondition(!sorted.isEmpty)
    return sorted[
      min(
        sorted.count - 1,
        Int((Double(sorted.count) * p).rounded(.up)) - 1 < 0 ? 0 : Int((Double(sorted.count) * p).rounded(.up)) - 1)]
  }

  /// Writes to standard error and leaves with status 2.
  public static func fail(_ message: String) -> Never {
    FileHandle.standardError.write(Data((message + "\n").utf8))
    exit(2)
  }

  /// Keeps the optimiser from removing what computed `value`.
  @inline(never) public static func keep<T>(_ value: borrowing T) {}
}
