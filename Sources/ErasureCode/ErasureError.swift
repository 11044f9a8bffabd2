/// What was wrong with a call or with what a peer sent. Nothing is stored when one of these is thrown.
public enum ErasureError: Error, Hashable, Sendable {
  /// A source or repair index outside `0 ..< limit`.
  case indexOutOfRange(index: Int, limit: Int)
  /// A byte range that is not within `0 ..< limit`, or whose length is not that of the bytes given.
  case rangeOutOfBounds(lower: Int, upper: Int, limit: Int)
  /// A chunk or buffer of another size than the shape says.
  case wrongSize(bytes: Int, expected: Int)
  /// Padding after the object's last byte is not zero.
  case paddingNotZero(byte: Int)
  /// All of this source chunk was there already, with the same bytes.
  case duplicateSource(index: Int)
  /// This repair chunk is held already, with the same bytes.
  case duplicateRepair(index: Int)
  /// Bytes that differ from what was told before; `byte` is the first one, in the object.
  case contradictsKnown(byte: Int)
  /// A repair chunk that differs from the one held under the same index.
  case contradictsRepair(index: Int)
  /// As many repair chunks are held as there are source chunks; no more could ever be needed.
  case repairStoreFull(limit: Int)
  /// Still so many repair chunks short.
  case needsMore(Int)
  /// The object is not complete.
  case incomplete
}
