import Ground
import Wire

/// The overlay's links as its relays state them, and who is primary for whom (PROTOCOL.md, section 4).
///
/// Rows come from neighbours' STATUS and, for relays further away, from MAP. They are claims: a link's delay is the larger
/// of its two ends' claims, it is up when no end says otherwise, and a relay that isn't configured is ignored, as sender
/// and as neighbour. A lie makes others send too much or too little unasked, nothing else.
///
/// The question on the hot path, 'am I primary for these neighbours, for a block made by M?', is one table look-up. The
/// table is drawn anew by `recompute`, in slices of one search each.
public struct OverlayMap: Sendable {
  public static let relaysMax = 256
  /// A path through here that is this much longer than the best one still counts.
  public static let tolerance: UInt32 = 100  // 1 ms in units of 10 µs
  /// What a hop through a relay that doesn't cut through costs more: it checks the block first.
  static let checkPenalty: UInt32 = 500
  /// Rows older than this are forgotten.
  public static let rowLifetime = Interval.microseconds(15_000_000)
  /// The rows of one relay are passed on no oftener than this, and a neighbour's own also when nothing has changed for
  /// `refresh`: relays further away forget them otherwise.
  static let passInterval = Interval.microseconds(1_000_000)
  static let refresh = Interval.microseconds(5_000_000)
  static let unreachable = UInt32.max / 4

  private struct Cell: Sendable {
    var delay: UInt32 = .max
    var isUp = false
    var isTrusted = false
    var isStated = false
  }
  private struct Origin: Sendable {
    var sequence: UInt32 = 0
    var heard = Instant.zero
    /// When its rows were last told to other neighbours.
    var passedOn: Instant?
    /// They have changed since.
    var isNews = false
    var isDirect = false
    var isHeard = false
  }

  private let keys: [UInt32]
  private let own: Int
  /// `indexes[i]` is the relay at the other end of link i, or -1.
  private var neighbours: [Int]
  /// Cell (a, b): what a says of its link to b.
  private var cells: [Cell]
  private var origins: [Origin]
  /// Key4 to index, open addressing.
  private var slots: [Int16]
  /// By maker: links whose other end this relay is primary for.
  private var primaries: [LinkSet]

  private var isStale = true
  /// Searches done of the running recomputation: 0 is from here, i + 1 the one from the neighbour on link i.
  private var stage = -1
  private var fromHere: [UInt32] = []
  private var next: [LinkSet] = []

  /// `relays`: key4 of every configured relay, this one among them (256 at most; further ones are ignored). `links` says
  /// which relay is at the end of which link. Relays whose key4 collide are one to the map.
  public init(own: UInt32, relays: [UInt32], links: [(link: LinkID, key: UInt32)]) {
    var keys = [own]
    for key in relays + links.map(\.key) where !keys.contains(key) && keys.count < Self.relaysMax { keys.append(key) }
    self.keys = keys
    self.own = 0
    slots = Array(repeating: -1, count: 1_024)
    for (i, key) in keys.enumerated() {
      var at = Int(Self.spread(key) & 1_023)
      while slots[at] >= 0 { at = (at + 1) & 1_023 }
      slots[at] = Int16(i)
    }
    neighbours = Array(repeating: -1, count: LinkSet.capacity)
    cells = Array(repeating: Cell(), count: keys.count * keys.count)
    origins = Array(repeating: Origin(), count: keys.count)
    primaries = Array(repeating: LinkSet(bits: .max), count: keys.count)
    for (link, key) in links {
      if let i = index(key), i != self.own { neighbours[Int(link.index)] = i }
    }
  }

  private static func spread(_ key: UInt32) -> UInt32 { (key &* 0x9E37_79B9) >> 16 }

  private func index(_ key: UInt32) -> Int? {
    var at = Int(Self.spread(key) & 1_023)
    while slots[at] >= 0 {
      if keys[Int(slots[at])] == key { return Int(slots[at]) }
      at = (at + 1) & 1_023
    }
    return nil
  }

  // MARK: Rows

  /// This relay's own links, as its STATUS states them.
  public mutating func noteOwn(_ rows: Span<StatusRow>) { replace(own, rows) }

  /// A neighbour's STATUS. True when its rows are to be passed on: they changed, or it is time again.
  @discardableResult
  public mutating func note(_ status: borrowing StatusMessage, on link: LinkID, now: Instant) -> Bool {
    let origin = neighbours[Int(link.index)]
    if origin < 0 { return false }
    origins[origin].isDirect = true
    origins[origin].isHeard = true
    origins[origin].heard = now
    if replace(origin, count: status.rowCount, { status.row($0) }) { origins[origin].isNews = true }
    if let last = origins[origin].passedOn {
      let isDue = now - last >= (origins[origin].isNews ? Self.passInterval : Self.refresh)
      if !isDue { return false }
    }
    origins[origin].isNews = false
    origins[origin].passedOn = now
    return true
  }

  /// Whether the relay at the end of `link` hears `relay`'s own STATUS, as that one says: it needs no MAP of it.
  public func hears(_ link: LinkID, statusOf relay: UInt32) -> Bool {
    let peer = neighbours[Int(link.index)]
    guard peer >= 0, let origin = index(relay) else { return false }
    return origin == peer || cells[origin * keys.count + peer].isUp
  }

  /// A MAP from a neighbour. True when it is news and should be passed on to the other neighbours.
  public mutating func note(_ map: borrowing MapMessage, now: Instant) -> Bool {
    guard let origin = index(map.origin), origin != own else { return false }
    let known = origins[origin]
    let isOld = !known.isHeard || now - known.heard > Self.rowLifetime
    // The relay itself is the better witness.
    if known.isDirect && !isOld { return false }
    let isNewer = Int32(bitPattern: map.sequence &- known.sequence) > 0
    if !isOld && !isNewer { return false }
    origins[origin].sequence = map.sequence
    origins[origin].heard = now
    origins[origin].isHeard = true
    origins[origin].isDirect = false
    replace(origin, count: map.rowCount, { map.row($0) })
    if let last = known.passedOn, now - last < Self.passInterval { return false }
    origins[origin].passedOn = now
    return true
  }

  /// Forgets what relays said that were not heard of for 15 s. Call now and then.
  public mutating func expire(now: Instant) {
    for i in origins.indices where origins[i].isHeard && now - origins[i].heard > Self.rowLifetime {
      origins[i].isHeard = false
      origins[i].isDirect = false
      for b in keys.indices { cells[i * keys.count + b] = Cell() }
      isStale = true
    }
  }

  private mutating func replace(_ origin: Int, _ rows: Span<StatusRow>) {
    replace(origin, count: rows.count) { rows[$0] }
  }

  /// True when they differ from what was held.
  @discardableResult
  private mutating func replace(_ origin: Int, count: Int, _ row: (Int) -> StatusRow) -> Bool {
    let n = keys.count
    var isStated = InlineArray<4, UInt64>(repeating: 0)
    var isChanged = false
    for i in 0..<min(count, RelayLimits.statusRows) {
      let stated = row(i)
      guard let b = index(stated.neighbour), b != origin else { continue }
      isStated[b >> 6] |= 1 << UInt64(b & 63)
      let cell = Cell(
        delay: stated.delay, isUp: stated.flags.contains(.up), isTrusted: stated.flags.contains(.trusted),
        isStated: true)
      let old = cells[origin * n + b]
      // A few per cent of wander is no reason to draw the map anew.
      let isSame =
        old.isStated && old.isUp == cell.isUp && old.isTrusted == cell.isTrusted
        && Int64(old.delay).distance(to: Int64(cell.delay)).magnitude <= UInt64(old.delay) / 32
      if !isSame {
        cells[origin * n + b] = cell
        isChanged = true
      }
    }
    for b in 0..<n where cells[origin * n + b].isStated && isStated[b >> 6] & (1 << UInt64(b & 63)) == 0 {
      cells[origin * n + b] = Cell()
      isChanged = true
    }
    if isChanged { isStale = true }
    return isChanged
  }

  // MARK: Paths

  /// Delay of the link between two relays in units of 10 µs; nil when it is down or nobody states it.
  private func delay(_ a: Int, _ b: Int) -> UInt32? {
    let there = cells[a * keys.count + b]
    let back = cells[b * keys.count + a]
    if !there.isStated && !back.isStated { return nil }
    if there.isStated && !there.isUp || back.isStated && !back.isUp { return nil }
    let delay = max(there.isStated ? there.delay : 0, back.isStated ? back.delay : 0)
    if delay >= Self.unreachable { return nil }
    let isTrusted = (!there.isStated || there.isTrusted) && (!back.isStated || back.isTrusted)
    return delay + (isTrusted ? 0 : Self.checkPenalty)
  }

  /// True when rows changed since the table was drawn.
  public var needsRecompute: Bool { isStale || stage >= 0 }

  /// One slice: a search over the map (for 256 relays about 0.2 ms, for 64 some 20 µs). True when the table is drawn.
  public mutating func recompute() -> Bool {
    if stage < 0 {
      if !isStale { return true }
      isStale = false
      fromHere = search(from: own, avoiding: -1)
      next = Array(repeating: LinkSet(), count: keys.count)
      stage = 0
      return false
    }
    while stage < neighbours.count && neighbours[stage] < 0 { stage += 1 }
    if stage == neighbours.count {
      primaries = next
      stage = -1
      return !isStale
    }
    let link = LinkID(UInt16(stage))
    let peer = neighbours[stage]
    let hop = delay(own, peer)
    // Delays are the same in both directions, so one search from the neighbour serves all makers.
    let around = search(from: peer, avoiding: own)
    for maker in keys.indices {
      let here = fromHere[maker]
      let isKnown = here < Self.unreachable && hop != nil
      if maker == own || !isKnown || UInt64(here) + UInt64(hop!) <= UInt64(around[maker]) + UInt64(Self.tolerance) {
        next[maker].insert(link)
      }
    }
    stage += 1
    return false
  }

  /// Dijkstra's algorithm on a dense map.
  private func search(from start: Int, avoiding avoided: Int) -> [UInt32] {
    let n = keys.count
    var distance = [UInt32](repeating: Self.unreachable, count: n)
    var isDone = [Bool](repeating: false, count: n)
    distance[start] = 0
    for _ in 0..<n {
      var a = -1
      for i in 0..<n where !isDone[i] && i != avoided && distance[i] < Self.unreachable {
        if a < 0 || distance[i] < distance[a] { a = i }
      }
      if a < 0 { break }
      isDone[a] = true
      for b in 0..<n where !isDone[b] && b != avoided {
        if let hop = delay(a, b) { distance[b] = min(distance[b], distance[a] + hop) }
      }
    }
    return distance
  }

  /// The links whose other ends this relay owes the whole budget of a block made by `maker`; the rest are owed the spare.
  /// All of them for a maker that the map doesn't know.
  public func primaries(for maker: UInt32) -> LinkSet {
    guard let i = index(maker) else { return LinkSet(bits: .max) }
    return primaries[i]
  }

  public func role(for maker: UInt32, to link: LinkID) -> SenderRole {
    primaries(for: maker).contains(link) ? .primary : .spare
  }
}
