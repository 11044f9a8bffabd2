import ArgumentParser
import Dispatch
import Foundation
import Ground
import Harness
import RealBlocks
import Simulation
import Synchronization

// The long sweep: random overlays, faults, losses and liars; Sources/Simulation/README.md says what a run checks.

func say(_ text: String) { FileHandle.standardError.write(Data((text + "\n").utf8)) }

struct Totals {
  var done = 0
  var failures: [UInt64] = []
  var deliveries = 0
  var lies = 0
  var demotions = 0
  var mostHeld = 0
  var virtualSeconds = 0.0
}

func main() throws {
  let options = Options.parseOrExit()
  let withLiars = !options.honest
  let sweep = try ChaosRun(block: try RealBlocks.bytes("702861"))
  if let seed = options.seed {
    let scenario = ChaosScenario(seed: seed, withLiars: withLiars)
    say("\(scenario)")
    do {
      say("\(try sweep.run(scenario))")
    } catch {
      Harness.fail("\(error)")
    }
    exit(0)
  }

  let (first, runs, threads) = (options.first, options.runs, options.threads)
  let totals = Mutex(Totals())
  let next = Atomic<Int>(0)
  let begin = Harness.now()
  DispatchQueue.concurrentPerform(iterations: threads) { _ in
    while true {
      let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
      if index >= runs { return }
      let scenario = ChaosScenario(seed: first + UInt64(index), withLiars: withLiars)
      let result = Result { try sweep.run(scenario) }
      totals.withLock { totals in
        totals.done += 1
        switch result {
        case .success(let outcome):
          totals.deliveries += outcome.deliveries
          totals.lies += outcome.lies
          totals.demotions += outcome.demotions
          totals.mostHeld = max(totals.mostHeld, outcome.mostHeldBytes)
          totals.virtualSeconds += outcome.virtualSeconds
        case .failure(let failure):
          totals.failures.append(scenario.seed)
          say("FAILED \(failure)\n       \(scenario)")
        }
        if totals.done % 500 == 0 { say("\(totals.done) of \(runs) runs, \(totals.failures.count) failed") }
      }
    }
  }
  let sum = totals.withLock { $0 }
  Harness.report("chaos", "chaos_runs", Double(sum.done), "runs")
  Harness.report("chaos", "chaos_failures", Double(sum.failures.count), "runs")
  Harness.report("chaos", "chaos_deliveries", Double(sum.deliveries), "blocks")
  Harness.report("chaos", "chaos_lies", Double(sum.lies), "messages")
  Harness.report("chaos", "chaos_demotions", Double(sum.demotions), "demotions")
  Harness.report("chaos", "chaos_most_held_mb", Double(sum.mostHeld) / 1e6, "MB")
  Harness.report("chaos", "chaos_virtual_hours", sum.virtualSeconds / 3_600, "h")
  Harness.report("chaos", "chaos_seconds", (Harness.now() - begin).seconds, "s")
  exit(sum.failures.isEmpty ? 0 : 1)
}

try main()
