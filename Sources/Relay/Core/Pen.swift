import Ground

/// Packets that can't be judged yet: their block's parent or announcement has not come. Bounded in all and for each
/// neighbour; the oldest goes first; nothing stays longer than `patience`.
struct Pen: ~Copyable {
  static let capacity = 4_096
  static let capacityPerLink = 256
  static let patience = Interval.seconds(2)
  static let cellBytes = 1_500

  private struct Cell {
    /// Block (`id8`) that the packet is of.
    var id8: UInt64
    var arrival: Instant
    var order: UInt64
    var count: UInt16
    var link: UInt8
    var isSketch: Bool
    var next: Int32
  }

  private let cells: UnsafeMutablePointer<Cell>
  private let bytes: UnsafeMutableRawPointer
  private var freeHead: Int32 = 0
  /// Oldest first.
  private let heads: UnsafeMutablePointer<Int32>
  private let tails: UnsafeMutablePointer<Int32>
  private let counts: UnsafeMutablePointer<Int32>
  /// Of the packet that came last.
  private(set) var order: UInt64 = 0
  private(set) var count = 0
  private(set) var dropped: UInt64 = 0

  init() {
    cells = .allocate(capacity: Pen.capacity)
    // Not touched until used: the kernel gives pages as packets come.
    bytes = .allocate(byteCount: Pen.capacity * Pen.cellBytes, alignment: 64)
    for i in 0..<Pen.capacity {
      (cells + i).initialize(
        to: Cell(
          id8: 0, arrival: .zero, order: 0, count: 0, link: 0, isSketch: false,
          next: i + 1 < Pen.capacity ? Int32(i + 1) : -1))
    }
    heads = .allocate(capacity: LinkSet.capacity)
    tails = .allocate(capacity: LinkSet.capacity)
    counts = .allocate(capacity: LinkSet.capacity)
    heads.initialize(repeating: -1, count: LinkSet.capacity)
    tails.initialize(repeating: -1, count: LinkSet.capacity)
    counts.initialize(repeating: 0, count: LinkSet.capacity)
  }

  deinit {
    cells.deallocate()
    bytes.deallocate()
    heads.deallocate()
    tails.deallocate()
    counts.deallocate()
  }

  /// Keeps a copy of a packet; false when it is too long to be one.
  @discardableResult
  mutating func hold(_ message: RawSpan, of id8: UInt64, isSketch: Bool, from link: LinkID, arrival: Instant) -> Bool {
    let line = Int(link.index)
    guard message.byteCount <= Pen.cellBytes, line < LinkSet.capacity else { return false }
    if counts[line] >= Int32(Pen.capacityPerLink) {
      dropOldest(of: line)
    } else if freeHead < 0 {
      var oldest = -1
      for candidate in 0..<LinkSet.capacity where heads[candidate] >= 0 {
        if oldest < 0 || cells[Int(heads[candidate])].order < cells[Int(heads[oldest])].order {
          oldest = candidate
        }
      }
      dropOldest(of: oldest)
    }
    let index = freeHead
    let cell = cells + Int(index)
    freeHead = cell.pointee.next
    order += 1
    cell.pointee = Cell(
      id8: id8, arrival: arrival, order: order, count: UInt16(message.byteCount), link: UInt8(line),
      isSketch: isSketch, next: -1)
    message.withUnsafeBytes { source in
      if let base = source.baseAddress {
        (bytes + Int(index) * Pen.cellBytes).copyMemory(from: base, byteCount: source.count)
      }
    }
    if tails[line] >= 0 {
      cells[Int(tails[line])].next = index
    } else {
      heads[line] = index
    }
    tails[line] = index
    counts[line] += 1
    count += 1
    return true
  }

  /// A packet taken out of the pen; its bytes were copied to the caller's buffer.
  struct Released {
    var count: Int
    var link: LinkID
    var arrival: Instant
  }

  /// Takes out the oldest packet of block `id8` (any block when nil; only announcements when `sketchesOnly`) and
  /// copies it to `buffer`, which holds `cellBytes`. Nil when there is none. What came after `last` stays.
  mutating func release(
    of id8: UInt64?, sketchesOnly: Bool = false, upTo last: UInt64 = .max, into buffer: UnsafeMutableRawPointer
  ) -> Released? {
    if count == 0 { return nil }
    for line in 0..<LinkSet.capacity {
      var previous: Int32 = -1
      var index = heads[line]
      while index >= 0 {
        let cell = cells[Int(index)]
        if (id8 == nil || cell.id8 == id8) && (!sketchesOnly || cell.isSketch) && cell.order <= last {
          unlink(index, after: previous, line)
          buffer.copyMemory(from: bytes + Int(index) * Pen.cellBytes, byteCount: Int(cell.count))
          free(index)
          return Released(count: Int(cell.count), link: LinkID(UInt16(line)), arrival: cell.arrival)
        }
        previous = index
        index = cell.next
      }
    }
    return nil
  }

  /// Drops what has waited too long. All of it is looked at: what was released and had to be kept again lies behind packets
  /// that came after it.
  mutating func expire(now: Instant) {
    if count == 0 { return }
    for line in 0..<LinkSet.capacity {
      var previous: Int32 = -1
      var index = heads[line]
      while index >= 0 {
        let next = cells[Int(index)].next
        if cells[Int(index)].arrival + Pen.patience < now {
          unlink(index, after: previous, line)
          free(index)
          dropped += 1
        } else {
          previous = index
        }
        index = next
      }
    }
  }

  /// Drops what a neighbour sent.
  mutating func forget(_ link: LinkID) {
    while heads[Int(link.index)] >= 0 { dropOldest(of: Int(link.index)) }
  }

  private mutating func dropOldest(of line: Int) {
    guard line >= 0, heads[line] >= 0 else { return }
    let index = heads[line]
    unlink(index, after: -1, line)
    free(index)
    dropped += 1
  }

  private mutating func unlink(_ index: Int32, after previous: Int32, _ line: Int) {
    let next = cells[Int(index)].next
    if previous < 0 {
      heads[line] = next
    } else {
      cells[Int(previous)].next = next
    }
    if tails[line] == index { tails[line] = previous }
    counts[line] -= 1
    count -= 1
  }

  private mutating func free(_ index: Int32) {
    cells[Int(index)].next = freeHead
    freeHead = index
  }
}
