import Ground

/// Where a site's events become journeys, link samples and leads on their way to the store. Sans-IO: the daemon calls
/// it with what it hears, and writes what `take` hands out (at most once a second, off the packet thread).
///
/// What peers say is theirs: a peer's journey is taken only for a block that this site knows itself or learns of soon,
/// one a block and peer, under the name of the session's link; its times are brought to this site's clock with the bounds
/// that clock exchanges prove. A journey from a peer whose clock isn't known yet is dropped and counted. Bounded:
/// `knownBlocks` blocks, `pendingPerPeer` early journeys a peer, 64 links, `outBound` records waiting for the writer.
public struct Recorder: Sendable {
  public static let knownBlocks = 512
  public static let pendingPerPeer = 8
  public static let outBound = 4_096

  /// What waits for the store.
  public struct Output: Sendable {
    public var journeys: [StoredJourney] = []
    public var news: [PublicNews] = []
    public var links: [LinkSample] = []
    public var clocks: [ClockRecord] = []
    public init() {}
    public var isEmpty: Bool { journeys.isEmpty && news.isEmpty && links.isEmpty && clocks.isEmpty }
    public var count: Int { journeys.count + news.count + links.count + clocks.count }
  }

  private struct Peer: Sendable {
    var name: String
    var clock: ClockFilter
    var outward = LinkMeter()
    var inward = LinkMeter()
    /// Received, not yet of a known block.
    var pending: [StoredJourney] = []
    /// Blocks told in the present hour.
    var told: Set<BlockID> = []
    var journeys: UInt64 = 0
    var refused: UInt64 = 0
  }

  public let home: String
  private let unixAtZero: Int64
  private var peers: [LinkID: Peer] = [:]
  private var known: [BlockID] = []
  private var knownSet: Set<BlockID> = []
  private var output = Output()
  public private(set) var leads = LeadTracker()
  /// Journey payloads that were no valid encoding; journeys not taken for another reason; records lost because nobody
  /// took them.
  public private(set) var malformed: UInt64 = 0
  public private(set) var refused: UInt64 = 0
  public private(set) var dropped: UInt64 = 0
  /// From the first packet to complete and checked, blocks that came over the overlay.
  public private(set) var receiving = Distribution()
  private var spanStart = Instant.zero

  /// - Parameter unixNanosecondsAtZero: what CLOCK_REALTIME showed when the monotonic clock showed 0.
  public init(home: String, unixNanosecondsAtZero: Int64) {
    self.home = home
    unixAtZero = unixNanosecondsAtZero
  }

  /// A link and the least one-way delay that is certain in both directions: the light bound, or more where the operator
  /// knows how lopsided the route can be (every millisecond more narrows the clock's bounds by one). Replaces what was
  /// known when the name changes.
  public mutating func setPeer(_ link: LinkID, name: String, leastDelay: Interval = .zero) {
    if peers[link]?.name == name {
      peers[link]!.clock.floor = leastDelay
      return
    }
    peers[link] = Peer(name: name, clock: ClockFilter(floor: leastDelay))
  }

  public mutating func removePeer(_ link: LinkID) { peers[link] = nil }

  public func unix(_ instant: Instant) -> Int64 {
    let (sum, overflow) = unixAtZero.addingReportingOverflow(Int64(clamping: instant.nanoseconds))
    return overflow ? .max : sum
  }

  /// Four timestamps of a link. `t1` and `t4` by our clock.
  public mutating func exchange(_ link: LinkID, _ exchange: ClockExchange) {
    guard peers[link] != nil else { return }
    peers[link]!.clock.add(exchange)
    let bounds = peers[link]!.clock.bounds(at: exchange.t4)
    peers[link]!.outward.exchange(exchange, clock: bounds, outward: true)
    peers[link]!.inward.exchange(exchange, clock: bounds, outward: false)
  }

  /// Datagrams since the last call, as the sessions count them.
  public mutating func traffic(
    _ link: LinkID, sentToPeer: UInt64, openedByPeer: UInt64, sentByPeer: UInt64, opened: UInt64,
    reordered: UInt64 = 0
  ) {
    peers[link]?.outward.totals(expected: sentToPeer, received: min(openedByPeer, sentToPeer))
    peers[link]?.inward.totals(expected: sentByPeer, received: min(opened, sentByPeer), reordered: reordered)
  }

  /// What is known of a peer's clock.
  public func clock(of link: LinkID, at now: Instant) -> ClockBounds? { peers[link]?.clock.bounds(at: now) }

  /// This site's own journey, once it is finished (tip updated, or given up waiting for it).
  public mutating func local(_ journey: Journey) {
    learn(journey.block)
    if !journey.isOrigin, let verified = journey[.verified] { receiving.add(verified) }
    // At its origin a block is early because it was found there: no merit of the overlay.
    if !journey.isOrigin, let verified = journey[.verified] {
      leads.overlay(journey.block, at: journey.first + verified)
    }
    put(
      StoredJourney(journey: journey, site: home, firstUnix: unix(journey.first), uncertainty: .zero))
    for link in peers.keys {
      guard let index = peers[link]!.pending.firstIndex(where: { $0.journey.block == journey.block }) else { continue }
      put(peers[link]!.pending.remove(at: index))
    }
  }

  private mutating func learn(_ block: BlockID) {
    guard knownSet.insert(block).inserted else { return }
    known.append(block)
    if known.count > Recorder.knownBlocks { knownSet.remove(known.removeFirst()) }
  }

  /// A JOURNEY payload from a neighbour.
  public mutating func heard(_ bytes: RawSpan, from link: LinkID, now: Instant) {
    guard let peer = peers[link] else { return }
    let journeys: [Journey]
    do throws(DecodeError) { journeys = try JourneyCodec.decode(bytes) } catch {
      malformed += 1
      return
    }
    guard let bounds = peer.clock.bounds(at: now) else {
      refused += UInt64(journeys.count)
      return
    }
    for journey in journeys {
      let first = journey.first - bounds.estimate
      // A journey is told within minutes of its block. Anything else is a clock gone wrong or a tale.
      guard (now - first).nanoseconds.magnitude < 3_600_000_000_000, !peer.told.contains(journey.block) else {
        refused += 1
        peers[link]!.refused += 1
        continue
      }
      let stored = StoredJourney(
        journey: journey, site: peer.name, firstUnix: unix(first), uncertainty: bounds.uncertainty)
      if knownSet.contains(journey.block) {
        put(stored)
      } else {
        if peers[link]!.pending.count == Recorder.pendingPerPeer {
          peers[link]!.pending.removeFirst()
          refused += 1
        }
        peers[link]!.pending.append(stored)
      }
      if peers[link]!.told.count >= Recorder.knownBlocks { peers[link]!.told.removeAll(keepingCapacity: true) }
      peers[link]!.told.insert(journey.block)
      peers[link]!.journeys += 1
    }
  }

  /// A watched public peer announced a block over plain P2P. `source` is the name in the configuration.
  public mutating func announced(_ block: BlockID, by source: String, at: Instant) {
    leads.announced(block, by: source, at: at)
    guard room() else { return }
    output.news.append(PublicNews(block: block, source: source, atUnix: unix(at)))
  }

  /// Ends an interval of the links' statistics: once a minute.
  public mutating func endInterval(now: Instant, kernel: KernelClock? = KernelClock.read()) {
    let span = now - spanStart
    let at = unix(now)
    if spanStart != .zero {
      for link in peers.keys {
        let name = peers[link]!.name
        let (outward, inward) = (peers[link]!.outward.take(), peers[link]!.inward.take())
        guard room(3) else { continue }
        output.links.append(LinkSample(from: home, to: name, atUnix: at, span: span, summary: outward))
        output.links.append(LinkSample(from: name, to: home, atUnix: at, span: span, summary: inward))
        let clock = peers[link]!.clock
        output.clocks.append(
          ClockRecord(site: name, atUnix: at, bounds: clock.bounds(at: now), steps: clock.steps))
      }
    }
    if room() { output.clocks.append(ClockRecord(site: home, atUnix: at, bounds: nil, kernel: kernel)) }
    spanStart = now
  }

  private mutating func put(_ stored: StoredJourney) {
    if room() { output.journeys.append(stored) }
  }

  private mutating func room(_ count: Int = 1) -> Bool {
    if output.count + count <= Recorder.outBound { return true }
    dropped += UInt64(count)
    return false
  }

  /// What is to be written; it is the caller's now.
  public mutating func take() -> Output {
    defer { output = Output() }
    return output
  }

  /// Metrics of all this.
  public func metrics(into text: inout MetricsText, now: Instant, kernel: KernelClock?) {
    let sorted = peers.values.sorted { $0.name < $1.name }
    text.family("lightpath_clock_offset_seconds", .gauge, help: "Peer's clock minus ours, middle of the bounds.")
    for peer in sorted {
      if let bounds = peer.clock.bounds(at: now) { text.sample(bounds.estimate.seconds, [("peer", peer.name)]) }
    }
    text.family("lightpath_clock_uncertainty_seconds", .gauge, help: "Half the width of the offset's bounds.")
    for peer in sorted {
      if let bounds = peer.clock.bounds(at: now) { text.sample(bounds.uncertainty.seconds, [("peer", peer.name)]) }
    }
    text.family("lightpath_clock_steps_total", .counter, help: "Steps of a peer's clock against ours.")
    for peer in sorted { text.sample(peer.clock.steps, [("peer", peer.name)]) }
    text.family("lightpath_journeys_total", .counter, help: "Journeys taken from a peer.")
    for peer in sorted { text.sample(Double(peer.journeys), [("peer", peer.name)]) }
    text.family("lightpath_journeys_refused_total", .counter, help: "Journeys not taken: malformed or implausible.")
    text.sample(Double(malformed + refused))
    if let kernel {
      text.family("lightpath_kernel_clock_synchronised", .gauge, help: "1 when the kernel calls its clock disciplined.")
      text.sample(kernel.isSynchronised ? 1 : 0)
      text.family("lightpath_kernel_clock_max_error_seconds", .gauge, help: "Bound that the kernel states (adjtimex).")
      text.sample(kernel.maxError.seconds)
    }
    text.family("lightpath_block_receive_seconds", .summary, help: "First packet to complete and checked.")
    text.summary(receiving)
    let standing = leads.standing
    text.family("lightpath_lead_seconds", .summary, help: "Lead over the first public announcement; may be negative.")
    text.summary(standing.distribution)
    text.family("lightpath_lead_wins", .gauge, help: "Of the last blocks with both times, those the overlay had first.")
    text.sample(standing.wins)
    text.family("lightpath_lead_blocks", .gauge, help: "The last blocks with both times.")
    text.sample(standing.blocks)
  }
}

extension JourneyStore {
  /// Writes what the recorder handed out, as one transaction.
  public func write(_ output: Recorder.Output) throws(StoreError) {
    if output.isEmpty { return }
    try batch { () throws(StoreError) in
      for journey in output.journeys { try add(journey) }
      for news in output.news { try add(news) }
      for sample in output.links { try add(sample) }
      for record in output.clocks { try add(record) }
    }
  }
}
