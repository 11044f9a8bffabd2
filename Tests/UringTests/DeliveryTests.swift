import Ground
import Testing
import Uring

@Suite(.serialized) struct DeliveryTests {
  /// A million numbered datagrams over real sockets: each arrives once with every byte right, or the kernel says that
  /// it dropped it.
  @Test(arguments: ["127.0.0.1:0", "[::1]:0"])
  func everyDatagramOnceOrAccountedFor(_ listen: String) throws {
    let total = 1_000_000
    let lengths = 1_200...1_200
    let inbound = Tally()
    let outbound = Tally()
    // Without coalescing the kernel counts a drop for each datagram, with it one for each train.
    let receiver = try EngineThread.start(configuration(PeerAddress(listen)!) { $0.coalescing = false }) { _ in
      Receiver(inbound, total: total, lengths: lengths)
    }
    let to = receiver.handle.addresses[0]
    let sender = try EngineThread.start(configuration(PeerAddress(listen)!)) { _ in
      Sender(outbound, to: [to], total: total, lengths: lengths)
    }
    #expect(eventually { outbound.isDone })
    settled { inbound.received.value }
    sender.stop()
    receiver.stop()
    let (out, inn) = (sender.handle.snapshot(), receiver.handle.snapshot())
    #expect(inbound.damaged.value == 0)
    #expect(inbound.duplicates.value == 0)
    #expect(inbound.strangers.value == 0)
    #expect(Int(out[.sentDatagrams]) == total)
    #expect(inbound.received.value + Int(inn[.dropSocketBuffer]) == total)
  }
}
