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

  /// From the announcement, likewise.
  private func arrivals(_ passages: [Passage], _ system: String, _ at: KeyPath<Passage, [Int: Double]>) -> [Double] {
    far(system).flatMap { site in
      passages.compactMap { passage in
        guard passage.tip[site] != nil else { return Run.patience * 1e3 }
        guard let announced = passage.announced, let time = passage[keyPath: at][site] else { return nil }
        return (time - announced) / 1e3 - delay(site, system)
      }
    }.sorted()
  }

  private func far(_ system: String) -> [Int] { system == "floor" ? [1] : plan.shape.far }
  private func delay(_ site: Int, _ system: String) -> Double {
    plan.shape.pathDelay(to: system == "floor" ? plan.shape.far.last! : site)
  }

  func write() {
    var floor: [Double] = []
    var table = [row("loss", "system", ["tip p50", "p99", "handed p50", "p99"])]
    for result in results {
      let suffix = "loss\(name(result.loss))"
      var medians: [String: Double] = [:]
      for (system, passages) in result.passages.sorted(by: { $0.key < $1.key }) {
        let tips = tips(passages, system)
        if system == "floor" {
          floor += tips
          metric("floor_ms_\(suffix)", Harness.median(tips))
          continue
        }
        medians[system] = Harness.median(tips)
        percentiles("tip_over_path", tips, "\(system)_\(suffix)")
        let handed = arrivals(passages, system, \.handed)
        percentiles("handed_over_path", handed, "\(system)_\(suffix)")
        percentiles("read_over_path", arrivals(passages, system, \.read), "\(system)_\(suffix)")
        table.append(row(result.loss, system, tips, handed))
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
      table.append(row("", "floor", figures(floor.sorted())))
    }
    let title = "\(plan.shape.kind.rawValue) of \(plan.shape.sites) sites, ms over the path's delay"
    FileHandle.standardError.write(Data((title + "\n" + table.joined(separator: "\n") + "\n").utf8))
  }

  private func percentiles(_ name: String, _ values: [Double], _ suffix: String) {
    if values.isEmpty { return }
    metric("\(name)_ms_p50_\(suffix)", Harness.median(values))
    metric("\(name)_ms_p99_\(suffix)", Harness.percentile(values, 0.99))
  }

  private func figures(_ values: [Double]) -> [String] {
    if values.isEmpty { return ["-", "-"] }
    return [Harness.median(values), Harness.percentile(values, 0.99)].map { String(format: "%.1f", $0) }
  }

  private func row(_ loss: Double, _ system: String, _ tips: [Double], _ handed: [Double]) -> String {
    row("\(name(loss))%", system, figures(tips) + figures(handed))
  }

  private func row(_ loss: String, _ system: String, _ figures: [String]) -> String {
    func padded(_ text: String, _ width: Int) -> String {
      String(repeating: " ", count: max(0, width - text.count)) + text
    }
    return padded(loss, 6) + "  " + system + String(repeating: " ", count: max(0, 10 - system.count))
      + figures.map { padded($0, 12) }.joined()
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
