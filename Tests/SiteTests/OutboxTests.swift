import Bitcoin
import Ground
import NodeBridge
import Site
import Testing

@Suite struct OutboxTests {
  /// Whatever a flood leaves no room for, a delivered block is told of.
  @Test func aFloodLeavesRoomForBlocks() {
    let outbox = SiteOutbox()
    let flood = SiteEvent.node(.misbehaved(node: 0, "again"))
    for _ in 0..<3 { outbox.post(Array(repeating: flood, count: 4_000)) }
    outbox.post([.delivered(JournalTests.delivery()), flood])
    let events = outbox.take()
    #expect(events.contains { if case .delivered = $0 { true } else { false } })
    #expect(events.count < SiteOutbox.capacity && UInt64(events.count) + outbox.dropped == 12_002)
    // Nor has that more room than there is.
    for _ in 0..<10_000 { outbox.post([.delivered(JournalTests.delivery())]) }
    #expect(outbox.take().count == SiteOutbox.capacity)
  }
}
