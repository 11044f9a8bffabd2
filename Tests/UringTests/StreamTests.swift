import Ground
import Synchronization
import Testing
import Uring

/// Sends back what it gets; remembers what happened.
private final class StreamLog: Sendable {
  let opened = Atomic<Int>(0)
  let accepted = Atomic<Int>(0)
  let closed = Atomic<Int>(0)
  let drained = Atomic<Int>(0)
  let bytes = Atomic<Int>(0)
  let wrong = Atomic<Int>(0)
  let refusedWrites = Atomic<Int>(0)
  let lastError = Atomic<Int32>(-1)
  let command = Atomic<Int>(0)
  let listening = Atomic<Bool>(false)
}

private struct EchoServer: DatagramCore {
  let log: StreamLog
  let address: PeerAddress
  var free: [UInt16] = [0, 1, 2]
  var nextDeadline: Instant { .never }
  /// Reads nothing.
  var stalls = false

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {}
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}

  mutating func streamsReady(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    if sink.listen(on: address, backlog: 8) != 0 { log.wrong.bump() }
    log.listening.store(true, ordering: .releasing)
  }
  mutating func streamAccepted(
    from peer: PeerAddress, on local: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) -> StreamID? {
    guard let index = free.popLast() else { return nil }
    log.accepted.bump()
    return StreamID(index)
  }
  mutating func streamReceived(
    _ bytes: RawSpan, on stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    log.bytes.bump(bytes.byteCount)
    if stalls {
      sink.setReading(stream, false)
      return
    }
    let written = sink.write(stream, count: bytes.byteCount) { target in
      target.withUnsafeMutableBytes { t in bytes.withUnsafeBytes { t.copyMemory(from: $0) } }
    }
    if !written { log.refusedWrites.bump() }
  }
  mutating func streamClosed(
    _ stream: StreamID, error: Int32, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    free.append(stream.index)
    log.closed.bump()
    log.lastError.store(error, ordering: .releasing)
  }
}

/// Connects, sends `total` patterned bytes, checks what comes back.
private struct EchoClient: DatagramCore {
  let log: StreamLog
  let server: PeerAddress
  let total: Int
  var at = 0
  var reconnects = false
  var retry = Instant.never
  var nextDeadline: Instant { retry }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {}
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}

  mutating func streamsReady(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    if !sink.connect(StreamID(0), to: server) { log.wrong.bump() }
  }
  mutating func streamsTurn(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable) {
    if now >= retry {
      retry = .never
      sink.connect(StreamID(0), to: server)
    }
    if log.command.exchange(0, ordering: .acquiringAndReleasing) == 1 { sink.close(StreamID(0)) }
  }

  static func byte(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index &* 31 &+ index >> 11) }

  mutating func streamOpened(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    log.opened.bump()
    at = 0
    var sent = 0
    while sent < total {
      let count = min(total - sent, 70_001)
      let start = sent
      let written = sink.write(stream, count: count) { target in
        target.withUnsafeMutableBytes { t in for i in 0..<count { t[i] = EchoClient.byte(start + i) } }
      }
      if !written {
        log.refusedWrites.bump()
        return
      }
      sent += count
    }
  }
  mutating func streamReceived(
    _ bytes: RawSpan, on stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    bytes.withUnsafeBytes { buffer in
      for i in 0..<buffer.count where buffer[i] != EchoClient.byte(at + i) { log.wrong.bump() }
    }
    at += bytes.byteCount
    log.bytes.bump(bytes.byteCount)
  }
  mutating func streamDrained(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) { log.drained.bump() }
  mutating func streamClosed(
    _ stream: StreamID, error: Int32, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    log.closed.bump()
    log.lastError.store(error, ordering: .releasing)
    if reconnects { retry = now + .milliseconds(Int64(50)) }
  }
}

@Suite(.serialized) struct StreamTests {
  static let total = 10_000_000
  static func port() -> UInt16 { UInt16.random(in: 33_000..<60_000) }

  @Test(arguments: ["127.0.0.1", "[::1]"])
  func tenMegabytesEachWayIntact(host: String) throws {
    let address = PeerAddress("\(host):\(StreamTests.port())")!
    let (serverLog, clientLog) = (StreamLog(), StreamLog())
    let server = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
      EchoServer(log: serverLog, address: address)
    }
    #expect(eventually { serverLog.listening.load(ordering: .acquiring) })
    let client = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
      EchoClient(log: clientLog, server: address, total: StreamTests.total)
    }
    #expect(eventually { clientLog.bytes.value == StreamTests.total })
    #expect(clientLog.wrong.value == 0 && serverLog.wrong.value == 0)
    #expect(clientLog.drained.value >= 1)
    client.stop()
    // The server hears of the end and its place is free again.
    #expect(eventually { serverLog.closed.value == 1 })
    server.stop()
  }

  @Test func refusedIsToldWithItsErrno() throws {
    let log = StreamLog()
    let client = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
      EchoClient(log: log, server: PeerAddress("127.0.0.1:1")!, total: 1)
    }
    #expect(eventually { log.closed.value == 1 })
    #expect(log.lastError.load(ordering: .acquiring) == 111)  // ECONNREFUSED
    #expect(log.opened.value == 0)
    client.stop()
  }

  @Test func aPeerThatRestartsIsFoundAgain() throws {
    let address = PeerAddress("127.0.0.1:\(StreamTests.port())")!
    let log = StreamLog()
    let client = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
      EchoClient(log: log, server: address, total: 1_000, reconnects: true)
    }
    for round in 1...3 {
      let server = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
        EchoServer(log: StreamLog(), address: address)
      }
      #expect(eventually { log.bytes.value == round * 1_000 })
      server.stop()
    }
    client.stop()
    #expect(log.wrong.value == 0)
  }

  @Test func aStalledReaderCostsABoundedQueue() throws {
    let address = PeerAddress("127.0.0.1:\(StreamTests.port())")!
    let (serverLog, clientLog) = (StreamLog(), StreamLog())
    let server = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
      EchoServer(log: serverLog, address: address, stalls: true)
    }
    #expect(eventually { serverLog.listening.load(ordering: .acquiring) })
    let client = try EngineThread.start(
      configuration(PeerAddress("127.0.0.1:0")!) { $0.streamQueueBytes = 4 << 20 }
    ) { _ in EchoClient(log: clientLog, server: address, total: 64 << 20) }
    #expect(eventually { clientLog.refusedWrites.value == 1 })
    // Closing with megabytes unsent ends at once.
    clientLog.command.store(1, ordering: .releasing)
    client.handle.waker.signal()
    #expect(eventually { clientLog.closed.value == 1 })
    client.stop()
    server.stop()
  }
}
