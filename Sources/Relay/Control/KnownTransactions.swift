import Ground
import Mempool

/// Which transactions are known here or were offered, and which neighbours have them, by their 48-bit overlay id. A
/// set-associative table of fixed size: in a full set of four the entry touched longest ago makes room.
struct KnownTransactions: Sendable {
  private let mask: Int
  private var ids: [UInt64]
  private var stamps: [UInt32]
  /// Links whose other ends have shown that they have it, or asked for it.
  var holders: [LinkSet]
  /// Links that offered it and were not asked yet.
  var offers: [LinkSet]
  /// Ours, once it is here.
  var handles: [EntryHandle?]
  /// Asked for and not yet come.
  var isAsked: [Bool]
  var retries: [UInt8]
  /// Links on which it waits to be sent.
  var queued: [LinkSet]
  private var clock: UInt32 = 0

  /// `capacity` is a power of two, at least 4.
  init(capacity: Int) {
    precondition(capacity >= 4 && capacity & (capacity - 1) == 0)
    mask = capacity / 4 - 1
    ids = Array(repeating: 0, count: capacity)
    stamps = Array(repeating: 0, count: capacity)
    holders = Array(repeating: .none, count: capacity)
    offers = Array(repeating: .none, count: capacity)
    handles = Array(repeating: nil, count: capacity)
    isAsked = Array(repeating: false, count: capacity)
    retries = Array(repeating: 0, count: capacity)
    queued = Array(repeating: .none, count: capacity)
  }

  /// 48 random bits, so any of them choose the set. 0 marks an empty place; id 0 is as good as id 1.
  private func set(_ id: UInt64) -> Int { Int(truncatingIfNeeded: id) & mask }

  func find(_ id: UInt64) -> Int? {
    let id = max(id, 1)
    let first = 4 * set(id)
    for at in first..<first + 4 where ids[at] == id { return at }
    return nil
  }

  /// Its place, made if need be.
  mutating func touch(_ id: UInt64) -> Int {
    let id = max(id, 1)
    clock &+= 1
    let first = 4 * set(id)
    var oldest = first
    for at in first..<first + 4 {
      if ids[at] == id {
        stamps[at] = clock
        return at
      }
      if clock &- stamps[at] > clock &- stamps[oldest] || ids[at] == 0 && ids[oldest] != 0 { oldest = at }
    }
    ids[oldest] = id
    stamps[oldest] = clock
    holders[oldest] = .none
    offers[oldest] = .none
    handles[oldest] = nil
    isAsked[oldest] = false
    retries[oldest] = 0
    queued[oldest] = .none
    return oldest
  }

  /// A neighbour is gone: what it had, the next one with its number may not have.
  mutating func forget(_ link: LinkID) {
    for at in ids.indices {
      holders[at].remove(link)
      offers[at].remove(link)
      queued[at].remove(link)
    }
  }
}

/// Transactions that arrive in fragments. At most 64 and 4 MB, of one neighbour at most 16; the oldest makes room.
struct FragmentPool: Sendable {
  static let transactionsMax = 64
  static let bytesMax = 4 << 20
  static let perLinkMax = 16
  static let lifetime = Interval.microseconds(10_000_000)

  private struct Partial: Sendable {
    var link: LinkID
    var wtxid8: UInt64
    var bytes: [UInt8]
    /// One bit a fragment; 400,000 bytes are 350.
    var came = InlineArray<6, UInt64>(repeating: 0)
    var missing: Int
    var started: Instant
  }

  private var partials: [Partial] = []
  private(set) var byteCount = 0
  /// Given up before they were whole, ever.
  private(set) var evicted: UInt64 = 0

  init() { partials.reserveCapacity(Self.transactionsMax) }

  var count: Int { partials.count }
  var nextDeadline: Instant { partials.first.map { $0.started + Self.lifetime } ?? .never }

  /// Takes a fragment in; the whole transaction when it was the last one.
  mutating func add(
    _ fragment: RawSpan, at offset: Int, of total: Int, wtxid8: UInt64, from link: LinkID, fragmentBytes: Int,
    now: Instant
  ) -> [UInt8]? {
    var at = partials.firstIndex { $0.link == link && $0.wtxid8 == wtxid8 }
    if let found = at, partials[found].bytes.count != total {
      // It can't have two lengths: begin again with what is said now.
      drop(found)
      at = nil
    }
    if at == nil {
      makeRoom(for: total, from: link)
      partials.append(
        Partial(
          link: link, wtxid8: wtxid8, bytes: [UInt8](repeating: 0, count: total),
          missing: (total + fragmentBytes - 1) / fragmentBytes, started: now))
      byteCount += total
      at = partials.count - 1
    }
    let i = at!
    let number = offset / fragmentBytes
    if partials[i].came[number >> 6] & (1 << UInt64(number & 63)) != 0 { return nil }
    partials[i].came[number >> 6] |= 1 << UInt64(number & 63)
    partials[i].missing -= 1
    fragment.withUnsafeBytes { from in
      partials[i].bytes.withUnsafeMutableBytes { to in
        (to.baseAddress! + offset).copyMemory(from: from.baseAddress!, byteCount: from.count)
      }
    }
    if partials[i].missing > 0 { return nil }
    byteCount -= total
    return partials.remove(at: i).bytes
  }

  mutating func expire(now: Instant) {
    while let first = partials.first, now - first.started >= Self.lifetime { drop(0) }
  }

  mutating func forget(_ link: LinkID) {
    for i in partials.indices.reversed() where partials[i].link == link { drop(i) }
  }

  private mutating func makeRoom(for total: Int, from link: LinkID) {
    if partials.count(where: { $0.link == link }) >= Self.perLinkMax {
      drop(partials.firstIndex { $0.link == link }!)
    }
    while partials.count >= Self.transactionsMax || byteCount + total > Self.bytesMax { drop(0) }
  }

  private mutating func drop(_ i: Int) {
    byteCount -= partials[i].bytes.count
    partials.remove(at: i)
    evicted += 1
  }
}
