/// A block as FIBRE codes it, without its bytes: how many chunks its two objects have, and which body chunks each
/// transaction lies in.
public final class FibreBlock: Sendable {
  /// FEC chunk bytes, and the whole datagram's UDP payload with its headers and tag.
  public static let chunkBytes = 1_152
  public static let datagramBytes = 1_184

  public let transactions: Int
  public let headerChunks: Int
  public let bodyChunks: Int
  /// By transaction: first chunk and number of chunks. Chunks are shared by small transactions.
  let places: [(first: Int32, count: Int32)]

  /// - Parameter transactionBytes: serialised sizes, coinbase first; the coinbase travels in the header object.
  public init(transactionBytes: [Int]) {
    transactions = transactionBytes.count
    // Header, coinbase, about eight bytes for each transaction: a short id and a length.
    let headerBytes = 80 + 20 + (transactionBytes.first ?? 0) + 8 * max(0, transactionBytes.count - 1)
    headerChunks = (headerBytes + Self.chunkBytes - 1) / Self.chunkBytes
    var places: [(Int32, Int32)] = [(0, 0)]
    var chunks = 0
    // Chunks with room left, newest last: 'packed so that few cross a chunk edge'.
    var open: [(chunk: Int, room: Int)] = []
    func keepOpen(_ chunk: Int, _ room: Int) {
      if room < 60 { return }
      open.append((chunk, room))
      if open.count > 512 { open.removeFirst() }
    }
    for bytes in transactionBytes.dropFirst() {
      if bytes <= Self.chunkBytes {
        // Best fit.
        if let best = open.indices.filter({ open[$0].room >= bytes }).min(by: { open[$0].room < open[$1].room }) {
          let (chunk, room) = open.remove(at: best)
          places.append((Int32(chunk), 1))
          keepOpen(chunk, room - bytes)
        } else {
          places.append((Int32(chunks), 1))
          keepOpen(chunks, Self.chunkBytes - bytes)
          chunks += 1
        }
      } else {
        let count = (bytes + Self.chunkBytes - 1) / Self.chunkBytes
        places.append((Int32(chunks), Int32(count)))
        keepOpen(chunks + count - 1, count * Self.chunkBytes - bytes)
        chunks += count
      }
    }
    self.places = places
    // FIBRE lets some transactions cross an edge rather than waste room: the body has as many chunks as its bytes fill,
    // and what was packed beyond them shares a chunk with what came first. That can only make fewer chunks missing.
    let bytes = transactionBytes.dropFirst().reduce(0, +)
    bodyChunks = max(1, min(chunks, (bytes + Self.chunkBytes - 1) / Self.chunkBytes))
  }

  /// Whole-chunk repair: the chunks that at least one missing transaction touches, as a bit set, and their number.
  public func missingChunks(_ missing: [Int]) -> (bits: [UInt64], count: Int) {
    var bits = [UInt64](repeating: 0, count: (bodyChunks + 63) / 64)
    for index in missing {
      for chunk in Int(places[index].first)..<Int(places[index].first + places[index].count) {
        let chunk = chunk % bodyChunks
        bits[chunk >> 6] |= 1 << UInt64(chunk & 63)
      }
    }
    return (bits, bits.reduce(0) { $0 + $1.nonzeroBitCount })
  }
}

/// What FIBRE's code costs. Erasure figures are those of the newest wirehair in a native build, faster than what FIBRE
/// ships; its own verification, the 1,000-bursts-a-second send thread and its global lock cost nothing here. All of
/// that is in FIBRE's favour.
public struct FibreCosts: Hashable, Sendable {
  /// On the thread that receives: tag check and table look-ups of one datagram.
  public var perDatagram: UInt64 = 800
  /// Encoder ready, and decoding after the last needed datagram, by chunks of the object (1.8 and 1.9 ms for 1,200).
  public var encoderPerChunk: UInt64 = 1_500
  public var decoderPerChunk: UInt64 = 1_580
  public var perRepairChunk: UInt64 = 200
  /// Computing or looking up one short id; the scan covers only the block's own transactions, as if the mempool held
  /// nothing else.
  public var perShortID: UInt64 = 20
  /// Copying one chunk out of the mempool or the block.
  public var perCopiedChunk: UInt64 = 100
  public init() {}
}
