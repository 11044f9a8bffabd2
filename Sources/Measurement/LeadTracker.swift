import Ground

/// How far the overlay is ahead of the plain P2P network: per block, the first announcement by a watched public peer
/// less the moment at which the overlay had the block complete and checked.
///
/// A block that plain P2P brought to this site's node before the overlay did is a loss, not a gap in the record; so is one
/// that the overlay brought later than a watched peer. Bounded: the oldest of `capacity` blocks leaves first.
public struct LeadTracker: Sendable {
  public struct Entry: Hashable, Sendable {
    public var block: BlockID
    /// Complete and checked over the overlay; or, of one that plain P2P brought, when this site's own node told of it.
    public var overlay: Instant?
    /// First public announcement, and whose.
    public var announced: Instant?
    public var source: String?
    /// Watched peers that announced it.
    public var sources = 0
    /// Positive: the overlay was first. Nil until both are known.
    public var lead: Interval? {
      guard let overlay, let announced else { return nil }
      return announced - overlay
    }
  }

  public let capacity: Int
  private var entries: [BlockID: Entry] = [:]
  private var order: [BlockID] = []

  public init(capacity: Int = 1_024) {
    self.capacity = max(capacity, 1)
  }

  /// The overlay had the block. The first call counts.
  @discardableResult
  public mutating func overlay(_ block: BlockID, at: Instant) -> Entry {
    var entry = self.entry(block)
    if entry.overlay == nil { entry.overlay = at }
    entries[block] = entry
    return entry
  }

  /// This site's own node had the block before the overlay. If a watched peer had told of it earlier still, it wasn't found
  /// here: plain P2P brought it, and the overlay lost. Else it may have been found here, which says nothing.
  public mutating func ownNode(_ block: BlockID, at: Instant) {
    guard let announced = entries[block]?.announced, announced < at else { return }
    overlay(block, at: at)
  }

  /// A watched public peer announced the block (inv, headers or cmpctblock).
  @discardableResult
  public mutating func announced(_ block: BlockID, by source: String, at: Instant) -> Entry {
    var entry = self.entry(block)
    entry.sources += 1
    if entry.announced.map({ at < $0 }) ?? true { (entry.announced, entry.source) = (at, source) }
    entries[block] = entry
    return entry
  }

  private mutating func entry(_ block: BlockID) -> Entry {
    if let entry = entries[block] { return entry }
    if order.count == capacity { entries[order.removeFirst()] = nil }
    order.append(block)
    return Entry(block: block)
  }

  /// What the recorded blocks come to.
  public var standing: LeadStanding { LeadStanding(leads: order.compactMap { entries[$0]?.lead }) }
}

/// Leads of many blocks in percentiles.
public struct LeadStanding: Sendable {
  public private(set) var distribution = Distribution()
  /// Blocks that both ways brought, and those that the overlay brought first.
  public private(set) var blocks = 0
  public private(set) var wins = 0

  public init(leads: some Sequence<Interval>) {
    for lead in leads {
      distribution.add(lead)
      blocks += 1
      if lead > .zero { wins += 1 }
    }
  }

  /// 0 ... 1; nil without blocks.
  public var winRate: Double? { blocks == 0 ? nil : Double(wins) / Double(blocks) }

  /// Wilson's 95 % interval of the win rate: honest for few blocks.
  public var winRateInterval: (low: Double, high: Double)? {
    guard let rate = winRate else { return nil }
    let (n, z) = (Double(blocks), 1.959_964)
    let centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    let half = z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)).squareRoot()
    return (max(0, centre - half), min(1, centre + half))
  }
}
