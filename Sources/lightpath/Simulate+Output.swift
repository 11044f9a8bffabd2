import Foundation
import Simulation
import Topology

extension Simulate {
  private struct Output: Encodable {
    var own: SimulationReport
    var fibre: SimulationReport?

    enum CodingKeys: String, CodingKey { case baseline }

    func encode(to encoder: any Encoder) throws {
      try own.encode(to: encoder)
      if let fibre {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(fibre, forKey: .baseline)
      }
    }
  }

  func printJSON(_ own: SimulationTally, _ fibre: SimulationTally?) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    let output = Output(own: SimulationReport(own, withStages: stages), fibre: fibre.map { SimulationReport($0) })
    print(String(decoding: try encoder.encode(output), as: UTF8.self))
  }

  func printTable(_ plan: SimulationPlan, _ own: SimulationTally, _ fibre: SimulationTally?) {
    let loss = "\(number(self.loss * 100, 2))% loss" + (self.loss > 0 ? " in bursts of \(number(burst, 1))" : "")
    print(
      "\(plan.topology.name): \(own.relays) relays, \(own.links.count) links; \(loss), "
        + "\(number(missing * 100, 2))% of transactions missing, seed \(seed)\n")
    var rows: [[String]] = [["", "lightpath"] + (fibre == nil ? [] : ["FIBRE-like"])]
    func row(_ title: String, _ value: (SimulationTally) -> String) {
      rows.append([title, value(own)] + (fibre.map { [value($0)] } ?? []))
    }
    row("blocks") { "\($0.blocks)" }
    row("blocks complete at every relay") { "\($0.completed)" }
    row("over the light path, p50") { milliseconds($0.overLightMs(0.5)) }
    row("over the light path, p99") { milliseconds($0.overLightMs(0.99)) }
    row("over the light path, worst") { milliseconds($0.overLightMs(1)) }
    row("blocks with an extra round") { "\(number($0.extraRoundShare * 100, 3))%" }
    row("packets per link and block") { number($0.datagramsPerLink, 1) }
    row("UDP payload per link and block") { "\(number($0.bytesPerLink / 1_000, 1)) kB" }
    printRows(rows)
    if stages {
      print("")
      var rows = [["over the light path", "p50", "p99"]]
      for stage in StageTimes.Stage.allCases {
        rows.append([
          stage.rawValue, milliseconds(own.stages.milliseconds(stage, 0.5)),
          milliseconds(own.stages.milliseconds(stage, 0.99)),
        ])
      }
      printRows(rows)
    }
    if links {
      print("")
      var rows = [["link", "packets", "kB", "lost"]]
      for link in own.links {
        let names = "\(plan.topology.relays[link.a].name) – \(plan.topology.relays[link.b].name)"
        let blocks = Double(max(1, own.blocks))
        rows.append([
          names, number(Double(link.datagrams) / blocks, 1), number(Double(link.bytes) / blocks / 1_000, 1),
          "\(number(link.datagrams == 0 ? 0 : Double(link.lost) / Double(link.datagrams) * 100, 2))%",
        ])
      }
      printRows(rows)
    }
  }

  private func printRows(_ rows: [[String]]) {
    let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    for row in rows {
      let cells = row.enumerated().map { column, text in
        let pad = String(repeating: " ", count: widths[column] - text.count)
        return column == 0 ? text + pad : pad + text
      }
      print("  " + cells.joined(separator: "   "))
    }
  }

  private func milliseconds(_ value: Double?) -> String { value.map { "\(number($0, 3)) ms" } ?? "–" }
  private func number(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }
}
