import Bitcoin
import Foundation
import Ground
import RealBlocks
import Relay
import Wire

/// A real block's transactions, as a receiver may lack them: all but the coinbase.
struct BlockSizes {
  var name: String
  var bodyBytes: Int
  var offsets: [Int] = []
  var lengths: [UInt32] = []

  init(_ name: String) throws {
    self.name = name
    let bytes = try RealBlocks.bytes(name)
    bodyBytes = bytes.count
    let block = try ParsedBlock(parsing: bytes.span.bytes)
    for transaction in block.transactions.dropFirst() {
      offsets.append(transaction.offset)
      lengths.append(UInt32(transaction.byteCount))
    }
  }

  var profile: BlockProfile { BlockProfile(lengths: lengths.span, bodyBytes: bodyBytes, chunkBytes: 1_152) }
}

/// Body chunks that a receiver needs which lacks some transactions: the most unknown symbols in any column, by
/// counting. The truth that the model is held against.
struct ColumnCounter {
  private var change = [Int32](repeating: 0, count: 577)

  mutating func needed(_ missing: [Int], in block: BlockSizes) -> Int {
    for i in 0..<577 { change[i] = 0 }
    var whole = 0
    var next = 0
    for i in missing {
      let first = max(block.offsets[i] / 2, next)
      let end = (block.offsets[i] + Int(block.lengths[i]) + 1) / 2
      if first >= end { continue }
      next = end
      whole += (end - first) / 576
      let from = first % 576
      let to = end % 576
      if from != to {
        change[from] += 1
        change[to] -= 1
        if from > to { change[0] += 1 }
      }
    }
    var most: Int32 = 0
    var count: Int32 = 0
    for i in 0..<576 {
      count += change[i]
      most = max(most, count)
    }
    return whole + Int(most)
  }
}

/// A Gilbert channel: two states, everything lost in the bad one.
struct GilbertChannel {
  private let enter: Double
  private let leave: Double
  private var bad: Bool

  init(rate: Double, burst: Double, random: inout SeededRandom) {
    enter = rate / ((1 - rate) * burst)
    leave = 1 / burst
    bad = random.chance(rate)
  }

  /// True when this packet is lost.
  mutating func loses(_ random: inout SeededRandom) -> Bool {
    let lost = bad
    bad = random.chance(bad ? 1 - leave : enter)
    return lost
  }
}

extension SeededRandom {
  /// Indexes below `count`, each with the given probability, ascending; in time proportional to their number.
  mutating func subset(of count: Int, probability: Double) -> [Int] {
    var chosen: [Int] = []
    var i = -1
    while true {
      let gap = log(max(unit(), 0x1p-53)) / log1p(-probability)
      if gap >= Double(count - 1 - i) { return chosen }
      i += 1 + Int(gap)
      chosen.append(i)
    }
  }
}
