import Foundation
import Ground
import Harness

/// The figures of a run, one JSON object a line, and a table on standard error.
struct Report {
  let plan: Run.Plan
  let results: [Result]

  private var prefix: String { plan.shape.kind == .chain ? "" : "mesh_" }

  private func name(_ loss: Double) -> String {
    loss == loss.rounded() ? "\(Int(loss))" : "\(loss)".replacingOccurrences(of: ".", with: "_")
  }

  private func metric(_ name: String, _ value: Double, _ unit: String = "ms") {
    Harness.report("propagation", prefix + name, value, unit)
  }

  /// Over the path's delay, in ms, sorted; what never came counts with the patience.
  private func tips(_ passages: [Passage], _ system: String) -> [Double] {
    far(system).flatMap { site in
      passages.map { passage in
        passage.tip[site].map { ($0 - passage.submitted) / 1e3 - delay(site, system) } ?? Run.patience * 1e3
      }
    }.sorted()
  }

  private func handed(_ passages: [Passage], _ system: String) -> [Double] {
    far(system).flatMap { site in
      passages.compactMap { passage in
        guard passage.tip[site] != nil else { return Run.patience * 1e3 }
        guard let announced = passage.announced, let handed = passage.handed[site] else { return nil }
        return (handed - announced) / 1e3 - delay(site, system)
      }
    }.sorted()
  }

  private func far(_ system: String) -> [Int] { system == "floor" ? [1] : plan.shape.far }
  private func delay(_ site: Int, _ system: String) -> Double { system == "floor" ? 0 : plan.shape.pathDelay(to: site) }

  func write() {
    var floor: [Double] = []
    for result in results {
      let suffix = "loss\(name(result.loss))"
      var medians: [String: Double] = [:]
      for (system, passages) in result.passages.sorted(by: { $0.key < $1.key }) {
        let tips = tips(passages, system)
        let handed = handed(passages, system)
        if system == "floor" {
          floor += tips
          continue
        }
        medians[system] = Harness.median(tips)
        metric("tip_over_path_ms_p50_\(system)_\(suffix)", Harness.median(tips))
        metric("tip_over_path_ms_p99_\(system)_\(suffix)", Harness.percentile(tips, 0.99))
        if !handed.isEmpty {
          metric("handed_over_path_ms_p50_\(system)_\(suffix)", Harness.median(handed))
          metric("handed_over_path_ms_p99_\(system)_\(suffix)", Harness.percentile(handed, 0.99))
        }
        let late = passages.count { passage in far(system).contains { passage.tip[$0] == nil } }
        metric("blocks_\(system)_\(suffix)", Double(passages.count), "count")
        metric("blocks_not_in_time_\(system)_\(suffix)", Double(late), "count")
      }
      if let own = medians["lightpath"] {
        for other in ["p2p", "fibre"] {
          if let theirs = medians[other] { metric("tip_ratio_lightpath_\(other)_\(suffix)", own / theirs, "ratio") }
        }
      }
      stages(result, suffix)
      if !result.lateness.isEmpty {
        metric("emulator_late_us_p50_\(suffix)", Harness.median(result.lateness), "us")
        metric("emulator_late_us_p99_\(suffix)", Harness.percentile(result.lateness, 0.99), "us")
        let all = Double(result.carried + result.lost)
        metric("emulator_loss_pct_\(suffix)", Double(result.lost) / max(all, 1) * 100, "percent")
        metric("emulator_tail_drops_\(suffix)", Double(result.dropped), "count")
      }
    }
    if !floor.isEmpty {
      metric("floor_ms", Harness.median(floor.sorted()))
      metric("floor_ms_p99", Harness.percentile(floor.sorted(), 0.99))
    }
  }

  private func stages(_ result: Result, _ suffix: String) {
    for (system, passages) in result.passages.sorted(by: { $0.key < $1.key }) {
      var order: [String] = []
      var values: [String: [Double]] = [:]
      for stage in passages.flatMap(\.stages) {
        if values[stage.name] == nil { order.append(stage.name) }
        values[stage.name, default: []].append(stage.ms)
      }
      for name in order {
        let isCount = name.hasPrefix("count_")
        metric(
          "\(isCount ? String(name.dropFirst(6)) : "stage_ms_p50_\(name)")_\(system)_\(suffix)",
          Harness.median(values[name]!.sorted()), isCount ? "count" : "ms")
      }
    }
  }
}
