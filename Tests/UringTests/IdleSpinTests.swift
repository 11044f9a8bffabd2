import Ground
import Testing
import Uring

/// The engine looks before it sleeps only where that pays.
struct IdleSpinTests {
  let short = Interval.microseconds(20)

  /// Datagrams that come so long after the engine fell idle, one idle time after another; how long it looked each time.
  func looks(_ spin: inout IdleSpin, gaps: [Int64]) -> [Interval] {
    var now = Instant(nanoseconds: 1_000_000_000)
    return gaps.map { gap in
      let look = spin.begin(now)
      now = now + .microseconds(gap)
      spin.came(now)
      return look
    }
  }

  @Test func looksOnceDatagramsComeQuickly() {
    var spin = IdleSpin(short: short)
    let quick = looks(&spin, gaps: Array(repeating: 8, count: 20))
    #expect(quick.prefix(4).allSatisfy { $0 == .zero }, "a few are no trend")
    #expect(quick.dropFirst(4).allSatisfy { $0 == short })
  }

  @Test func stopsLookingWhenTheyDoNot() {
    var spin = IdleSpin(short: short)
    _ = looks(&spin, gaps: Array(repeating: 8, count: 20))
    let slow = looks(&spin, gaps: Array(repeating: 500, count: 50))
    #expect(slow.filter { $0 > .zero }.count <= 4, "in vain at most a few times")
    #expect(slow.dropFirst(4).allSatisfy { $0 == .zero })
  }

  /// One gap in three too long: looking would cost as much as it saves, and does not begin.
  @Test func mixedTrafficSleeps() {
    var spin = IdleSpin(short: short)
    let mixed = looks(&spin, gaps: (0..<300).map { $0 % 3 == 0 ? 100 : 8 })
    #expect(mixed.allSatisfy { $0 == .zero })
  }

  /// Two hosts that both sleep answer each other after a wake-up's time: now and then that is looked through.
  @Test func findsOutThatTheOtherSleepsToo() {
    var spin = IdleSpin(short: short)
    let doubtful = looks(&spin, gaps: Array(repeating: 45, count: 320))
    let probes = doubtful.filter { $0 > .zero }
    #expect(probes.count == 9 || probes.count == 10)
    #expect(probes.allSatisfy { $0 > .microseconds(45) })
  }

  /// A single late datagram among many quick ones is looked for a little longer, once.
  @Test func oneLateDatagramIsForgiven() {
    var spin = IdleSpin(short: short)
    let gaps = Array(repeating: Int64(8), count: 100) + [300, 45] + Array(repeating: 8, count: 10)
    let found = looks(&spin, gaps: gaps)
    #expect(found[100] == short && found[101] > .microseconds(45))
    #expect(found[103...].allSatisfy { $0 <= short })
    let again = looks(&spin, gaps: [300, 300, 300, 300, 300])
    #expect(again.allSatisfy { $0 <= short }, "no second chance without another long streak")
  }

  @Test func neverWhenSwitchedOff() {
    var spin = IdleSpin(short: .zero)
    let found = looks(&spin, gaps: Array(repeating: 0, count: 200))
    #expect(found.allSatisfy { $0 == .zero })
  }

  /// Datagrams that came before the engine fell idle (their stamps say so) count as quick; several after one idle time
  /// count once.
  @Test func stampsBeforeTheIdleTime() {
    var spin = IdleSpin(short: short)
    let start = Instant(nanoseconds: 1_000_000_000)
    for _ in 0..<4 {
      _ = spin.begin(start)
      spin.came(start - .microseconds(5))
      spin.came(start + .milliseconds(Int64(5)))
    }
    #expect(spin.begin(start) == short)
  }
}
