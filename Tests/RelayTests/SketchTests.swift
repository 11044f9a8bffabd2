import Bitcoin
import Ground
import Mempool
import RealBlocks
import Relay
import Testing

/// A real block, parsed and hashed.
struct Sample {
  let bytes: [UInt8]
  let block: ParsedBlock

  init(_ name: String) throws {
    let bytes = try RealBlocks.bytes(name)
    var block = try ParsedBlock(parsing: bytes.span.bytes)
    block.hashAll(in: bytes.span.bytes)
    (self.bytes, self.block) = (bytes, block)
  }

  /// A store with the block's transactions, except those that `leavingOut` names.
  func store(leavingOut: (Int) -> Bool = { _ in false }, shortIDBits: Int = 40) throws -> TransactionStore {
    var store = TransactionStore(limits: StoreLimits(), seed: 7, shortIDBits: shortIDBits)
    for index in block.transactions.indices.dropFirst() where !leavingOut(index) {
      let result = try store.insert(
        block.transactions[index], in: bytes.span.bytes, txid: block.txids[index], wtxid: block.wtxids[index],
        as: .node)
      #expect(result.outcome == .added)
    }
    return store
  }
}

@Suite struct SketchTests {
  let key = OverlayIDKey(k0: 0x0123_4567_89AB_CDEF, k1: 0xFEDC_BA98_7654_3210)

  @Test(arguments: RealBlocks.names)
  func realBlocksComeBackWholeFromTheirSketchAndStore(_ name: String) throws {
    let sample = try Sample(name)
    let encoded = Sketch.encode(sample.block, in: sample.bytes.span.bytes, key: key)
    let sketch = try Sketch(
      parsing: encoded.span.bytes, transactionCount: sample.block.transactions.count,
      bodyByteCount: sample.bytes.count)
    for (index, layout) in sample.block.transactions.enumerated() {
      #expect(sketch.range(index) == layout.offset..<layout.end)
    }
    var store = try sample.store()
    store.prepareShortIDs(key)
    while !store.advanceShortIDs() {}
    let isIndexed = store.isIndexed(key)
    #expect(isIndexed)
    var slots: [UInt32] = []
    sketch.match(in: store, key: key, into: &slots)
    var body = [UInt8](repeating: 0, count: sketch.bodyByteCount)
    body.replaceSubrange(0..<sketch.prefixByteCount, with: sample.bytes[0..<sketch.prefixByteCount])
    for transaction in sketch.explicit {
      body.replaceSubrange(sketch.range(transaction.index), with: encoded[transaction.bytes])
    }
    var span = body.mutableSpan
    var raw = span.mutableBytes
    for (index, slot) in slots.enumerated() where slot != TransactionStore.missing {
      store.copy(slot, to: &raw, at: sketch.range(index).lowerBound)
    }
    #expect(slots.count { $0 == TransactionStore.missing } == 1)
    #expect(body == sample.bytes)
  }

  /// Of the transactions that are neither in the store nor explicit, exactly those are missing; indexed or not.
  @Test(arguments: ["702861", "413567"])
  func exactlyWhatTheStoreLacksIsMissing(_ name: String) throws {
    let sample = try Sample(name)
    var random = SeededRandom(seed: 5)
    let lacking = Set((0..<40).map { _ in 1 + random.below(sample.block.transactions.count - 1) })
    let inline = lacking.sorted().enumerated().filter { $0.offset % 4 == 0 }.map(\.element)
    let encoded = Sketch.encode(sample.block, in: sample.bytes.span.bytes, explicit: inline, key: key)
    let sketch = try Sketch(
      parsing: encoded.span.bytes, transactionCount: sample.block.transactions.count,
      bodyByteCount: sample.bytes.count)
    #expect(sketch.explicit.map(\.index) == [0] + inline)
    for transaction in sketch.explicit {
      #expect(encoded[transaction.bytes].elementsEqual(sample.bytes[sketch.range(transaction.index)]))
    }
    var store = try sample.store { lacking.contains($0) }
    var slots: [UInt32] = []
    for round in 0..<4 {
      sketch.match(in: store, key: key, into: &slots)
      for (index, slot) in slots.enumerated() {
        let found = slot == TransactionStore.missing ? nil : store.wtxid(slot)
        #expect(found == (index == 0 || lacking.contains(index) ? nil : sample.block.wtxids[index]))
      }
      // Unknown key, half built, built, and forgotten again.
      if round == 0 {
        store.prepareShortIDs(key)
        for _ in 0..<400 where !store.isIndexed(key) { _ = store.advanceShortIDs(budget: 100) }
      } else if round == 1 {
        while !store.advanceShortIDs() {}
      } else {
        store.prepareShortIDs(OverlayIDKey(k0: 1, k1: UInt64(round)))
        store.prepareShortIDs(OverlayIDKey(k0: 2, k1: UInt64(round)))
      }
    }
  }

  /// A store whose ids have 11 bits sees hundreds of collisions: what matches agrees in id and length, what is
  /// ambiguous is missing, and no entry is used twice.
  @Test func collisionsAreMissingNotWrong() throws {
    let sample = try Sample("702861")
    let encoded = Sketch.encode(sample.block, in: sample.bytes.span.bytes, key: key)
    let sketch = try Sketch(
      parsing: encoded.span.bytes, transactionCount: sample.block.transactions.count,
      bodyByteCount: sample.bytes.count)
    var store = try sample.store(shortIDBits: 11)
    store.prepareShortIDs(key)
    while !store.advanceShortIDs() {}
    var slots: [UInt32] = []
    sketch.match(in: store, key: key, into: &slots)
    struct Shape: Hashable {
      var id: UInt64
      var byteCount: UInt32
    }
    var shapes: [Shape: Int] = [:]
    for index in 1..<sketch.transactionCount {
      shapes[Shape(id: sketch.shortIDs[index] & 0x7FF, byteCount: sketch.byteCounts[index]), default: 0] += 1
    }
    var collisions = 0
    for index in 1..<sketch.transactionCount {
      let isAlone = shapes[Shape(id: sketch.shortIDs[index] & 0x7FF, byteCount: sketch.byteCounts[index])] == 1
      let found = slots[index] == TransactionStore.missing ? nil : store.wtxid(slots[index])
      #expect(found == (isAlone ? sample.block.wtxids[index] : nil))
      if !isAlone { collisions += 1 }
    }
    #expect(collisions > 50)
  }

  /// The format's cost without the explicit transactions' bytes.
  @Test(arguments: ["413567", "702861", "928831"])
  func aTransactionCostsLessThanSevenBytes(_ name: String) throws {
    let sample = try Sample(name)
    let encoded = Sketch.encode(sample.block, in: sample.bytes.span.bytes, key: key)
    let overhead = encoded.count - sample.block.transactions[0].byteCount
    #expect(Double(overhead) / Double(sample.block.transactions.count) < 7)
  }

  /// Lengths of every kind: one byte, two, four; few and many; the least and the most.
  @Test func anyLengthsComeBack() throws {
    var random = SeededRandom(seed: 9)
    for round in 0..<200 {
      let count = 1 + random.below(round % 10 == 0 ? 3_000 : 60)
      var left = 4_000_000 - 90 - 51 * count
      let distinct = 1 + random.below(600)
      let byteCounts = (0..<count).map { _ -> UInt32 in
        let most = random.chance(0.01) ? left : min(left, random.chance(0.1) ? 70_000 : distinct)
        let extra = most <= 0 ? 0 : random.below(most + 1)
        left -= extra
        return UInt32(51 + extra)
      }
      let wtxids = (0..<count).map { Hash256(w0: UInt64($0), w1: random.next(), w2: 0, w3: 0) }
      let coinbase = random.bytes(Int(byteCounts[0]))
      let encoded = Sketch.encode(
        wtxids: wtxids.span, byteCounts: byteCounts.span,
        explicit: [.init(index: 0, bytes: 0..<coinbase.count)], source: coinbase.span.bytes, key: key)
      let body = 80 + (count < 253 ? 1 : 3) + byteCounts.reduce(0) { $0 + Int($1) }
      let sketch = try Sketch(parsing: encoded.span.bytes, transactionCount: count, bodyByteCount: body)
      #expect(sketch.byteCounts == byteCounts)
      #expect(Int(sketch.offsets[count]) == body)
      #expect(encoded[sketch.explicit[0].bytes].elementsEqual(coinbase))
      let sip = SipHash(k0: key.k0, k1: key.k1)
      for index in 1..<max(count, 1) { #expect(sketch.shortIDs[index] == sip.hash(wtxids[index]) & 0xFF_FFFF_FFFF) }
    }
  }

  // MARK: Hostile sketches

  private func parse(_ bytes: [UInt8], _ count: Int, _ body: Int) throws(SketchError) -> Sketch {
    try Sketch(parsing: bytes.span.bytes, transactionCount: count, bodyByteCount: body)
  }

  @Test func everyTruncationIsAnError() throws {
    let sample = try Sample("482683")
    let encoded = Sketch.encode(sample.block, in: sample.bytes.span.bytes, key: key)
    for length in 0..<encoded.count {
      #expect(throws: SketchError.self) {
        try parse(Array(encoded[..<length]), sample.block.transactions.count, sample.bytes.count)
      }
    }
    #expect(throws: SketchError.field(DecodeError("sketch", at: encoded.count, .trailing(1)))) {
      try parse(encoded + [0], sample.block.transactions.count, sample.bytes.count)
    }
  }

  @Test func errorsNameTheirCause() throws {
    let sample = try Sample("482683")
    let good = Sketch.encode(sample.block, in: sample.bytes.span.bytes, explicit: [3, 5], key: key)
    let (count, body) = (sample.block.transactions.count, sample.bytes.count)
    _ = try parse(good, count, body)
    func with(_ offset: Int, _ value: UInt8) -> [UInt8] {
      var bytes = good
      bytes[offset] = value
      return bytes
    }
    #expect(throws: SketchError.unknownVersion(9)) { try parse(with(0, 9), count, body) }
    #expect(throws: SketchError.transactionCount(sketch: 13, announced: 12)) { try parse(with(1, 13), count, body) }
    #expect(throws: SketchError.transactionCount(sketch: 12, announced: -1)) { try parse(good, -1, body) }
    #expect(throws: SketchError.bodyByteCount(sketch: body, announced: body + 1)) { try parse(good, count, body + 1) }
    #expect(throws: SketchError.bodyByteCount(sketch: 81 + 12 * 51, announced: 80)) { try parse(good, count, 80) }
    #expect(throws: SketchError.bodyByteCount(sketch: 81 + 12 * 51, announced: .max)) { try parse(good, count, .max) }
    #expect(throws: SketchError.bodyByteCount(sketch: 81 + 12 * 51, announced: -5)) { try parse(good, count, -5) }
    // Explicit: 3 of them at 0, +2, +1.
    #expect(throws: SketchError.coinbaseNotExplicit) { try parse(with(3, 1), count, body) }
    #expect(throws: SketchError.coinbaseNotExplicit) { try parse(with(2, 0), count, body) }
    #expect(throws: SketchError.field(DecodeError("explicit position", at: 5, .outOfRange(value: 8, limit: 8)))) {
      try parse(with(5, 8), count, body)
    }
    #expect(throws: SketchError.field(DecodeError("explicit count", at: 2, .outOfRange(value: 13, limit: 12)))) {
      try parse(with(2, 13), count, body)
    }
    #expect(throws: SketchError.field(DecodeError("dictionary count", at: 6, .outOfRange(value: 209, limit: 208)))) {
      try parse(with(6, 209), count, body)
    }
    // After the longest length there is no longer one.
    let longest: [UInt8] = [1, 1, 1, 0, 2, 0xFE, 0xCD, 0x08, 0x3D, 0x00, 0, 0]
    #expect(throws: SketchError.field(DecodeError("dictionary length", at: 10, .outOfRange(value: 0, limit: 0)))) {
      try parse(longest, 1, 4_000_000)
    }
    // An absurd count is refused before anything is allocated for it.
    let huge: [UInt8] = [1, 0xFE, 0xFF, 0xFF, 0xFF, 0x7F]
    #expect(throws: SketchError.self) { try parse(huge, 0x7FFF_FFFF, 4_000_000) }
    #expect(throws: SketchError.self) { try parse(huge, .max, .max) }
  }

  /// Whatever parses is consistent; nothing crashes.
  @Test func mutatedSketchesNeverCrash() throws {
    var random = SeededRandom(seed: 11)
    var parsed = 0
    for name in ["482683", "898352", "426884"] {
      let sample = try Sample(name)
      let good = Sketch.encode(sample.block, in: sample.bytes.span.bytes, explicit: [2, 7], key: key)
      let store = try sample.store()
      var slots: [UInt32] = []
      for _ in 0..<4_000 {
        var bytes = good
        for _ in 0...random.below(3) {
          let at = random.chance(0.5) ? random.below(min(bytes.count, 60)) : random.below(bytes.count)
          bytes[at] = random.chance(0.3) ? 255 : UInt8(truncatingIfNeeded: random.next())
        }
        if random.chance(0.2) { bytes.removeLast(random.below(bytes.count)) }
        let count = random.chance(0.9) ? sample.block.transactions.count : random.below(70_000)
        let body = random.chance(0.9) ? sample.bytes.count : random.below(5_000_000)
        guard let sketch = try? parse(bytes, count, body) else { continue }
        parsed += 1
        #expect(sketch.transactionCount == count && sketch.offsets.count == count + 1)
        #expect(Int(sketch.offsets[count]) == body && sketch.byteCounts.allSatisfy { $0 >= 51 })
        #expect(sketch.explicit.allSatisfy { $0.bytes.upperBound <= bytes.count })
        sketch.match(in: store, key: key, into: &slots)
        #expect(slots.count == count)
      }
    }
    for _ in 0..<20_000 {
      let bytes = [1, 3, 1, 0] + random.bytes(random.below(200))
      if (try? parse(bytes, 3, 81 + 153 + random.below(100))) != nil { parsed += 1 }
    }
    #expect(parsed > 100)
  }

  /// The most transactions that a block can have, all with one id: linear, not quadratic.
  @Test func aSketchOfEqualIDsCostsNoMore() throws {
    let sample = try Sample("702861")
    let count = 19_000
    var writer = ByteWriter()
    writer.byte(1)
    writer.compactSize(count)
    writer.append([1, 0, 0])
    for _ in 0..<count { writer.append([0, 149]) }
    for _ in 1..<count { writer.append([1, 2, 3, 4, 5]) }
    writer.append(repeatElement(0, count: 200))
    let sketch = try parse(writer.bytes, count, 83 + 200 * count)
    let store = try sample.store()
    var slots: [UInt32] = []
    sketch.match(in: store, key: key, into: &slots)
    #expect(slots.allSatisfy { $0 == TransactionStore.missing })
  }
}
