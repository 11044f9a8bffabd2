import Foundation
import Ground
import Synchronization
import Testing
import Uring

/// A core made of closures: what it should do at the start, and what it saw.
struct ScriptedCore: DatagramCore {
  final class Log: Sendable {
    let seen = Mutex<[(first: UInt8, count: Int, from: PeerAddress)]>([])
    let woken = Atomic<Int>(0)
    let deadlines = Atomic<Int>(0)
    let room = Atomic<Int>(0)
    let results = Mutex<[Int]>([])
  }
  enum Step {
    case assign(Int, PeerAddress, LinkRate)
    case remove(Int)
    case send(Int, Urgency, FlowID, byte: UInt8, times: Int)
    case drop(FlowID, Int)
  }
  let log: Log
  var atStart: [Step] = []
  var atStop: [Step] = []
  /// Of each datagram sent.
  var length = 100
  /// Answers every datagram with `reply`.
  var replies = false
  var deadline = Instant.never
  var deadlineEvery: Interval?

  init(_ log: Log, atStart: [Step] = [], atStop: [Step] = [], replies: Bool = false, deadlineEvery: Interval? = nil) {
    self.log = log
    self.atStart = atStart
    self.atStop = atStop
    self.replies = replies
    self.deadlineEvery = deadlineEvery
  }

  func run(_ steps: [Step], _ sink: inout some DatagramSink & ~Copyable) {
    for step in steps {
      switch step {
      case .assign(let link, let address, let rate): sink.assign(LinkID(UInt16(link)), to: address, rate: rate)
      case .remove(let link): sink.remove(LinkID(UInt16(link)))
      case .send(let link, let urgency, let flow, let byte, let times):
        var queued = 0
        for _ in 0..<times {
          let length = length
          let taken = sink.send(on: LinkID(UInt16(link)), urgency: urgency, flow: flow, capacity: length) { span in
            for i in 0..<length { span.storeBytes(of: byte, toByteOffset: i, as: UInt8.self) }
            return length
          }
          if taken { queued += 1 }
        }
        log.results.withLock { $0.append(queued) }
      case .drop(let flow, let link):
        let dropped = sink.drop(flow: flow, on: LinkID(UInt16(link)))
        log.results.withLock { $0.append(dropped) }
      }
    }
  }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    run(atStart, &sink)
    if let deadlineEvery { deadline = now + deadlineEvery }
  }
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let count = datagram.byteCount
    let first = count == 0 ? 0 : datagram.bytes.unsafeLoad(as: UInt8.self)
    log.seen.withLock { $0.append((first, count, source)) }
    if replies {
      sink.reply(to: source, capacity: 50) { span in
        span.storeBytes(of: 0xEE, as: UInt8.self)
        return 50
      }
    }
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    log.deadlines.bump()
    if let deadlineEvery { deadline = now + deadlineEvery } else { deadline = .never }
  }
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    log.room.bump()
  }
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) { log.woken.bump() }
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) { run(atStop, &sink) }
  var nextDeadline: Instant { deadline }
}

@Suite(.serialized) struct EngineTests {
  let local = PeerAddress("127.0.0.1:0")!

  func listener(replies: Bool = false) throws -> (EngineThread, ScriptedCore.Log, PeerAddress) {
    let log = ScriptedCore.Log()
    let thread = try EngineThread.start(configuration(local)) { _ in ScriptedCore(log, replies: replies) }
    return (thread, log, thread.handle.addresses[0])
  }

  /// What was queued last and is most urgent leaves first; what has the same urgency keeps its order.
  @Test func urgentOvertakes() throws {
    let (receiver, log, to) = try listener()
    let sender = try EngineThread.start(configuration(local)) { _ in
      ScriptedCore(
        ScriptedCore.Log(),
        atStart: [
          .assign(0, to, LinkRate(bitsPerSecond: 100_000_000)),
          .send(0, .background, .none, byte: 4, times: 20), .send(0, .late, .none, byte: 3, times: 20),
          .send(0, .block, .none, byte: 2, times: 20), .send(0, .control, .none, byte: 1, times: 5),
        ])
    }
    #expect(eventually { log.seen.withLock { $0.count } == 65 })
    sender.stop()
    receiver.stop()
    let order = log.seen.withLock { $0.map(\.first) }
    #expect(order == order.sorted())
  }

  /// A flow dropped leaves nothing behind; others keep theirs.
  @Test func flowsAreDroppedAtOnce() throws {
    let (receiver, log, to) = try listener()
    let own = ScriptedCore.Log()
    let sender = try EngineThread.start(configuration(local)) { _ in
      ScriptedCore(
        own,
        atStart: [
          .assign(0, to, LinkRate(bitsPerSecond: 100_000_000)),
          .send(0, .block, FlowID(7), byte: 7, times: 100), .send(0, .late, FlowID(7), byte: 7, times: 10),
          .send(0, .block, FlowID(8), byte: 8, times: 40), .send(0, .block, .none, byte: 9, times: 3),
          .drop(FlowID(7), 0), .drop(FlowID(7), 0), .drop(.none, 0), .drop(FlowID(99), 0),
        ])
    }
    #expect(eventually { log.seen.withLock { $0.count } == 43 })
    settled { log.seen.withLock { $0.count } }
    sender.stop()
    receiver.stop()
    #expect(own.results.withLock { $0 } == [100, 10, 40, 3, 110, 0, 0, 0])
    #expect(log.seen.withLock { $0.map(\.first) } == Array(repeating: 8, count: 40) + [9, 9, 9])
    #expect(sender.handle.snapshot()[.dropByFlow] == 110)
    #expect(sender.handle.count(.dropByFlow, link: LinkID(0)) == 110)
  }

  /// The engine's thread alone, or the reason why not; never one that spins.
  @Test func realTimePriorityIsTheEngineThreads() throws {
    #expect(throws: RingError.self) {
      var c = configuration(local) { $0.realtimePriority = 5 }
      c.wait = .spin
      try EngineThread.start(c) { _ in ScriptedCore(ScriptedCore.Log()) }.stop()
    }
    #expect(throws: RingError.self) {
      try EngineThread.start(configuration(local) { $0.realtimePriority = 0 }) { _ in
        ScriptedCore(ScriptedCore.Log())
      }.stop()
    }
    // What the tests' process may do decides which of two answers is due.
    let mayBe = geteuid() == 0
    do {
      let thread = try EngineThread.start(
        configuration(local) {
          $0.realtimePriority = 5
          $0.threadName = "lp-realtime"
        }
      ) { _ in ScriptedCore(ScriptedCore.Log()) }
      defer { thread.stop() }
      var policies: [String: [String]] = [:]
      // It takes its name and its priority itself, once it runs.
      let isThere = eventually {
        policies = [:]
        for task in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? [] {
          guard let stat = try? String(contentsOfFile: "/proc/self/task/\(task)/stat", encoding: .utf8),
            let open = stat.firstIndex(of: "("), let close = stat.lastIndex(of: ")")
          else { continue }
          // Fields 40 and 41 of proc(5): priority and policy; SCHED_RR is 2.
          let fields = stat[stat.index(after: close)...].split(separator: " ")
          policies[String(stat[stat.index(after: open)..<close]), default: []].append("\(fields[37]) \(fields[38])")
        }
        return policies["lp-realtime"] == ["5 2"]
      }
      #expect(isThere, "\(policies)")
      #expect(policies.filter { $0.key != "lp-realtime" }.values.joined().allSatisfy { $0.hasSuffix(" 0") })
    } catch {
      #expect(!mayBe && "\(error)".contains("real-time priority 5"), "\(error)")
    }
  }

  /// Every queue has its end, and says so: less urgent datagrams are refused first, urgent ones still find room.
  @Test func queuesAreBounded() throws {
    let own = ScriptedCore.Log()
    let sender = try EngineThread.start(
      configuration(local) {
        $0.queueDatagramsPerLink = 64
        $0.queueDatagrams = 160
        $0.linkCapacity = 4
        $0.drain = .zero
      }
    ) { _ in
      let to = PeerAddress("127.0.0.1:9")!
      let slow = LinkRate(bitsPerSecond: 1_000)
      return ScriptedCore(
        own,
        atStart: [
          .assign(0, to, slow), .assign(1, to, slow), .assign(2, to, slow),
          .send(0, .background, .none, byte: 0, times: 100), .send(0, .late, .none, byte: 0, times: 100),
          .send(0, .block, .none, byte: 0, times: 100), .send(0, .control, .none, byte: 0, times: 100),
          .send(1, .block, .none, byte: 0, times: 100), .send(2, .block, .none, byte: 0, times: 100),
          .send(2, .control, .none, byte: 0, times: 100), .send(3, .block, .none, byte: 0, times: 10),
          .send(9, .block, .none, byte: 0, times: 10), .assign(9, to, slow), .remove(1),
          .send(1, .block, .none, byte: 0, times: 10),
        ])
    }
    #expect(eventually { own.results.withLock { $0.count } == 10 })
    sender.stop()
    // 160 places, a sixteenth (10) for control alone.
    #expect(own.results.withLock { $0 } == [32, 16, 16, 9, 64, 13, 10, 0, 0, 0])
    let counters = sender.handle.snapshot()
    #expect(counters[.dropQueueFull] == 68 + 84 + 84 + 91 + 36)
    #expect(counters[.dropPoolExhausted] == 87 + 90)
    #expect(counters[.dropUnknownLink] == 31)
    #expect(counters[.dropLinkRemoved] == 64)
    // One datagram leaves each bucket; the rest is left at the stop, and counted.
    #expect(counters[.sentDatagrams] + counters[.dropAtStop] == 160 - 64)
    #expect(counters[.sentDatagrams] <= 3)
  }

  /// As configured by default, what fills an MTU of 1,500 over IPv6 travels; one byte more is refused, and counted.
  @Test func defaultFillsAnEthernetFrame() throws {
    let (inbound, outbound) = (Tally(), Tally())
    let largest = 1_500 - 40 - 8
    let receiver = try EngineThread.start(configuration(PeerAddress("[::1]:0")!)) { _ in
      Receiver(inbound, total: 100, lengths: largest...largest)
    }
    let to = receiver.handle.addresses[0]
    let sender = try EngineThread.start(configuration(PeerAddress("[::1]:0")!)) { _ in
      Sender(outbound, to: [to], total: 100, lengths: largest...largest)
    }
    #expect(eventually { inbound.received.value == 100 })
    sender.stop()
    #expect(sender.handle.snapshot()[.dropTooLarge] == 0)
    let tooLong = try EngineThread.start(configuration(PeerAddress("[::1]:0")!)) { _ in
      Sender(Tally(), to: [to], total: 1, lengths: largest + 1...largest + 1)
    }
    #expect(eventually { tooLong.handle.snapshot()[.dropTooLarge] == 1 })
    tooLong.stop()
    receiver.stop()
    #expect(tooLong.handle.snapshot()[.sentDatagrams] == 0)
    #expect(inbound.received.value == 100 && inbound.damaged.value == 0)
  }

  /// Replies to strangers are answered at once and no more than the budget allows.
  @Test func repliesAreBudgeted() throws {
    let log = ScriptedCore.Log()
    let replier = try EngineThread.start(
      configuration(local) {
        $0.repliesPerSecond = 1
        $0.replyBurst = 10
      }
    ) { _ in ScriptedCore(log, replies: true) }
    let to = replier.handle.addresses[0]
    let own = ScriptedCore.Log()
    let stranger = try EngineThread.start(configuration(local)) { _ in
      ScriptedCore(own, atStart: [.assign(0, to, .unlimited), .send(0, .block, .none, byte: 1, times: 500)])
    }
    #expect(eventually { log.seen.withLock { $0.count } == 500 })
    settled { own.seen.withLock { $0.count } }
    stranger.stop()
    replier.stop()
    let answers = own.seen.withLock { $0 }
    #expect(answers.count >= 10 && answers.count <= 14)
    #expect(answers.allSatisfy { $0.first == 0xEE && $0.count == 50 && $0.from == to })
    #expect(Int(replier.handle.snapshot()[.dropReplyBudget]) == 500 - answers.count)
  }

  /// Signals from another thread reach the core, any number as at least one; deadlines come without any traffic.
  @Test(arguments: [WaitPolicy.sleep, .spin])
  func wakesAndDeadlines(_ wait: WaitPolicy) throws {
    let log = ScriptedCore.Log()
    let thread = try EngineThread.start(configuration(local) { $0.wait = wait }) { _ in
      ScriptedCore(log, deadlineEvery: .milliseconds(Int64(2)))
    }
    #expect(eventually { log.deadlines.value >= 5 })
    for i in 1...50 {
      thread.handle.waker.signal()
      #expect(eventually { log.woken.value >= i })
    }
    let before = log.woken.value
    for _ in 0..<10_000 { thread.handle.waker.signal() }
    #expect(eventually { log.woken.value > before })
    thread.stop()
    #expect(log.woken.value <= before + 10_000)
  }

  /// Stopping in the middle of a flood: the port is free at once, five times in a row.
  @Test(arguments: ["127.0.0.1:0", "[::1]:0"])
  func restartsOnTheSamePortUnderLoad(_ listen: String) throws {
    let outbound = Tally()
    var address = PeerAddress(listen)!
    let probe = try EngineThread.start(configuration(address)) { _ in Receiver(Tally(), total: 0, lengths: 8...8) }
    address = probe.handle.addresses[0]
    probe.stop()
    let to = address
    let sender = try EngineThread.start(configuration(PeerAddress(listen)!)) { _ in
      Sender(
        outbound, to: [to], rate: LinkRate(bitsPerSecond: 1_000_000_000), total: .max / 2, lengths: 1_200...1_200)
    }
    for _ in 0..<5 {
      let inbound = Tally()
      let receiver = try EngineThread.start(configuration(address)) { _ in
        Receiver(inbound, total: 50_000_000, lengths: 1_200...1_200)
      }
      #expect(receiver.handle.addresses[0] == address)
      #expect(eventually { inbound.received.value > 500 })
      receiver.stop()
      #expect(inbound.damaged.value == 0)
    }
    sender.stop()
  }

  /// Last words leave before the engine does; what can't leave in time is counted.
  @Test func stopDrains() throws {
    let (receiver, log, to) = try listener()
    let quick = try EngineThread.start(configuration(local)) { _ in
      ScriptedCore(
        ScriptedCore.Log(), atStart: [.assign(0, to, LinkRate(bitsPerSecond: 10_000_000))],
        atStop: [.send(0, .control, .none, byte: 5, times: 50)])
    }
    quick.stop()
    #expect(eventually { log.seen.withLock { $0.count } == 50 })
    #expect(quick.handle.snapshot()[.dropAtStop] == 0)

    let slow = try EngineThread.start(configuration(local) { $0.drain = .milliseconds(Int64(50)) }) { _ in
      ScriptedCore(
        ScriptedCore.Log(), atStart: [.assign(0, to, LinkRate(bitsPerSecond: 100_000))],
        atStop: [.send(0, .control, .none, byte: 6, times: 500)])
    }
    slow.stop()
    receiver.stop()
    let counters = slow.handle.snapshot()
    #expect(counters[.dropAtStop] > 0)
    #expect(counters[.sentDatagrams] + counters[.dropAtStop] == 500)
  }

  /// An address changed under a link takes what is queued along.
  @Test func queuedDatagramsFollowTheAddress() throws {
    let (receiver, log, to) = try listener()
    let sender = try EngineThread.start(configuration(local)) { _ in
      ScriptedCore(
        ScriptedCore.Log(),
        atStart: [
          .assign(0, PeerAddress("127.0.0.1:9")!, .unlimited), .send(0, .block, .none, byte: 3, times: 5),
          .assign(0, to, .unlimited),
        ])
    }
    #expect(eventually { log.seen.withLock { $0.count } == 5 })
    sender.stop()
    receiver.stop()
  }

  /// An address that no socket here reaches: what was queued is dropped and counted, and the engine goes on.
  @Test func queuedDatagramsDoNotFollowWhereNoSocketReaches() throws {
    let (receiver, log, to) = try listener()
    let sender = try EngineThread.start(configuration(local)) { _ in
      ScriptedCore(
        ScriptedCore.Log(),
        atStart: [
          .assign(0, to, .unlimited), .send(0, .block, .none, byte: 3, times: 5),
          .assign(0, PeerAddress("[::1]:9")!, .unlimited), .send(0, .block, .none, byte: 4, times: 2),
          .assign(1, to, .unlimited), .send(1, .block, .none, byte: 5, times: 3),
        ])
    }
    #expect(eventually { log.seen.withLock { $0.count } == 3 })
    #expect(sender.handle.snapshot()[.dropUnknownLink] == 7)
    sender.stop()
    receiver.stop()
    #expect(log.seen.withLock { $0.count } == 3)
  }

  /// A link that is removed while others are owed a word about room takes nobody's word along.
  @Test func roomIsToldThoughALinkBetweenIsRemoved() throws {
    final class RoomLog: Sendable { let value = Atomic<UInt64>(0) }
    struct Core: DatagramCore {
      let told: RoomLog
      let to: PeerAddress

      mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
        for index in 0..<3 as Range<UInt16> {
          sink.assign(LinkID(index), to: to, rate: .unlimited)
          sink.send(on: LinkID(index), urgency: .block, flow: .none, capacity: 100) { _ in 100 }
        }
      }
      mutating func receive(
        _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
        into sink: inout some DatagramSink & ~Copyable
      ) {}
      mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
      mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
      mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
        if link.index == 0 { sink.remove(LinkID(1)) }
        told.value.bitwiseOr(1 << UInt64(link.index), ordering: .releasing)
      }
      mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
      mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
      var nextDeadline: Instant { .never }
    }
    let (receiver, _, to) = try listener()
    let told = RoomLog()
    let sender = try EngineThread.start(configuration(local)) { _ in Core(told: told, to: to) }
    #expect(eventually { told.value.load(ordering: .acquiring) == 0b101 })
    sender.stop()
    receiver.stop()
  }

  /// Several sockets: each link leaves from the one that reaches its address, and answers come back to it.
  @Test func severalListenAddresses() throws {
    let (receiver, log, to) = try listener()
    let log6 = ScriptedCore.Log()
    let receiver6 = try EngineThread.start(configuration(PeerAddress("[::1]:0")!)) { _ in ScriptedCore(log6) }
    let to6 = receiver6.handle.addresses[0]
    var c = EngineConfiguration(listen: [
      PeerAddress("127.0.0.2:0")!, PeerAddress("[::1]:0")!, PeerAddress("127.0.0.1:0")!,
    ])
    c.maxDatagramBytes = 500
    let sender = try EngineThread.start(c) { _ in
      ScriptedCore(
        ScriptedCore.Log(),
        atStart: [
          .assign(0, to, .unlimited), .assign(1, to6, .unlimited),
          .send(0, .block, .none, byte: 1, times: 3), .send(1, .block, .none, byte: 2, times: 3),
        ])
    }
    #expect(eventually { log.seen.withLock { $0.count } == 3 && log6.seen.withLock { $0.count } == 3 })
    let addresses = sender.handle.addresses
    sender.stop()
    receiver.stop()
    receiver6.stop()
    #expect(log.seen.withLock { $0.allSatisfy { $0.from == addresses[2] } })
    #expect(log6.seen.withLock { $0.allSatisfy { $0.from == addresses[1] } })
  }
}
