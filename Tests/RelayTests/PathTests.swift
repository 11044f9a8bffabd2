import Bitcoin
import Ground
import RealBlocks
import Relay
import Testing

/// A block with everything that tests need of it.
struct TestBlock {
  let bytes: [UInt8]
  let parsed: ParsedBlock
  let height: Int
  var hash: Hash256 { parsed.hash }

  init(_ name: String) throws {
    let raw = try RealBlocks.bytes(name)
    var block = try ParsedBlock(parsing: raw.span.bytes)
    block.hashAll(in: raw.span.bytes)
    height = BIP34.height(of: block.transactions[0], in: raw.span.bytes)!
    (bytes, parsed) = (raw, block)
  }
}

@Suite struct PathTests {
  @Test func aBlockCrossesThreeRelays() throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    for node in 0..<3 { net.fill(node, block.parsed, block.bytes, missing: 0.01) }
    net.run(.seconds(2))
    let start = net.now
    try net.with(0) { core, sink, now in
      _ = try core.submit(
        block.bytes.span.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
    let done = net.run(.seconds(5)) { net.isComplete(1, block.hash) && net.isComplete(2, block.hash) }
    #expect(done)
    for node in 1..<3 {
      let same = net.with(node) { core, _, _ in
        core.withBlock(block.hash) { bytes, _ in bytes.withUnsafeBytes { $0.elementsEqual(block.bytes) } }
      }
      #expect(same == true)
      #expect(net.events(node, .verified).count == 1)
      #expect(net.events(node, .asked).isEmpty)
    }
  }
}
