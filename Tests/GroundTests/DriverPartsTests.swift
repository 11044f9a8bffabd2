import Ground
import Synchronization
import Testing

/// What drivers of a core stand on: rings between threads, clocks, address text.
struct DriverPartsTests {
  /// Every capacity, every fill level, every position of the indexes: order kept, nothing lost, full and empty told.
  @Test(arguments: [1, 2, 3, 4, 8])
  func ringInEveryLayout(_ capacity: Int) {
    let ring = SPSCRing<Int>(capacity: capacity)
    #expect(ring.capacity >= capacity && ring.capacity.nonzeroBitCount == 1)
    var next = 0
    var expected = 0
    var wrong = 0
    for shift in 0..<ring.capacity * 2 {
      for fill in 0...ring.capacity {
        for _ in 0..<fill {
          if ring.push(next) != nil { wrong += 1 }
          next += 1
        }
        if ring.count != fill { wrong += 1 }
        if fill == ring.capacity, ring.push(-1) != -1 { wrong += 1 }
        for _ in 0..<fill {
          if ring.pop() != expected { wrong += 1 }
          expected += 1
        }
        if ring.pop() != nil { wrong += 1 }
      }
      _ = ring.push(shift)
      _ = ring.pop()
    }
    #expect(wrong == 0)
  }

  @Test func ringAcrossThreads() async {
    let ring = SPSCRing<UInt64>(capacity: 64)
    let total: UInt64 = 200_000
    async let sum = Task.detached {
      var expected: UInt64 = 0
      var inOrder = true
      while expected < total {
        if let value = ring.pop() {
          inOrder = inOrder && value == expected
          expected += 1
        } else {
          await Task.yield()
        }
      }
      return inOrder
    }.value
    await Task.detached {
      var next: UInt64 = 0
      while next < total {
        if ring.push(next) == nil { next += 1 } else { await Task.yield() }
      }
    }.value
    #expect(await sum)
    #expect(ring.count == 0)
  }

  /// What is inside a ring that dies is destroyed, and nothing twice.
  @Test func ringOwnsItsElements() {
    final class Counted: Sendable {
      static let alive = Atomic<Int>(0)
      init() { Counted.alive.wrappingAdd(1, ordering: .relaxed) }
      deinit { Counted.alive.wrappingSubtract(1, ordering: .relaxed) }
    }
    do {
      let ring = SPSCRing<Counted>(capacity: 4)
      for _ in 0..<6 { _ = ring.push(Counted()) }
      _ = ring.pop()
      #expect(Counted.alive.load(ordering: .relaxed) == 3)
    }
    #expect(Counted.alive.load(ordering: .relaxed) == 0)
  }

  @Test(arguments: [
    ("127.0.0.1:8335", "127.0.0.1:8335"), ("[::1]:8335", "[::1]:8335"), ("0.0.0.0:0", "0.0.0.0:0"),
    ("[2001:DB8:0:0:0:0:0:1]:65535", "[2001:db8::1]:65535"), ("[fe80::1%2]:9", "[fe80::1%2]:9"),
    ("[::ffff:10.1.2.3]:80", "10.1.2.3:80"), ("[::]:1", "[::]:1"),
  ])
  func addressesAreReadAndWritten(_ text: String, _ canonical: String) throws {
    let address = try #require(PeerAddress(text))
    #expect(address.description == canonical)
    #expect(PeerAddress(canonical) == address)
  }

  @Test(arguments: [
    "", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:+1", "1.2.3.4:-1", "1.2.3.4:08", "1.2.3:80", "127.1:80",
    "0x7f.0.0.1:80", "01.2.3.4:80", "256.1.1.1:80", "::1:80", "[::1]", "[::1]80", "[::1]:", "[::1:80", "::1]:80",
    "[1.2.3.4]:80", "[::g]:80", "[::1%]:80", "[::1%eth0]:80", "[::1%4294967296]:80", "localhost:80", "1.2.3.4%1:80",
    "1.2.3.4 :80", " 1.2.3.4:80", "1.2.3.4\u{0}x:80", "[::1\u{0}]:80", "1.2.3.4:80\n", "[::1]:80 ",
  ])
  func addressTextThatIsRefused(_ text: String) {
    #expect(PeerAddress(text) == nil)
  }

  @Test func addressTextRoundTrips() {
    var random = SeededRandom(seed: 11)
    for i in 0..<2_000 {
      let v4 = i % 2 == 0
      let address = PeerAddress(
        high: v4 ? 0 : random.next() & random.next() & random.next(),
        low: v4 ? 0xFFFF_0000_0000 | random.next() >> 32 : random.next() & random.next(),
        port: UInt16(truncatingIfNeeded: random.next()))
      if PeerAddress(address.description) != address { Issue.record("\(address)") }
    }
  }

  /// Kernel stamps around a step of the realtime clock, forwards and backwards.
  @Test(arguments: [3_600_000_000_000, -3_600_000_000_000, 50_000_000, -50_000_000] as [Int64])
  func stampsThroughAStep(_ step: Int64) {
    let realtime: UInt64 = 1_700_000_000_000_000_000
    var now = Instant(nanoseconds: 1_000_000_000_000)
    var conversion = RealtimeConversion(now: now, realtime: realtime)
    #expect(conversion.arrival(stamp: realtime - 5_000, now: now) == now - .microseconds(5))

    // Stamped before the step, read after it.
    now = now + .milliseconds(Int64(10))
    let before = realtime + 10_000_000 - 20_000
    let stepped = UInt64(Int64(realtime + 10_000_000) + step)
    conversion.refresh(now: now, realtime: stepped, after: now)
    #expect(conversion.steps == 1)
    #expect(conversion.arrival(stamp: before, now: now) == now - .microseconds(20))
    #expect(conversion.arrival(stamp: stepped - 7_000, now: now) == now - .microseconds(7))
    // Also in a later batch: the one had to wait, the other came in between.
    let later = now + .milliseconds(Int64(20))
    conversion.refresh(now: later, realtime: stepped + 20_000_000, after: later)
    #expect(conversion.steps == 1)
    #expect(conversion.arrival(stamp: before, now: later) == now - .microseconds(20))
    #expect(conversion.arrival(stamp: stepped + 5_000_000, now: later) == now + .milliseconds(Int64(5)))
  }

  /// A thread that is interrupted between the readings has seen no step, and what it reads is not believed.
  @Test func aReadingThatTookTooLongCountsForNothing() {
    let realtime: UInt64 = 1_700_000_000_000_000_000
    let now = Instant(nanoseconds: 1_000_000_000_000)
    var conversion = RealtimeConversion(now: now, realtime: realtime)
    let after = now + .milliseconds(Int64(4))
    conversion.refresh(now: now, realtime: realtime + 3_900_000, after: after)
    #expect(conversion.steps == 0)
    #expect(conversion.arrival(stamp: realtime + 3_950_000, now: after) == after - .microseconds(50))
    // A short one is taken to have been in the middle.
    conversion.refresh(now: after, realtime: realtime + 4_002_000, after: after + .microseconds(4))
    #expect(conversion.arrival(stamp: realtime + 4_001_000, now: after + .microseconds(4)) == after + .microseconds(1))
  }

  /// Told only when it was set by more than a second, once, with the offset that it is taken to have.
  @Test(arguments: [0, -631_152_000] as [Int64]) func theWallClockIsToldWhenItWasSet(_ offset: Int64) {
    let (start, second) = (Instant(nanoseconds: 5_000_000_000), UInt64(1_000_000_000))
    let realtime = 1_700_000_000 * second
    var clock = WallClock(now: start, realtime: realtime, offset: .seconds(offset))
    let zero = Int64(1_700_000_000 + offset - 5) * 1_000_000_000
    #expect(clock.unixAtZero == zero)
    let later = start + .seconds(7_200)
    for drift: UInt64 in [0, 900_000_000] {
      #expect(clock.change(now: later, realtime: realtime + 7_200 * second + drift) == nil)
      #expect(clock.change(now: later, realtime: realtime + 7_200 * second - drift) == nil)
    }
    // Three hours forward: until it counts as told.
    for _ in 0..<2 {
      #expect(clock.change(now: later, realtime: realtime + 18_000 * second) == zero + 10_800_000_000_000)
    }
    clock.told(zero + 10_800_000_000_000)
    #expect(clock.change(now: later, realtime: realtime + 18_000 * second) == nil)
    #expect(clock.change(now: later, realtime: realtime + 7_200 * second) == zero)
  }

  @Test func absurdStampsBecomeNow() {
    let now = Instant(nanoseconds: 5_000_000_000)
    var conversion = RealtimeConversion(now: now, realtime: 1_700_000_000_000_000_000)
    for stamp in [0, 1, UInt64.max, 1_600_000_000_000_000_000, 1_800_000_000_000_000_000] {
      #expect(conversion.arrival(stamp: stamp, now: now) == now)
    }
    #expect(conversion.implausible == 5)
    // Slightly ahead: the clocks are read one after the other.
    #expect(conversion.arrival(stamp: 1_700_000_000_000_050_000, now: now) == now)
    #expect(conversion.implausible == 5)
  }
}
