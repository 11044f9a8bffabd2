import Bitcoin
import Ground
import Wire

// The exchange of headers: whom to ask, what comes, and what others ask for.
extension CatchUp {
  // MARK: What comes

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
        links[i].restsUntil = .zero
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

  mutating func endHeaderRequest() {
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

  // MARK: Whom to ask

  /// Ends a request that nobody answered in time, and chooses whom to ask for headers next.
  mutating func decideHeaders(_ now: Instant, _ chain: borrowing HeaderChain) {
    if let request = headerRequest, request.deadline <= now {
      let i = Int(request.link.index)
      // Lost on the way; or a peer that doesn't answer: three times in a row, then others.
      if !request.isProductive { links[i].attempts += 1 }
      if links[i].attempts >= 3 {
        links[i].attempts = 0
        links[i].restsUntil = now + Self.rest(links[i].rests)
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
      let isBetter = best.map { comesFirst(i, $0, now) } ?? true
      if isBetter { best = i }
    }
    if let best { headerRequest = HeaderRequest(link: LinkID(UInt16(best)), deadline: now + Self.headerTimeout) }
  }

  /// Most work first, but its work is a claim: who left requests unanswered comes after the others.
  private func comesFirst(_ a: Int, _ b: Int, _ now: Instant) -> Bool {
    let (restA, restB) = (max(links[a].restsUntil, now), max(links[b].restsUntil, now))
    if restA != restB { return restA < restB }
    if links[a].attempts != links[b].attempts { return links[a].attempts < links[b].attempts }
    return UInt256(links[a].status?.work ?? .zero) > UInt256(links[b].status?.work ?? .zero)
  }
}
