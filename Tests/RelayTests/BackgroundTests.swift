import Bitcoin
import Ground
import Mempool
import Relay
import Testing
import Wire

/// Transactions and measurement records between relays, over their links.
@Suite struct BackgroundTests {
  /// Over one hop and two: into the side pools, each over each link once, nothing back to where it came from.
  @Test func transactionsReachSidePoolsOnce() throws {
    let block = try TestBlock("482683")
    let count = block.parsed.transactions.count - 1
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(3))
    // TXINV and TXGET of all of them: no other message is as long.
    var lists = [[Int]](repeating: [0, 0, 0], count: 3)
    net.filter = { _, from, to, bytes in
      if bytes.count == TransactionIDsMessage.headBytes + 6 * count + 32 { lists[from][to] += 1 }
      return bytes
    }
    let before = net.bytes
    for index in 1...count { try net.learn(0, index, of: block) }
    net.run(.seconds(6))
    for node in 1..<3 {
      #expect(net.held(node, .node) == 0)
      #expect(net.held(node, .orphan) == 0)
      #expect(net.held(node, .side) == count)
    }
    // Announced forwards once, asked for backwards once.
    #expect(lists == [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    let size = block.bytes.count
    for (from, to) in [(1, 0), (2, 1)] { #expect(net.bytes[from][to] - before[from][to] < 6_000) }
    for (from, to) in [(0, 1), (1, 2)] { #expect(net.bytes[from][to] - before[from][to] < size + size / 4 + 6_000) }
    // What came by the side is of use when the block comes, and no less so for not being the node's.
    try net.submit(block)
    #expect(net.run(.seconds(5)) { net.allComplete(block) })
    for node in 1..<3 { #expect(net.report(node, block).missingTransactions == 0) }
  }

  /// 250 kB at once, then 125 kB a second a link, headers of the packets counted.
  @Test func theBudgetOfTransactionsIsKept() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1, 2], [0], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(3))
    let before = net.bytes
    for index in 1..<block.parsed.transactions.count { try net.learn(0, index, of: block) }
    net.run(.seconds(2))
    for peer in 1..<3 {
      let spent = net.bytes[0][peer] - before[0][peer]
      #expect(spent > 400_000 && spent < 510_000, "\(spent)")
    }
    #expect(net.run(.seconds(20)) { net.held(1, .side) + net.held(1, .orphan) == block.parsed.transactions.count - 1 })
  }

  /// A child whose parent was lost waits, is not passed on, and goes on its way when the parent comes.
  @Test func orphansWaitAndResolve() throws {
    let block = try TestBlock("702861")
    let (parent, child) = try #require(block.familyOfTwo)
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(3))
    // The announcement of one transaction, and its repetition.
    net.filter = { _, from, _, bytes in
      from == 0 && bytes.count == TransactionIDsMessage.headBytes + 6 + 32 ? nil : bytes
    }
    try net.learn(0, parent, of: block)
    net.run(.seconds(3))
    net.filter = { _, _, _, bytes in bytes }
    try net.learn(0, child, of: block)
    net.run(.seconds(3))
    let (parentID, childID) = (block.parsed.wtxids[parent], block.parsed.wtxids[child])
    #expect(net.kind(1, childID) == .orphan)
    #expect(net.kind(2, childID) == nil, "it would be taken for a whole family there")
    try net.learn(1, parent, of: block)
    #expect(net.kind(1, childID) == .side)
    net.run(.seconds(3))
    #expect(net.kind(2, parentID) == .side)
    #expect(net.kind(2, childID) == .side)
  }

  @Test func orphansAreBounded() throws {
    let block = try TestBlock("413567")
    let net = TestNet(
      [[1], [0]], block: block.bytes, height: block.height,
      configure: { $1.store = StoreLimits(nodeCount: 1_000, nodeBytes: 8 << 20, orphanCount: 20) })
    net.start()
    net.run(.seconds(2))
    var said = 0
    for index in block.parsed.transactions.indices.dropFirst() where said < 200 {
      let layout = block.parsed.transactions[index]
      if layout.byteCount > RelayLimits.fragmentBytes { continue }
      said += 1
      // Its first input's parent is unconfirmed, says the neighbour.
      let parents = ParentInputs(indexes: SIMD4(0, .max, .max, .max))
      let raw = layout.bytes(in: block.bytes.span.bytes)
      net.hear(
        1, from: 0,
        encoded {
          TransactionMessage.write(
            wtxid8: block.parsed.wtxids[index].w0, transaction: raw, offset: 0, parents: parents, into: &$0)
        })
      #expect(net.held(1, .orphan) <= 20)
    }
    #expect(said == 200)
    #expect(net.held(1, .orphan) == 20)
  }

  @Test func journeysReachNeighbours() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1, 2], [0], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(2))
    func take(_ node: Int) -> [[UInt8]] {
      net.with(node) { core, _, _ in
        var all: [[UInt8]] = []
        while core.takeJourney({ link, bytes in
          #expect(link.index == 0)
          all.append(bytes.withUnsafeBytes { [UInt8]($0) })
        }) {}
        return all
      }
    }
    let longest = (0..<RelayLimits.journeyBytes).map { UInt8(truncatingIfNeeded: $0) }
    for length in [0, 1, RelayLimits.journeyBytes, RelayLimits.journeyBytes + 1] {
      net.with(0) { core, sink, now in
        let records = length <= longest.count ? Array(longest.prefix(length)) : longest + [0]
        core.sendJourney(records.span.bytes, now: now, into: &sink)
      }
    }
    net.run(.milliseconds(100 as Int64))
    for node in 1..<3 { #expect(take(node) == [[0], longest]) }
    #expect(net.events(1, .journey).count == 2)
  }

  /// (JourneyTests has what is held and passed on.)
  @Test func journeysOfOtherLengthsAreRefused() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(2))
    let malformed = net.with(1) { core, _, _ in core.counters.messagesMalformed }
    let type = RelayMessageType.journey.rawValue
    net.hear(1, from: 0, [type])
    net.hear(1, from: 0, [type] + [UInt8](repeating: 1, count: RelayLimits.journeyBytes + 1))
    #expect(net.with(1) { core, _, _ in core.counters.messagesMalformed } == malformed + 2)
    #expect(net.events(1, .journey).isEmpty)
  }
}

extension TestBlock {
  /// Two small transactions of which the second's first input spends the first.
  var familyOfTwo: (parent: Int, child: Int)? {
    var position: [Hash256: Int] = [:]
    for index in parsed.txids.indices { position[parsed.txids[index]] = index }
    for index in parsed.transactions.indices.dropFirst() {
      let layout = parsed.transactions[index]
      guard layout.inputCount < 0xFD, layout.weight < 9_000 else { continue }
      let input = Hash256(layout.bytes(in: bytes.span.bytes), at: layout.coreOffset - layout.offset + 1)
      if let parent = position[input], parsed.transactions[parent].weight < 9_000 { return (parent, index) }
    }
    return nil
  }
}
