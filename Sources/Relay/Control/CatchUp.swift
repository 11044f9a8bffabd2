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
  /// A peer that left three requests for headers unanswered rests for a second, then two, four, eight: on a bad line every
  /// one of them may have been lost, and there may be nobody else to ask.
  private static func rest(_ rests: Int) -> Interval { headerTimeout * Int64(1 << min(rests, 3)) }
  /// A peer that sent bad headers or led nowhere is not asked again for so long.
  static let penalty = Interval.microseconds(600_000_000)
  static let headersHeldMax = 2_000

  private struct Link: Sendable {
    var isUp = false
    var status: StatusHead?
    var wantsHeaders = false
    /// Not asked before this.
    var shunnedUntil = Instant.zero
    var attempts = 0
    /// How often it was left alone for not answering, since it last had something new.
    var rests = 0
    /// Headers that it asked for and that are not sent yet.
    var answer: [HeaderBytes] = []
    var answerAt = 0
    var answerHeight = 0
  }
  private struct HeaderRequest: Sendable {
    var link: LinkID
    var deadline: Instant
    var isSent = false
    var isProductive = false
  }
  private struct BlockRequest: Sendable {
    var hash: Hash256
    var link: LinkID
    var deadline: Instant
    var isSent = false
  }
  /// A block that is missing, and since when.
  private struct Missing: Sendable {
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

  private var links = Array(repeating: Link(), count: LinkSet.capacity)
  private var headerRequest: HeaderRequest?
  /// Headers of the running answer that came before their parents, by height.
  private var held: [UInt32: HeaderBytes] = [:]
  private var lastHeight: UInt32 = 0
  private var blockRequests: [BlockRequest] = []
  private var missing: [Missing] = []

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

  // MARK: Headers

  public enum HeadersOutcome: Sendable {
    /// Not asked for, or beyond what an answer may hold.
    case ignored
    /// New headers in the chain; the last one's acceptance. Replay what waits for parents.
    case accepted(HeaderChain.Acceptance)
    /// Nothing new yet.
    case waiting
    /// A bad header: the peer isn't asked again for ten minutes.
    case refused(HeaderRejection)
  }

  /// HEADERS. `unixTime` in seconds is for the chain's rules.
  public mutating func receive(
    _ message: borrowing HeadersMessage, from link: LinkID, chain: inout HeaderChain, unixTime: UInt32, now: Instant
  ) -> HeadersOutcome {
    guard let request = headerRequest, request.link == link, request.isSent else { return .ignored }
    let i = Int(link.index)
    if message.count == 0 {
      // It knows nothing after our locator, though its tip is unknown here: leave it be until that changes.
      links[i].wantsHeaders = false
      if !request.isProductive { noteUseless(i, now, chain) }
      endHeaderRequest()
      return .waiting
    }
    lastHeight = max(lastHeight, message.lastHeight)
    for k in 0..<message.count where held.count < Self.headersHeldMax {
      held[message.startHeight &+ UInt32(k)] = message.header(k)
    }
    var result: HeaderChain.Acceptance?
    var reached = 0
    var isGrowing = true
    while isGrowing, let height = held.keys.min(), let bytes = held[height] {
      isGrowing = false
      // The lowest first; a gap ends it, for a later message to fill.
      var at = height
      var next: HeaderBytes? = bytes
      while let bytes = next {
        guard let header = bytes.withBytes({ try? BlockHeader(parsing: $0) }) else { break }
        do throws(HeaderRejection) {
          let acceptance = try chain.accept(header, now: unixTime)
          if acceptance.isNew { result = acceptance }
          reached = acceptance.entry.height
        } catch {
          if case .unknownParent = error { break }
          links[i].wantsHeaders = false
          links[i].shunnedUntil = now + Self.penalty
          endHeaderRequest()
          return .refused(error)
        }
        held[at] = nil
        isGrowing = true
        at &+= 1
        next = held[at]
      }
    }
    if result != nil {
      // Only what costs proof of work buys time.
      headerRequest?.isProductive = true
      headerRequest?.deadline = now + Self.headerTimeout
    }
    if held.isEmpty && UInt32(clamping: reached) >= lastHeight {
      // The whole answer is in. Enough, unless the peer's tip is still unknown and this helped.
      let tip = links[i].status.map { Hash256($0.tip) }
      links[i].wantsHeaders = tip.map { chain.entry($0) == nil } ?? false
      if headerRequest?.isProductive == true {
        links[i].attempts = 0
        links[i].rests = 0
      } else {
        noteUseless(i, now, chain)
      }
      endHeaderRequest()
    }
    if let result { return .accepted(result) }
    return .waiting
  }

  /// An answer without anything new. When its peer's tip has become known meanwhile, somebody else was faster, and it may
  /// be the very one to ask for blocks: it only comes after others the next time. Else it leads nowhere.
  private mutating func noteUseless(_ i: Int, _ now: Instant, _ chain: borrowing HeaderChain) {
    if let status = links[i].status, chain.entry(Hash256(status.tip)) != nil {
      links[i].attempts += 1
    } else {
      links[i].shunnedUntil = now + Self.headerTimeout * 10
    }
  }

  private mutating func endHeaderRequest() {
    headerRequest = nil
    held.removeAll(keepingCapacity: true)
    lastHeight = 0
  }

  /// GETHEADERS: prepares the answer, which `next` sends piece by piece. A new question replaces the old answer.
  public mutating func receive(
    _ message: borrowing GetHeadersMessage, from link: LinkID, chain: borrowing HeaderChain
  ) {
    let i = Int(link.index)
    guard links[i].isUp else { return }
    var locator: [Hash256] = []
    for k in 0..<message.count { locator.append(Hash256(message.hash(k))) }
    let headers = Self.answer(locator, wanted: Hash256(message.stop), chain)
    links[i].answer = headers.prefix(RelayLimits.headersPerAnswer).map { HeaderBytes($0.bytes.span.bytes) }
    links[i].answerAt = 0
    links[i].answerHeight = headers.first.flatMap { chain.entry($0.hash)?.height } ?? -1
  }

  /// The best branch after the locator. A wanted block beside it is answered with its own branch: what a relay says is its
  /// tip lies there while the best header's body is kept back, and nobody would learn the tip's header otherwise.
  private static func answer(
    _ locator: [Hash256], wanted: Hash256, _ chain: borrowing HeaderChain
  ) -> [BlockHeader] {
    guard let entry = chain.entry(wanted), !entry.isInvalid, !chain.isOnBestBranch(wanted),
      let shared = locator.first(where: { chain.isOnBestBranch($0) }).flatMap({ chain.entry($0)?.height })
    else { return chain.headers(after: locator, stop: .zero) }
    var headers: [BlockHeader] = []
    var next: HeaderChain.Entry? = entry
    while let entry = next, let header = entry.header, headers.count < RelayLimits.headersPerAnswer {
      if locator.contains(entry.hash) || entry.height <= shared && chain.isOnBestBranch(entry.hash) { break }
      headers.append(header)
      next = chain.entry(header.previous)
    }
    return headers.reversed()
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
  /// arriving. Then let `next` send.
  public mutating func decide(now: Instant, chain: borrowing HeaderChain, isHere: (Hash256) -> Bool) {
    decideHeaders(now, chain)
    let wanted = CatchUp.candidates(chain)
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

  /// A link whose peer's tip is this block or a descendant; else one whose peer is as high, and may have it beside.
  private func holder(
    of hash: Hash256, not tried: LinkSet, _ now: Instant, _ chain: borrowing HeaderChain
  ) -> LinkID? {
    guard let height = chain.entry(hash)?.height else { return nil }
    var second: LinkID?
    for i in links.indices where links[i].isUp && links[i].shunnedUntil <= now {
      let link = LinkID(UInt16(i))
      if tried.contains(link) { continue }
      // A tip that isn't known: its headers come first.
      guard let status = links[i].status, let tip = chain.entry(Hash256(status.tip)), tip.height >= height else {
        continue
      }
      if chain.lastCommonAncestor(hash, tip.hash)?.hash == hash { return link }
      if second == nil { second = link }
    }
    return second
  }

  /// The blocks that a relay should have: six back on the best branch, the newest first, and those beside it that the gate
  /// would still let in, since a reorganisation may need them at once and a header whose body is kept back must not hide
  /// the honest block beside it. Not the genesis block or anchor itself.
  public static func candidates(_ chain: borrowing HeaderChain) -> [Hash256] {
    var wanted: [Hash256] = []
    var height = chain.tip.height
    while wanted.count < Self.blocksBack, let entry = chain.entry(atHeight: height), height > chain.lowestHeight {
      wanted.append(entry.hash)
      height -= 1
    }
    let slack = Target.work(of: chain.tip.bits).multipliedWrapping(by: 2)
    for entry in chain.recent(Self.recentHeaders).reversed() {
      if wanted.count == Self.blocksBack + Self.blocksBeside { break }
      if entry.isInvalid || entry.header == nil || entry.chainWork + slack < chain.tip.chainWork { continue }
      if entry.height <= chain.tip.height - 3 || chain.isOnBestBranch(entry.hash) { continue }
      wanted.append(entry.hash)
    }
    return wanted
  }

  private mutating func decideHeaders(_ now: Instant, _ chain: borrowing HeaderChain) {
    if let request = headerRequest, request.deadline <= now {
      let i = Int(request.link.index)
      // Lost on the way; or a peer that doesn't answer: three times in a row, then others.
      if !request.isProductive { links[i].attempts += 1 }
      if links[i].attempts >= 3 {
        links[i].attempts = 0
        links[i].shunnedUntil = now + Self.rest(links[i].rests)
        links[i].rests += 1
      }
      endHeaderRequest()
    }
    if headerRequest != nil { return }
    var best: Int?
    for i in links.indices where links[i].isUp && links[i].wantsHeaders && links[i].shunnedUntil <= now {
      // Asked about since, the tip may have become known through somebody else.
      if let tip = links[i].status.map({ Hash256($0.tip) }), chain.entry(tip) != nil, chain.tip.hash == tip {
        links[i].wantsHeaders = false
        continue
      }
      // Most work first, but its work is a claim: who left requests unanswered comes after the others.
      let isBetter =
        best.map { b in
          links[i].attempts != links[b].attempts
            ? links[i].attempts < links[b].attempts
            : UInt256(links[i].status?.work ?? .zero) > UInt256(links[b].status?.work ?? .zero)
        } ?? true
      if isBetter { best = i }
    }
    if let best { headerRequest = HeaderRequest(link: LinkID(UInt16(best)), deadline: now + Self.headerTimeout) }
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

  /// When to call `decide`.
  public func nextDeadline(now: Instant) -> Instant {
    var deadline = headerRequest?.deadline ?? .never
    for request in blockRequests { deadline = min(deadline, request.deadline) }
    for block in missing where !blockRequests.contains(where: { $0.hash == block.hash }) {
      let time = max(block.since + Self.blockGrace, block.restUntil)
      // Already due, but two others are being fetched or nobody has it: their end, or a STATUS, brings the next look.
      if time > now { deadline = min(deadline, time) }
    }
    for link in links where link.isUp && link.wantsHeaders && headerRequest == nil && link.shunnedUntil > now {
      deadline = min(deadline, link.shunnedUntil)
    }
    return deadline
  }
}
