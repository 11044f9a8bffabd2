import CRing
import Ground
import Testing
import Uring
import UringSupport

/// Errors of one destination are told apart and harm no other.
@Suite(.serialized) struct ErrorTests {
  /// Link 0 goes wrong in some way; link 1 is healthy, and everything sent on it must arrive.
  func run(
    listen: String, bad: PeerAddress, total: Int, lengths: ClosedRange<Int> = 200...200,
    rate: LinkRate = LinkRate(bitsPerSecond: 20_000_000), maxDatagramBytes: Int = 1_232,
    badLengths: Int? = nil
  ) throws -> (inbound: Tally, sender: EngineHandle) {
    let (inbound, outbound) = (Tally(), Tally())
    let receiver = try EngineThread.start(configuration(PeerAddress(listen)!)) { _ in
      Receiver(inbound, total: total, lengths: lengths, only: (1, 2))
    }
    let to = receiver.handle.addresses[0]
    let sender = try EngineThread.start(
      configuration(PeerAddress(listen)!) { $0.maxDatagramBytes = maxDatagramBytes }
    ) { _ in
      var sender = Sender(outbound, to: [bad, to], rate: rate, total: total, lengths: lengths)
      sender.firstLinkLength = badLengths
      return sender
    }
    #expect(eventually { outbound.isDone })
    settled { inbound.received.value }
    sender.stop()
    receiver.stop()
    #expect(receiver.handle.snapshot()[.dropSocketBuffer] == 0)
    return (inbound, sender.handle)
  }

  /// A port nobody listens on: ICMP says so, it is counted there and nowhere else, and sending goes on.
  @Test(arguments: ["127.0.0.1:0", "[::1]:0"])
  func connectionRefused(_ listen: String) throws {
    let closed = try EngineThread.start(configuration(PeerAddress(listen)!)) { _ in
      Receiver(Tally(), total: 0, lengths: 8...8)
    }
    let bad = closed.handle.addresses[0]
    closed.stop()
    let total = 4_000
    let (inbound, sender) = try run(listen: listen, bad: bad, total: total)
    #expect(inbound.received.value == total / 2, "the healthy link lost datagrams to the other's errors")
    #expect(inbound.duplicates.value == 0)
    #expect(sender.count(.icmpRefused, link: LinkID(0)) > 0)
    #expect(sender.count(.icmpRefused, link: LinkID(1)) == 0)
    #expect(sender.count(.dropSendFailed, link: LinkID(1)) == 0)
    #expect(sender.count(.sentDatagrams, link: LinkID(1)) == UInt64(total / 2))
  }

  /// No route: the send itself fails, for that destination alone.
  @Test(arguments: [("127.0.0.1:0", "192.0.2.1:9"), ("[::1]:0", "[2001:db8::1]:9")])
  func networkUnreachable(_ listen: String, _ nowhere: String) {
    onOwnThread {
      let error = thread_enter_private_network(0)
      if error != 0 { return print("NOT TESTED: no network namespace here (errno \(error))") }
      do {
        let total = 2_000
        let (inbound, sender) = try run(listen: listen, bad: PeerAddress(nowhere)!, total: total)
        #expect(inbound.received.value == total / 2)
        #expect(sender.count(.dropSendFailed, link: LinkID(0)) == UInt64(total / 2))
        #expect(sender.count(.sendErrorUnreachable, link: LinkID(0)) > 0)
        #expect(sender.count(.sendErrorUnreachable, link: LinkID(1)) == 0)
        #expect(sender.count(.dropSendFailed, link: LinkID(1)) == 0)
      } catch {
        Issue.record(error)
      }
    }
  }

  /// Datagrams above the interface's MTU: never fragmented, each refused and counted, also when they come in trains.
  @Test(arguments: ["127.0.0.1:0", "[::1]:0"])
  func messageTooBig(_ listen: String) {
    onOwnThread {
      let error = thread_enter_private_network(1_280)
      if error != 0 { return print("NOT TESTED: no network namespace here (errno \(error))") }
      do {
        let total = 2_000
        let (inbound, sender) = try run(
          listen: listen, bad: PeerAddress(listen)!.with(port: 9), total: total,
          rate: LinkRate(bitsPerSecond: 1_000_000_000), maxDatagramBytes: 1_400, badLengths: 1_400)
        #expect(inbound.received.value == total / 2)
        #expect(sender.count(.sendErrorTooBig, link: LinkID(0)) == UInt64(total / 2))
        #expect(sender.count(.dropSendFailed, link: LinkID(0)) == UInt64(total / 2))
        #expect(sender.count(.sendErrorTooBig, link: LinkID(1)) == 0)
        #expect(sender.snapshot()[.segmentationRefused] > 0)
      } catch {
        Issue.record(error)
      }
    }
  }

  /// A train that is refused is sent again one by one at once, though nothing else wakes the engine.
  @Test func aRefusedTrainWaitsForNothing() {
    onOwnThread {
      let error = thread_enter_private_network(1_280)
      if error != 0 { return print("NOT TESTED: no network namespace here (errno \(error))") }
      do {
        let sender = try EngineThread.start(
          configuration(PeerAddress("127.0.0.1:0")!) { $0.maxDatagramBytes = 1_400 }
        ) { _ in
          var core = ScriptedCore(
            ScriptedCore.Log(),
            atStart: [
              .assign(0, PeerAddress("127.0.0.1:9")!, .unlimited), .send(0, .block, .none, byte: 1, times: 10),
            ])
          core.length = 1_400
          return core
        }
        #expect(eventually { sender.handle.count(.sendErrorTooBig, link: LinkID(0)) == 10 })
        #expect(sender.handle.snapshot()[.segmentationRefused] > 0)
        sender.stop()
      } catch {
        Issue.record(error)
      }
    }
  }

  /// Where io_uring is forbidden the error says so and names the sysctl.
  @Test func disabledNamesTheSysctl() {
    onOwnThread {
      let error = thread_forbid_io_uring()
      if error != 0 { return print("NOT TESTED: no seccomp here (errno \(error))") }
      do {
        _ = try UDPEngine(configuration(PeerAddress("127.0.0.1:0")!))
        Issue.record("an engine without io_uring")
      } catch let error as RingError {
        guard case .disabled = error else {
          Issue.record("\(error)")
          return
        }
        #expect(error.description.contains("kernel.io_uring_disabled"))
      } catch {
        Issue.record(error)
      }
    }
  }

  @Test func addressInUse() throws {
    let first = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
      Receiver(Tally(), total: 0, lengths: 8...8)
    }
    defer { first.stop() }
    let taken = first.handle.addresses[0]
    #expect(throws: RingError.bind(address: taken.description, errno: 98)) {
      _ = try UDPEngine(configuration(taken))
    }
  }

  @Test func nonsenseIsRefused() {
    let address = PeerAddress("127.0.0.1:0")!
    let changes: [(inout EngineConfiguration) -> Void] = [
      { $0.listen = [] }, { $0.maxDatagramBytes = 0 }, { $0.maxDatagramBytes = 65_508 }, { $0.receiveBuffers = 3 },
      { $0.receiveBuffers = 0 }, { $0.linkCapacity = 0 }, { $0.queueDatagramsPerLink = 0 }, { $0.ringEntries = 0 },
      { $0.trainsInFlight = 0 }, { $0.drain = .seconds(-1) },
    ]
    for change in changes {
      #expect(throws: RingError.self) { _ = try UDPEngine(configuration(address, change)) }
    }
  }

  /// Buffers beyond the sysctl, and no privilege to have them: reported, with the sysctl to raise.
  @Test func shortSocketBuffersAreReported() {
    onOwnThread {
      let error = thread_drop_network_administration()
      if error != 0 { return print("NOT TESTED: capabilities can't be dropped here (errno \(error))") }
      do {
        let engine = try UDPEngine(
          configuration(PeerAddress("127.0.0.1:0")!) {
            $0.receiveSocketBytes = 1 << 30
            $0.sendSocketBytes = 4_096
          })
        #expect(engine.handle.warnings.count == 1)
        #expect(engine.handle.warnings.allSatisfy { $0.contains("sysctl -w net.core.rmem_max=1073741824") })
      } catch {
        Issue.record(error)
      }
    }
  }

  /// Control data cut anywhere, or with lengths that lie, is read without going outside.
  @Test func hostileControlData() {
    var random = SeededRandom(seed: 4)
    for _ in 0..<20_000 {
      let length = random.below(112)
      var bytes = random.bytes(length)
      if length >= 16 && random.chance(0.7) {
        // A plausible header with a length that may lie.
        let claimed = UInt64(random.below(64))
        withUnsafeBytes(of: claimed) { for i in 0..<8 { bytes[i] = $0[i] } }
        for i in 8..<16 { bytes[i] = 0 }
        bytes[8] = [1, 17, 0, 41][random.below(4)]
        bytes[12] = [35, 40, 104, 11, 25][random.below(5)]
      }
      var control = control_data()
      var error = queued_error()
      // Exactly as long as the data: a sanitizer sees a step outside.
      bytes.withUnsafeBytes {
        control_parse($0.baseAddress, $0.count, &control)
        _ = control_parse_error($0.baseAddress, $0.count, &error)
      }
      #expect(control.has & ~7 == 0)
    }
  }
}
