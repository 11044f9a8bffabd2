import Ground

/// Loses and holds back incoming datagrams as configured. Held datagrams are copied; the oldest are lost when too many
/// are held.
struct Impairer {
  struct Held {
    var bytes: [UInt8]
    var source: PeerAddress
    var due: Instant
  }

  static let capacity = 65_536
  private let rules: [Impairment]
  private var random: SeededRandom
  /// In order of `due` for each rule.
  private var queues: [[Held]]
  private var heads: [Int]
  private(set) var lost: UInt64 = 0
  private(set) var held: UInt64 = 0
  private var waiting = 0

  init(_ rules: [Impairment], seed: UInt64) {
    self.rules = rules
    random = SeededRandom(seed: seed ^ 0x1055)
    queues = Array(repeating: [], count: rules.count)
    heads = Array(repeating: 0, count: rules.count)
  }

  var isActive: Bool { !rules.isEmpty }

  var nextDeadline: Instant {
    var due = Instant.never
    for index in queues.indices where heads[index] < queues[index].count {
      due = min(due, queues[index][heads[index]].due)
    }
    return due
  }

  /// True when the datagram is lost or held back.
  mutating func takes(_ datagram: RawSpan, from source: PeerAddress, arrival: Instant) -> Bool {
    guard let rule = rules.firstIndex(where: { $0.source == nil || $0.source == source }) else { return false }
    if rules[rule].loss > 0 && Double(random.next() >> 11) / Double(1 << 53) < rules[rule].loss {
      lost += 1
      return true
    }
    var delay = rules[rule].delay
    if rules[rule].jitter > .zero {
      delay = delay + Interval(nanoseconds: Int64(random.next() >> 1) % (rules[rule].jitter.nanoseconds + 1))
    }
    if delay <= .zero { return false }
    if waiting >= Impairer.capacity {
      lost += 1
      return true
    }
    let held = Held(bytes: datagram.withUnsafeBytes { [UInt8]($0) }, source: source, due: arrival + delay)
    // Later than nearly all that wait, but for the jitter.
    var place = queues[rule].count
    while place > heads[rule], queues[rule][place - 1].due > held.due { place -= 1 }
    queues[rule].insert(held, at: place)
    waiting += 1
    self.held += 1
    return true
  }

  /// The next held datagram that is due.
  mutating func next(now: Instant) -> Held? {
    for index in queues.indices where heads[index] < queues[index].count {
      let first = queues[index][heads[index]]
      if first.due > now { continue }
      queues[index][heads[index]].bytes = []
      heads[index] += 1
      waiting -= 1
      if heads[index] == queues[index].count {
        queues[index].removeAll(keepingCapacity: true)
        heads[index] = 0
      }
      return first
    }
    return nil
  }
}
