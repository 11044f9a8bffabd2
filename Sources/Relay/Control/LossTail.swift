#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// How many packets to send so that enough arrive. REDUNDANCY.md, section 1.
public enum LossTail {
  /// The least number of packets of which at least `wanted` arrive with probability 1 − `risk`. `loss` is taken as true:
  /// pass `LinkLoss.prudent`. A few µs; allocates nothing.
  public static func packets(delivering wanted: Int, loss: LinkLoss, risk: Double) -> Int {
    if wanted <= 0 { return 0 }
    if loss.rate <= 0 { return wanted }
    // Sending more loses more: the least n with n − quantile(n) ≥ wanted. From below, what is short is added; a channel
    // that loses nearly all of a few packets (it may be a peer's lie) would take as many steps as packets: by halves, then.
    func short(_ sent: Int) -> Int { wanted + quantile(packets: sent, loss: loss, risk: risk) - sent }
    var enough = wanted
    var tooFew = wanted - 1
    var isLeast = true
    for step in 1... {
      let more = short(enough)
      if more <= 0 { break }
      tooFew = enough
      isLeast = step <= 4
      enough += isLeast ? more : max(more, enough)
    }
    if isLeast { return enough }
    while enough - tooFew > 1 {
      let middle = tooFew + (enough - tooFew) / 2
      if short(middle) <= 0 { enough = middle } else { tooFew = middle }
    }
    return enough
  }

  /// The least m with P(more than m of `packets` are lost) ≤ `risk`, for losses that come as a Poisson number of runs of
  /// geometric length (Pólya–Aeppli). Never more than `packets`.
  public static func quantile(packets: Int, loss: LinkLoss, risk: Double) -> Int {
    let rate = min(max(loss.rate, 0), 0.9)
    let burst = max(loss.burst, 1)
    // Runs that touch the packets: those that begin among them, and those that began up to a run's length before.
    let runs = (Double(packets) + burst - 1) * rate / burst
    if runs > 300 || runs * burst > 4_000 {
      // e^−runs nears the end of Double's range, and so many runs are as good as normal, with a skew (Cornish–Fisher). Far
      // more losses than any block survives are as well served, and need not be counted one by one.
      let mean = runs * burst
      let variance = runs * burst * (2 * burst - 1)
      let third = runs * (1 + 6 * (burst - 1) + 6 * (burst - 1) * (burst - 1)) * burst
      let z = normalQuantile(risk)
      let skew = third / (variance * variance.squareRoot())
      return min(packets, Int((mean + variance.squareRoot() * (z + (z * z - 1) * skew / 6)).rounded(.up)))
    }
    let stay = 1 - 1 / burst
    var before = 0.0
    var current = exp(-runs)
    var left = 1 - current
    var k = 0
    while left > risk && k < packets {
      k += 1
      let n = Double(k)
      let next = ((2 * stay * (n - 1) + runs * (1 - stay)) * current - stay * stay * (n - 2) * before) / n
      (before, current) = (current, max(next, 0))
      left -= current
    }
    return k
  }

  /// z with P(standard normal > z) = `risk`, to 5·10⁻⁴ (Abramowitz and Stegun 26.2.23). `risk` below one half.
  static func normalQuantile(_ risk: Double) -> Double {
    let t = (-2 * log(max(risk, 1e-300))).squareRoot()
    return t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
  }
}
