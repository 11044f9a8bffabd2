import Bitcoin
import Ground
import RealBlocks
import Relay
import Testing
import Wire

/// What an authenticated neighbour can say: nothing of it crashes the relay, grows it beyond its bounds or
/// keeps a block away.
@Suite struct HostileTests {
  private func message(_ random: inout SeededRandom, _ block: TestBlock) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 1_300)
    let header = HeaderBytes(block.bytes.span.bytes)
    let noise = random.bytes(1_152)
    let id8 = random.chance(0.8) ? block.hash.w0 : random.next()
    let count = bytes.withUnsafeMutableBytes { buffer in
      var out = MutableRawSpan(_unsafeBytes: buffer)
      switch random.below(8) {
      case 0, 1:
        let honest = random.chance(0.5)
        return SketchMessage(
          SketchHead(
            flags: ChunkFlags(rawValue: UInt8(random.below(4))), header: header,
            bodyBytes: honest ? UInt32(block.bytes.count) : UInt32(82 + random.below(3_900_000)),
            sketchBytes: UInt32(1 + random.below(60_000)), sketchID: UInt32(random.below(5)),
            transactionCount: honest ? UInt32(block.parsed.transactions.count) : 1, bodyChunkBytes: 1_152,
            epoch: UInt32(random.below(3)), maker: UInt32(truncatingIfNeeded: random.next()),
            more: UInt16(random.below(65_536)), moreBody: UInt16(random.below(65_536)), age: 0,
            index: UInt32(truncatingIfNeeded: random.next() >> UInt64(random.below(64)))),
          chunk: noise.span.bytes.extracting(0..<1_024)
        ).write(into: &out)
      case 2, 3:
        return ChunkMessage(
          kind: ObjectKind(rawValue: UInt8(1 + random.below(3)))!, flags: ChunkFlags(rawValue: UInt8(random.below(4))),
          block: id8, maker: UInt32(truncatingIfNeeded: random.next()), more: UInt16(random.below(65_536)),
          index: UInt32(truncatingIfNeeded: random.next() >> UInt64(random.below(64))),
          chunk: noise.span.bytes.extracting(0..<(random.chance(0.8) ? 1_152 : 128 + random.below(1_000)))
        ).write(into: &out)
      case 4:
        return NeedMessage(
          block: id8, kind: ObjectKind(rawValue: UInt8(random.below(4)))!,
          flags: NeedMessage.Flags(rawValue: UInt8(random.below(8))),
          count: UInt32(truncatingIfNeeded: random.next() >> UInt64(random.below(64)))
        ).write(into: &out)
      case 5:
        return HaveMessage(
          block: id8, flags: [.checked], received: 1, useless: 3,
          needed: UInt32(truncatingIfNeeded: random.next()), missingBytes: 0, missing: SizeClassCounts()
        ).write(into: &out)
      case 6:
        return BlameMessage(
          block: id8, kind: .body, index: UInt32(random.below(2_000)), maker: UInt32(truncatingIfNeeded: random.next())
        ).write(into: &out)
      default:
        return GetBlockMessage(hash: Bytes32(w0: id8, w1: 1, w2: 2, w3: 3), flags: []).write(into: &out)
      }
    }
    var result = Array(bytes.prefix(count))
    // A third is damaged on top.
    if random.chance(0.3), !result.isEmpty {
      for _ in 0...random.below(4) { result[random.below(result.count)] = UInt8(truncatingIfNeeded: random.next()) }
      if random.chance(0.3) { result.removeLast(random.below(result.count)) }
    }
    return result
  }

  @Test(.timeLimit(.minutes(1)), arguments: 1...8)
  func noisyNeighboursCrashNothingAndStopNothing(_ seed: Int) throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height, seed: UInt64(seed))
    net.start()
    net.fill(1, block.parsed, block.bytes, missing: 0.3)
    net.run(.seconds(2))
    var random = SeededRandom(seed: UInt64(seed))
    for step in 0..<1_500 {
      let bytes = message(&random, block)
      net.hear(1, from: 0, bytes)
      if step % 50 == 0 { net.run(.milliseconds(1 as Int64)) }
    }
    let held = net.with(1) { core, _, _ in core.heldBytes }
    #expect(held < 400 << 20)
    // An honest neighbour's block gets through all the same.
    try net.submit(block, at: 2)
    let isThere = net.run(.seconds(60)) { net.isComplete(1, block.hash) }
    #expect(isThere)
  }

  @Test func pureNoiseIsCounted() throws {
    let block = try TestBlock("482683")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height)
    net.start()
    net.run(.seconds(2))
    var random = SeededRandom(seed: 9)
    for _ in 0..<20_000 {
      var bytes = random.bytes(1 + random.below(200))
      bytes[0] = UInt8(random.below(18))
      net.with(1) { core, sink, now in
        core.receivePlaintext(bytes.span.bytes, from: LinkID(0), now: now, into: &sink)
      }
    }
    let counters = net.with(1) { core, _, _ in core.counters }
    #expect(counters.messagesMalformed > 10_000)
    #expect(net.events(1, .verified).isEmpty)
  }
}
