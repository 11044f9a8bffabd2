import Ground
import Synchronization
import Testing
import Uring

/// Each datagram becomes a job; each outcome an answer.
struct SquareCore: JobCore {
  struct Job: Sendable {
    var number: UInt64
    var from: PeerAddress
  }
  struct Outcome: Sendable {
    var square: UInt64
    var from: PeerAddress
  }
  var waiting: [Job] = []
  var assigned = false

  mutating func nextJob() -> Job? { waiting.isEmpty ? nil : waiting.removeFirst() }
  static func perform(_ job: Job) -> Outcome {
    // Long enough that jobs pile up behind one another.
    let until = SystemClock.now() + .microseconds(50)
    while SystemClock.now() < until {}
    return Outcome(square: job.number &* job.number, from: job.from)
  }
  mutating func jobFinished(_ outcome: Outcome, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if !assigned { sink.assign(LinkID(0), to: outcome.from, rate: .unlimited) }
    assigned = true
    sink.send(on: LinkID(0), urgency: .control, flow: .none, capacity: 8) { span in
      span.storeBytes(of: outcome.square, as: UInt64.self)
      return 8
    }
  }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    waiting.append(Job(number: datagram.bytes.unsafeLoad(as: UInt64.self), from: source))
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { .never }
}

/// Asks for the squares of 1…count and collects the answers.
struct AskingCore: DatagramCore {
  let to: PeerAddress
  let count: Int
  let answers: Answers
  final class Answers: Sendable { let squares = Mutex<Set<UInt64>>([]) }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    sink.assign(LinkID(0), to: to, rate: .unlimited)
    for number in 1...UInt64(count) {
      sink.send(on: LinkID(0), urgency: .block, flow: .none, capacity: 8) { span in
        span.storeBytes(of: number, as: UInt64.self)
        return 8
      }
    }
  }
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let square = datagram.bytes.unsafeLoad(as: UInt64.self)
    answers.squares.withLock { _ = $0.insert(square) }
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  var nextDeadline: Instant { .never }
}

@Suite(.serialized) struct WorkerTests {
  /// Jobs leave the engine thread, outcomes come back as inputs, each once, with more jobs than the pool holds.
  @Test(arguments: [1, 3])
  func jobsReturnAsInputs(_ workers: Int) throws {
    let local = PeerAddress("127.0.0.1:0")!
    let server = try EngineThread.start(configuration(local)) { handle in
      try! OffloadingCore(SquareCore(), workers: workers, depth: 2, waker: handle.waker)
    }
    let to = server.handle.addresses[0]
    let answers = AskingCore.Answers()
    let client = try EngineThread.start(configuration(local)) { _ in
      AskingCore(to: to, count: 500, answers: answers)
    }
    #expect(eventually { answers.squares.withLock { $0.count } == 500 })
    client.stop()
    server.stop()
    #expect(answers.squares.withLock { $0 } == Set((1...500).map { UInt64($0 * $0) }))
  }

  @Test func poolIsBoundedAndStops() throws {
    let wake = try WakeHandle.make()
    let shared = Shared()
    let pool = try WorkerPool<Int, Int>(workers: 2, depth: 3, wake: wake) { job in
      while !shared.open.load(ordering: .acquiring) { pause(milliseconds: 1) }
      return job + 1
    }
    var taken = 0
    for i in 0..<10 where pool.submit(i) { taken += 1 }
    #expect(taken == 6)
    #expect(!pool.hasRoom && pool.inside == 6)
    shared.open.store(true, ordering: .releasing)
    var outcomes: Set<Int> = []
    while outcomes.count < 6 {
      wake.sleep()
      while let outcome = pool.takeOutcome() { outcomes.insert(outcome) }
    }
    #expect(outcomes == Set(1...6))
    #expect(pool.hasRoom && pool.inside == 0 && pool.takeOutcome() == nil)
    for i in 0..<6 { pool.submit(i) }
    pool.stop()
    #expect(pool.inside == 0)
  }

  final class Shared: Sendable { let open = Atomic<Bool>(false) }
}
