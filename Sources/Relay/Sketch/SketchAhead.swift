import Ground
import Mempool

/// How much of a sketch that is still coming in can be used: its source chunks bring lengths first, then ids, then
/// explicit transactions, so that most of the ids are there before its last chunk is. Nothing of it is proved: what is
/// done with it must be undone when the sketch turns out to be another.
struct SketchAhead {
  /// The object's slot.
  let object: Int
  let layout: SketchLayout
  /// Transactions before this one have been looked up.
  private(set) var next = 0
  /// Where its id lies in the sketch, and how many explicit ones come before it.
  private var at: Int
  private var explicitBefore = 0

  init(object: Int, layout: SketchLayout) {
    self.object = object
    self.layout = layout
    at = layout.idsOffset
  }

  /// Takes the ids of up to `most` further transactions that lie before byte `end` of the sketch; `noID` for explicit
  /// ones. Returns which transactions they are of.
  mutating func take(_ most: Int, of sketch: RawSpan, before end: Int, into ids: inout [UInt64]) -> Range<Int> {
    ids.removeAll(keepingCapacity: true)
    let begin = next
    let end = min(end, sketch.byteCount)
    while ids.count < most && next < layout.byteCounts.count {
      if explicitBefore < layout.explicit.count && layout.explicit[explicitBefore] == next {
        explicitBefore += 1
        ids.append(TransactionStore.noID)
      } else {
        if at + SketchFormat.shortIDBytes > end { break }
        let low = sketch.unsafeLoadUnaligned(fromByteOffset: at, as: UInt32.self)
        let high = sketch.unsafeLoad(fromByteOffset: at + 4, as: UInt8.self)
        ids.append(UInt64(UInt32(littleEndian: low)) | UInt64(high) << 32)
        at += SketchFormat.shortIDBytes
      }
      next += 1
    }
    return begin..<next
  }
}
