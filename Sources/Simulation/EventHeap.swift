import Ground

/// What happens next, and when.
struct Event {
  enum Kind: UInt8 {
    /// A datagram (`payload`: its slot) reaches `node`.
    case arrival
    /// `node` does what is at hand.
    case run
    /// `node`'s links may let datagrams go.
    case pump
    /// An action scheduled from outside (`payload`: its index).
    case action
  }
  /// True time, nanoseconds.
  var time: UInt64
  /// Number of the event: of two at one instant, the one scheduled first goes first, so a run has one order only.
  var order: UInt64
  var kind: Kind
  var node: UInt16
  var payload: UInt32
}

/// A four-way heap over raw memory: fewer levels than a binary one, and the children of a node share cache lines.
struct EventHeap: ~Copyable {
  private var events: UnsafeMutablePointer<Event>
  private(set) var count = 0
  private var capacity: Int
  private var nextOrder: UInt64 = 0

  init(capacity: Int = 1 << 12) {
    self.capacity = capacity
    events = .allocate(capacity: capacity)
  }

  deinit { events.deallocate() }

  var firstTime: UInt64 { count == 0 ? .max : events[0].time }

  @inline(__always)
  private static func isBefore(_ a: Event, _ b: Event) -> Bool {
    a.time != b.time ? a.time < b.time : a.order < b.order
  }

  mutating func push(_ kind: Event.Kind, at time: UInt64, node: Int, payload: UInt32 = 0) {
    if count == capacity { grow() }
    let event = Event(time: time, order: nextOrder, kind: kind, node: UInt16(node), payload: payload)
    nextOrder += 1
    var i = count
    count += 1
    while i > 0 {
      let parent = (i - 1) >> 2
      if !Self.isBefore(event, events[parent]) { break }
      events[i] = events[parent]
      i = parent
    }
    events[i] = event
  }

  mutating func pop() -> Event {
    precondition(count > 0)
    let first = events[0]
    count -= 1
    if count > 0 {
      let last = events[count]
      var i = 0
      while true {
        let child = (i << 2) + 1
        if child >= count { break }
        var least = child
        let end = min(child + 4, count)
        var other = child + 1
        while other < end {
          if Self.isBefore(events[other], events[least]) { least = other }
          other += 1
        }
        if !Self.isBefore(events[least], last) { break }
        events[i] = events[least]
        i = least
      }
      events[i] = last
    }
    return first
  }

  private mutating func grow() {
    let larger = UnsafeMutablePointer<Event>.allocate(capacity: capacity * 2)
    larger.moveInitialize(from: events, count: count)
    events.deallocate()
    events = larger
    capacity *= 2
  }
}
