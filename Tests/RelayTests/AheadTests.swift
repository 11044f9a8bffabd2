import Bitcoin
import ErasureCode
import Ground
import Mempool
import Relay
import Session
import Testing
import Wire

/// What is done with a sketch before it is whole is neither believed nor lost.
@Suite struct AheadTests {
  /// What 0 says to 1 by `hear`; 2 is honest.
  private let block: TestBlock
  private let net: TestNet
  private let key: OverlayIDKey

  init() throws {
    block = try TestBlock("413567")
    net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    net.fill(1, block.parsed, block.bytes, missing: 0)
    net.run(.seconds(4))
    // The key of short ids, as PROTOCOL.md derives it.
    var bytes = ByteWriter(reserving: 64)
    bytes.append(OverlaySecret(generatedFrom: .predictable(seed: 1)).derive("lightpath short ids", epoch: 1)!)
    bytes.hash(block.parsed.header.previous)
    let digest = SHA256.hash(bytes.bytes.span.bytes)
    key = OverlayIDKey(k0: digest.w0, k1: digest.w1)
  }

  /// A sketch of the block with these ids.
  private func sketch(_ wtxids: [Hash256]) -> [UInt8] {
    Sketch.encode(
      wtxids: wtxids.span, byteCounts: block.parsed.transactions.map { UInt32($0.byteCount) }.span,
      explicit: [
        Sketch.Explicit(index: 0, bytes: block.parsed.transactions[0].offset..<block.parsed.transactions[0].end)
      ],
      source: block.bytes.span.bytes, key: key)
  }

  /// 1 hears the chunks in this order from 0, two milliseconds apart.
  private func tell(_ sketch: [UInt8], id: UInt32? = nil, order: (Int) -> [Int] = { Array(0..<$0) }) {
    let size = RelayLimits.sketchChunkBytes
    let count = (sketch.count + size - 1) / size
    let padded = sketch + [UInt8](repeating: 0, count: count * size - sketch.count)
    let id = id ?? UInt32(truncatingIfNeeded: SHA256.hash(sketch.span.bytes).w0)
    for index in order(count) {
      let head = SketchHead(
        flags: [.whole], header: HeaderBytes(block.bytes.span.bytes), bodyBytes: UInt32(block.bytes.count),
        sketchBytes: UInt32(sketch.count), sketchID: id, transactionCount: UInt32(block.parsed.transactions.count),
        bodyChunkBytes: 1_152, epoch: 1, maker: 7, more: 60, moreBody: 60, age: 0, index: UInt32(index))
      let chunk = Array(padded[index * size..<(index + 1) * size])
      net.hear(1, from: 0, encoded { SketchMessage(head, chunk: chunk.span.bytes).write(into: &$0) })
      net.run(.milliseconds(2 as Int64))
    }
  }

  private var filled: UInt64 { net.with(1) { core, _, _ in core.counters.transactionsFilled } }

  @Test func mostOfTheMempoolIsThereBeforeTheSketchIs() {
    let true0 = sketch(block.parsed.wtxids)
    tell(true0) { Array(0..<$0 - 1) }
    let ahead = filled
    #expect(Int(ahead) > block.parsed.transactions.count * 8 / 10)
    #expect(!net.isComplete(1, block.hash))
    tell(true0) { [$0 - 1] }
    net.run(.milliseconds(20 as Int64))
    #expect(net.holds(1, block))
    #expect(filled == UInt64(block.parsed.transactions.count - 1))
    #expect(net.report(1, block).knownBytes == block.bytes.count && net.events(1, .failedChecks).isEmpty)
  }

  @Test(arguments: 0..<3) func chunksInAnyOrder(seed: Int) {
    var random = SeededRandom(seed: UInt64(seed))
    tell(sketch(block.parsed.wtxids)) { count in
      var order = Array(0..<count)
      random.shuffle(&order)
      return order
    }
    net.run(.milliseconds(20 as Int64))
    #expect(net.holds(1, block) && net.events(1, .failedChecks).isEmpty)
    #expect(net.report(1, block).knownBytes == block.bytes.count)
  }

  /// Ids of the block's own transactions in wrong places; the announced digest is that of this sketch, or of none.
  @Test(arguments: [false, true]) func aFalseSketchIsUndone(isConsistent: Bool) throws {
    var wtxids = block.parsed.wtxids
    var byLength: [Int: Int] = [:]
    var swaps = 0
    for index in 1..<wtxids.count {
      let length = block.parsed.transactions[index].byteCount
      if let other = byLength.removeValue(forKey: length) {
        wtxids.swapAt(index, other)
        swaps += 1
      } else {
        byLength[length] = index
      }
    }
    #expect(swaps > 100)
    let false0 = sketch(wtxids)
    let id = UInt32(truncatingIfNeeded: SHA256.hash(false0.span.bytes).w0)
    tell(false0, id: isConsistent ? id : id ^ 1)
    #expect(filled > 0)
    #expect(!net.isComplete(1, block.hash))
    #expect(net.events(1, .failedChecks).count >= 1)
    try net.submit(block, at: 2)
    #expect(net.run(.seconds(20)) { net.isComplete(1, block.hash) })
    #expect(net.holds(1, block))
  }

  /// Two places of the sketch, far apart, name one entry: neither is believed, as when both are looked up together.
  @Test func oneEntryInTwoPlacesIsMissingInBoth() throws {
    var byLength: [Int: Int] = [:]
    var pair: (Int, Int)?
    for index in 1..<block.parsed.transactions.count {
      let length = block.parsed.transactions[index].byteCount
      if let first = byLength[length], index - first > 1_500 { pair = (first, index) }
      if byLength[length] == nil { byLength[length] = index }
    }
    let (first, last) = try #require(pair)
    var wtxids = block.parsed.wtxids
    wtxids[last] = wtxids[first]
    try net.submit(block, at: 2)
    tell(sketch(wtxids))
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    #expect(net.holds(1, block) && net.events(1, .failedChecks).isEmpty)
  }

  /// Another site's sketch of the same block is whole first.
  @Test func anotherSketchIsWholeFirst() {
    let true0 = sketch(block.parsed.wtxids)
    tell(true0, id: 77) { Array(0..<$0 - 1) }
    #expect(filled > 0)
    tell(true0)
    net.run(.milliseconds(20 as Int64))
    #expect(net.holds(1, block))
    #expect(net.report(1, block).knownBytes == block.bytes.count)
  }
}
