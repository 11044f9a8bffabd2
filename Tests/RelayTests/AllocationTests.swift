import Ground
import Relay
import Testing
import UringSupport
import Wire

/// Takes datagrams into one buffer, as a driver's ring does, and allocates nothing.
private struct RingSink: DatagramSink, ~Copyable {
  var count = 0
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2_048, alignment: 64)

  deinit { buffer.deallocate() }

  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {}
  mutating func remove(_ link: LinkID) {}
  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    var span = MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: buffer[0..<min(capacity, 2_048)]))
    if write(&span) > 0 { count += 1 }
    return true
  }
  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool { true }
  mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  func room(on link: LinkID) -> Int { 1 << 20 }
}

/// "Nothing allocated for a packet": counted, in a core that passes a block on to four neighbours while it comes in.
@Suite struct AllocationTests {
  /// What one packet of a block's cost.
  private struct Cost {
    var bytes: Int
    var sent: Int
    var allocations: Int64
    var isMatched: Bool
    var isSolvable: Bool
  }

  /// The packets of a block on their way from 0 to 1, one by one, with the work that each brings about.
  private func costs(_ net: TestNet, _ block: TestBlock) throws -> [Cost] {
    var packets: [[UInt8]] = []
    net.filter = { _, from, to, bytes in
      if from != 0 || bytes.count < 1_000 { return bytes }
      packets.append(bytes)
      return nil
    }
    try net.submit(block)
    net.run(.milliseconds(5 as Int64))
    var costs: [Cost] = []
    costs.reserveCapacity(packets.count)
    net.with(1) { core, _, now in
      var sink = RingSink()
      for var packet in packets {
        let sent = sink.count
        packet.withUnsafeMutableBytes { bytes in
          var span = MutableRawSpan(_unsafeBytes: bytes)
          let before = thread_allocations()
          core.receive(&span, from: TestNet.address(0), arrival: now, now: now, into: &sink)
          core.batchEnded(now: now, into: &sink)
          let after = thread_allocations()
          let report = core.report(of: block.hash)
          costs.append(
            Cost(
              bytes: bytes.count, sent: sink.count - sent, allocations: before < 0 ? 0 : after - before,
              isMatched: (report?.matched ?? .never) != .never,
              isSolvable: (report?.lastNeeded ?? .never) != .never))
        }
        // Matching and filling, between packets as a driver would.
        var slices = 0
        while core.nextDeadline == .zero && slices < 1_000 {
          core.deadlinePassed(now: now, into: &sink)
          slices += 1
        }
      }
    }
    return costs
  }

  @Test func forwardedAndReceivedPacketsAllocateNothing() throws {
    let chain = try Regtest(blocks: 2, of: "702861", transactions: 1_000)
    let net = TestNet([[1], [0, 2, 3, 4, 5], [1], [1], [1], [1]], on: chain)
    net.start()
    for block in chain.blocks {
      for node in 0..<6 { net.fill(node, block.parsed, block.bytes, missing: 0.2) }
    }
    net.run(.seconds(3))
    // The first block takes the slabs and buffers that every later one finds in place.
    try net.submit(chain.blocks[0])
    #expect(net.run(.seconds(5)) { net.allComplete(chain.blocks[0]) })
    net.run(.seconds(6))
    let costs = try costs(net, chain.blocks[1])
    // Sketch packets: the first opens the gate, the last lets the sketch be put together.
    let sketch = costs.filter { $0.bytes == SketchMessage.encodedBytes + 32 }
    let done = try #require(sketch.lastIndex { $0.sent == 4 })
    let forwarded = sketch[1..<done]
    #expect(forwarded.count >= 4)
    #expect(forwarded.allSatisfy { $0.sent == 4 })
    #expect(forwarded.allSatisfy { $0.allocations == 0 }, "\(forwarded.map(\.allocations))")
    // Repair packets of the body, from the match until the body can be solved.
    let body = costs.filter { $0.bytes == 1_204 && $0.isMatched && !$0.isSolvable }
    #expect(body.count > 20)
    #expect(body.contains { $0.sent > 0 })
    #expect(body.allSatisfy { $0.allocations == 0 }, "\(body.map(\.allocations))")
  }
}
