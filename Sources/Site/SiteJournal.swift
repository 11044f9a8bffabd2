import Bitcoin
import Ground
import Measurement
import NodeBridge
import Relay
import Session

/// Makes journeys, clock bounds and leads of what a site tells (`SiteEvent`). Sans-IO, and off the packet thread: the
/// daemon's measurement thread feeds it, hands it the reports it asks for, writes what its recorder gives out, and has
/// the relay send what goes to the neighbours: this site's journeys, signed, and those that it passes on.
///
/// A journey is closed when every station that this site has was reached, at the earliest half a second after the block
/// was handed to the node, so that it is told after the block and counts packets that came late; at the latest ten
/// seconds after. Bounded: `openMax` blocks, `jobsMax` jobs.
public struct SiteJournal: Sendable {
  /// One of the bridge's nodes, by its number.
  public struct Source: Hashable, Sendable {
    public var name: String
    /// A public peer that is only listened to.
    public var isWatched: Bool
    public init(name: String, isWatched: Bool) { (self.name, self.isWatched) = (name, isWatched) }
  }

  /// A neighbour and the least one-way delay that is possible: light in a vacuum over the great circle.
  public struct Neighbour: Hashable, Sendable {
    public var link: LinkID
    public var name: String
    public var leastDelay: Interval
    public init(link: LinkID, name: String, leastDelay: Interval) {
      (self.link, self.name, self.leastDelay) = (link, name, leastDelay)
    }
  }

  /// A relay of the overlay, by its key and the topology's name.
  public struct Maker: Hashable, Sendable {
    public var key: PublicKey
    public var name: String
    /// What light in fibre needs from there to here; nil: not known.
    public var light: Interval?
    public init(key: PublicKey, name: String, light: Interval? = nil) {
      (self.key, self.name, self.light) = (key, name, light)
    }
  }

  /// A JOURNEY payload and whom it is for.
  public struct Message: Hashable, Sendable {
    public var bytes: [UInt8]
    /// nil: this site's own, for all neighbours. Else its maker's short key and the link that told it: for the neighbours
    /// that hear it best from here.
    public var passed: Passed?

    public struct Passed: Hashable, Sendable {
      public var maker: UInt32
      public var from: LinkID
      public init(maker: UInt32, from: LinkID) { (self.maker, self.from) = (maker, from) }
    }

    public init(bytes: [UInt8], passed: Passed? = nil) { (self.bytes, self.passed) = (bytes, passed) }

    /// As the site's core takes it.
    public var request: SiteRequest {
      passed.map { .passJourneys(bytes, maker: $0.maker, from: $0.from) } ?? .journeys(bytes)
    }
  }

  public static let openMax = 64
  public static let jobsMax = 32
  static let quiet = Interval.milliseconds(500 as Int64)
  static let patience = Interval.seconds(10)
  /// Datagrams get lost and nobody asks for journeys: each is told once more after this long.
  static let again = Interval.seconds(1)
  /// Messages that wait to be told, and how many are told a second (of 1,100 bytes at most, to each neighbour).
  static let messagesMax = 1_024
  static let messagesPerSecond: Int64 = 100
  /// A block that a node told of and that never came.
  static let forgetAfter = Interval.seconds(60)

  private struct Open: Sendable {
    var since: Instant
    var delivery: BlockDelivery?
    /// By node, the last time for each: a form that the node did not take doesn't count.
    var writtenTo: [Int: Instant] = [:]
    var written: Instant? { writtenTo.values.min() }
    var tip: Instant?
    /// When one of the site's own nodes first told of it, and which.
    var told: (node: Int, at: Instant)?
  }
  private struct Totals: Sendable {
    var generation: UInt32
    var peerOpened, peerHighest, opened, highest: UInt64
    var reordered, peerReordered, withdrawn, peerWithdrawn: UInt64
  }

  public private(set) var recorder: Recorder
  private let sources: [Source]
  private let hasNodes: Bool
  private let hasPool: Bool
  private var open: [Hash256: Open] = [:]
  private var order: [Hash256] = []
  private var jobs: [(block: BlockID, at: Instant)] = []
  private var totals: [LinkID: Totals] = [:]
  private var floors: [LinkID: Interval] = [:]
  private var names: [LinkID: String] = [:]
  private var told: [Journey] = []
  private let identity: Identity
  private let ownKey: UInt32
  /// By short key.
  private var makers: [UInt32: [Maker]] = [:]
  /// In order of `at`, first told and told again.
  private var outgoing: [(at: Instant, message: Message)] = []
  private var nextMessage = Instant.zero
  /// Neighbours whose packets came faster than light between the stated positions, since last asked.
  private var impossible: [String] = []

  /// - Parameters:
  ///   - identity: signs this site's journeys.
  ///   - makers: the overlay's relays, whose journeys count.
  ///   - sources: the bridge's nodes, in its order.
  public init(
    home: String, identity: Identity, makers: [Maker], unixNanosecondsAtZero: Int64, sources: [Source], hasPool: Bool
  ) {
    self.identity = identity
    ownKey = key4(of: identity.publicKey)
    self.makers = Dictionary(grouping: makers) { key4(of: $0.key) }
    recorder = Recorder(home: home, unixNanosecondsAtZero: unixNanosecondsAtZero)
    recorder.lightBounds = SiteJournal.lightBounds(makers)
    self.sources = sources
    self.hasPool = hasPool
    hasNodes = sources.contains { !$0.isWatched }
  }

  /// The overlay's relays are these from now on.
  public mutating func setMakers(_ makers: [Maker]) {
    self.makers = Dictionary(grouping: makers) { key4(of: $0.key) }
    recorder.lightBounds = SiteJournal.lightBounds(makers)
  }

  private static func lightBounds(_ makers: [Maker]) -> [String: Interval] {
    Dictionary(makers.compactMap { maker in maker.light.map { (maker.name, $0) } }, uniquingKeysWith: { $1 })
  }

  /// The neighbours are these from now on.
  public mutating func setNeighbours(_ neighbours: [Neighbour]) {
    for link in names.keys where !neighbours.contains(where: { $0.link == link && $0.name == names[link] }) {
      recorder.removePeer(link)
      totals[link] = nil
    }
    names = [:]
    floors = [:]
    for neighbour in neighbours {
      names[neighbour.link] = neighbour.name
      floors[neighbour.link] = neighbour.leastDelay
      recorder.setPeer(neighbour.link, name: neighbour.name, leastDelay: neighbour.leastDelay)
    }
  }

  /// The wall clock shows this at `Instant.zero` from now on.
  public mutating func setWallClock(_ unixNanosecondsAtZero: Int64) { recorder.setWallClock(unixNanosecondsAtZero) }

  // MARK: What happens

  public mutating func hear(_ event: SiteEvent) {
    switch event {
    case .clock(let notice): hear(notice)
    case .journey(let link, let bytes, let at):
      let makers = makers
      recorder.heard(bytes.span.bytes, from: link, now: at) { SiteJournal.judge($0, makers) }
      collectPassing(now: at)
    case .delivered(let block):
      recorder.learn(BlockID(block.report.hash), now: block.delivered)
      collectPassing(now: block.delivered)
      update(block.report.hash, at: block.delivered) { $0.delivery = block }
    case .node(.announced(let node, let hash, _, let at)):
      guard sources.indices.contains(node) else { return }
      if sources[node].isWatched {
        recorder.announced(BlockID(hash), by: sources[node].name, at: at)
      } else {
        update(hash, at: at) { if $0.told == nil { $0.told = (node, at) } }
      }
    case .node(.written(let node, let hash, _, _, _, let at)): update(hash, at: at) { $0.writtenTo[node] = at }
    case .node(.mistaken(let node, let hash)): open[hash]?.writtenTo[node] = nil
    case .node(.tipUpdated(_, let hash, _, _, let at)):
      update(hash, at: at) { if $0.tip == nil { $0.tip = at } }
    default: break
    }
  }

  static let purpose: StaticString = "lightpath journey 2"

  /// The relay that signed a journey; nil when none of the overlay's did under that short key.
  private static func judge(_ told: ToldJourney, _ makers: [UInt32: [Maker]]) -> String? {
    makers[told.maker]?.first {
      $0.key.verifies(told.signature.span.bytes, of: told.statement.span.bytes, for: purpose)
    }?.name
  }

  /// The site's pool sent its first job on top of `previous`.
  public mutating func job(on previous: BlockID, at: Instant) {
    if jobs.contains(where: { $0.block == previous }) { return }
    if jobs.count == SiteJournal.jobsMax { jobs.removeFirst() }
    jobs.append((previous, at))
  }

  private mutating func update(_ hash: Hash256, at: Instant, _ body: (inout Open) -> Void) {
    if open[hash] == nil {
      if order.count == SiteJournal.openMax { open[order.removeFirst()] = nil }
      order.append(hash)
      open[hash] = Open(since: at)
    }
    body(&open[hash]!)
  }

  private mutating func hear(_ notice: ClockNotice) {
    let (link, sample) = (notice.link, notice.sample)
    guard let name = names[link] else { return }
    if let floor = floors[link], floor > .zero, sample.roundTrip >= .zero, sample.roundTrip < floor * 2 {
      // The positions are wrong, so they prove nothing.
      floors[link] = .zero
      recorder.setPeer(link, name: name, leastDelay: .zero)
      impossible.append(name)
    }
    recorder.exchange(
      link, ClockExchange(t1: sample.sent, t2: sample.peerReceived, t3: sample.peerSent, t4: sample.received))
    let new = Totals(
      generation: notice.generation, peerOpened: sample.peerOpened, peerHighest: sample.peerHighestCounter,
      opened: notice.opened, highest: notice.highestCounter, reordered: notice.reordered,
      peerReordered: UInt64(notice.peerReordered), withdrawn: notice.withdrawn,
      peerWithdrawn: UInt64(notice.peerWithdrawn))
    if let old = totals[link], old.generation == new.generation, sample.generation == new.generation,
      new.peerOpened >= old.peerOpened, new.peerHighest >= old.peerHighest, new.opened >= old.opened,
      new.highest >= old.highest
    {
      recorder.traffic(
        link, sentToPeer: new.peerHighest - old.peerHighest, openedByPeer: new.peerOpened - old.peerOpened,
        sentByPeer: new.highest - old.highest, opened: new.opened - old.opened,
        reorderedByPeer: SiteJournal.growth(new.peerReordered, since: old.peerReordered),
        reordered: SiteJournal.growth(new.reordered, since: old.reordered),
        withdrawn: SiteJournal.growth(new.withdrawn, since: old.withdrawn),
        withdrawnByPeer: SiteJournal.growth(new.peerWithdrawn, since: old.peerWithdrawn))
    }
    totals[link] = new
  }

  /// A count that begins anew with a session: the neighbour may have begun it since the last look.
  private static func growth(_ new: UInt64, since old: UInt64) -> UInt64 { new >= old ? new - old : new }

  // MARK: Closing

  /// Blocks whose journey ends now: `close` wants their reports as they stand.
  public func due(now: Instant) -> [Hash256] { order.filter { isDue(open[$0]!, now: now) } }

  /// When to look at `due` again.
  public var nextDeadline: Instant {
    let closing = open.values.reduce(.never) { min($0, $1.delivery.map { $0.delivered + SiteJournal.quiet } ?? .never) }
    return min(closing, outgoing.first.map { max($0.at, nextMessage) } ?? .never)
  }

  private func isDue(_ entry: Open, now: Instant) -> Bool {
    guard let delivery = entry.delivery else { return now - entry.since > SiteJournal.forgetAfter }
    let age = now - delivery.delivered
    if age >= SiteJournal.patience { return true }
    let lacksTip = hasNodes && !delivery.report.isSubmitted && entry.tip == nil
    let lacksJob = hasPool && !jobs.contains { $0.block == BlockID(delivery.report.hash) }
    return age >= SiteJournal.quiet && !lacksTip && !lacksJob
  }

  /// Ends the journeys that are due. A block that has no report any more keeps the one of its delivery.
  public mutating func close(_ reports: [BlockReport], now: Instant) {
    for hash in due(now: now) {
      let entry = open.removeValue(forKey: hash)!
      order.removeAll { $0 == hash }
      guard let delivery = entry.delivery else { continue }
      let report = reports.first { $0.hash == hash } ?? delivery.report
      guard report.firstPacket != .never else { continue }
      if let told = entry.told, !report.isSubmitted, entry.written.map({ told.at < $0 }) ?? true {
        // The node had it from elsewhere before we brought it: from the public network.
        recorder.announced(BlockID(hash), by: sources[told.node].name, at: told.at)
      }
      let journey = SiteJournal.journey(
        report, written: hasNodes ? entry.written : delivery.delivered, tip: entry.tip,
        job: jobs.first { $0.block == BlockID(hash) }?.at)
      recorder.local(journey, now: now)
      told.append(journey)
    }
    tellOwn(now: now)
  }

  static func journey(_ report: BlockReport, written: Instant?, tip: Instant?, job: Instant?) -> Journey {
    var journey = Journey(
      block: BlockID(report.hash), height: UInt32(clamping: report.height), isOrigin: report.isSubmitted,
      first: report.firstPacket)
    journey.reach(.gatePassed, at: report.gatePassed)
    journey.reach(.sketchComplete, at: report.sketchComplete)
    journey.reach(.matched, at: report.matched)
    journey.reach(.forwarded, at: report.firstForwarded)
    journey.reach(.lastNeeded, at: report.lastNeeded)
    journey.reach(.decoded, at: report.decoded)
    journey.reach(.verified, at: report.verified)
    journey.reach(.written, at: report.isSubmitted ? .never : written ?? .never)
    journey.reach(.tipUpdated, at: tip ?? .never)
    journey.reach(.minerJob, at: job ?? .never)
    journey.bodyBytes = report.bodyBytes
    journey.knownBytes = min(report.knownBytes, report.bodyBytes)
    journey.sketchBytes = report.sketchBytes
    journey.transactions = report.transactionCount
    journey.missingTransactions = min(report.missingTransactions, report.transactionCount)
    journey.packetsIn = report.packetsIn
    journey.packetsOut = report.packetsOut
    journey.bytesIn = report.bytesIn
    journey.bytesOut = report.bytesOut
    journey.packetsUseless = report.packetsUseless
    journey.neededChunks = report.neededChunks
    journey.requests = report.requests
    journey.failedChecks = report.failedChecks
    return journey
  }

  // MARK: What goes out

  private mutating func tellOwn(now: Instant) {
    var signed = told.map { journey in
      var record = ToldJourney(journey, maker: ownKey)
      record.signature = identity.sign(record.statement.span.bytes, for: SiteJournal.purpose)
      return record
    }
    told = []
    while !signed.isEmpty {
      let (bytes, count) = JourneyCodec.encode(signed)
      queue(Message(bytes: bytes), now: now)
      signed.removeFirst(max(count, 1))
    }
  }

  private mutating func collectPassing(now: Instant) {
    for passing in recorder.takePassing() {
      let (bytes, _) = JourneyCodec.encode(CollectionOfOne(passing.journey))
      queue(
        Message(bytes: bytes, passed: Message.Passed(maker: passing.journey.maker, from: passing.from)), now: now)
    }
  }

  private mutating func queue(_ message: Message, now: Instant) {
    for at in [now, now + SiteJournal.again] {
      if outgoing.count == SiteJournal.messagesMax { outgoing.removeFirst() }
      let index = outgoing.lastIndex { $0.at <= at }.map { $0 + 1 } ?? 0
      outgoing.insert((at, message), at: index)
    }
  }

  /// The next JOURNEY payload that is due; nil when there is nothing to tell now.
  public mutating func takeMessage(now: Instant) -> Message? {
    guard let first = outgoing.first, first.at <= now, nextMessage <= now else { return nil }
    // A fifth of a second's worth may go at once.
    nextMessage = max(nextMessage, now - .milliseconds(200 as Int64)) + .perSecond(SiteJournal.messagesPerSecond)
    outgoing.removeFirst()
    return first.message
  }

  /// Neighbours that answered faster than light could between the positions that the topology states: their clocks'
  /// bounds are taken without the positions from then on. Each is told once.
  public mutating func takeImpossible() -> [String] {
    defer { impossible = [] }
    return impossible
  }

  /// Ends an interval of the links' statistics: once a minute, and before the end.
  public mutating func endInterval(now: Instant, kernel: KernelClock? = KernelClock.read()) {
    recorder.endInterval(now: now, kernel: kernel)
  }

  /// What waits for the store.
  public mutating func takeRecords() -> Recorder.Output { recorder.take() }
}

extension BlockID {
  public init(_ hash: Hash256) { self.init(words: SIMD4(hash.w0, hash.w1, hash.w2, hash.w3)) }
}
