import Ground
import Wire

/// Which neighbours are cut through to and from, and which are for now treated as verified-only because chunks that they
/// delivered proved wrong (PROTOCOL.md, section 6).
public struct TrustLedger: Sendable {
  public static let firstDemotion = Interval.microseconds(600_000_000)
  public static let longestDemotion = Interval.microseconds(86_400_000_000)
  /// What remains for a relay that could point further, and what the word of another costs the one pointed at.
  public static let pointedDemotion = Interval.microseconds(60_000_000)
  public static let day = Interval.microseconds(86_400_000_000)
  /// POINTs of one neighbour that are believed in a day.
  public static let pointsPerDay = 3
  static let blamesMax = 256
  /// A BLAME is answered within this time or not at all.
  static let answerTime = Interval.microseconds(60_000_000)

  private struct Link: Sendable {
    var isConfigured = false
    var isTrusted = false
    var demotedUntil = Instant.zero
    /// Demotions by proof, which double; forgotten after a day without one.
    var demotions = 0
    var lastDemotion = Instant.zero
    var points = 0
    var pointsSince = Instant.zero
  }
  private struct Blame: Sendable {
    var blame: BlameMessage
    var link: LinkID
    var time: Instant
  }

  private var links = Array(repeating: Link(), count: LinkSet.capacity)
  /// What was blamed and not answered yet; oldest overwritten.
  private var blames: [Blame] = []
  private var nextBlame = 0

  /// Links that are cut through to and from now.
  public private(set) var trusted = LinkSet.none
  /// The next demotion's end.
  public private(set) var nextDeadline = Instant.never

  public init() { blames.reserveCapacity(Self.blamesMax) }

  /// A link is configured; its history is kept when only the setting changes.
  public mutating func configure(_ link: LinkID, isTrusted: Bool, now: Instant) {
    links[Int(link.index)].isConfigured = true
    links[Int(link.index)].isTrusted = isTrusted
    refresh(now: now)
  }

  /// A link is gone; its number may be given to another relay.
  public mutating func remove(_ link: LinkID, now: Instant) {
    links[Int(link.index)] = Link()
    blames.removeAll { $0.link == link }
    nextBlame = 0
    refresh(now: now)
  }

  /// One load and a bit test.
  @inlinable public func isTrusted(_ link: LinkID) -> Bool { trusted.contains(link) }

  public func demotedUntil(_ link: LinkID) -> Instant? {
    let link = links[Int(link.index)]
    return link.demotedUntil > .zero ? link.demotedUntil : nil
  }

  public enum Verdict: Hashable, Sendable {
    /// Demoted until then; send it a BLAME, and say so loudly.
    case demoted(until: Instant)
    /// Already demoted for this block: one wrong block is one offence, however many of its chunks were wrong.
    case counted
  }

  /// A chunk that came over `link` proved wrong.
  public mutating func proveWrong(_ blame: BlameMessage, from link: LinkID, now: Instant) -> Verdict {
    let i = Int(link.index)
    let isCounted = blames.contains { $0.link == link && $0.blame.block == blame.block }
    // One BLAME is sent for a block, so one is remembered: many wrong chunks must not push out what is to be answered.
    if isCounted && links[i].demotedUntil > now { return .counted }
    let entry = Blame(blame: blame, link: link, time: now)
    if blames.count < Self.blamesMax {
      blames.append(entry)
    } else {
      blames[nextBlame] = entry
      nextBlame = (nextBlame + 1) % Self.blamesMax
    }
    if now - links[i].lastDemotion > Self.day { links[i].demotions = 0 }
    let length = min(Self.firstDemotion * (1 << Int64(min(links[i].demotions, 10))), Self.longestDemotion)
    links[i].demotions += 1
    links[i].lastDemotion = now
    links[i].demotedUntil = max(links[i].demotedUntil, now + length)
    refresh(now: now)
    return .demoted(until: links[i].demotedUntil)
  }

  /// Who delivered a sketch of a block, or else anything of it, that was proved wrong.
  public func accused(of block: UInt64) -> LinkID? {
    let found =
      blames.last { $0.blame.block == block && $0.blame.kind == .sketch } ?? blames.last { $0.blame.block == block }
    return found?.link
  }

  public enum PointOutcome: Hashable, Sendable {
    /// Nothing of the kind was blamed on this neighbour lately, or it was answered before.
    case unasked
    /// The neighbour has pointed too often today.
    case tooMany
    /// It says that it made the chunk itself.
    case ownWork
    /// Its demotion is shortened; the other relay is no neighbour of ours.
    case shortened
    /// Its demotion is shortened and that neighbour demoted in its stead, for a minute: nothing proves a neighbour's word.
    /// Its own chunks, if wrong, prove themselves.
    case moved(to: LinkID, until: Instant)
  }

  /// A neighbour's answer to a BLAME. `neighbour` is the link to the relay that it names, when there is one.
  public mutating func point(
    _ point: PointMessage, from link: LinkID, own isItself: Bool, neighbour: LinkID?, now: Instant
  ) -> PointOutcome {
    let i = Int(link.index)
    guard
      let at = blames.firstIndex(where: {
        $0.link == link && $0.blame == point.blame && now - $0.time <= Self.answerTime
      })
    else { return .unasked }
    // Answered once, for all of this block's chunks.
    let block = blames[at].blame.block
    for j in blames.indices where blames[j].link == link && blames[j].blame.block == block { blames[j].time = .zero }
    if isItself || neighbour == link { return .ownWork }
    if now - links[i].pointsSince > Self.day {
      links[i].points = 0
      links[i].pointsSince = now
    }
    if links[i].points >= Self.pointsPerDay { return .tooMany }
    links[i].points += 1
    links[i].demotedUntil = min(links[i].demotedUntil, now + Self.pointedDemotion)
    // An honest forwarder's offence doesn't count towards the next one's length.
    links[i].demotions = max(0, links[i].demotions - 1)
    var outcome = PointOutcome.shortened
    if let neighbour, links[Int(neighbour.index)].isConfigured {
      let j = Int(neighbour.index)
      links[j].demotedUntil = max(links[j].demotedUntil, now + Self.pointedDemotion)
      outcome = .moved(to: neighbour, until: links[j].demotedUntil)
    }
    refresh(now: now)
    return outcome
  }

  /// Ends demotions whose time is over; returns the links that are trusted again.
  public mutating func expire(now: Instant) -> LinkSet {
    if now < nextDeadline { return .none }
    let before = trusted
    refresh(now: now)
    return trusted - before
  }

  private mutating func refresh(now: Instant) {
    trusted = .none
    nextDeadline = .never
    for i in links.indices where links[i].isConfigured {
      if links[i].demotedUntil <= now { links[i].demotedUntil = .zero }
      if links[i].demotedUntil > .zero {
        nextDeadline = min(nextDeadline, links[i].demotedUntil)
      } else if links[i].isTrusted {
        trusted.insert(LinkID(UInt16(i)))
      }
    }
  }
}
