import Ground
import Synchronization
import Testing
import Uring
import UringSupport

/// The bytes that datagram `sequence` must have: its number, then a pattern that only this number gives.
enum Numbered {
  static func length(_ sequence: UInt64, _ lengths: ClosedRange<Int>) -> Int {
    let span = UInt64(lengths.count)
    return lengths.lowerBound + (span == 1 ? 0 : Int((sequence &* 0x9E37_79B9_7F4A_7C15 >> 33) % span))
  }

  @inline(__always) private static func word(_ sequence: UInt64, _ i: Int) -> UInt64 {
    (sequence &+ 1) &* 0xD6E8_FEB8_6659_FD93 ^ UInt64(i)
  }

  static func write(_ sequence: UInt64, length: Int, into bytes: inout MutableRawSpan) -> Int {
    bytes.withUnsafeMutableBytes { raw in
      raw.storeBytes(of: sequence, as: UInt64.self)
      var at = 8
      while at + 8 <= length {
        raw.storeBytes(of: word(sequence, at), toByteOffset: at, as: UInt64.self)
        at += 8
      }
      while at < length {
        raw[at] = UInt8(truncatingIfNeeded: word(sequence, at))
        at += 1
      }
    }
    return length
  }

  /// The number, or `nil` when a single byte or the length is wrong.
  static func read(_ bytes: inout MutableRawSpan, _ lengths: ClosedRange<Int>) -> UInt64? {
    bytes.withUnsafeMutableBytes { raw in
      guard raw.count >= 8 else { return nil }
      let sequence = raw.loadUnaligned(as: UInt64.self)
      guard raw.count == length(sequence, lengths) else { return nil }
      var at = 8
      while at + 8 <= raw.count {
        if raw.loadUnaligned(fromByteOffset: at, as: UInt64.self) != word(sequence, at) { return nil }
        at += 8
      }
      while at < raw.count {
        if raw[at] != UInt8(truncatingIfNeeded: word(sequence, at)) { return nil }
        at += 1
      }
      return sequence
    }
  }
}

/// What a core tells the test.
final class Tally: Sendable {
  let sent = Atomic<Int>(0)
  let received = Atomic<Int>(0)
  let duplicates = Atomic<Int>(0)
  let damaged = Atomic<Int>(0)
  let strangers = Atomic<Int>(0)
  let implausibleArrivals = Atomic<Int>(0)
  let woken = Atomic<Int>(0)
  let deadlines = Atomic<Int>(0)
  /// Of the engine thread between a quarter and three quarters of the run; -1 where a sanitizer counts.
  let allocations = Atomic<Int>(-2)
  let done = Atomic<Bool>(false)
  var isDone: Bool { done.load(ordering: .acquiring) }
}

extension Atomic where Value == Int {
  func bump(_ n: Int = 1) { wrappingAdd(n, ordering: .relaxed) }
  var value: Int { load(ordering: .acquiring) }
}

/// Sends numbered datagrams round robin over its links as fast as there is room, `total` in all.
struct Sender: DatagramCore {
  let tally: Tally
  let links: [PeerAddress]
  let rate: LinkRate
  let total: Int
  let lengths: ClosedRange<Int>
  /// What link 0's datagrams measure, if not as numbered.
  var firstLinkLength: Int?
  /// Which number a link's next datagram has: link i sends i, i+n, i+2n, …
  var next: [UInt64]
  var probe = AllocationProbe()

  init(
    _ tally: Tally, to links: [PeerAddress], rate: LinkRate = .unlimited, total: Int, lengths: ClosedRange<Int>
  ) {
    self.tally = tally
    self.links = links
    self.rate = rate
    self.total = total
    self.lengths = lengths
    next = links.indices.map { UInt64($0) }
  }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for i in links.indices { sink.assign(LinkID(UInt16(i)), to: links[i], rate: rate) }
    for i in links.indices { fill(i, &sink) }
  }

  mutating func fill(_ i: Int, _ sink: inout some DatagramSink & ~Copyable) {
    let link = LinkID(UInt16(i))
    while next[i] < UInt64(total) {
      let sequence = next[i]
      let length = i == 0 ? firstLinkLength ?? Numbered.length(sequence, lengths) : Numbered.length(sequence, lengths)
      if sink.room(on: link) < length { return }
      let queued = sink.send(on: link, urgency: .block, flow: .none, capacity: length) {
        Numbered.write(sequence, length: length, into: &$0)
      }
      if !queued { return }
      next[i] += UInt64(links.count)
      tally.sent.bump()
      probe.step(Int(sequence), of: total, tally)
    }
    if next.allSatisfy({ $0 >= UInt64(total) }) { tally.done.store(true, ordering: .releasing) }
  }

  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {}
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    fill(Int(link.index), &sink)
  }
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { .never }
}

/// Checks numbered datagrams: each number once, each byte right.
struct Receiver: DatagramCore {
  let tally: Tally
  let lengths: ClosedRange<Int>
  var seen: [Bool]
  /// Busy time per datagram in ns, for a receiver that can't keep up.
  var slowness = 0
  /// Only numbers of this remainder are its own.
  var probe = AllocationProbe()
  var only: (remainder: UInt64, modulus: UInt64)

  init(
    _ tally: Tally, total: Int, lengths: ClosedRange<Int>, slowness: Int = 0, only: (UInt64, UInt64) = (0, 1)
  ) {
    self.only = only
    self.tally = tally
    self.lengths = lengths
    self.slowness = slowness
    seen = Array(repeating: false, count: total)
  }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    if arrival > now || now - arrival > .seconds(2) { tally.implausibleArrivals.bump() }
    guard let sequence = Numbered.read(&datagram, lengths) else { return tally.damaged.bump() }
    guard sequence < UInt64(seen.count), sequence % only.modulus == only.remainder else {
      return tally.strangers.bump()
    }
    if seen[Int(sequence)] { tally.duplicates.bump() }
    seen[Int(sequence)] = true
    tally.received.bump()
    probe.step(Int(sequence), of: seen.count, tally)
    if slowness > 0 {
      let until = SystemClock.now() + Interval(nanoseconds: Int64(slowness))
      while SystemClock.now() < until {}
    }
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) { tally.woken.bump() }
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { .never }
}

/// Counts what its thread allocates while a run is in full swing.
struct AllocationProbe {
  private var atQuarter: Int64?

  @inline(__always) mutating func step(_ number: Int, of total: Int, _ tally: Tally) {
    if atQuarter == nil {
      if number >= total / 4 { atQuarter = thread_allocations() }
    } else if number >= total / 4 * 3 && tally.allocations.load(ordering: .relaxed) == -2 {
      let now = thread_allocations()
      tally.allocations.store(now < 0 ? -1 : Int(now - atQuarter!), ordering: .releasing)
    }
  }
}

/// Waits until `condition` holds; false after `seconds`.
func eventually(seconds: Double = 10, _ condition: () -> Bool) -> Bool {
  let end = SystemClock.now() + .milliseconds(seconds * 1_000)
  while !condition() {
    if SystemClock.now() > end { return false }
    pause(milliseconds: 1)
  }
  return true
}

/// Waits until `value` has stayed the same for `milliseconds`.
func settled(milliseconds: Int = 60, _ value: () -> Int) {
  var last = value()
  var quiet = 0
  while quiet < milliseconds {
    pause(milliseconds: 5)
    let now = value()
    quiet = now == last ? quiet + 5 : 0
    last = now
  }
}

func configuration(_ listen: PeerAddress, _ change: (inout EngineConfiguration) -> Void = { _ in })
  -> EngineConfiguration
{
  var c = EngineConfiguration(listen: [listen])
  change(&c)
  return c
}
