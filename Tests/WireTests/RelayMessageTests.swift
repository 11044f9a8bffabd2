import Ground
import Testing
import Wire

private func encode(_ capacity: Int = RelayLimits.messageBytes, _ write: (inout MutableRawSpan) -> Int) -> [UInt8] {
  var buffer = [UInt8](repeating: 0xEE, count: capacity)
  var span = buffer.mutableSpan
  var bytes = span.mutableBytes
  let count = write(&bytes)
  return Array(buffer[..<count])
}

private func text(_ span: RawSpan) -> [UInt8] { span.withUnsafeBytes { Array($0) } }

private func number(_ i: Int) -> Bytes32 {
  Bytes32(w0: UInt64(i), w1: 0x1111, w2: .max, w3: UInt64(i) << 40)
}

/// One valid message of every type, the longest and a short form where there is a list.
private func samples(seed: UInt64) -> [(RelayMessageType, [UInt8])] {
  var random = SeededRandom(seed: seed)
  let header = HeaderBytes(random.bytes(80).span.bytes)
  let chunk = random.bytes(1_152)
  let transaction = random.bytes(3_000)
  let rows = (0..<64).map { StatusRow(neighbour: UInt32($0), delay: UInt32(1000 + $0), flags: [.up]) }
  let head = StatusHead(
    flags: [.answer], readiness: .inStep, height: 702_861, tip: number(1), work: number(2), mempoolTransactions: 99,
    mempoolBytes: 1 << 40, loss: 655, burst: 1024, observed: 100_000, reordered: 12, withdrawn: 34)
  let blame = BlameMessage(block: random.next(), kind: .body, index: 1_300, maker: 7)
  let ids = (0..<190).map { _ in random.next() & 0xFFFF_FFFF_FFFF }
  let sketch = SketchHead(
    flags: [.whole], header: header, bodyBytes: 1_381_836, sketchBytes: 17_000, sketchID: 0x0A0B_0C0D,
    transactionCount: 2_500,
    bodyChunkBytes: 1_152, epoch: 702_861, maker: 0xDEAD_BEEF, more: 20, moreBody: 300, age: 1_234, index: 65)
  let headers = (0..<14).map { _ in HeaderBytes(random.bytes(80).span.bytes) }
  let locator = (0..<32).map(number)
  return [
    (.sketch, encode { SketchMessage(sketch, chunk: chunk.span.bytes.extracting(0..<1024)).write(into: &$0) }),
    (
      .chunk,
      encode {
        ChunkMessage(
          kind: .body, flags: [.asked], block: 5, maker: 6, more: 7, index: 8, chunk: chunk.span.bytes
        ).write(into: &$0)
      }
    ),
    (
      .need,
      encode {
        NeedMessage(block: 9, kind: .body, flags: [.sketchDecoded], count: 12).write(into: &$0)
      }
    ),
    (
      .have,
      encode {
        HaveMessage(
          block: 9, flags: [.checked], received: 1, useless: 3, needed: 4, missingBytes: 5,
          missing: SizeClassCounts(tiny: 6, small: 7, medium: 8, large: 9)
        ).write(into: &$0)
      }
    ),
    (.status, encode { StatusMessage.write(head, rows: rows.span, into: &$0) }),
    (.status, encode { StatusMessage.write(head, rows: rows.span.extracting(first: 0), into: &$0) }),
    (.getHeaders, encode { GetHeadersMessage.write(locator: locator.span, stop: .zero, into: &$0) }),
    (
      .headers,
      encode { HeadersMessage.write(startHeight: 100, lastHeight: 199, headers: headers.span, into: &$0) }
    ),
    (
      .headers,
      encode {
        HeadersMessage.write(startHeight: 100, lastHeight: 0, headers: headers.span.extracting(first: 0), into: &$0)
      }
    ),
    (.getBlock, encode { GetBlockMessage(hash: number(3), flags: [.source]).write(into: &$0) }),
    (.noBlock, encode { NoBlockMessage(hash: number(3)).write(into: &$0) }),
    (
      .transactionInventory,
      encode { TransactionIDsMessage.write(as: .transactionInventory, epoch: 4, ids: ids.span, into: &$0) }
    ),
    (
      .getTransactions,
      encode {
        TransactionIDsMessage.write(as: .getTransactions, epoch: 4, ids: ids.span.extracting(first: 1), into: &$0)
      }
    ),
    (
      .transaction,
      encode {
        TransactionMessage.write(
          wtxid8: 1, transaction: transaction.span.bytes, offset: 2_288,
          parents: ParentInputs(indexes: [1, 2, .max, .max]), into: &$0)
      }
    ),
    (.blame, encode { blame.write(into: &$0) }),
    (.point, encode { PointMessage(blame: blame, source: 8).write(into: &$0) }),
    (.map, encode { MapMessage.write(origin: 5, sequence: 6, rows: rows.span, into: &$0) }),
    (.journey, encode { JourneyMessage.write(chunk.span.bytes.extracting(0..<1_100), into: &$0) }),
  ]
}

/// Parses by type and encodes again what was understood, into so many bytes; the bytes must come back.
private func reencode(
  _ message: [UInt8], as type: RelayMessageType, capacity: Int = RelayLimits.messageBytes
) throws(DecodeError) -> [UInt8] {
  let span = message.span.bytes
  switch type {
  case .sketch:
    let m = try SketchMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .chunk:
    let m = try ChunkMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .need:
    let m = try NeedMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .have:
    let m = try HaveMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .status:
    let m = try StatusMessage(parsing: span)
    let rows = (0..<m.rowCount).map { m.row($0) }
    return encode(capacity) { StatusMessage.write(m.head, rows: rows.span, into: &$0) }
  case .getHeaders:
    let m = try GetHeadersMessage(parsing: span)
    let locator = (0..<m.count).map { m.hash($0) }
    return encode(capacity) { GetHeadersMessage.write(locator: locator.span, stop: m.stop, into: &$0) }
  case .headers:
    let m = try HeadersMessage(parsing: span)
    let headers = (0..<m.count).map { m.header($0) }
    return encode(capacity) {
      HeadersMessage.write(
        startHeight: m.startHeight, lastHeight: m.lastHeight, headers: headers.span, into: &$0)
    }
  case .getBlock:
    let m = try GetBlockMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .noBlock:
    let m = try NoBlockMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .transactionInventory, .getTransactions:
    let m = try TransactionIDsMessage(parsing: span, as: type)
    let ids = (0..<m.count).map { m.id($0) }
    return encode(capacity) { TransactionIDsMessage.write(as: type, epoch: m.epoch, ids: ids.span, into: &$0) }
  case .transaction:
    let m = try TransactionMessage(parsing: span)
    var whole = [UInt8](repeating: 0, count: Int(m.total))
    whole.replaceSubrange(Int(m.offset)..<Int(m.offset) + m.fragment.byteCount, with: text(m.fragment))
    return encode(capacity) {
      TransactionMessage.write(
        wtxid8: m.wtxid8, transaction: whole.span.bytes, offset: Int(m.offset), parents: m.parents, into: &$0)
    }
  case .blame:
    let m = try BlameMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .point:
    let m = try PointMessage(parsing: span)
    return encode(capacity) { m.write(into: &$0) }
  case .map:
    let m = try MapMessage(parsing: span)
    let rows = (0..<m.rowCount).map { m.row($0) }
    return encode(capacity) { MapMessage.write(origin: m.origin, sequence: m.sequence, rows: rows.span, into: &$0) }
  case .journey:
    let m = try JourneyMessage(parsing: span)
    return encode(capacity) { JourneyMessage.write(m.records, into: &$0) }
  }
}

@Suite struct RelayMessageTests {
  @Test func everyTypeComesBack() throws {
    var seen = Set<RelayMessageType>()
    for seed in 0..<20 as Range<UInt64> {
      for (type, bytes) in samples(seed: seed) {
        #expect(bytes.count > 0 && bytes.count <= RelayLimits.messageBytes)
        #expect(try RelayMessageType(of: bytes.span.bytes) == type)
        #expect(try reencode(bytes, as: type) == bytes)
        seen.insert(type)
      }
    }
    #expect(seen == Set(RelayMessageType.allCases))
  }

  @Test func everyTruncationIsRefusedByName() throws {
    for (type, bytes) in samples(seed: 3) {
      for count in 0..<bytes.count {
        // A chunk or a record list is as long as the datagram, within its limits.
        if type == .chunk && count >= 20 + RelayLimits.chunkBytesMin || type == .journey && count >= 2 { continue }
        #expect(throws: DecodeError.self, "\(type) cut to \(count)") {
          try reencode(Array(bytes[..<count]), as: type)
        }
      }
      #expect(throws: DecodeError.self, "\(type) with a byte too many") {
        try reencode(bytes + [0], as: type)
      }
    }
  }

  /// What is read in one look is what is read field by field, and what is wrong is named by field.
  @Test func bothReadersOfASketchAgree() throws {
    var random = SeededRandom(seed: 9)
    let good = try #require(samples(seed: 5).first { $0.0 == .sketch }).1
    // Half of the fields' bytes out of bounds, and cut or grown messages.
    var accepted = 0
    for _ in 0..<4_000 {
      var bytes = good
      for _ in 0..<random.below(3) { bytes[random.below(120)] = UInt8(random.below(256)) }
      if random.chance(0.1) { bytes.removeLast() }
      if random.chance(0.1) { bytes.append(0) }
      let outcome = Result { () throws(DecodeError) in try SketchMessage(parsing: bytes.span.bytes).head }
      let expected = Result { () throws(DecodeError) in try SketchMessage(reading: bytes.span.bytes).head }
      #expect(outcome == expected)
      if case .success = outcome { accepted += 1 }
    }
    #expect(accepted > 1_000 && accepted < 4_000)
  }

  @Test func buffersThatAreTooSmallGetNothing() throws {
    for (type, bytes) in samples(seed: 4) {
      for capacity in 0..<bytes.count {
        #expect(try reencode(bytes, as: type, capacity: capacity).isEmpty, "\(type) into \(capacity)")
      }
    }
  }

  /// Whatever the bytes, parsing either throws or gives a message that encodes to the same bytes, up to flag bits that
  /// the format ignores and padding.
  @Test(arguments: 0..<40 as Range<UInt64>) func flippedBytesNeverCrash(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    for (type, bytes) in samples(seed: seed) {
      for _ in 0..<60 {
        var mutant = bytes
        for _ in 0...random.below(4) { mutant[random.below(min(mutant.count, 130))] = UInt8(random.below(256)) }
        if random.chance(0.3) { mutant.removeLast(random.below(mutant.count)) }
        guard let actual = try? RelayMessageType(of: mutant.span.bytes) else { continue }
        if let again = try? reencode(mutant, as: actual) {
          // CHUNK's two unused flag bits are not sent on.
          if actual == .chunk { mutant[1] &= 0x3F }
          #expect(again == mutant, "\(type) as \(actual), seed \(seed)")
        }
      }
    }
  }

  @Test func noiseNeverCrashes() {
    var random = SeededRandom(seed: 99)
    var accepted = 0
    for _ in 0..<50_000 {
      var bytes = random.bytes(1 + random.below(200))
      bytes[0] = UInt8(random.below(18))
      if let type = try? RelayMessageType(of: bytes.span.bytes), (try? reencode(bytes, as: type)) != nil {
        accepted += 1
      }
    }
    #expect(accepted > 0)
  }

  @Test func rangesThatTheFormatFixes() {
    func refused(_ type: RelayMessageType, _ sample: Int, _ at: Int, _ value: [UInt8], _ field: String) {
      var bytes = samples(seed: 1)[sample].1
      bytes.replaceSubrange(at..<at + value.count, with: value)
      var caught: DecodeError?
      do { _ = try reencode(bytes, as: type) } catch { caught = error }
      #expect(caught?.field == field)
    }
    refused(.sketch, 0, 82, [81, 0, 0, 0], "sketch.bodyBytes")
    refused(.sketch, 0, 82, [0x01, 0x09, 0x3D, 0], "sketch.bodyBytes")
    refused(.sketch, 0, 86, [0, 0, 0, 0], "sketch.sketchBytes")
    refused(.sketch, 0, 86, [255, 255, 255, 255], "sketch.sketchBytes")
    refused(.sketch, 0, 94, [0, 0, 0, 0], "sketch.transactionCount")
    refused(.sketch, 0, 94, [0xD7, 0x69, 0, 0], "sketch.transactionCount")
    refused(.sketch, 0, 98, [127, 0], "sketch.bodyChunkBytes")
    refused(.sketch, 0, 98, [0x81, 4], "sketch.bodyChunkBytes")
    refused(.chunk, 1, 1, [0], "chunk.kind")
    refused(.chunk, 1, 1, [4], "chunk.kind")
    refused(.need, 2, 9, [4], "need.kind")
    refused(.have, 3, 22, [255, 255, 255, 255], "have.missingBytes")
    refused(.have, 3, 38, [255, 255, 255, 255], "have.missing")
    refused(.status, 4, 2, [3], "status.readiness")
    refused(.status, 4, 85, [255, 0], "status.burst")
    refused(.status, 4, 99, [65], "status.rows")
    refused(.getHeaders, 6, 1, [0], "getheaders.count")
    refused(.getHeaders, 6, 1, [33], "getheaders.count")
    refused(.headers, 7, 9, [15], "headers.count")
    refused(.transactionInventory, 11, 5, [0], "txids.count")
    refused(.transactionInventory, 11, 5, [191], "txids.count")
    refused(.transaction, 13, 9, [50, 0, 0, 0], "tx.total")
    refused(.transaction, 13, 9, [0x81, 0x1A, 6, 0], "tx.total")
    refused(.transaction, 13, 13, [1, 0, 0, 0], "tx.offset")
    refused(.transaction, 13, 13, [0x68, 0x0D, 0, 0], "tx.offset")
  }

  /// The layouts of PROTOCOL.md, written out by hand.
  @Test func goldenBytes() {
    #expect(
      Hex.encode(
        encode {
          NeedMessage(
            block: 0x0807_0605_0403_0201, kind: .body, flags: [.sketchDecoded, .besides], count: 0x0102_0304
          ).write(into: &$0)
        }) == "03" + "0102030405060708" + "01" + "05" + "04030201")
    #expect(
      Hex.encode(
        encode {
          HaveMessage(
            block: 1, flags: [.checked, .asked], received: 2, useless: 4, needed: 5, missingBytes: 6,
            missing: SizeClassCounts(tiny: 7, small: 8, medium: 9, large: 10)
          ).write(into: &$0)
        })
        == "04" + "0100000000000000" + "03" + "02000000" + "04000000" + "05000000" + "06000000"
        + "07000000" + "08000000" + "09000000" + "0a000000")
    let chunk = [UInt8](repeating: 0xCC, count: 128)
    #expect(
      Hex.encode(
        encode {
          ChunkMessage(
            kind: .wtxids, flags: [.whole, .asked], block: 1, maker: 2, more: 3, index: 4, chunk: chunk.span.bytes
          ).write(into: &$0)
        }) == "02" + "33" + "0100000000000000" + "02000000" + "0300" + "04000000" + String(repeating: "cc", count: 128))
    let header = (0..<80).map { UInt8($0) }
    let sketch = encode {
      SketchMessage(
        SketchHead(
          flags: [.asked], header: HeaderBytes(header.span.bytes), bodyBytes: 1_000, sketchBytes: 2, sketchID: 3,
          transactionCount: 3,
          bodyChunkBytes: 512, epoch: 5, maker: 6, more: 7, moreBody: 8, age: 9, index: 10),
        chunk: ([0xAA, 0xBB] as [UInt8]).span.bytes
      ).write(into: &$0)
    }
    #expect(
      Hex.encode(sketch)
        == "01" + "02" + Hex.encode(header) + "e8030000" + "02000000" + "03000000" + "03000000" + "0002" + "05000000"
        + "06000000"
        + "0700" + "0800" + "09000000" + "0a000000" + "aabb" + String(repeating: "00", count: 1_022))
    #expect(sketch.count == SketchMessage.encodedBytes)
    let ids: [UInt64] = [0xFFFF_0605_0403_0201, 7]
    #expect(
      Hex.encode(encode { TransactionIDsMessage.write(as: .getTransactions, epoch: 9, ids: ids.span, into: &$0) })
        == "0b" + "09000000" + "02" + "010203040506" + "070000000000")
    #expect(
      Hex.encode(
        encode {
          PointMessage(blame: BlameMessage(block: 1, kind: .txids, index: 2, maker: 3), source: 4).write(into: &$0)
        }) == "0e" + "0100000000000000" + "02" + "02000000" + "03000000" + "04000000")
    let row = [StatusRow(neighbour: 1, delay: 2, flags: [.up, .trusted])]
    #expect(
      Hex.encode(
        encode {
          StatusMessage.write(
            StatusHead(
              flags: [], readiness: .starting, height: 3, tip: .zero, work: .zero, mempoolTransactions: 4,
              mempoolBytes: 5, loss: 6, burst: 512, observed: 8, reordered: 9, withdrawn: 10), rows: row.span, into: &$0
          )
        })
        == "05" + "00" + "01" + "03000000" + String(repeating: "00", count: 64) + "04000000" + "0500000000000000"
        + "0600" + "0002" + "08000000" + "09000000" + "0a000000" + "01" + "010000000200000003")
  }

  @Test func aHeaderComesBackByteForByteAndNamesItsParent() {
    let bytes = (0..<80).map { UInt8($0) }
    let header = HeaderBytes(bytes.span.bytes)
    #expect(header.withBytes { text($0) } == bytes)
    let parent = header.parent
    let words = [parent.w0, parent.w1, parent.w2, parent.w3].flatMap { word in
      (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) }
    }
    #expect(words == Array(bytes[4..<36]))
  }
}
