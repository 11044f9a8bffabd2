/// Why an announced object can't be coded. Checked before a byte is allocated for it.
public enum ShapeError: Error, Hashable, Sendable {
  /// The object has no bytes, or a negative number of them.
  case byteCountNotPositive(Int)
  /// The chunk size is not a multiple of 64 in `ObjectShape.chunkSizes`.
  case chunkSizeInvalid(Int)
  /// The object takes more source chunks than `ObjectShape.maxSourceChunks`.
  case tooManyChunks(Int)
}

/// An object's size and how it is cut: `sourceCount` chunks of `chunkSize` bytes, the last one padded with zeros.
public struct ObjectShape: Hashable, Sendable {
  public static let maxSourceChunks = 4_096
  /// Multiples of 64 within this range.
  public static let chunkSizes = 64...1_472

  /// Bytes of the object, without padding.
  public let byteCount: Int
  /// Bytes of every chunk on the wire.
  public let chunkSize: Int
  /// N, the number of source chunks.
  public let sourceCount: Int
  /// log2 of K, the number of interpolation points: the least power of two that is no less than N.
  package let bits: Int

  /// - Throws: `ShapeError` when the numbers, which may come from the network, are outside the limits.
  public init(byteCount: Int, chunkSize: Int) throws(ShapeError) {
    guard byteCount > 0 else { throw .byteCountNotPositive(byteCount) }
    guard Self.chunkSizes.contains(chunkSize), chunkSize % 64 == 0 else { throw .chunkSizeInvalid(chunkSize) }
    let count = (byteCount - 1) / chunkSize + 1
    guard count <= Self.maxSourceChunks else { throw .tooManyChunks(count) }
    self.byteCount = byteCount
    self.chunkSize = chunkSize
    sourceCount = count
    bits = count == 1 ? 0 : Int.bitWidth - (count - 1).leadingZeroBitCount
  }

  /// Repair indexes are `0 ..< repairCount`: the points of the field that are left, at least 61,440 of them.
  public var repairCount: Int { 65_536 - points }

  /// The bytes of the object that source chunk `index` holds; shorter than a chunk for the last one.
  public func range(ofChunk index: Int) -> Range<Int> {
    index * chunkSize..<min((index + 1) * chunkSize, byteCount)
  }

  /// K.
  package var points: Int { 1 << bits }
  /// 16-bit symbols of a chunk: the number of codewords side by side.
  package var columns: Int { chunkSize / 2 }
  /// Blocks of 64 bytes (32 columns) of a chunk; transforms run over one such strip of all chunks at a time.
  package var strips: Int { chunkSize / 64 }
  package var paddedByteCount: Int { sourceCount * chunkSize }
  /// Objects of so few chunks make repair chunks straight from the generator's rows, without transforms.
  package var isDirect: Bool { sourceCount <= 40 }

  /// Multiplications of one 64-byte block in the transforms of one strip's groups of source rows.
  package var groupTransformBlocks: Int { sourceCount / 2 * min(bits, 8) }
  /// The same in a transform of K rows, either direction.
  package var transformBlocks: Int { points / 2 * bits * 4 / 5 }
}
