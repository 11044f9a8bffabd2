import ArgumentParser
import Foundation
import Ground
import Harness
import Synchronization
import Uring
import UringSupport

// The engine against plain system calls on loopback, in the same run and taking turns. Two cores: sender and receiver
// each have one to themselves in every method.

let bytes = 1_200
let options = Options.parseOrExit()
let (rounds, seconds) = (options.rounds, options.seconds)
func wants(_ part: Options.Part) -> Bool { options.only.isEmpty || options.only.contains(part) }
func report(_ metric: String, _ value: Double, _ unit: String) { Harness.report("uring", metric, value, unit) }
func wait(_ seconds: Double) { usleep(UInt32(seconds * 1e6)) }

func configuration(cpu: Int, _ change: (inout EngineConfiguration) -> Void = { _ in }) -> EngineConfiguration {
  var c = EngineConfiguration(listen: [.loopbackIPv4])
  c.cpu = cpu
  c.maxDatagramBytes = bytes
  if let room = options.room { c.roomUnlimited = room }
  if let buffers = options.buffers { c.receiveBuffers = buffers }
  if let us = options.patience { c.patience = .microseconds(us) }
  change(&c)
  return c
}

func start<Core: DatagramCore & SendableMetatype>(
  _ c: EngineConfiguration, _ core: @escaping @Sendable () -> Core
) -> EngineThread {
  do {
    return try EngineThread.start(c) { _ in core() }
  } catch {
    Harness.fail("\(error)")
  }
}

// MARK: Baselines on two plain threads

final class Flags: @unchecked Sendable {
  let stop = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
  let count = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
  init() {
    stop.initialize(to: 0)
    count.initialize(to: 0)
  }
}

func plainThread(cpu: Int, _ body: @escaping @Sendable () -> Void) -> PlainThread {
  do {
    return try PlainThread.start {
      pinThread(cpu)
      body()
    }
  } catch {
    Harness.fail("\(error)")
  }
}

/// Received datagrams a second, and the CPU time of both threads per datagram in µs.
func baseline(_ mode: baseline_mode, pause: Int = 0, group: Int = 0, look: Interval = .zero)
  -> (rate: Double, cpu: Double)
{
  let flags = Flags()
  var port: UInt16 = 0
  var own: UInt16 = 0
  let inbound = baseline_socket(&port, mode == BASELINE_GSO ? 1 : 0)
  let outbound = baseline_socket(&own, 0)
  if inbound < 0 || outbound < 0 { Harness.fail("sockets") }
  let cpu = Meter()
  let to = port
  let receiver = plainThread(cpu: 1) {
    baseline_receive(inbound, Int32(mode.rawValue), Int32(bytes), Int(look.nanoseconds), flags.count, flags.stop)
    cpu.first.store(thread_cpu_ns(), ordering: .releasing)
  }
  let sender = plainThread(cpu: 0) {
    _ = baseline_send(outbound, to, Int32(mode.rawValue), Int32(bytes), pause, Int32(group), flags.stop)
    cpu.last.store(thread_cpu_ns(), ordering: .releasing)
  }
  wait(0.15)
  let (count, begin) = (flags.count.pointee, SystemClock.now())
  wait(seconds)
  let (end, after) = (flags.count.pointee, SystemClock.now())
  flags.stop.pointee = 1
  sender.join()
  receiver.join()
  baseline_close(inbound)
  baseline_close(outbound)
  let total = cpu.first.load(ordering: .acquiring) + cpu.last.load(ordering: .acquiring)
  return (Double(end - count) / (after - begin).seconds, Double(total) / 1e3 / Double(flags.count.pointee))
}

struct EngineRun {
  var rate = 0.0
  var cpu = 0.0
  var allocations = 0
  var sent: EngineSnapshot?
  var received: EngineSnapshot?
}

func engine(rate: LinkRate, seconds: Double = seconds) -> EngineRun {
  let (inbound, outbound) = (Meter(), Meter())
  let receiver = start(configuration(cpu: 1)) { CountCore(inbound) }
  let to = receiver.handle.addresses[0]
  let sender = start(configuration(cpu: 0)) { FloodCore(outbound, to: to, rate: rate, bytes: bytes) }
  func counted() -> Int { inbound.count.load(ordering: .acquiring) }
  func processorTime() -> UInt64 {
    sender.handle.waker.signal()
    receiver.handle.waker.signal()
    wait(0.02)
    return inbound.cpu.load(ordering: .acquiring) + outbound.cpu.load(ordering: .acquiring)
  }
  wait(0.15)
  let (cpuBefore, datagramsBefore) = (processorTime(), counted())
  let (count, begin) = (counted(), SystemClock.now())
  wait(seconds)
  let (end, after) = (counted(), SystemClock.now())
  let (cpuAfter, datagramsAfter) = (processorTime(), counted())
  let allocations = inbound.allocations.load(ordering: .acquiring)
  sender.stop()
  receiver.stop()
  return EngineRun(
    rate: Double(end - count) / (after - begin).seconds,
    cpu: Double(cpuAfter - cpuBefore) / 1e3 / Double(max(datagramsAfter - datagramsBefore, 1)),
    allocations: allocations, sent: sender.handle.snapshot(), received: receiver.handle.snapshot())
}

func median(_ values: [Double]) -> Double { Harness.median(values.sorted()) }

/// With `--verbose`: what both engines counted.
func tell(_ run: EngineRun) {
  if !options.verbose { return }
  for c in EngineCounter.allCases {
    let (sent, received) = (run.sent?[c] ?? 0, run.received?[c] ?? 0)
    if sent + received > 0 {
      FileHandle.standardError.write(Data("\(c): sender \(sent), receiver \(received)\n".utf8))
    }
  }
}

// For profilers: the engine alone.
if options.only.contains(.engine) {
  let run = engine(rate: .unlimited)
  report("throughput_kpps", run.rate / 1e3, "kpps")
}

if wants(.throughput) {
  var (single, many, plain, looking, ours) = ([Double](), [Double](), [Double](), [Double](), [Double]())
  var last = EngineRun()
  for _ in 0..<rounds {
    single.append(baseline(BASELINE_SINGLE).rate)
    many.append(baseline(BASELINE_MMSG).rate)
    plain.append(baseline(BASELINE_GSO).rate)
    // The engine looks a little before it sleeps; what plain calls gain by doing likewise is told too.
    looking.append(baseline(BASELINE_GSO, look: EngineConfiguration(listen: []).patience).rate)
    last = engine(rate: .unlimited)
    ours.append(last.rate)
  }
  report("throughput_kpps", median(ours) / 1e3, "kpps")
  report("throughput_sendto_kpps", median(single) / 1e3, "kpps")
  report("throughput_mmsg_kpps", median(many) / 1e3, "kpps")
  report("throughput_plain_gso_kpps", median(plain) / 1e3, "kpps")
  report("throughput_plain_gso_looking_kpps", median(looking) / 1e3, "kpps")
  report("throughput_vs_mmsg", median(zip(ours, many).map { $0 / $1 }), "ratio")
  report("throughput_vs_plain_gso", median(zip(ours, plain).map { $0 / $1 }), "ratio")
  report("throughput_vs_plain_gso_looking", median(zip(ours, looking).map { $0 / $1 }), "ratio")
  report("allocations_receiving", Double(last.allocations), "per_run")
  tell(last)
}

// MARK: Round trips

/// Sorted, µs; and what a round trip cost the process in CPU time, both ends together, µs.
struct RoundTrips {
  var times: [Double]
  var cpu: Double

  init(_ times: [UInt32], cpuBefore: UInt64) {
    self.times = times.map { Double($0) / 1e3 }.sorted()
    cpu = Double(process_cpu_ns() - cpuBefore) / 1e3 / Double(max(times.count, 1))
  }
}

func blockingRoundTrips(_ count: Int) -> RoundTrips {
  let cpu = process_cpu_ns()
  let flags = Flags()
  var (port, own) = (UInt16(0), UInt16(0))
  let (echo, client) = (baseline_socket(&port, 0), baseline_socket(&own, 0))
  let to = port
  let meter = Meter()
  let server = plainThread(cpu: 1) { baseline_echo(echo, flags.stop) }
  let pinger = plainThread(cpu: 0) {
    var times = [UInt32](repeating: 0, count: count)
    let done = baseline_ping(client, to, Int32(bytes), &times, Int32(count))
    meter.times = Array(times.prefix(Int(done)))
  }
  pinger.join()
  flags.stop.pointee = 1
  server.join()
  baseline_close(echo)
  baseline_close(client)
  return RoundTrips(meter.times, cpuBefore: cpu)
}

func engineRoundTrips(_ count: Int, _ change: @escaping (inout EngineConfiguration) -> Void) -> RoundTrips {
  let cpu = process_cpu_ns()
  let meter = Meter()
  let server = start(configuration(cpu: 1, change)) { EchoCore() }
  let to = server.handle.addresses[0]
  let client = start(configuration(cpu: 0, change)) { PingCore(meter, to: to, bytes: bytes, rounds: count) }
  let limit = SystemClock.now() + .seconds(20)
  while meter.count.load(ordering: .acquiring) < count && SystemClock.now() < limit { wait(0.005) }
  client.stop()
  server.stop()
  return RoundTrips(meter.times, cpuBefore: cpu)
}

if wants(.rtt) {
  // Short turns, many of them: whatever else the machine does meets all methods alike.
  let (count, turns) = (3_000, rounds * 5)
  var (blocking, ours, atOnce, spinning) = ([RoundTrips](), [RoundTrips](), [RoundTrips](), [RoundTrips]())
  for _ in 0..<turns {
    blocking.append(blockingRoundTrips(count))
    ours.append(engineRoundTrips(count) { _ in })
    atOnce.append(engineRoundTrips(count) { $0.patience = .zero })
    spinning.append(engineRoundTrips(count) { $0.wait = .spin })
  }
  func p(_ runs: [RoundTrips], _ q: Double) -> [Double] { runs.map { Harness.percentile($0.times, q) } }
  for (name, runs) in [("", ours), ("blocking_", blocking), ("nolook_", atOnce), ("busypoll_", spinning)] {
    report("rtt_\(name)p50_us", median(p(runs, 0.5)), "us")
    report("rtt_\(name)p99_us", median(p(runs, 0.99)), "us")
    report("rtt_\(name)cpu_us", median(runs.map(\.cpu)), "us")
  }
  for (name, runs) in [("", ours), ("nolook_", atOnce)] {
    for (label, q) in [("p50", 0.5), ("p99", 0.99)] {
      report("rtt_\(name)\(label)_vs_blocking", median(zip(p(runs, q), p(blocking, q)).map { $0 / $1 }), "ratio")
    }
  }
}

// MARK: CPU time at a steady rate, and pacing

let wireBytes = bytes + 28
if wants(.cpu) {
  var (ours, plain) = ([Double](), [Double]())
  var length = 0.0
  for _ in 0..<rounds {
    let run = engine(rate: LinkRate(bitsPerSecond: UInt64(wireBytes * 8 * 100_000)))
    ours.append(run.cpu)
    if let sent = run.sent { length = Double(sent[.sentDatagrams]) / Double(max(sent[.sentTrains], 1)) }
    if ours.count == rounds { tell(run) }
    // Five each 50 µs: the same rate, in trains by hand.
    plain.append(baseline(BASELINE_GSO, pause: 50_000, group: 5).cpu)
  }
  report("cpu_us_per_datagram_100kpps", median(ours), "us")
  report("cpu_us_per_datagram_100kpps_plain_gso", median(plain), "us")
  report("cpu_vs_plain_gso_100kpps", median(zip(ours, plain).map { $0 / $1 }), "ratio")
  report("train_length_100kpps", length, "datagrams")
}

if wants(.pacing) {
  for (name, rate) in [("50mbit", 50_000_000), ("1gbit", 1_000_000_000), ("5gbit", 5_000_000_000)] {
    var errors: [Double] = []
    for _ in 0..<rounds {
      let meter = Meter()
      let receiver = start(configuration(cpu: 1)) { CountCore(meter) }
      let to = receiver.handle.addresses[0]
      let target = LinkRate(bitsPerSecond: UInt64(rate))
      let sender = start(configuration(cpu: 0)) { FloodCore(Meter(), to: to, rate: target, bytes: bytes) }
      wait(seconds)
      sender.stop()
      receiver.stop()
      if options.verbose {
        let late = sender.handle.snapshot()[.wakeLateness]
        FileHandle.standardError.write(Data("\(name) wake-ups late by up to 2^n ns: \(late.prefix(26))\n".utf8))
      }
      let count = meter.count.load(ordering: .acquiring)
      let span = meter.last.load(ordering: .acquiring) - meter.first.load(ordering: .acquiring)
      let achieved = Double(count - 1) * Double(wireBytes * 8) / (Double(span) / 1e9)
      errors.append((achieved / Double(rate) - 1) * 100)
    }
    report("pacing_error_pct_\(name)", median(errors), "percent")
  }
}
