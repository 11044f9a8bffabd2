import Ground

/// How often each neighbour has begun another announcement of a header already in hand: fairness for the few places that
/// there are. Of the last eight such headers; only a neighbour that lies, or passes on a lie, makes an entry.
struct AnnouncementTurns {
  static let capacity = 8

  private struct Entry {
    var id8: UInt64
    var counts: [UInt8]
  }
  private var entries: [Entry] = []

  func of(_ id8: UInt64, _ link: LinkID) -> UInt8 {
    guard Int(link.index) < LinkSet.capacity, let entry = entries.first(where: { $0.id8 == id8 }) else { return 0 }
    return entry.counts[Int(link.index)]
  }

  mutating func count(_ id8: UInt64, _ link: LinkID) {
    guard Int(link.index) < LinkSet.capacity else { return }
    var at = entries.firstIndex { $0.id8 == id8 }
    if at == nil {
      if entries.count == AnnouncementTurns.capacity { entries.removeFirst() }
      entries.append(Entry(id8: id8, counts: Array(repeating: 0, count: LinkSet.capacity)))
      at = entries.count - 1
    }
    if entries[at!].counts[Int(link.index)] < .max { entries[at!].counts[Int(link.index)] += 1 }
  }
}
