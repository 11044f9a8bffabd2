import Bitcoin
import Ground
import Relay
import Testing
import Wire

/// Several blocks at once over one narrow link: PROTOCOL.md, section 4, "Order on a link".
@Suite struct SharingTests {
  /// 10 Mbit/s to a neighbour that knows nothing: a block of 400 transactions takes it tenths of a second.
  private func narrow(_ chain: Regtest) -> TestNet {
    let net = TestNet([[1], [0]], on: chain)
    net.start()
    net.run(.seconds(3))
    net.bytesPerMillisecond = 1_250
    return net
  }

  /// The instants at which a relay completed the blocks.
  private func times(_ net: TestNet, _ node: Int, _ blocks: [TestBlock]) -> [Instant] {
    blocks.map { block in net.events(node, .verified).first { $0.block == block.hash }?.at ?? .never }
  }

  @Test func ofTwoBlocksAtOneHeightTheNewerGoesFirst() throws {
    let chain = try Regtest(blocks: 1)
    let first = try chain.block(on: nil, transactions: 1..<401, extra: 1)
    let second = try chain.block(on: nil, transactions: 1..<401, extra: 2)
    let net = narrow(chain)
    try net.submit(first)
    net.run(.milliseconds(30 as Int64))
    #expect(net.report(0, first).packetsOut > 10)
    try net.submit(second)
    #expect(net.run(.seconds(10)) { net.allComplete(first) && net.allComplete(second) })
    let times = times(net, 1, [first, second])
    #expect(times[1] < times[0])
    #expect(net.holds(1, first) && net.holds(1, second))
    // Of two with equal work the first seen is the tip, there and here.
    for node in 0..<2 { #expect(net.with(node) { core, _, _ in core.chain.tip.hash } == first.hash) }
  }

  @Test func aReorganisationsNewTipGoesFirst() throws {
    let chain = try Regtest(blocks: 1)
    let old = try chain.block(on: nil, transactions: 1..<201, extra: 1)
    let fork = try chain.block(on: nil, transactions: 201..<501, extra: 2)
    let tip = try chain.block(on: fork, transactions: 501..<801, extra: 3)
    let net = narrow(chain)
    try net.submit(old)
    #expect(net.run(.seconds(10)) { net.allComplete(old) })
    net.run(.milliseconds(200 as Int64))
    try net.submit(fork)
    net.run(.milliseconds(20 as Int64))
    try net.submit(tip)
    #expect(net.run(.seconds(10)) { net.allComplete(fork) && net.allComplete(tip) })
    let times = times(net, 1, [fork, tip])
    #expect(times[1] < times[0])
    for node in 0..<2 { #expect(net.with(node) { core, _, _ in core.chain.tip.hash } == tip.hash) }
    #expect(net.holds(1, fork) && net.holds(1, tip))
  }

  /// One that asks for an older block, or catches up, gets the newest first all the same.
  @Test func whatIsAskedOfAnOlderBlockWaitsForTheNewest() throws {
    let chain = try Regtest(blocks: 1)
    let first = try chain.block(on: nil, transactions: 1..<401, extra: 1)
    let second = try chain.block(on: nil, transactions: 1..<401, extra: 2)
    let net = narrow(chain)
    try net.submit(first)
    net.run(.milliseconds(20 as Int64))
    try net.submit(second)
    net.run(.milliseconds(20 as Int64))
    let before = (first: net.report(0, first).packetsOut, second: net.report(0, second).packetsOut)
    let need = NeedMessage(block: first.hash.w0, kind: .body, flags: [], count: 15)
    net.hear(0, from: 1, encoded { need.write(into: &$0) })
    let request = GetBlockMessage(hash: Bytes32(first.hash), flags: [.source])
    net.hear(0, from: 1, encoded { request.write(into: &$0) })
    net.run(.milliseconds(20 as Int64))
    #expect(net.report(0, first).packetsOut == before.first)
    #expect(net.report(0, second).packetsOut > before.second + 15)
    #expect(net.run(.seconds(10)) { net.allComplete(first) && net.allComplete(second) })
    let times = times(net, 1, [first, second])
    #expect(times[1] < times[0])
  }
}
