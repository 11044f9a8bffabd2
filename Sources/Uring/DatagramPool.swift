/// Fixed-size places for datagrams on their way out, with what is known of each. Lists of places are chained through
/// `next`, so that queueing, dropping and handing over move no bytes and allocate nothing.
///
/// Last freed is first reused, because it is warm in the cache, and a train's places come back in the order they had.
/// Places follow one another without gaps: so a train of full-length datagrams tends to be one piece of memory, which
/// the kernel copies more than twice as fast as fifty pieces.
package struct DatagramPool: ~Copyable {
  package struct Place {
    package var flow: UInt64 = 0
    /// The next place of whatever list this one is in; -1 ends it.
    package var next: Int32 = -1
    package var length: UInt32 = 0
    /// Must not travel in a train: the kernel refused the train it was in.
    package var single = false
  }

  package let count: Int
  package let bytesEach: Int
  package let places: UnsafeMutablePointer<Place>
  private let memory: UnsafeMutableRawPointer
  private var free: Int32
  package private(set) var freeCount: Int

  package init(count: Int, bytesEach: Int) {
    self.count = count
    self.bytesEach = bytesEach
    places = .allocate(capacity: count)
    places.initialize(repeating: Place(), count: count)
    memory = .allocate(byteCount: count * self.bytesEach, alignment: 64)
    for i in 0..<count { places[i].next = Int32(i + 1 == count ? -1 : i + 1) }
    free = 0
    freeCount = count
  }

  deinit {
    places.deallocate()
    memory.deallocate()
  }

  @inline(__always) package func bytes(_ place: Int32) -> UnsafeMutableRawPointer {
    memory + Int(place) * bytesEach
  }

  @inline(__always) package mutating func take() -> Int32? {
    guard free >= 0 else { return nil }
    let place = free
    free = places[Int(place)].next
    freeCount -= 1
    return place
  }

  @inline(__always) package mutating func giveBack(_ place: Int32) {
    places[Int(place)].next = free
    free = place
    freeCount += 1
  }

  /// Gives back a chain of `count` places, in its order.
  @inline(__always) package mutating func giveBack(chain head: Int32, last: Int32, count: Int) {
    places[Int(last)].next = free
    free = head
    freeCount += count
  }
}

/// A first-in-first-out chain of places.
package struct PlaceList {
  package var head: Int32 = -1
  package var tail: Int32 = -1

  package init() {}
  @inline(__always) package var isEmpty: Bool { head < 0 }

  @inline(__always) package mutating func append(_ place: Int32, in pool: borrowing DatagramPool) {
    pool.places[Int(place)].next = -1
    if tail >= 0 { pool.places[Int(tail)].next = place } else { head = place }
    tail = place
  }

  @inline(__always) package mutating func removeFirst(in pool: borrowing DatagramPool) -> Int32 {
    let place = head
    head = pool.places[Int(place)].next
    if head < 0 { tail = -1 }
    return place
  }

  /// Puts a chain before what is there.
  package mutating func prepend(chain first: Int32, last: Int32, in pool: borrowing DatagramPool) {
    pool.places[Int(last)].next = head
    head = first
    if tail < 0 { tail = last }
  }
}
