import Ground
import Testing
import Uring

@Suite(.serialized) struct DeliveryTests {
  struct Result {
    var received = 0
    var duplicates = 0
    var damaged = 0
    var out: EngineSnapshot
    var into: EngineSnapshot
    var allocations: [Int]
    var sentDatagrams: Int { Int(out[.sentDatagrams]) }
    var drops: Int { Int(into[.dropSocketBuffer]) }
  }

  /// `total` numbered datagrams from one engine to another.
  func run(
    _ listen: String, total: Int, lengths: ClosedRange<Int> = 1_200...1_200, slowness: Int = 0,
    receiver change: (inout EngineConfiguration) -> Void = { _ in },
    sender changeSender: (inout EngineConfiguration) -> Void = { _ in }
  ) throws -> Result {
    let (inbound, outbound) = (Tally(), Tally())
    let receiver = try EngineThread.start(configuration(PeerAddress(listen)!, change)) { _ in
      Receiver(inbound, total: total, lengths: lengths, slowness: slowness)
    }
    let to = receiver.handle.addresses[0]
    let sender = try EngineThread.start(configuration(PeerAddress(listen)!, changeSender)) { _ in
      Sender(outbound, to: [to], total: total, lengths: lengths)
    }
    #expect(eventually { outbound.isDone })
    #expect(eventually { Int(sender.handle.snapshot()[.sentDatagrams]) == total })
    settled { inbound.received.value }
    sender.stop()
    receiver.stop()
    #expect(sender.failure == nil && receiver.failure == nil)
    #expect(inbound.strangers.value == 0)
    #expect(inbound.implausibleArrivals.value == 0)
    return Result(
      received: inbound.received.value, duplicates: inbound.duplicates.value, damaged: inbound.damaged.value,
      out: sender.handle.snapshot(), into: receiver.handle.snapshot(),
      allocations: [outbound.allocations.value, inbound.allocations.value])
  }

  /// A million numbered datagrams over real sockets: each arrives once with every byte right, or is counted as dropped.
  @Test(arguments: ["127.0.0.1:0", "[::1]:0"])
  func everyDatagramOnceOrAccountedFor(_ listen: String) throws {
    let total = 1_000_000
    // Without coalescing the kernel counts a drop for each datagram, with it one for each train.
    let result = try run(listen, total: total, receiver: { $0.coalescing = false })
    #expect(result.damaged == 0)
    #expect(result.duplicates == 0)
    #expect(result.sentDatagrams == total)
    #expect(result.received + result.drops == total)
    #expect(Int(result.into[.receivedDatagrams]) == result.received)
    #expect(result.into[.arrivalsWithoutStamp] == 0)
    #expect(result.out[.sentTrains] * 20 < result.out[.sentDatagrams], "datagrams travel in trains")
    // Half a million datagrams in mid-run, each way: not one call of malloc or its kin (Tests/UringSupport counts them).
    #expect(result.allocations.allSatisfy { $0 == 0 || $0 == -1 }, "allocations: \(result.allocations)")
  }

  /// The same with trains arriving coalesced; a drop counted is a train of 1 to 64 datagrams.
  @Test(arguments: ["127.0.0.1:0", "[::1]:0"])
  func trainsArriveCoalesced(_ listen: String) throws {
    let total = 300_000
    let result = try run(listen, total: total, lengths: 1_152...1_152)
    #expect(result.damaged == 0)
    #expect(result.duplicates == 0)
    let lost = total - result.received
    #expect(lost >= result.drops && lost <= result.drops * 64)
    #expect(result.into[.receives] * 20 < result.into[.receivedDatagrams])
    #expect(result.into[.receivesCoalesced] > 0)
    let lengths = result.into[.receiveLength]
    #expect(lengths.reduce(0, +) == result.into[.receives])
    #expect(lengths[7...].allSatisfy { $0 == 0 }, "no train is longer than 64")
  }

  /// Room for one train and one datagram: the one waits for what the core is about to add, and trains stay full.
  @Test func trainsAreFilledUp() throws {
    let total = 54_000
    let result = try run("127.0.0.1:0", total: total, sender: { $0.roomUnlimited = 55 * 1_200 })
    #expect(result.damaged == 0 && result.duplicates == 0)
    #expect(result.out[.sentTrains] * 45 < result.out[.sentDatagrams], "\(result.out[.sentTrains]) trains")
  }

  /// Each way of getting completions, each way of waiting, and the offloads switched off.
  @Test(arguments: RingMode.allCases, [WaitPolicy.sleep, .spin])
  func everyModeDelivers(_ mode: RingMode, _ wait: WaitPolicy) throws {
    let change: (inout EngineConfiguration) -> Void = {
      $0.ringMode = mode
      $0.wait = wait
      $0.segmentation = mode != .interrupting
      $0.coalescing = false
    }
    let total = 20_000
    let result = try run("127.0.0.1:0", total: total, lengths: 9...1_232, receiver: change, sender: change)
    #expect(result.damaged == 0)
    #expect(result.duplicates == 0)
    #expect(result.received + result.drops == total)
    if mode == .interrupting { #expect(result.out[.sentTrains] == result.out[.sentDatagrams]) }
  }

  /// One dual-stack engine to three others, IPv4 and IPv6, lengths changing all the time: trains never mix
  /// destinations, and end where the length changes.
  @Test func mixedDestinationsAndSizes() throws {
    let each = 20_000
    let lengths = 8...1_232
    let listens = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"]
    let tallies = listens.map { _ in Tally() }
    var receivers: [EngineThread] = []
    for (i, listen) in listens.enumerated() {
      let tally = tallies[i]
      receivers.append(
        try EngineThread.start(configuration(PeerAddress(listen)!) { $0.coalescing = i != 0 }) { _ in
          Receiver(tally, total: each * 3, lengths: lengths, only: (UInt64(i), 3))
        })
    }
    let to = receivers.map { $0.handle.addresses[0] }
    let outbound = Tally()
    let sender = try EngineThread.start(configuration(PeerAddress("[::]:0")!)) { _ in
      Sender(outbound, to: to, rate: LinkRate(bitsPerSecond: 400_000_000), total: each * 3, lengths: lengths)
    }
    #expect(eventually { outbound.isDone })
    settled { tallies.reduce(0) { $0 + $1.received.value } }
    sender.stop()
    for receiver in receivers { receiver.stop() }
    for (i, tally) in tallies.enumerated() {
      #expect(tally.damaged.value == 0)
      #expect(tally.duplicates.value == 0)
      #expect(tally.strangers.value == 0, "a datagram of another destination")
      let drops = Int(receivers[i].handle.snapshot()[.dropSocketBuffer])
      #expect(tally.received.value + drops <= each && tally.received.value + drops * 64 >= each)
      #expect(sender.handle.count(.sentDatagrams, link: LinkID(UInt16(i))) == UInt64(each))
    }
  }

  /// One buffer, and a receiver that is slow: receives end for want of buffers, start again, and nothing is lost in
  /// silence.
  @Test func exhaustedBuffersAreCountedAndSurvived() throws {
    let total = 20_000
    let result = try run(
      "127.0.0.1:0", total: total, slowness: 3_000,
      receiver: {
        $0.receiveBuffers = 1
        $0.coalescing = false
      })
    #expect(result.into[.buffersExhausted] > 0)
    #expect(result.into[.receivesRearmed] >= result.into[.buffersExhausted])
    #expect(result.damaged == 0)
    #expect(result.duplicates == 0)
    #expect(result.received + result.drops == total)
  }

  /// A socket buffer far too small: the kernel drops, and every drop is counted.
  @Test func socketBufferDropsAreCounted() throws {
    let total = 50_000
    let result = try run(
      "127.0.0.1:0", total: total, slowness: 5_000,
      receiver: {
        $0.receiveSocketBytes = 32_768
        $0.coalescing = false
      })
    #expect(result.drops > 0)
    #expect(result.received + result.drops == total)
  }

  /// A submission queue of two places under sixteen links: flushed and refilled, nothing lost.
  @Test func fullRingIsFlushed() throws {
    let links = 16
    let total = 16 * 500
    let inbound = Tally()
    let outbound = Tally()
    let receiver = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!)) { _ in
      Receiver(inbound, total: total, lengths: 100...900)
    }
    let to = receiver.handle.addresses[0]
    let sender = try EngineThread.start(configuration(PeerAddress("127.0.0.1:0")!) { $0.ringEntries = 2 }) { _ in
      Sender(outbound, to: Array(repeating: to, count: links), total: total, lengths: 100...900)
    }
    #expect(eventually { outbound.isDone })
    #expect(eventually { Int(sender.handle.snapshot()[.sentDatagrams]) == total })
    settled { inbound.received.value }
    sender.stop()
    receiver.stop()
    #expect(sender.handle.snapshot()[.submissionRingFull] > 0)
    #expect(sender.handle.snapshot()[.dropSendFailed] == 0)
    #expect(inbound.duplicates.value == 0 && inbound.damaged.value == 0)
    #expect(inbound.received.value == total || receiver.handle.snapshot()[.dropSocketBuffer] > 0)
  }
}
