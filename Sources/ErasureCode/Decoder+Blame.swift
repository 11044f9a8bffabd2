extension Decoder {
  /// Which of the chunks and ranges told or held disagree with the true object. Reopens a solved decoder.
  /// - Throws: `ErasureError.wrongSize` unless `truth` has exactly `shape.byteCount` bytes.
  public mutating func wrongChunks(_ truth: RawSpan) throws(ErasureError) -> WrongChunks {
    var encoder = try Encoder(truth, shape: shape, kernel: kernel)
    reopen()
    var wrong = WrongChunks()
    truth.withUnsafeBytes { true_ in
      for chunk in 0..<shape.sourceCount {
        let range = shape.range(ofChunk: chunk)
        var at = range.lowerBound
        while at < range.upperBound {
          let run = coverage.run(from: at, limit: range.upperBound)
          at = run.range.upperBound
          guard run.told, let first = run.range.first(where: { data.base[$0] != true_[$0] }) else { continue }
          let last = run.range.last(where: { data.base[$0] != true_[$0] })!
          wrong.ranges.append(first..<last + 1)
          let isSource = sourceBits.base[chunk / 8] >> UInt8(chunk % 8) & 1 == 1
          if isSource, wrong.sources.last != chunk { wrong.sources.append(chunk) }
        }
      }
    }
    for slot in 0..<repairsHeld {
      let index = Int(points[slot]) - shape.points
      let held = UnsafeBufferPointer(start: raw.base + slot * shape.chunkSize, count: shape.chunkSize)
      if try !encoder.repair(index).elementsEqual(held) { wrong.repairs.append(index) }
    }
    return wrong
  }
}

/// What `Decoder.wrongChunks` found.
public struct WrongChunks: Hashable, Sendable {
  /// Byte ranges of the object, one or more a chunk, from the first to the last wrong byte of a run that was told.
  public var ranges: [Range<Int>] = []
  /// Source chunks that came as such, whole or in part, and lie in such a range.
  public var sources: [Int] = []
  /// Indexes of repair chunks.
  public var repairs: [Int] = []

  public init() {}
  public var isEmpty: Bool { ranges.isEmpty && sources.isEmpty && repairs.isEmpty }
}
