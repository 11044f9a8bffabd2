import Bitcoin
import Foundation
import Ground
import Harness
import RealBlocks
import Simulation
import Topology

/// Holds the simulator's model of CPU time against a real clock: eight relays relay real blocks, every call into a core is
/// timed, and what `RelayCosts` charges for it is set beside that. Run it on a quiet machine.
///
/// `--fit` also prints the prices that fit best: least squares without negative prices, each call weighted by
/// 1 / (time + 2 µs), which stands between absolute and relative errors. The first fit takes the measured time there, the
/// next three the last fit's, which makes the sum come out right.
func benchCosts(blocks names: [String], count: Int, isFit: Bool) throws {
  let directory = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  let topology = try OverlayTopology(
    contentsOf: directory.appending(path: "topology").appending(path: "six-continents.toml"))
  var plan = SimulationPlan(topology: topology, blocks: try names.map { try RealBlocks.bytes($0) }, blockCount: count)
  plan.loss = LossModel(rate: 0.01, meanBurst: 4)
  plan.missing = 0.01
  plan.seed = 7
  let clock = { Harness.now().nanoseconds }
  let readings = (0..<10_000).map { _ in
    let begin = clock()
    return Double(clock() - begin)
  }
  let overhead = Harness.median(readings.sorted())
  // Every run makes the same calls: the median of five for each call leaves interruptions out.
  var samples: [CallProbe.Sample] = []
  var times: [[Double]] = []
  for _ in 0..<5 {
    let probe = CallProbe(clock: clock)
    _ = try RelayRun.run(plan, probe: probe)
    times.append(probe.samples.map { $0.nanoseconds })
    if samples.isEmpty { samples = probe.samples }
    if probe.samples.count != samples.count { Harness.fail("two runs of one seed differ") }
  }
  for index in samples.indices {
    samples[index].nanoseconds = max(0, Harness.median(times.map { $0[index] }.sorted()) - overhead)
  }

  let prices = RelayCosts.terms.map { RelayCosts()[keyPath: $0.price] }
  func modelled(_ sample: CallProbe.Sample, _ prices: [Double]) -> Double {
    var sum = 0.0
    for (count, price) in zip(sample.counts, prices) { sum += Double(count) * price }
    return sum
  }
  if isFit {
    var fit = leastSquares(samples) { $0.nanoseconds }
    for _ in 0..<3 {
      let last = fit
      fit = leastSquares(samples) { modelled($0, last) }
    }
    for (term, price) in zip(RelayCosts.terms, fit) {
      Harness.report("simulation", "fitted " + term.name, price, "ns")
    }
    report(samples, fit, "fitted")
    // Where the time goes, by the fit.
    for (index, term) in RelayCosts.terms.enumerated() {
      let time = samples.reduce(0) { $0 + Double($1.counts[index]) * fit[index] }
      Harness.report("simulation", "share of " + term.name, time / 1e6 / Double(count), "ms per block")
    }
  }
  report(samples, prices, "costs")

  func report(_ samples: [CallProbe.Sample], _ prices: [Double], _ name: String) {
    var (real, model) = (0.0, 0.0)
    for sample in samples {
      real += sample.nanoseconds
      model += modelled(sample, prices)
    }
    Harness.report("simulation", "\(name)_measured_ms_per_block", real / 1e6 / Double(count), "ms")
    Harness.report("simulation", "\(name)_modelled_ms_per_block", model / 1e6 / Double(count), "ms")
    Harness.report("simulation", "\(name)_modelled_to_measured", model / real, "ratio")
    for kind in CallProbe.Kind.allCases {
      let some = samples.filter { $0.kind == kind }
      if some.isEmpty { continue }
      let real = some.reduce(0) { $0 + $1.nanoseconds }
      let model = some.reduce(0) { $0 + modelled($1, prices) }
      Harness.report("simulation", "\(name)_\(kind)_modelled_to_measured", model / real, "ratio")
    }
    // Calls of 20 µs and more are the slices that stand in a packet's way.
    let long = samples.filter { $0.nanoseconds > 20_000 }.map { modelled($0, prices) / $0.nanoseconds }.sorted()
    if !long.isEmpty {
      for share in [0.05, 0.5, 0.95] {
        Harness.report(
          "simulation", "\(name)_slice_modelled_to_measured_p\(Int(share * 100))", Harness.percentile(long, share),
          "ratio")
      }
    }
  }
}

/// Prices of all terms, none negative: coordinate descent on the normal equations.
private func leastSquares(_ samples: [CallProbe.Sample], expected: (CallProbe.Sample) -> Double) -> [Double] {
  let n = RelayCosts.terms.count
  var scale = [Double](repeating: 0, count: n)
  for sample in samples {
    for i in 0..<n { scale[i] = max(scale[i], Double(sample.counts[i])) }
  }
  var gram = [[Double]](repeating: [Double](repeating: 0, count: n), count: n)
  var right = [Double](repeating: 0, count: n)
  for sample in samples {
    let weight = 1 / (expected(sample) + 2_000)
    let row = (0..<n).map { scale[$0] > 0 ? Double(sample.counts[$0]) / scale[$0] : 0 }
    for i in 0..<n where row[i] != 0 {
      right[i] += weight * row[i] * sample.nanoseconds
      for j in 0..<n where row[j] != 0 { gram[i][j] += weight * row[i] * row[j] }
    }
  }
  var price = [Double](repeating: 0, count: n)
  for _ in 0..<20_000 {
    for i in 0..<n where gram[i][i] > 0 {
      var rest = right[i]
      for j in 0..<n where j != i { rest -= gram[i][j] * price[j] }
      price[i] = max(0, rest / gram[i][i])
    }
  }
  return (0..<n).map { scale[$0] > 0 ? price[$0] / scale[$0] : 0 }
}
