import Bitcoin
import Ground
import Wire

extension Bytes32 {
  @inlinable public init(_ hash: Hash256) { self.init(w0: hash.w0, w1: hash.w1, w2: hash.w2, w3: hash.w3) }
  @inlinable public init(_ number: UInt256) { self.init(w0: number.w0, w1: number.w1, w2: number.w2, w3: number.w3) }
}
extension Hash256 {
  @inlinable public init(_ bytes: Bytes32) { self.init(w0: bytes.w0, w1: bytes.w1, w2: bytes.w2, w3: bytes.w3) }
}
extension UInt256 {
  @inlinable public init(_ bytes: Bytes32) { self.init(w0: bytes.w0, w1: bytes.w1, w2: bytes.w2, w3: bytes.w3) }
}

/// How a relay that connects or returns learns the tip and gets the blocks it missed: what peers say of their tips, the
/// exchange of headers with them, and which blocks to ask whom for (PROTOCOL.md, section 5).
///
/// Nothing here trusts a peer: headers go through `HeaderChain`, blocks through the relay's gate and checks. Everything is
/// bounded: one header request at a time, 2,000 headers waiting, 2,000 being answered a link, two blocks asked for, six
/// back and four beside. It is off the packet path and allocates.
public struct CatchUp: Sendable {
  /// Blocks below the tip, itself among them, that are fetched.
  public static let blocksBack = 6
  static let blocksAtOnce = 2
  /// Blocks beside the best branch that are fetched, and how far back among the known headers they are looked for.
  static let blocksBeside = 4
  static let recentHeaders = 32
  static let headerTimeout = Interval.microseconds(1_000_000)
  static let blockTimeout = Interval.microseconds(2_000_000)
  /// How often those who didn't answer are asked again before a pause.
  static let blockRepeats = 2
  /// A header's block is usually on its way already.
  static let blockGrace = Interval.microseconds(250_000)
  /// A peer that left three requests for headers unanswered comes after all others for a second, then two, four, eight. On
  /// a bad line every one of them may have been lost: while there is nobody else, it is asked on.
  static func rest(_ rests: Int) -> Interval { headerTimeout * Int64(1 << min(rests, 3)) }
  /// A peer that sent bad headers or led nowhere is not asked again for so long.
  static let penalty = Interval.microseconds(600_000_000)
  static let headersHeldMax = 2_000

  struct Link: Sendable {
    var isUp = false
    var status: StatusHead?
    var wantsHeaders = false
    /// Not asked before this.
    var shunnedUntil = Instant.zero
    /// Asked only when nobody else can be, before this.
    var restsUntil = Instant.zero
    var attempts = 0
    /// How often it was left alone for not answering, since it last had something new.
    var rests = 0
    /// Headers that it asked for and that are not sent yet.
    var answer: [HeaderBytes] = []
    var answerAt = 0
    var answerHeight = 0
  }
  struct HeaderRequest: Sendable {
    var link: LinkID
    var deadline: Instant
    var isSent = false
    var isProductive = false
  }
  struct BlockRequest: Sendable {
    var hash: Hash256
    var link: LinkID
    var deadline: Instant
    var isSent = false
  }
  /// A block that is missing, and since when.
  struct Missing: Sendable {
    var hash: Hash256
    var since: Instant
    var tried = LinkSet.none
    /// Of those tried, who didn't answer, and how often these were tried again.
    var silent = LinkSet.none
    var repeats = 0
    var isResting = false
    var restUntil = Instant.zero
    var rounds: Int64 = 0
  }

  var links = Array(repeating: Link(), count: LinkSet.capacity)
  var headerRequest: HeaderRequest?
  /// Headers of the running answer that came before their parents, by height.
  var held: [UInt32: HeaderBytes] = [:]
  var lastHeight: UInt32 = 0
  var blockRequests: [BlockRequest] = []
  var missing: [Missing] = []

  public init() {}

  public mutating func linkUp(_ link: LinkID) {
    links[Int(link.index)] = Link()
    links[Int(link.index)].isUp = true
  }

  public mutating func linkDown(_ link: LinkID) {
    links[Int(link.index)] = Link()
    if headerRequest?.link == link { endHeaderRequest() }
    blockRequests.removeAll { $0.link == link }
  }

  // MARK: What is said

  /// What this relay says of itself. `tip` is the best block that is complete here. Readiness: *cold* without transactions,
  /// *in step* when the node's mempool was listed whole, or recent blocks lacked less than a tenth; else *starting*.
  public static func status(
    tip: HeaderChain.Entry, mempoolTransactions: Int, mempoolBytes: Int, isListed: Bool, recentMissRate: Double?,
    loss: LinkLoss, asksForAnswer: Bool
  ) -> StatusHead {
    let readiness: Readiness =
      mempoolTransactions == 0
      ? .cold : isListed || recentMissRate.map { $0 < 0.1 } == true ? .inStep : .starting
    let (rate, burst, observed) = loss.forStatus
    return StatusHead(
      flags: asksForAnswer ? [.answer] : [], readiness: readiness, height: UInt32(clamping: tip.height),
      tip: Bytes32(tip.hash), work: Bytes32(tip.chainWork), mempoolTransactions: UInt32(clamping: mempoolTransactions),
      mempoolBytes: UInt64(clamping: mempoolBytes), loss: rate, burst: burst, observed: observed)
  }

  /// A peer's STATUS. Its work is a claim and decides nothing but whom to ask first.
  public mutating func note(_ status: StatusHead, on link: LinkID, chain: borrowing HeaderChain) {
    let i = Int(link.index)
    guard links[i].isUp else { return }
    if links[i].status?.tip != status.tip {
      // It has something new: what it didn't have before may be asked of it again. (Requests for headers that it left
      // unanswered still count: a tip costs nothing to say.)
      for m in missing.indices { missing[m].tried.remove(link) }
    }
    links[i].status = status
    // A tip that isn't known: longer, or a branch that ours will want to compare.
    if chain.entry(Hash256(status.tip)) == nil && status.tip != .zero { links[i].wantsHeaders = true }
  }

  /// Something of this peer's has an unknown parent: it knows headers that we don't.
  public mutating func noteUnknownParent(from link: LinkID) {
    if links[Int(link.index)].isUp { links[Int(link.index)].wantsHeaders = true }
  }

  // MARK: Blocks

  /// NOBLOCK: somebody else, then.
  public mutating func receive(_ message: NoBlockMessage, from link: LinkID, now: Instant) {
    let hash = Hash256(message.hash)
    guard let at = blockRequests.firstIndex(where: { $0.hash == hash && $0.link == link }) else { return }
    giveUp(at, now: now)
  }

  /// A block is complete, or given up for good: no more of it.
  public mutating func blockDone(_ hash: Hash256) {
    blockRequests.removeAll { $0.hash == hash }
    missing.removeAll { $0.hash == hash }
  }

  /// True while this block is asked for: its packets are catch-up, not news.
  public func wants(_ hash: Hash256) -> Bool { blockRequests.contains { $0.hash == hash } }

  private mutating func giveUp(_ at: Int, now: Instant) {
    let request = blockRequests.remove(at: at)
    guard let m = missing.firstIndex(where: { $0.hash == request.hash }) else { return }
    missing[m].tried.insert(request.link)
  }

  // MARK: Deciding

  /// Looks at what is lacking and decides whom to ask; call after STATUS, HEADERS, a new tip, a completed block, and when
  /// `nextDeadline` has passed. `isHere` says of a block whether it is complete here, known to the node, or in hand and
  /// arriving; `tip` is what the gate measures by, nil: the best header. Then let `next` send.
  public mutating func decide(
    now: Instant, chain: borrowing HeaderChain, near tip: HeaderChain.Entry? = nil, isHere: (Hash256) -> Bool
  ) {
    decideHeaders(now, chain)
    let wanted = CatchUp.candidates(chain, near: tip)
    let lacking = wanted.filter { !isHere($0) }
    missing.removeAll { !lacking.contains($0.hash) }
    blockRequests.removeAll { !lacking.contains($0.hash) }
    for hash in lacking where !missing.contains(where: { $0.hash == hash }) {
      missing.append(Missing(hash: hash, since: now))
    }
    while let late = blockRequests.firstIndex(where: { $0.deadline <= now }) {
      let request = blockRequests[late]
      giveUp(late, now: now)
      if let m = missing.firstIndex(where: { $0.hash == request.hash }) { missing[m].silent.insert(request.link) }
    }
    for hash in lacking where blockRequests.count < Self.blocksAtOnce {
      let m = missing.firstIndex { $0.hash == hash }!
      if blockRequests.contains(where: { $0.hash == hash }) { continue }
      if now < missing[m].since + Self.blockGrace { continue }
      if missing[m].isResting && missing[m].restUntil <= now {
        missing[m].isResting = false
        missing[m].tried = .none
        missing[m].silent = .none
        missing[m].repeats = 0
      }
      if holder(of: hash, not: missing[m].tried, now, chain) == nil, missing[m].repeats < Self.blockRepeats {
        // Who said nothing at all may not have heard.
        missing[m].repeats += 1
        missing[m].tried = missing[m].tried - missing[m].silent
        missing[m].silent = .none
      }
      if let link = holder(of: hash, not: missing[m].tried, now, chain) {
        missing[m].tried.insert(link)
        blockRequests.append(
          BlockRequest(hash: hash, link: link, deadline: now + Self.blockTimeout))
      } else if !missing[m].isResting {
        // Everybody was asked, or nobody has it: again after a pause, 4 s at first and up to 64; at once who says that its
        // tip is another now.
        missing[m].isResting = true
        missing[m].restUntil = now + Self.blockTimeout * (2 << min(missing[m].rounds, 4))
        if missing[m].tried != .none { missing[m].rounds += 1 }
      }
    }
  }

  /// Links whose peers have a block, as they say: their tip is it, or a descendant.
  public func holders(of hash: Hash256, chain: borrowing HeaderChain) -> LinkSet {
    var holders = LinkSet.none
    guard let height = chain.entry(hash)?.height else { return holders }
    for i in links.indices where links[i].isUp {
      guard let status = links[i].status, let tip = chain.entry(Hash256(status.tip)), tip.height >= height else {
        continue
      }
      if chain.lastCommonAncestor(hash, tip.hash)?.hash == hash { holders.insert(LinkID(UInt16(i))) }
    }
    return holders
  }

  /// A link whose peer's tip is this block or a descendant, one that answers if there is any; else one whose peer is as
  /// high, and may have it beside.
  private func holder(
    of hash: Hash256, not tried: LinkSet, _ now: Instant, _ chain: borrowing HeaderChain
  ) -> LinkID? {
    guard let height = chain.entry(hash)?.height else { return nil }
    var resting: LinkID?
    var second: LinkID?
    for i in links.indices where links[i].isUp && links[i].shunnedUntil <= now {
      let link = LinkID(UInt16(i))
      if tried.contains(link) { continue }
      // A tip that isn't known: its headers come first.
      guard let status = links[i].status, let tip = chain.entry(Hash256(status.tip)), tip.height >= height else {
        continue
      }
      if chain.lastCommonAncestor(hash, tip.hash)?.hash == hash {
        if links[i].restsUntil <= now { return link }
        if resting == nil { resting = link }
      }
      if second == nil { second = link }
    }
    return resting ?? second
  }

  /// The blocks that a relay should have: six back on the best branch, the newest first, and those beside it that the gate
  /// would still let in, since a reorganisation may need them at once and a header whose body is kept back must not hide
  /// the honest block beside it: `tip` is what the gate measures by. Not the genesis block or anchor itself.
  public static func candidates(_ chain: borrowing HeaderChain, near tip: HeaderChain.Entry? = nil) -> [Hash256] {
    var wanted: [Hash256] = []
    var height = chain.tip.height
    while wanted.count < Self.blocksBack, let entry = chain.entry(atHeight: height), height > chain.lowestHeight {
      wanted.append(entry.hash)
      height -= 1
    }
    let near = tip ?? chain.tip
    let slack = Target.work(of: near.bits).multipliedWrapping(by: 2)
    for entry in chain.recent(Self.recentHeaders).reversed() {
      if wanted.count == Self.blocksBack + Self.blocksBeside { break }
      if entry.isInvalid || entry.header == nil || entry.chainWork + slack < near.chainWork { continue }
      if entry.height <= near.height - 3 || chain.isOnBestBranch(entry.hash) { continue }
      wanted.append(entry.hash)
    }
    return wanted
  }

  // MARK: Sending

  /// The next message for a link: a request, or a piece of an answer. Writes it and returns its length; 0 for none.
  /// Requests are `control`, answers `background`: `isRequest` tells.
  public mutating func next(
    on link: LinkID, now: Instant, chain: borrowing HeaderChain, into out: inout MutableRawSpan
  ) -> (count: Int, isRequest: Bool) {
    let i = Int(link.index)
    guard links[i].isUp else { return (0, false) }
    if let request = headerRequest, request.link == link, !request.isSent {
      let all = chain.locator()
      var locator = all.prefix(RelayLimits.locatorHashes - 1).map { Bytes32($0) }
      if let last = all.last, all.count > locator.count { locator.append(Bytes32(last)) }
      var wanted = Bytes32.zero
      if let tip = links[i].status?.tip, chain.entry(Hash256(tip)) == nil { wanted = tip }
      let count = GetHeadersMessage.write(locator: locator.span, stop: wanted, into: &out)
      if count > 0 {
        headerRequest?.isSent = true
        headerRequest?.deadline = now + Self.headerTimeout
      }
      return (count, true)
    }
    if let at = blockRequests.firstIndex(where: { $0.link == link && !$0.isSent }) {
      let count = GetBlockMessage(hash: Bytes32(blockRequests[at].hash), flags: []).write(into: &out)
      if count > 0 {
        blockRequests[at].isSent = true
        blockRequests[at].deadline = now + Self.blockTimeout
      }
      return (count, true)
    }
    if links[i].answerHeight == -1 {
      links[i].answerHeight = 0
      let none: [HeaderBytes] = []
      return (HeadersMessage.write(startHeight: 0, lastHeight: 0, headers: none.span, into: &out), false)
    }
    if links[i].answerAt < links[i].answer.count {
      let rest = Array(links[i].answer[links[i].answerAt...].prefix(RelayLimits.headersPerMessage))
      let count = HeadersMessage.write(
        startHeight: UInt32(clamping: links[i].answerHeight + links[i].answerAt),
        lastHeight: UInt32(clamping: links[i].answerHeight + links[i].answer.count - 1), headers: rest.span, into: &out)
      if count > 0 { links[i].answerAt += rest.count }
      if links[i].answerAt == links[i].answer.count { links[i].answer = [] }
      return (count, false)
    }
    return (0, false)
  }

  /// Whether `next` has anything for a link.
  public func hasMessage(for link: LinkID) -> Bool {
    let i = Int(link.index)
    if !links[i].isUp { return false }
    if let request = headerRequest, request.link == link, !request.isSent { return true }
    return blockRequests.contains { $0.link == link && !$0.isSent } || links[i].answerHeight == -1
      || links[i].answerAt < links[i].answer.count
  }

  /// When to call `decide`: in the past when something is due that no call has seen yet.
  public var nextDeadline: Instant {
    var deadline = headerRequest?.deadline ?? .never
    for request in blockRequests { deadline = min(deadline, request.deadline) }
    // While as many are being fetched as may be, the others wait for their end.
    if blockRequests.count < Self.blocksAtOnce {
      for block in missing where !blockRequests.contains(where: { $0.hash == block.hash }) {
        deadline = min(deadline, max(block.since + Self.blockGrace, block.restUntil))
      }
    }
    if headerRequest == nil {
      for link in links where link.isUp && link.wantsHeaders { deadline = min(deadline, link.shunnedUntil) }
    }
    return deadline
  }
}
