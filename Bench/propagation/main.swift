import Foundation
import Ground
import Harness

// Blocks between sites with real nodes: README.md tells how to run this and how to read it.

guard let bitcoind = ProcessInfo.processInfo.environment["BITCOIND"], !bitcoind.isEmpty else {
  print("{\"bench\":\"propagation\",\"skipped\":\"set BITCOIND to a Bitcoin Core bitcoind (v30 or newer)\"}")
  exit(0)
}
guard geteuid() == 0, access("/dev/net/tun", R_OK | W_OK) == 0 else {
  Harness.fail("propagation: needs root and /dev/net/tun, for network namespaces and their devices")
}
let isQuick = CommandLine.arguments.contains("--quick")
func option(_ name: String, _ standard: String) -> String { Harness.options(name).last ?? standard }
func numbers(_ text: String, _ name: String) -> [Double] {
  let values = text.split(separator: ",").map { Double($0) }
  if values.isEmpty || values.contains(where: { $0 == nil || $0! < 0 }) {
    Harness.fail("propagation: --\(name) \(text): numbers with commas between")
  }
  return values.compactMap { $0 }
}
let losses = numbers(option("loss", "0,1,3"), "loss")
let sizes = numbers(option("transactions", "1000,1500,2000,2500"), "transactions").map { Int($0) }
let blocks = Int(numbers(option("blocks", isQuick ? "4" : "24"), "blocks")[0])
let kinds = option("shape", isQuick ? "chain" : "chain,mesh").split(separator: ",").map(String.init)
let systems = Set(option("systems", "floor,p2p,fibre,lightpath").split(separator: ",").map(String.init))
let limit = Int(numbers(option("limit", "1800"), "limit")[0])
let program =
  Harness.options("lightpath").last
  ?? URL(filePath: (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? "")
  .deletingLastPathComponent().appending(path: "lightpath").path
let fibre = ProcessInfo.processInfo.environment["FIBRE_BITCOIND"].flatMap { $0.isEmpty ? nil : $0 }
if systems.contains("lightpath") && !FileManager.default.isExecutableFile(atPath: program) {
  Harness.fail("propagation: no \(program): swift build -c release --product lightpath, or --lightpath PATH")
}
let top = FileManager.default.temporaryDirectory.appending(path: "lightpath-propagation-\(getpid())")
try FileManager.default.createDirectory(at: top, withIntermediateDirectories: true)
if !CommandLine.arguments.contains("--keep") { Children.keep(top) }
Children.watch(limit: limit)

do {
  for name in kinds {
    guard let kind = Shape.Kind(rawValue: name) else { Harness.fail("propagation: --shape \(name): chain or mesh") }
    // The mesh repeats one loss rate, with fewer blocks.
    let isMesh = kind == .mesh && kinds.count > 1
    let plan = Run.Plan(
      shape: Shape(
        kind: kind, sites: Int(numbers(option("sites", "3"), "sites")[0]),
        delay: .milliseconds(numbers(option("delay", "20"), "delay")[0])),
      losses: isMesh && losses.contains(1) ? [1] : losses, blocks: isMesh ? max(blocks / 2, 1) : blocks,
      warmUps: Int(numbers(option("warm-ups", "4"), "warm-ups")[0]), sizes: sizes,
      missing: numbers(option("missing", "1"), "missing")[0] / 100,
      meanBurst: numbers(option("burst", "1"), "burst")[0],
      megabits: numbers(option("mbit", "1000"), "mbit")[0], tellsEach: CommandLine.arguments.contains("--each"))
    if !(2...5).contains(plan.shape.sites) { Harness.fail("propagation: --sites 2 to 5") }
    let folder = top.appending(path: name)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let run = try Run(
      plan, systems: systems, bitcoind: bitcoind, fibre: fibre, lightpath: program, folder: folder)
    let results = try run.measure()
    run.stop()
    Report(plan: plan, results: results).write()
  }
} catch {
  Children.end()
  Harness.fail("propagation: \(error)")
}
Children.end()
