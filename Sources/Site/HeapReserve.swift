import Ground

/// Touches, between blocks, as much free memory as putting a block together takes.
///
/// Complete blocks are kept, so each one takes memory that was in use before, and the next one's arrays would come from
/// pages that the kernel has yet to find and clear: in the middle of a hurry. With a heap that keeps its pages
/// (`ProcessHeap.keepPages`) these here stay with the process when they are given back. Between a block's
/// first packet and its last check there is 1 page fault now in the median, where there were 105 (`perf record -e
/// page-faults` of a far relay in bench-propagation).
struct HeapReserve {
  /// After a block: it and its node's work on it are done by then.
  private static let wait = Interval.milliseconds(400 as Int64)
  private static let piece = 128 << 10
  /// 3 MB.
  private static let pieces = 24

  private var held: [[UInt8]] = []
  private(set) var due = Instant.never

  /// A block was complete.
  mutating func begin(now: Instant) { due = now + HeapReserve.wait }

  /// One piece, some 50 µs; all of them are given back after the last.
  mutating func advance(now: Instant) {
    if now < due { return }
    held.append([UInt8](repeating: 0, count: HeapReserve.piece))
    if held.count < HeapReserve.pieces {
      due = now
    } else {
      held = []
      due = .never
    }
  }
}
