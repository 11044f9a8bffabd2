import Bitcoin
import Ground
import Mempool

extension Sketch {
  /// Parses a decoded sketch object against its announcement. Hostile input costs time and memory in proportion to the
  /// announced transaction count, which the body's announced size bounds.
  public init(parsing bytes: RawSpan, transactionCount: Int, bodyByteCount: Int) throws(SketchError) {
    var reader = ByteReader(bytes)
    do {
      let layout = try SketchLayout(&reader, transactionCount: transactionCount, bodyByteCount: bodyByteCount)
      let positions = layout.explicit
      let byteCounts = layout.byteCounts

      var shortIDs: [UInt64] = []
      shortIDs.reserveCapacity(transactionCount)
      var nextExplicit = 0
      try reader.require((transactionCount - positions.count) * SketchFormat.shortIDBytes, "short ids")
      for index in 0..<transactionCount {
        if nextExplicit < positions.count && positions[nextExplicit] == index {
          shortIDs.append(TransactionStore.noID)
          nextExplicit += 1
        } else {
          let low = try reader.integer(UInt32.self, "short id")
          shortIDs.append(UInt64(low) | UInt64(try reader.byte("short id")) << 32)
        }
      }
      var explicit: [Explicit] = []
      explicit.reserveCapacity(positions.count)
      for index in positions {
        let begin = reader.offset
        try reader.skip(Int(byteCounts[index]), "explicit transaction")
        explicit.append(Explicit(index: index, bytes: begin..<reader.offset))
      }
      try reader.end("sketch")
      self.init(
        bodyByteCount: bodyByteCount, byteCounts: byteCounts, offsets: layout.offsets, shortIDs: shortIDs,
        explicit: explicit)
    } catch let error as DecodeError {
      throw .field(error)
    } catch let error as SketchError {
      throw error
    } catch {
      fatalError("no other error is thrown above")
    }
  }
}

/// The first part of a sketch, up to its ids: which transactions are explicit, and where all of them lie in the body.
struct SketchLayout {
  /// Ascending; the coinbase first.
  let explicit: [Int]
  let byteCounts: [UInt32]
  /// Where each transaction begins in the body, and the body's end.
  let offsets: [UInt32]
  /// Where the ids begin in the sketch.
  let idsOffset: Int

  /// Throws `SketchError` or `DecodeError`.
  init(_ reader: inout ByteReader, transactionCount: Int, bodyByteCount: Int) throws {
    let version = try reader.byte("version")
    if version != SketchFormat.version { throw SketchError.unknownVersion(version) }
    let count = try reader.compactSize("transaction count")
    if count != UInt64(clamping: transactionCount) {
      throw SketchError.transactionCount(sketch: count, announced: transactionCount)
    }
    if transactionCount < 1 || transactionCount > SketchFormat.transactionsMax {
      throw DecodeError(
        "transaction count", at: 1, .outOfRange(value: count, limit: UInt64(SketchFormat.transactionsMax)))
    }
    // Before anything is allocated: as many transactions need a body at least so long, and a sketch.
    let prefix = BlockHeader.byteCount + compactSizeByteCount(transactionCount)
    let least = prefix + transactionCount * SketchFormat.transactionBytesMin
    if bodyByteCount < least || bodyByteCount > SketchFormat.bodyBytesMax {
      throw SketchError.bodyByteCount(sketch: least, announced: bodyByteCount)
    }
    try reader.require(transactionCount, "lengths")

    explicit = try SketchLayout.explicitPositions(&reader, transactionCount)
    let dictionary = try SketchLayout.dictionary(&reader)
    try reader.require(transactionCount, "lengths")
    var byteCounts: [UInt32] = []
    var offsets: [UInt32] = []
    byteCounts.reserveCapacity(transactionCount)
    offsets.reserveCapacity(transactionCount + 1)
    var end = prefix
    for _ in 0..<transactionCount {
      let at = reader.offset
      let length = try SketchLayout.length(&reader, dictionary)
      if length > bodyByteCount - end {
        throw DecodeError(
          "length", at: at, .outOfRange(value: UInt64(length), limit: UInt64(bodyByteCount - end)))
      }
      byteCounts.append(UInt32(length))
      offsets.append(UInt32(end))
      end += length
    }
    offsets.append(UInt32(end))
    if end != bodyByteCount { throw SketchError.bodyByteCount(sketch: end, announced: bodyByteCount) }
    (self.byteCounts, self.offsets) = (byteCounts, offsets)
    idsOffset = reader.offset
  }

  /// Count, then differences less one, as BIP152 has them.
  private static func explicitPositions(
    _ reader: inout ByteReader, _ transactionCount: Int
  ) throws(SketchError) -> [Int] {
    do throws(DecodeError) {
      let count = try reader.count(itemBytes: 1, max: transactionCount, "explicit count")
      var positions: [Int] = []
      positions.reserveCapacity(count)
      for _ in 0..<count {
        let at = reader.offset
        let difference = try reader.compactSize("explicit position")
        let least = (positions.last ?? -1) + 1
        if difference >= UInt64(transactionCount - least) {
          throw DecodeError(
            "explicit position", at: at, .outOfRange(value: difference, limit: UInt64(transactionCount - least)))
        }
        positions.append(least + Int(difference))
      }
      if positions.first != 0 { throw DecodeError("coinbase", at: reader.offset, .invalid("")) }
      return positions
    } catch {
      if error.field == "coinbase" { throw .coinbaseNotExplicit }
      throw .field(error)
    }
  }

  /// Lengths that take one byte: ascending; the first less the least length, then differences less one.
  private static func dictionary(_ reader: inout ByteReader) throws(DecodeError) -> [Int] {
    let at = reader.offset
    let count = Int(try reader.byte("dictionary count"))
    if count > SketchFormat.dictionaryMax {
      throw DecodeError(
        "dictionary count", at: at, .outOfRange(value: UInt64(count), limit: UInt64(SketchFormat.dictionaryMax)))
    }
    var dictionary: [Int] = []
    dictionary.reserveCapacity(count)
    var least = SketchFormat.transactionBytesMin
    for _ in 0..<count {
      let at = reader.offset
      let difference = try reader.compactSize("dictionary length")
      // The length before may have been the longest there can be.
      let most = UInt64(max(0, SketchFormat.bodyBytesMax - least))
      if least > SketchFormat.bodyBytesMax || difference > most {
        throw DecodeError("dictionary length", at: at, .outOfRange(value: difference, limit: most))
      }
      dictionary.append(least + Int(difference))
      least += Int(difference) + 1
    }
    return dictionary
  }

  @inline(__always)
  private static func length(_ reader: inout ByteReader, _ dictionary: [Int]) throws(DecodeError) -> Int {
    let first = try reader.byte("length")
    if Int(first) < dictionary.count { return dictionary[Int(first)] }
    if first != SketchFormat.longLength {
      let high = Int(first) - dictionary.count
      return SketchFormat.transactionBytesMin + high << 8 + Int(try reader.byte("length"))
    }
    let low = try reader.integer(UInt16.self, "length")
    return SketchFormat.transactionBytesMin + Int(low) + Int(try reader.byte("length")) << 16
  }
}
