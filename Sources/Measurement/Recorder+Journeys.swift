import Ground

// What others tell of blocks, and what of it is told on.
//
// A neighbour's own journey comes over its session. A relay further away is heard by way of neighbours: its statement
// with its signature, and with what the neighbour knows of its time: an interval by the neighbour's clock. Both are
// brought to this site's clock with the bounds that exchanges with the neighbour prove, so the widths add up along the
// way. Taken once for each maker and block, in its name and with the neighbour's; the maker itself goes before others.
// A relay on the way can keep a journey back or lie about clocks. It can't change what the maker says, nor speak for it.

extension Recorder {
  /// Signatures checked for one neighbour: so many a second, so many at once. An overlay of 256 relays tells each block
  /// in as many.
  public static let checksPerSecond = 100
  public static let checksBurst = 600
  public static let passingMax = 512

  /// A journey to be passed on.
  public struct Passing: Sendable {
    public var journey: ToldJourney
    /// Who told it here: doesn't need it again.
    public var from: LinkID
  }

  /// A JOURNEY payload from a neighbour.
  /// - Parameter judge: the name of the relay that made a journey, when its signature holds.
  public mutating func heard(
    _ bytes: RawSpan, from link: LinkID, now: Instant, judge: (ToldJourney) -> String?
  ) {
    guard peers[link] != nil else { return }
    let journeys: [ToldJourney]
    do throws(DecodeError) { journeys = try JourneyCodec.decode(bytes) } catch {
      malformed += 1
      return
    }
    for told in journeys {
      // Every journey is told twice, and by several neighbours.
      if let isDirect = taken[told.journey.block]?[told.maker], isDirect || told.passage != nil { continue }
      guard allow(link, now: now) else {
        refuse(link)
        continue
      }
      checked += 1
      guard let maker = judge(told), told.passage != nil || maker == peers[link]!.name else {
        forged += 1
        refuse(link)
        continue
      }
      if maker == home { continue }
      if taken[told.journey.block] == nil {
        wait(Early(told: told, maker: maker), link)
      } else {
        take(told, maker: maker, from: link, now: now)
      }
    }
  }

  /// Came before its block.
  struct Early: Sendable {
    var told: ToldJourney
    var maker: String
  }

  private mutating func wait(_ early: Early, _ link: LinkID) {
    let block = early.told.journey.block
    if peers[link]!.pending.contains(where: { $0.told.journey.block == block && $0.told.maker == early.told.maker }) {
      return
    }
    if peers[link]!.pending.count == Recorder.pendingPerPeer {
      peers[link]!.pending.removeFirst()
      refuse(link)
    }
    peers[link]!.pending.append(early)
  }

  private mutating func refuse(_ link: LinkID) {
    refused += 1
    peers[link]!.refused += 1
  }

  private mutating func allow(_ link: LinkID, now: Instant) -> Bool {
    let earned = max((now - peers[link]!.allowanceAt).seconds, 0) * Double(Recorder.checksPerSecond)
    peers[link]!.allowanceAt = now
    peers[link]!.allowance = min(peers[link]!.allowance + earned, Double(Recorder.checksBurst))
    if peers[link]!.allowance < 1 { return false }
    peers[link]!.allowance -= 1
    return true
  }

  mutating func takePending(of block: BlockID, now: Instant) {
    for link in peers.keys where peers[link]!.pending.contains(where: { $0.told.journey.block == block }) {
      let ready = peers[link]!.pending.filter { $0.told.journey.block == block }
      peers[link]!.pending.removeAll { $0.told.journey.block == block }
      for early in ready { take(early.told, maker: early.maker, from: link, now: now) }
    }
  }

  /// Of a known block, by a maker that signed it.
  private mutating func take(_ told: ToldJourney, maker: String, from link: LinkID, now: Instant) {
    let block = told.journey.block
    let before = taken[block]?[told.maker]
    if before == true || before == false && told.passage != nil { return }
    guard let window = window(of: told, from: link, now: now) else {
      refuse(link)
      return
    }
    taken[block]![told.maker] = told.passage == nil
    let width = window.high - window.low
    let middle = window.low + width / 2
    let stored = StoredJourney(
      journey: told.journey, site: maker, firstUnix: unix(middle, of: block), uncertainty: width - width / 2,
      via: told.passage == nil ? nil : peers[link]!.name, hops: told.passage?.hops ?? 0)
    put(stored)
    noteWay(stored)
    if told.passage == nil {
      peers[link]!.journeys += 1
    } else {
      peers[link]!.relayed += 1
      if !peers.values.contains(where: { $0.name == maker }) && (farClocks[maker] != nil || farClocks.count < 256) {
        farClocks[maker] = ClockRecord(
          site: maker, atUnix: unix(middle),
          bounds: ClockBounds(low: told.journey.first - window.high, high: told.journey.first - window.low),
          via: peers[link]!.name)
      }
    }
    let hops = (told.passage?.hops ?? 0) + 1
    if before != nil || hops > JourneyCodec.hopsMax { return }
    if passing.count == Recorder.passingMax {
      passing.removeFirst()
      notPassedOn += 1
    }
    var onward = told
    onward.passage = ToldJourney.Passage(hops: hops, first: window.low, width: width)
    passing.append(Passing(journey: onward, from: link))
  }

  /// A block's way from its origin to here, as far as it is known. Several origins: plain P2P brought it to another
  /// site's node before the overlay did.
  struct Way: Sendable {
    static let originsMax = 8
    var origins: [(site: String, unix: Int64, uncertainty: Interval)] = []
    var here: Int64?
    var isCounted = false
  }

  /// Counts a block's way once both its ends are told of: from the origin from which light could be here first, and from
  /// none whose block was here before light could bring it, whatever the clocks.
  mutating func noteWay(_ stored: StoredJourney) {
    let journey = stored.journey
    guard taken[journey.block] != nil else { return }
    var way = ways[journey.block] ?? Way()
    if journey.isOrigin {
      if stored.site != home && way.origins.count < Way.originsMax {
        way.origins.append((stored.site, stored.firstUnix, stored.uncertainty))
      }
    } else if stored.site == home, let verified = journey[.verified] {
      way.here = stored.firstUnix &+ verified.nanoseconds
    }
    if !way.isCounted, let here = way.here {
      let possible = way.origins.map { origin in
        let light = lightBounds[origin.site]
        return (took: Interval(nanoseconds: here &- origin.unix), slack: origin.uncertainty, light: light)
      }.filter { $0.took + $0.slack >= $0.light ?? .zero }
      // The one with most time left beyond light is the one from which light was here first.
      if let best = possible.max(by: { $0.took - ($0.light ?? .zero) < $1.took - ($1.light ?? .zero) }) {
        way.isCounted = true
        arrival.add(max(best.took, .zero))
        if let light = best.light { overLight.add(best.took - light) }
      }
    }
    ways[journey.block] = way
  }

  /// When the journey began by this site's clock: for certain within these bounds, if the neighbour's are true. nil: no
  /// clock is known, or the time is none of a block that was told of lately.
  private func window(of told: ToldJourney, from link: LinkID, now: Instant) -> (low: Instant, high: Instant)? {
    guard let clock = peers[link]?.clock, let today = clock.bounds(at: now) else { return nil }
    let theirs = told.passage?.first ?? told.journey.first
    let rough = theirs - today.estimate
    // A journey is told within minutes of its block. Anything else is a clock gone wrong or a tale.
    guard (now - rough).nanoseconds.magnitude < 3_600_000_000_000 else { return nil }
    // As the clocks stood then: in the seconds since, drift has moved the offset.
    guard let then = clock.bounds(at: rough) else { return nil }
    // That moment itself is known within the offset's bounds only.
    let slack = (then.high - then.low) * 200 / 1_000_000
    let low = theirs - then.high - slack
    let high = theirs + (told.passage?.width ?? .zero) - then.low + slack
    return high >= low && high - low <= JourneyCodec.widthMax ? (low, high) : nil
  }

  /// What is to be passed on; it is the caller's now.
  public mutating func takePassing() -> [Passing] {
    defer { passing = [] }
    passedOn += UInt64(passing.count)
    return passing
  }
}
