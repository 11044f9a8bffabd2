/// Round numbers for axes.
enum Axis {
  /// 1, 2 or 5 times a power of ten, so that about `count` steps cover `range`.
  static func step(_ range: Double, about count: Int) -> Double {
    guard range.isFinite, range > 0, count > 0 else { return 1 }
    let raw = range / Double(count)
    var power = 1.0
    while power * 10 <= raw { power *= 10 }
    while power > raw { power /= 10 }
    for factor in [1.0, 2, 5] where power * factor >= raw { return power * factor }
    return power * 10
  }

  /// Multiples of a round step in `low ... high`.
  static func ticks(_ low: Double, _ high: Double, about count: Int) -> [Double] {
    guard low.isFinite, high.isFinite, high > low else { return [low] }
    let step = step(high - low, about: count)
    var ticks: [Double] = []
    var value = (low / step).rounded(.up) * step
    while value <= high + step * 1e-9 && ticks.count < 100 {
      ticks.append(abs(value) < step * 1e-9 ? 0 : value)
      value += step
    }
    return ticks
  }
}
