import Bitcoin
import Ground
import Mempool
import RealBlocks
import Relay
import Testing

/// Lying relays, and stores that match what is not there.
@Suite struct RepairTests {
  /// The block with a transaction's bytes changed: its ids and sketch are the true ones, its body chunks are poison.
  private func poisoned(_ block: TestBlock, missing: ClosedRange<Int>) -> [UInt8] {
    var bytes = block.bytes
    for index in missing { bytes[block.parsed.transactions[index].end - 6] ^= 0x55 }
    return bytes
  }

  private func fill(_ net: TestNet, _ node: Int, _ block: TestBlock, without: ClosedRange<Int>) {
    net.with(node) { core, _, _ in
      core.withMempool { store in
        for index in 1..<block.parsed.transactions.count where !without.contains(index) {
          _ = try? store.insert(
            block.parsed.transactions[index], in: block.bytes.span.bytes, txid: block.parsed.txids[index],
            wtxid: block.parsed.wtxids[index], as: .node)
        }
      }
    }
  }

  @Test func wrongChunksAreFoundAndTheBlockStillCompletes() throws {
    let block = try TestBlock("413567")
    // 0 lies, 2 is honest, 1 hears both.
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    fill(net, 1, block, without: 100...110)
    net.run(.seconds(4))
    let bad = poisoned(block, missing: 100...110)
    net.with(0) { core, sink, now in
      _ = try? core.submit(
        bad.span.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
    net.run(.milliseconds(2 as Int64))
    try net.submit(block, at: 2)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    net.run(.seconds(1))
    #expect(net.holds(1, block))
    #expect(!net.events(1, .failedChecks).isEmpty)
    let accused = Set(net.events(1, .wrongChunk).map(\.link.index))
    #expect(accused == [0])
    #expect(net.events(1, .demoted).map(\.link.index) == [0])
    let honest = net.with(1) { core, _, _ in core.status(of: LinkID(2))?.isTrusted }
    #expect(honest == true)
  }

  @Test func anHonestForwarderPointsFurther() throws {
    let block = try TestBlock("413567")
    // 0 lies to 1, which passes it on to 2; 3 is honest and known to both.
    let net = TestNet([[1], [0, 2, 3], [1, 3], [1, 2]], block: block.bytes, height: block.height)
    net.start()
    for node in 1...2 { fill(net, node, block, without: 100...110) }
    net.run(.seconds(4))
    let bad = poisoned(block, missing: 100...110)
    net.with(0) { core, sink, now in
      _ = try? core.submit(
        bad.span.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
    net.run(.milliseconds(15 as Int64))
    try net.submit(block, at: 3)
    let ok = net.run(.seconds(20)) { net.isComplete(1, block.hash) && net.isComplete(2, block.hash) }
    #expect(ok)
    net.run(.seconds(2))
    #expect(net.holds(1, block) && net.holds(2, block))
    #expect(net.events(1, .demoted).contains { $0.link.index == 0 })
    #expect(net.events(2, .demoted).contains { $0.link.index == 1 })
    #expect(net.events(2, .pointed).contains { $0.link.index == 1 })
    #expect(!net.events(2, .demoted).contains { $0.link.index == 3 })
    #expect(!net.events(1, .demoted).contains { $0.link.index == 3 })
  }

  /// What is a lie as a whole, in its sizes or in its ids, is gone from an honest forwarder once it knows better: it still
  /// knows from whom it had it.
  @Test(arguments: [false, true]) func anHonestForwarderPointsAtALyingSketch(inSizes: Bool) throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0, 2, 3], [1, 3], [1, 2]], block: block.bytes, height: block.height)
    net.start()
    for node in 1...2 { fill(net, node, block, without: 100...110) }
    net.run(.seconds(4))
    var lie = block.parsed
    var bytes = block.bytes
    if inSizes {
      bytes = Array(bytes.prefix(bytes.count / 2))
      lie = ParsedBlock(
        header: lie.header, transactions: Array(lie.transactions.prefix(while: { $0.end <= bytes.count })),
        byteCount: bytes.count)
      lie.hashAll(in: bytes.span.bytes)
    } else {
      var wtxids = lie.wtxids
      wtxids.swapAt(3, 4)
      lie = ParsedBlock(
        header: lie.header, transactions: lie.transactions, byteCount: bytes.count, txids: lie.txids, wtxids: wtxids,
        unhashed: [])
      for index in 100...110 { bytes[lie.transactions[index].end - 6] ^= 0x55 }
    }
    net.with(0) { core, sink, now in
      _ = try? core.submit(bytes.span.bytes, parsed: lie, isChecked: true, arrival: now, now: now, into: &sink)
    }
    net.run(.milliseconds(25 as Int64))
    try net.submit(block, at: 3)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) && net.isComplete(2, block.hash) })
    net.run(.seconds(2))
    #expect(net.events(1, .demoted).contains { $0.link.index == 0 })
    #expect(net.events(2, .demoted).contains { $0.link.index == 1 })
    #expect(net.events(2, .pointed).contains { $0.link.index == 1 && $0.b <= 60 })
    #expect(!net.events(2, .demoted).contains { $0.link.index == 3 })
  }

  @Test func aLieAboutTheSizeIsOutlived() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    fill(net, 1, block, without: 100...110)
    net.run(.seconds(4))
    // The same header over another body: other sizes, its own sketch.
    let other = Array(block.bytes.prefix(block.bytes.count / 2))
    var forged = try ParsedBlock(parsing: block.bytes.span.bytes)
    forged.hashAll(in: block.bytes.span.bytes)
    let half = ParsedBlock(
      header: forged.header,
      transactions: Array(forged.transactions.prefix(while: { $0.end <= other.count })), byteCount: other.count)
    var hashed = half
    hashed.hashAll(in: other.span.bytes)
    net.with(0) { core, sink, now in
      _ = try? core.submit(
        other.span.bytes, parsed: hashed, isChecked: true, arrival: now, now: now, into: &sink)
    }
    net.run(.milliseconds(3 as Int64))
    try net.submit(block, at: 2)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    #expect(net.holds(1, block))
    net.run(.seconds(1))
    #expect(!net.events(1, .demoted).contains { $0.link.index == 2 })
  }

  @Test(arguments: [11, 14])
  func falseMatchesAreWithdrawn(_ bits: Int) throws {
    let block = try TestBlock("413567")
    let net = TestNet(
      [[1], [0]], block: block.bytes, height: block.height,
      configure: { node, configuration in configuration.shortIDBits = node == 1 ? bits : 40 })
    net.start()
    // Twins of every tenth transaction, of the same length with other inputs, in place of the true ones.
    var random = SeededRandom(seed: 5)
    net.with(1) { core, _, _ in
      core.withMempool { store in
        for index in 1..<block.parsed.transactions.count {
          let layout = block.parsed.transactions[index]
          if index % 10 != 0 {
            _ = try? store.insert(
              layout, in: block.bytes.span.bytes, txid: block.parsed.txids[index],
              wtxid: block.parsed.wtxids[index], as: .node)
            continue
          }
          for _ in 0..<40 {
            let twin = RealBlocks.withFreshInputs(
              block.bytes[layout.offset..<layout.end], inputCount: layout.coreOffset, using: &random)
            _ = try? store.insert(twin.span.bytes, as: .node)
          }
        }
      }
    }
    net.run(.seconds(4))
    try net.submit(block)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    #expect(net.holds(1, block))
    #expect(net.events(1, .demoted).isEmpty)
    #expect(!net.events(1, .failedChecks).isEmpty)
  }
}
