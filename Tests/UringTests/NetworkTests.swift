import Ground
import Synchronization
import Testing
import Uring
import UringSupport

/// What an engine does towards the network as a whole: both families on one socket, the site's uplink, answers that
/// nobody should believe.
@Suite(.serialized) struct NetworkTests {
  /// Notes which link's number each datagram carries and when it arrived.
  struct Stopwatch: DatagramCore {
    final class Log: Sendable {
      let arrivals = Mutex<[(number: UInt64, at: Instant)]>([])
    }
    let log: Log

    mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
    mutating func receive(
      _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
      into sink: inout some DatagramSink & ~Copyable
    ) {
      if let number = Numbered.read(&datagram, 1_200...1_200) { log.arrivals.withLock { $0.append((number, arrival)) } }
    }
    mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
    mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
    mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
    mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
    mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
    var nextDeadline: Instant { .never }
  }

  /// Two links of 400 Mbit/s each behind an uplink of 50: together they get no more than the uplink, and each its share.
  @Test func linksShareTheUplink() throws {
    let total = 1_000
    let log = Stopwatch.Log()
    let receiver = try EngineThread.start(configuration(.loopbackIPv4)) { _ in Stopwatch(log: log) }
    let to = receiver.handle.addresses[0]
    let outbound = Tally()
    let sender = try EngineThread.start(
      configuration(.loopbackIPv4) { $0.uplink = LinkRate(bitsPerSecond: 50_000_000) }
    ) { _ in
      Sender(
        outbound, to: [to, to], rate: LinkRate(bitsPerSecond: 400_000_000), total: total, lengths: 1_200...1_200)
    }
    #expect(eventually { log.arrivals.withLock { $0.count } == total })
    sender.stop()
    receiver.stop()
    let arrivals = log.arrivals.withLock { $0 }
    let bits = Double((total - 1) * 1_228 * 8)
    let rate = bits / (arrivals.last!.at - arrivals.first!.at).seconds
    // Slower is the machine's business. Without the bucket it would be 800; a preempted sender catches up on at most
    // one datagram.
    #expect(rate < 75_000_000, "\(rate) bit/s over an uplink of 50 Mbit/s")
    let half = arrivals.prefix(total / 2).count { $0.number % 2 == 0 }
    #expect(half > total / 8 && half < total * 3 / 8, "round robin: \(half) of the first \(total / 2) were link 0's")
  }

  /// A socket on [::] hears both families, tells IPv4 sources as such, and answers each where it came from.
  @Test func dualStackHearsBothFamilies() throws {
    let log = ScriptedCore.Log()
    let both = try EngineThread.start(configuration(PeerAddress("[::]:0")!)) { _ in ScriptedCore(log, replies: true) }
    let port = both.handle.addresses[0].port
    var strangers: [PeerAddress] = []
    for text in ["127.0.0.1:0", "[::1]:0"] {
      let own = ScriptedCore.Log()
      let to = PeerAddress(text)!.with(port: port)
      let stranger = try EngineThread.start(configuration(PeerAddress(text)!)) { _ in
        ScriptedCore(own, atStart: [.assign(0, to, .unlimited), .send(0, .block, .none, byte: 1, times: 3)])
      }
      strangers.append(stranger.handle.addresses[0])
      #expect(eventually { own.seen.withLock { $0.count } == 3 })
      stranger.stop()
      #expect(own.seen.withLock { $0.allSatisfy { $0.first == 0xEE && $0.from == to } })
    }
    both.stop()
    let sources = log.seen.withLock { $0.map(\.from) }
    #expect(sources == Array(repeating: strangers[0], count: 3) + Array(repeating: strangers[1], count: 3))
  }

  /// Anybody can send ICMP answers: forged ones are counted for the destination, and datagrams go on arriving, as long
  /// as before. In a network of its own: sockets that believe such an answer (all that don't refuse to) would send
  /// fragments to 127.0.0.1 for the next ten minutes.
  @Test func forgedAnswersChangeNothing() {
    onOwnThread {
      var error = thread_enter_private_network(0)
      if error != 0 { return print("NOT TESTED: no network namespace here (errno \(error))") }
      do {
        let total = 1_000
        let lengths = 1_400...1_400
        let (inbound, outbound) = (Tally(), Tally())
        let receiver = try EngineThread.start(configuration(.loopbackIPv4)) { _ in
          Receiver(inbound, total: total, lengths: lengths)
        }
        let to = receiver.handle.addresses[0]
        let sender = try EngineThread.start(configuration(.loopbackIPv4)) { _ in
          Sender(outbound, to: [to], rate: LinkRate(bitsPerSecond: 40_000_000), total: total, lengths: lengths)
        }
        let from = sender.handle.addresses[0].port
        while !outbound.isDone && error == 0 {
          error = forge_unreachable(from, to.port, 4, 576)
          if error == 0 { error = forge_unreachable(from, to.port, 3, 0) }
          pause(milliseconds: 2)
        }
        #expect(error == 0)
        #expect(eventually { outbound.isDone })
        settled { inbound.received.value }
        sender.stop()
        receiver.stop()
        #expect(inbound.received.value == total && inbound.damaged.value == 0)
        #expect(sender.handle.count(.sentDatagrams, link: LinkID(0)) == UInt64(total))
        #expect(sender.handle.count(.dropSendFailed, link: LinkID(0)) == 0)
        #expect(sender.handle.count(.icmpTooBig, link: LinkID(0)) > 0)
        #expect(sender.handle.count(.icmpRefused, link: LinkID(0)) > 0)
      } catch {
        Issue.record(error)
      }
    }
  }

  /// Every pass of the loop is in the histogram of its times, every train in that of its lengths.
  @Test func histogramsCountEverything() throws {
    let total = 20_000
    let (inbound, outbound) = (Tally(), Tally())
    let receiver = try EngineThread.start(configuration(.loopbackIPv4)) { _ in
      Receiver(inbound, total: total, lengths: 1_200...1_200)
    }
    let to = receiver.handle.addresses[0]
    let sender = try EngineThread.start(configuration(.loopbackIPv4)) { _ in
      Sender(outbound, to: [to], rate: LinkRate(bitsPerSecond: 1_000_000_000), total: total, lengths: 1_200...1_200)
    }
    #expect(eventually { outbound.isDone })
    settled { inbound.received.value }
    sender.stop()
    receiver.stop()
    let (out, into) = (sender.handle.snapshot(), receiver.handle.snapshot())
    #expect(out[.passTime].reduce(0, +) == out[.passes])
    #expect(into[.passTime].reduce(0, +) == into[.passes])
    #expect(out[.trainLength].reduce(0, +) == out[.sentTrains])
    #expect(into[.receiveLength].reduce(0, +) == into[.receives])
    #expect(out[.wakeLateness].reduce(0, +) > 0, "pacing sleeps until an instant")
    // A pass before each sleep; and looking instead of sleeping is no pass.
    #expect(into[.sleeps] + into[.sleepsSaved] <= into[.passes] + 1)
  }
}
