import Ground

/// Where a site's events become journeys, link samples and leads on their way to the store. Sans-IO: the daemon calls
/// it with what it hears, and writes what `take` hands out (at most once a second, off the packet thread).
///
/// What peers say is theirs: `Recorder+Journeys` says what is taken of it. Bounded: `knownBlocks` blocks,
/// `pendingPerPeer` early journeys a peer, 64 links, `outBound` records waiting for the writer.
public struct Recorder: Sendable {
  public static let knownBlocks = 512
  public static let pendingPerPeer = 16
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

  struct Peer: Sendable {
    var name: String
    var clock: ClockFilter
    var outward = LinkMeter()
    var inward = LinkMeter()
    /// The last interval's, so that what is shown of the present one doesn't rest on a few packets.
    var lastOutward = LinkMeter.Summary()
    var lastInward = LinkMeter.Summary()
    /// Packets that the peer opened, and packets out of order, ever: to the peer, from it.
    var openedOutward: UInt64 = 0
    var reorderedOutward: UInt64 = 0
    var reorderedInward: UInt64 = 0
    /// Journeys of blocks that aren't known here yet.
    var pending: [Early] = []
    /// Signatures that may be checked for this peer before it has to wait.
    var allowance = Double(Recorder.checksBurst)
    var allowanceAt = Instant.zero
    /// Of the peer itself, and of others by way of it.
    var journeys: UInt64 = 0
    var relayed: UInt64 = 0
    var refused: UInt64 = 0
  }

  public let home: String
  private(set) var unixAtZero: Int64
  var peers: [LinkID: Peer] = [:]
  private var known: [BlockID] = []
  /// By known block: the makers (short keys) whose journeys were taken, and whether from themselves. Only who signed for
  /// a relay of the topology gets in.
  var taken: [BlockID: [UInt32: Bool]] = [:]
  /// Journeys for the neighbours that can't hear them from their makers.
  var passing: [Passing] = []
  /// What journeys since the last interval showed of the clocks of relays that are no neighbours.
  var farClocks: [String: ClockRecord] = [:]
  var output = Output()
  public private(set) var leads = LeadTracker()
  /// Journey payloads that were no valid encoding; journeys not taken for another reason; records lost because nobody
  /// took them.
  public internal(set) var malformed: UInt64 = 0
  public internal(set) var refused: UInt64 = 0
  public private(set) var dropped: UInt64 = 0
  /// Of those refused: the signature wasn't the stated maker's. Of those passed on, and not because too many waited.
  public internal(set) var forged: UInt64 = 0
  public internal(set) var passedOn: UInt64 = 0
  public internal(set) var notPassedOn: UInt64 = 0
  /// Signatures looked at.
  public internal(set) var checked: UInt64 = 0
  /// From the first packet to complete and checked, blocks that came over the overlay.
  public private(set) var receiving = Distribution()
  /// From the origin's announcement to complete and checked here, middle of the clocks' bounds; and the same less the light
  /// bound of that way.
  public internal(set) var arrival = Distribution()
  public internal(set) var overLight = Distribution()
  /// The light bound from each relay to here.
  public var lightBounds: [String: Interval] = [:]
  /// By known block.
  var ways: [BlockID: Way] = [:]
  /// What the wall clock showed at `Instant.zero` when a known block was learned: all that is stored of a block goes by
  /// one clock, or a clock that is set while it is told of would make ways of hours.
  private var zeros: [BlockID: Int64] = [:]
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

  /// CLOCK_REALTIME shows this at `Instant.zero` from now on: someone has set it.
  public mutating func setWallClock(_ unixNanosecondsAtZero: Int64) {
    let change = unixNanosecondsAtZero &- unixAtZero
    unixAtZero = unixNanosecondsAtZero
    for site in farClocks.keys { farClocks[site]!.atUnix &+= change }
  }

  /// - Parameter block: of which that is a moment.
  public func unix(_ instant: Instant, of block: BlockID? = nil) -> Int64 {
    let zero = block.flatMap { zeros[$0] } ?? unixAtZero
    let (sum, overflow) = zero.addingReportingOverflow(Int64(clamping: instant.nanoseconds))
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

  /// Datagrams since the last call, as the sessions count them. Withdrawn ones were sealed, and so counted as sent, but
  /// dropped by their sender.
  public mutating func traffic(
    _ link: LinkID, sentToPeer: UInt64, openedByPeer: UInt64, sentByPeer: UInt64, opened: UInt64,
    reorderedByPeer: UInt64 = 0, reordered: UInt64 = 0, withdrawn: UInt64 = 0, withdrawnByPeer: UInt64 = 0
  ) {
    guard peers[link] != nil else { return }
    // The peer tells of them by another message than of those it opened, and later: of all, then, not of these.
    peers[link]!.openedOutward &+= openedByPeer
    let left = peers[link]!.openedOutward - min(peers[link]!.reorderedOutward, peers[link]!.openedOutward)
    let (there, here) = (min(reorderedByPeer, left), min(reordered, opened))
    peers[link]!.outward.totals(
      expected: sentToPeer, received: min(openedByPeer, sentToPeer), reordered: there, withdrawn: withdrawn)
    peers[link]!.inward.totals(
      expected: sentByPeer, received: min(opened, sentByPeer), reordered: here, withdrawn: withdrawnByPeer)
    peers[link]!.reorderedOutward &+= there
    peers[link]!.reorderedInward &+= here
  }

  /// Both directions of a link over the last one to two intervals; nil for a link that isn't.
  public func figures(of link: LinkID) -> (to: LinkMeter.Summary, from: LinkMeter.Summary)? {
    peers[link].map { ($0.lastOutward.joined($0.outward.current), $0.lastInward.joined($0.inward.current)) }
  }

  /// What is known of a peer's clock.
  public func clock(of link: LinkID, at now: Instant) -> ClockBounds? { peers[link]?.clock.bounds(at: now) }

  /// A block is here, complete and checked: what others tell of it is of interest from now on.
  public mutating func learn(_ block: BlockID, now: Instant) {
    guard taken[block] == nil else { return }
    taken[block] = [:]
    zeros[block] = unixAtZero
    known.append(block)
    if known.count > Recorder.knownBlocks {
      let oldest = known.removeFirst()
      taken[oldest] = nil
      ways[oldest] = nil
      zeros[oldest] = nil
    }
    takePending(of: block, now: now)
  }

  /// This site's own journey, once it is finished (tip updated, or given up waiting for it).
  public mutating func local(_ journey: Journey, now: Instant) {
    if journey.isOrigin {
      // Early because it was found here: no merit of the overlay. Unless others had it before.
      leads.ownNode(journey.block, at: journey.first)
    } else if let verified = journey[.verified] {
      receiving.add(verified)
      leads.overlay(journey.block, at: journey.first + verified)
    }
    let stored = StoredJourney(
      journey: journey, site: home, firstUnix: unix(journey.first, of: journey.block), uncertainty: .zero)
    put(stored)
    learn(journey.block, now: now)
    noteWay(stored)
  }

  /// A watched public peer announced a block over plain P2P. `source` is the name in the configuration.
  public mutating func announced(_ block: BlockID, by source: String, at: Instant) {
    leads.announced(block, by: source, at: at)
    guard room() else { return }
    output.news.append(PublicNews(block: block, source: source, atUnix: unix(at, of: block)))
  }

  /// Ends an interval of the links' statistics: once a minute.
  public mutating func endInterval(now: Instant, kernel: KernelClock? = KernelClock.read()) {
    let span = now - spanStart
    let at = unix(now)
    if spanStart != .zero {
      for link in peers.keys {
        let name = peers[link]!.name
        let (outward, inward) = (peers[link]!.outward.take(), peers[link]!.inward.take())
        (peers[link]!.lastOutward, peers[link]!.lastInward) = (outward, inward)
        guard room(3) else { continue }
        output.links.append(LinkSample(from: home, to: name, atUnix: at, span: span, summary: outward))
        output.links.append(LinkSample(from: name, to: home, atUnix: at, span: span, summary: inward))
        let clock = peers[link]!.clock
        output.clocks.append(
          ClockRecord(site: name, atUnix: at, bounds: clock.bounds(at: now), steps: clock.steps))
      }
    }
    for (_, record) in farClocks.sorted(by: { $0.key < $1.key }) where room() { output.clocks.append(record) }
    farClocks = [:]
    if room() { output.clocks.append(ClockRecord(site: home, atUnix: at, bounds: nil, kernel: kernel)) }
    spanStart = now
  }

  mutating func put(_ stored: StoredJourney) {
    if room() { output.journeys.append(stored) }
  }

  mutating func room(_ count: Int = 1) -> Bool {
    if output.count + count <= Recorder.outBound { return true }
    dropped += UInt64(count)
    return false
  }

  /// What is to be written; it is the caller's now.
  public mutating func take() -> Output {
    defer { output = Output() }
    return output
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
