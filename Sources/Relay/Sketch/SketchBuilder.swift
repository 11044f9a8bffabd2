import Bitcoin
import CKernels
import Ground
import Mempool

extension Sketch {
  /// Builds and serialises the sketch of a parsed block whose ids are known. `explicit` names further transactions
  /// that receivers surely lack, ascending; the coinbase is always explicit.
  public static func encode(
    _ block: ParsedBlock, in body: RawSpan, explicit: [Int] = [], key: OverlayIDKey
  ) -> [UInt8] {
    var byteCounts: [UInt32] = []
    byteCounts.reserveCapacity(block.transactions.count)
    for layout in block.transactions { byteCounts.append(UInt32(layout.byteCount)) }
    var inline: [Explicit] = []
    for index in [0] + explicit where index != inline.last?.index {
      inline.append(Explicit(index: index, bytes: block.transactions[index].offset..<block.transactions[index].end))
    }
    return encode(
      wtxids: block.wtxids.span, byteCounts: byteCounts.span, explicit: inline, source: body, key: key)
  }

  /// The same from the parts, for a block whose body isn't put together yet: ids and lengths of all transactions (an
  /// explicit one's id is not used), and where in `source` the explicit ones' bytes are. `explicit` ascends and begins
  /// with the coinbase.
  public static func encode(
    wtxids: Span<Hash256>, byteCounts: Span<UInt32>, explicit: [Explicit], source: RawSpan, key: OverlayIDKey
  ) -> [UInt8] {
    let count = wtxids.count
    precondition(count == byteCounts.count && explicit.first?.index == 0)
    let dictionary = LengthDictionary(byteCounts)
    let inlineBytes = explicit.reduce(0) { $0 + $1.bytes.count }
    var writer = ByteWriter(reserving: 64 + explicit.count * 3 + dictionary.lengths.count * 3 + inlineBytes)
    writer.byte(SketchFormat.version)
    writer.compactSize(count)
    writer.compactSize(explicit.count)
    var next = 0
    for transaction in explicit {
      precondition(transaction.index >= next && transaction.index < count)
      precondition(transaction.bytes.count == Int(byteCounts[transaction.index]))
      writer.compactSize(transaction.index - next)
      next = transaction.index + 1
    }
    writer.byte(UInt8(dictionary.lengths.count))
    var least = SketchFormat.transactionBytesMin
    for length in dictionary.lengths {
      writer.compactSize(length - least)
      least = length + 1
    }

    let head = writer.bytes
    let most = head.count + count * (4 + SketchFormat.shortIDBytes) + inlineBytes
    return [UInt8](unsafeUninitializedCapacity: most) { buffer, used in
      let base = UnsafeMutableRawPointer(buffer.baseAddress!)
      head.withUnsafeBytes { base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
      var at = base + head.count
      for index in 0..<count { at = dictionary.write(Int(byteCounts[index]), to: at) }
      at = writeShortIDs(wtxids, explicit, key, to: at)
      source.withUnsafeBytes { source in
        for transaction in explicit {
          precondition(transaction.bytes.upperBound <= source.count)
          at.copyMemory(from: source.baseAddress! + transaction.bytes.lowerBound, byteCount: transaction.bytes.count)
          at += transaction.bytes.count
        }
      }
      used = at - base
    }
  }

  private static func writeShortIDs(
    _ wtxids: Span<Hash256>, _ explicit: [Explicit], _ key: OverlayIDKey, to start: UnsafeMutableRawPointer
  ) -> UnsafeMutableRawPointer {
    let batch = 256
    let kernel = lp_siphash_best()
    var at = start
    var nextExplicit = 0
    wtxids.withUnsafeBufferPointer { wtxids in
      withUnsafeTemporaryAllocation(of: UInt64.self, capacity: batch) { hashes in
        var begin = 0
        while begin < wtxids.count {
          let count = min(batch, wtxids.count - begin)
          lp_siphash24_32(
            kernel, key.k0, key.k1, UnsafeRawPointer(wtxids.baseAddress! + begin).assumingMemoryBound(to: UInt8.self),
            count, hashes.baseAddress!)
          for offset in 0..<count {
            if nextExplicit < explicit.count && explicit[nextExplicit].index == begin + offset {
              nextExplicit += 1
              continue
            }
            at.storeBytes(of: UInt32(truncatingIfNeeded: hashes[offset]).littleEndian, as: UInt32.self)
            at.storeBytes(of: UInt8(truncatingIfNeeded: hashes[offset] >> 32), toByteOffset: 4, as: UInt8.self)
            at += SketchFormat.shortIDBytes
          }
          begin += count
        }
      }
    }
    return at
  }
}

/// The lengths that occur at least twice, the most frequent `SketchFormat.dictionaryMax` of them: one byte each use.
struct LengthDictionary {
  /// Ascending.
  private(set) var lengths: [Int] = []
  /// By length less the least: code + 1, or 0.
  private var codes: [UInt8] = Array(repeating: 0, count: LengthDictionary.span)
  /// Longer ones are too rare to be worth a code.
  private static let span = 8_192

  init(_ byteCounts: Span<UInt32>) {
    var uses = [UInt16](repeating: 0, count: LengthDictionary.span)
    var longest = -1
    for index in byteCounts.indices {
      let offset = Int(byteCounts[index]) - SketchFormat.transactionBytesMin
      precondition(offset >= 0 && Int(byteCounts[index]) <= SketchFormat.bodyBytesMax)
      if offset < LengthDictionary.span {
        uses[offset] &+= 1
        longest = max(longest, offset)
      }
    }
    // The least number of uses that leaves no more lengths than there are codes.
    var frequencies = [Int](repeating: 0, count: 257)
    for offset in 0..<(longest + 1) where uses[offset] > 1 { frequencies[min(Int(uses[offset]), 256)] += 1 }
    var threshold = 2
    var candidates = frequencies.reduce(0, +)
    while candidates > SketchFormat.dictionaryMax && threshold <= 256 {
      candidates -= frequencies[threshold]
      threshold += 1
    }
    for offset in 0..<(longest + 1) where Int(uses[offset]) >= threshold {
      if lengths.count == SketchFormat.dictionaryMax { break }
      lengths.append(SketchFormat.transactionBytesMin + offset)
      codes[offset] = UInt8(lengths.count)
    }
  }

  /// Appends a length's code; returns what follows.
  @inline(__always) func write(_ length: Int, to at: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
    let offset = length - SketchFormat.transactionBytesMin
    if offset < LengthDictionary.span && codes[offset] != 0 {
      at.storeBytes(of: codes[offset] - 1, as: UInt8.self)
      return at + 1
    }
    let high = offset >> 8 + lengths.count
    if high < Int(SketchFormat.longLength) {
      at.storeBytes(of: UInt8(high), as: UInt8.self)
      at.storeBytes(of: UInt8(truncatingIfNeeded: offset), toByteOffset: 1, as: UInt8.self)
      return at + 2
    }
    at.storeBytes(of: SketchFormat.longLength, as: UInt8.self)
    at.storeBytes(of: UInt16(truncatingIfNeeded: offset).littleEndian, toByteOffset: 1, as: UInt16.self)
    at.storeBytes(of: UInt8(truncatingIfNeeded: offset >> 16), toByteOffset: 3, as: UInt8.self)
    return at + 4
  }
}
