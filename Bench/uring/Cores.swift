import Ground
import Synchronization
import Uring
import UringSupport

/// Shared between a core and the bench.
final class Meter: Sendable {
  let count = Atomic<Int>(0)
  let first = Atomic<UInt64>(0)
  let last = Atomic<UInt64>(0)
  let cpu = Atomic<UInt64>(0)
  let allocations = Atomic<Int>(0)
  /// Round trips in ns; written by one core, read after it has stopped.
  nonisolated(unsafe) var times: [UInt32] = []
}

/// Sends as fast as there is room; writes a number into each datagram and leaves the rest, as the baselines do.
struct FloodCore: DatagramCore {
  let meter: Meter
  let to: PeerAddress
  let rate: LinkRate
  let bytes: Int
  var number: UInt64 = 0
  var allocationsAtStart: Int64 = 0

  init(_ meter: Meter, to: PeerAddress, rate: LinkRate, bytes: Int) {
    self.meter = meter
    self.to = to
    self.rate = rate
    self.bytes = bytes
  }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    sink.assign(LinkID(0), to: to, rate: rate)
    fill(&sink)
  }

  @inline(__always) mutating func fill(_ sink: inout some DatagramSink & ~Copyable) {
    var room = sink.room(on: LinkID(0))
    while room >= bytes {
      let number = number
      let queued = sink.send(on: LinkID(0), urgency: .block, flow: FlowID(1), capacity: bytes) { span in
        span.storeBytes(of: number, as: UInt64.self)
        return span.byteCount
      }
      if !queued { return }
      self.number &+= 1
      room -= bytes
    }
  }

  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {}
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    fill(&sink)
  }
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    meter.cpu.store(thread_cpu_ns(), ordering: .releasing)
    meter.count.store(Int(number), ordering: .releasing)
  }
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { .never }
}

/// Counts what comes, and reads the number in each.
struct CountCore: DatagramCore {
  let meter: Meter
  var count = 0
  var sum: UInt64 = 0
  var first = Instant.zero
  var last = Instant.zero
  var allocations: Int64 = 0

  init(_ meter: Meter) { self.meter = meter }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  @inline(__always) mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    if datagram.byteCount >= 8 {
      sum &+= unsafe datagram.bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: 0, as: UInt64.self)
    }
    if count == 0 {
      first = arrival
      allocations = thread_allocations()
    }
    last = arrival
    count += 1
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    meter.count.store(count, ordering: .relaxed)
    meter.first.store(first.nanoseconds, ordering: .relaxed)
    meter.last.store(last.nanoseconds, ordering: .relaxed)
    meter.allocations.store(Int(thread_allocations() - allocations), ordering: .relaxed)
  }
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    meter.cpu.store(thread_cpu_ns(), ordering: .releasing)
  }
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { .never }
}

/// Sends back what comes from the first address that spoke to it, on a link.
struct EchoCore: DatagramCore {
  var partner: PeerAddress?

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    if partner == nil {
      partner = source
      sink.assign(LinkID(0), to: source, rate: .unlimited)
    }
    let count = datagram.byteCount
    let bytes = datagram.bytes
    sink.send(on: LinkID(0), urgency: .control, flow: .none, capacity: count) { span in
      span.withUnsafeMutableBytes { to in bytes.withUnsafeBytes { to.copyMemory(from: $0) } }
      return count
    }
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { .never }
}

/// One datagram there and back, again and again.
struct PingCore: DatagramCore {
  let meter: Meter
  let to: PeerAddress
  let bytes: Int
  let rounds: Int
  var begun = Instant.zero
  var times: [UInt32] = []
  var deadline = Instant.never

  init(_ meter: Meter, to: PeerAddress, bytes: Int, rounds: Int) {
    self.meter = meter
    self.to = to
    self.bytes = bytes
    self.rounds = rounds
    times.reserveCapacity(rounds)
  }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    sink.assign(LinkID(0), to: to, rate: .unlimited)
    ping(&sink)
  }
  mutating func ping(_ sink: inout some DatagramSink & ~Copyable) {
    begun = SystemClock.now()
    deadline = begun + .seconds(1)
    let count = bytes
    sink.send(on: LinkID(0), urgency: .control, flow: .none, capacity: count) { _ in count }
  }
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    if times.count == rounds { return }
    // The clock as the blocking client reads it: after the datagram is in hand.
    times.append(UInt32(clamping: (SystemClock.now() - begun).nanoseconds))
    if times.count < rounds {
      ping(&sink)
    } else {
      deadline = .never
      meter.times = times
      meter.count.store(rounds, ordering: .releasing)
    }
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) { ping(&sink) }
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { deadline }
}
