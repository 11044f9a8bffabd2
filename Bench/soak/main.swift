import ArgumentParser
import Foundation
import Ground
import Harness
import Synchronization

// Three relay processes on loopback pass blocks for twenty minutes, losing packets on purpose on every link: nothing may
// be missed, and memory and descriptors must stay flat. The blocks hold real mainnet transactions under regtest headers;
// before each block the stand-in nodes' mempools get its transactions back but for a share drawn anew at each site.
//
// soak_rss_growth_mb: of the relay that grew most, the median of its resident set over the last tenth of the run less
// that over the first tenth after the warm-up, which is the first fifth of the run (caches and tables fill; their bounds
// are in topology/ops/README.md). soak_fd_growth likewise. Both are judged, memory where that fifth is two minutes at least.

let options = Options.parseOrExit()
let (minutes, rate) = (options.minutes, options.rate)
let beside = URL(filePath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent()
let program = options.lightpath.map { URL(filePath: $0) } ?? beside.appending(path: "lightpath")
guard FileManager.default.isExecutableFile(atPath: program.path) else {
  Harness.fail("no program at \(program.path): swift build -c release --product lightpath, or say --lightpath PATH")
}

/// Where each block has arrived, and when.
final class Arrivals: Sendable {
  private let table = Mutex<[String: [String: UInt64]]>([:])
  func note(_ hash: String, at relay: String, _ time: UInt64) {
    table.withLock { $0[hash, default: [:]][relay] = time }
  }
  func of(_ hash: String) -> [String: UInt64] { table.withLock { $0[hash] ?? [:] } }
  func forget(_ hash: String) { table.withLock { $0[hash] = nil } }
}

func complain(_ text: String) { FileHandle.standardError.write(Data("soak: \(text)\n".utf8)) }

Children.watch("soak", limit: Int(minutes * 60) + 300)
let blocks = ["413567", "702861", "426884", "928831"]
let overlay: SoakOverlay
do {
  overlay = try SoakOverlay(
    program: program, blocks: blocks, loss: options.loss / 100,
    missing: options.missing / 100)
} catch { Harness.fail("\(error)") }
signal(SIGPIPE, SIG_IGN)
guard overlay.waitForLinks(seconds: 30) else {
  overlay.end()
  Harness.fail("the relays found no way to each other")
}
let arrivals = Arrivals()
for relay in overlay.relays {
  let name = relay.name
  relay.subscribe { hash, at in arrivals.note(hash, at: name, at) }
}

struct Sample {
  var seconds: Double
  var resident: [Double]
  var descriptors: [Int]
}
var samples: [Sample] = []
var delays: [Double] = []
var mined = 0
var missed = 0
let began = Date()
let end = began.addingTimeInterval(minutes * 60)
/// Relays that ended by themselves; with one gone the rest of the run says nothing.
@MainActor func dead() -> [String] { overlay.relays.filter { !$0.process.isRunning }.map(\.name) }
let processorBefore = overlay.relays.map(\.processorSeconds)
var nextSample = began
var nextBlock = began
while Date() < end, dead().isEmpty {
  let number = mined % blocks.count
  for relay in overlay.relays { _ = relay.ask(["command": "refill", "block": number]) }
  let pause = nextBlock.timeIntervalSinceNow
  if pause > 0 { usleep(UInt32(pause * 1e6)) }
  // Late blocks are not made up for: the pace is an upper bound.
  nextBlock = max(nextBlock, Date(timeIntervalSinceNow: -1 / rate)).addingTimeInterval(1 / rate)
  let origin = overlay.relays[mined % overlay.relays.count]
  let reply = origin.ask(["command": "mine", "block": number])
  guard let hash = reply?["hash"] as? String else {
    missed += 1
    complain("\(origin.name) finds no block: \(reply?["error"] ?? "no answer")")
    break
  }
  mined += 1
  let limit = Date(timeIntervalSinceNow: 15)
  while arrivals.of(hash).count < overlay.relays.count && Date() < limit && dead().isEmpty { usleep(2_000) }
  let times = arrivals.of(hash)
  arrivals.forget(hash)
  // When a relay died meanwhile, nobody was given the time to get the block.
  for relay in overlay.relays where times[relay.name] == nil && dead().isEmpty {
    missed += 1
    complain("block \(mined) (\(hash)) did not reach \(relay.name) within 15 s")
  }
  if let start = times[origin.name] {
    for (name, at) in times where name != origin.name { delays.append((Double(at) - Double(start)) / 1e6) }
  }
  if Date() >= nextSample {
    nextSample = nextSample.addingTimeInterval(max(minutes / 2, 1))
    samples.append(
      Sample(
        seconds: Date().timeIntervalSince(began), resident: overlay.relays.map(\.residentMegabytes),
        descriptors: overlay.relays.map(\.descriptors)))
    if options.trace, let last = samples.last {
      let status = overlay.relays[0].status ?? [:]
      let mempool = status["mempool"] as? [String: Any] ?? [:]
      print(
        "{\"seconds\":\(Int(last.seconds)),\"blocks\":\(mined),\"rss_mb\":\(last.resident.map { ($0 * 10).rounded() / 10 }),"
          + "\"heap_used_mb\":\((status["heap_used_bytes"] as? Double ?? 0) / 1e6),"
          + "\"heap_held_mb\":\((status["heap_held_bytes"] as? Double ?? 0) / 1e6),"
          + "\"held_mb\":\((status["held_bytes"] as? Double ?? 0) / 1e6),"
          + "\"side\":\(mempool["side_transactions"] ?? 0),\"fds\":\(last.descriptors)}")
      fflush(nil)
    }
  }
}
let seconds = Date().timeIntervalSince(began)
let processor = zip(overlay.relays, processorBefore).map { $0.processorSeconds - $1 }.reduce(0, +)
var verdict = SoakVerdict()
verdict.missed = missed
verdict.died = dead()
let reports = overlay.relays.compactMap(\.status)

func median(_ values: [Double]) -> Double { Harness.median(values.sorted()) }
let tenth = max(1, samples.count / 10)
let warm = Array(samples.dropFirst(samples.count / 5))
let (early, late) = (warm.prefix(tenth), warm.suffix(tenth))
@MainActor func growth(_ value: (Sample, Int) -> Double) -> Double {
  overlay.relays.indices.map { index in median(late.map { value($0, index) }) - median(early.map { value($0, index) }) }
    .max() ?? 0
}
Harness.report("soak", "soak_seconds", seconds, "s")
Harness.report("soak", "soak_blocks", Double(mined), "blocks")
Harness.report("soak", "soak_missed", Double(missed), "blocks")
Harness.report("soak", "soak_died", Double(verdict.died.count), "relays")
if !warm.isEmpty {
  let memory = growth { $0.resident[$1] }
  if warm[0].seconds >= 120 {
    verdict.memoryGrowth = memory
  } else {
    complain("memory is not judged: its growth counts from second \(Int(warm[0].seconds)) on, where caches still fill")
  }
  verdict.descriptorGrowth = growth { Double($0.descriptors[$1]) }
  Harness.report("soak", "soak_rss_growth_mb", memory, "MB")
  Harness.report("soak", "soak_fd_growth", verdict.descriptorGrowth, "descriptors")
  Harness.report(
    "soak", "soak_rss_warm_mb", overlay.relays.indices.map { i in median(early.map { $0.resident[i] }) }.max()!, "MB")
  Harness.report(
    "soak", "soak_rss_end_mb", overlay.relays.indices.map { i in median(late.map { $0.resident[i] }) }.max()!, "MB")
  Harness.report("soak", "soak_fd_end", Double(samples.last!.descriptors.max()!), "descriptors")
}
if !delays.isEmpty {
  delays.sort()
  Harness.report("soak", "soak_delivered_ms_p50", Harness.percentile(delays, 0.5), "ms")
  Harness.report("soak", "soak_delivered_ms_p99", Harness.percentile(delays, 0.99), "ms")
}
Harness.report("soak", "soak_processor_share", processor / seconds, "cores")
Harness.report(
  "soak", "soak_packets_lost_on_purpose",
  reports.reduce(0) { $0 + ($1["impaired_lost"] as? Double ?? 0) }, "packets")
let faults = verdict.faults(mostGrowth: options.mostGrowth)
for fault in faults { complain(fault) }
overlay.end(keep: !faults.isEmpty)
exit(faults.isEmpty ? 0 : 1)
