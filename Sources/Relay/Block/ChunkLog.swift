import Ground

/// One chunk of a block as it came in. Trivial.
struct LoggedChunk {
  var index: UInt32
  /// key4 of the relay that made it.
  var maker: UInt32
  /// Links that it was received from or sent to: never sent there again.
  var known: LinkSet
  /// The chunk's bytes in a cell of the pool.
  var bytes: UnsafeMutableRawPointer
  /// The link that delivered it first; it answers for it.
  var from: LinkID
  /// From a verified-only neighbour: kept, but not passed on.
  var isHeldBack: Bool
  /// That link says it has the whole block, and that this is a chunk of it.
  var isVouched: Bool
}

/// The chunks of one object in order of arrival, and an index over them. Sending walks it with a cursor per link, so a
/// chunk is forwarded without a queue; blame walks it when a block fails its checks.
struct ChunkLog: ~Copyable {
  private(set) var count = 0
  private let capacity: Int
  private var entries: UnsafeMutablePointer<LoggedChunk>
  /// Open addressing, linear probing; entry number plus 1, 0 for none. At most half full.
  private var table: UnsafeMutablePointer<UInt32>
  private let tableMask: UInt32

  /// Room for `capacity` chunks; more are refused.
  init(capacity: Int) {
    self.capacity = max(capacity, 1)
    entries = .allocate(capacity: self.capacity)
    var size = 16
    while size < 2 * self.capacity { size *= 2 }
    table = .allocate(capacity: size)
    table.initialize(repeating: 0, count: size)
    tableMask = UInt32(size - 1)
  }

  deinit {
    entries.deallocate()
    table.deallocate()
  }

  var isFull: Bool { count == capacity }

  @inline(__always)
  subscript(_ entry: Int) -> LoggedChunk {
    get { entries[entry] }
  }

  /// The entry that holds chunk `index`, or nil.
  @inline(__always)
  func find(_ index: UInt32) -> Int? {
    var slot = ChunkLog.spread(index) & tableMask
    while true {
      let value = table[Int(slot)]
      if value == 0 { return nil }
      if entries[Int(value) - 1].index == index { return Int(value) - 1 }
      slot = (slot &+ 1) & tableMask
    }
  }

  /// Notes that the other end of `link` has the chunk.
  @inline(__always)
  mutating func mark(_ entry: Int, knownTo link: LinkID) { entries[entry].known.insert(link) }

  @inline(__always)
  mutating func mark(_ entry: Int, knownTo links: LinkSet) { entries[entry].known = entries[entry].known | links }

  /// Appends a chunk that is not there yet; its bytes are copied into a cell of `pool`. Nil when the log or the pool is
  /// full.
  mutating func append(
    _ chunk: RawSpan, index: UInt32, maker: UInt32, from: LinkID, isHeldBack: Bool, isVouched: Bool = false,
    pool: inout ChunkPool
  ) -> Int? {
    if count == capacity || chunk.byteCount > ChunkPool.cellBytes { return nil }
    guard let cell = pool.take() else { return nil }
    chunk.withUnsafeBytes { bytes in
      if let base = bytes.baseAddress { cell.copyMemory(from: base, byteCount: bytes.count) }
    }
    let entry = count
    (entries + entry).initialize(
      to: LoggedChunk(
        index: index, maker: maker, known: LinkSet(from), bytes: cell, from: from, isHeldBack: isHeldBack,
        isVouched: isVouched))
    var slot = ChunkLog.spread(index) & tableMask
    while table[Int(slot)] != 0 { slot = (slot &+ 1) & tableMask }
    table[Int(slot)] = UInt32(entry + 1)
    count += 1
    return entry
  }

  /// Gives all cells back and forgets everything.
  mutating func clear(into pool: inout ChunkPool) {
    for entry in 0..<count { pool.give(entries[entry].bytes) }
    count = 0
    table.update(repeating: 0, count: Int(tableMask) + 1)
  }

  /// Fibonacci hashing: neighbouring indexes don't pile up and a peer gains little from choosing them.
  @inline(__always)
  private static func spread(_ index: UInt32) -> UInt32 { (index &* 2_654_435_769) >> 7 }
}
