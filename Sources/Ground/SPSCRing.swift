import Synchronization

/// A bounded queue from one thread to another without locks: exactly one thread pushes and exactly one pops (they may
/// be the same). A full ring refuses: nothing grows and nothing is evicted.
///
/// Memory: `capacity` elements, allocated once. An element moves in and out; what is still inside when the ring dies is
/// destroyed. Push and pop cost a few nanoseconds; each side reads the other's index only when its own copy says full
/// or empty (Lamport 1983; the cached indexes after FastForward and MCRingBuffer). Not for more than two threads.
public final class SPSCRing<Element: ~Copyable>: @unchecked Sendable {
  public let capacity: Int
  @usableFromInline let mask: Int
  @usableFromInline let elements: UnsafeMutablePointer<Element>
  @usableFromInline let ends: UnsafeMutablePointer<Ends>

  /// Each side's index with its copy of the other's, on cache lines of their own (two lines: adjacent-line prefetch).
  @usableFromInline struct Ends: ~Copyable {
    /// Next index to push, written by the producer.
    @usableFromInline let tail = Atomic<Int>(0)
    @usableFromInline var headSeen = 0
    @usableFromInline let padding: InlineArray<14, UInt64> = .init(repeating: 0)
    /// Next index to pop, written by the consumer.
    @usableFromInline let head = Atomic<Int>(0)
    @usableFromInline var tailSeen = 0
    @usableFromInline let morePadding: InlineArray<14, UInt64> = .init(repeating: 0)
    @usableFromInline init() {}
  }

  /// - Parameter capacity: elements; rounded up to a power of two.
  public init(capacity: Int) {
    precondition(capacity > 0 && capacity <= 1 << 30)
    var rounded = 1
    while rounded < capacity { rounded <<= 1 }
    self.capacity = rounded
    mask = rounded - 1
    elements = .allocate(capacity: rounded)
    ends = .allocate(capacity: 1)
    ends.initialize(to: Ends())
  }

  deinit {
    while let element = pop() { _ = element }
    ends.deinitialize(count: 1)
    ends.deallocate()
    elements.deallocate()
  }

  /// Producer only. Gives the element back when the ring is full.
  @inlinable public func push(_ element: consuming Element) -> Element? {
    let tail = ends.pointee.tail.load(ordering: .relaxed)
    if tail &- ends.pointee.headSeen > mask {
      ends.pointee.headSeen = ends.pointee.head.load(ordering: .acquiring)
      if tail &- ends.pointee.headSeen > mask { return element }
    }
    (elements + (tail & mask)).initialize(to: element)
    ends.pointee.tail.store(tail &+ 1, ordering: .releasing)
    return nil
  }

  /// Consumer only. `nil` when the ring is empty.
  @inlinable public func pop() -> Element? {
    let head = ends.pointee.head.load(ordering: .relaxed)
    if head == ends.pointee.tailSeen {
      ends.pointee.tailSeen = ends.pointee.tail.load(ordering: .acquiring)
      if head == ends.pointee.tailSeen { return nil }
    }
    let element = (elements + (head & mask)).move()
    ends.pointee.head.store(head &+ 1, ordering: .releasing)
    return element
  }

  /// How many are inside: exact for a thread that owns both ends, else already history.
  @inlinable public var count: Int {
    ends.pointee.tail.load(ordering: .acquiring) &- ends.pointee.head.load(ordering: .acquiring)
  }
}
