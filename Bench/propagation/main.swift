import ArgumentParser
import Foundation
import Ground
import Harness

// Blocks between sites with real nodes: README.md tells how to run this and how to read it.

let options = Options.parseOrExit()
guard let bitcoind = ProcessInfo.processInfo.environment["BITCOIND"], !bitcoind.isEmpty else {
  print("{\"bench\":\"propagation\",\"skipped\":\"set BITCOIND to a Bitcoin Core bitcoind (v30 or newer)\"}")
  exit(0)
}
guard geteuid() == 0, access("/dev/net/tun", R_OK | W_OK) == 0 else {
  Harness.fail("propagation: needs root and /dev/net/tun, for network namespaces and their devices")
}
let program =
  options.lightpath
  ?? URL(filePath: (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? "")
  .deletingLastPathComponent().appending(path: "lightpath").path
let fibre = ProcessInfo.processInfo.environment["FIBRE_BITCOIND"].flatMap { $0.isEmpty ? nil : $0 }
if options.systems.contains(.lightpath) && !FileManager.default.isExecutableFile(atPath: program) {
  Harness.fail("propagation: no \(program): swift build -c release --product lightpath, or --lightpath PATH")
}
let top = FileManager.default.temporaryDirectory.appending(path: "lightpath-propagation-\(getpid())")
try FileManager.default.createDirectory(at: top, withIntermediateDirectories: true)
if !options.keep { Children.keep(top) }
Children.watch("propagation", limit: options.limit)

do {
  for kind in options.shapes {
    // The mesh repeats one loss rate, with fewer blocks.
    let isMesh = kind == .mesh && options.shapes.count > 1
    let plan = Run.Plan(
      shape: Shape(kind: kind, sites: options.sites, delay: .milliseconds(options.delay)),
      losses: isMesh && options.loss.contains(1) ? [1] : options.loss,
      blocks: isMesh ? max(options.measuredBlocks / 2, 1) : options.measuredBlocks, warmUps: options.warmUps,
      sizes: options.transactions, missing: options.missing / 100, meanBurst: options.burst, megabits: options.mbit,
      tellsEach: options.each)
    let folder = top.appending(path: kind.rawValue)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let run = try Run(
      plan, systems: Set(options.systems.map(\.rawValue)), bitcoind: bitcoind, fibre: fibre, lightpath: program,
      folder: folder)
    let results = try run.measure()
    run.stop()
    Report(plan: plan, results: results).write()
  }
} catch {
  Children.end()
  Harness.fail("propagation: \(error)")
}
Children.end()
