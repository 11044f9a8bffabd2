import Bitcoin
import Ground

// A public peer that is only listened to. Anyone may be at the other end: it gets no block, no transaction and no header,
// it has the message budget of an inbound peer, and what it tells of counts once the proof of work was seen.
extension NodePeer {
  static let toldMax = 8
  /// A block further below the tip is no news. As these are fewer than `has` remembers, each is told once.
  static let newsDepth = RecentHashes.capacity / 2
  /// A `getheaders` that nobody answers holds the next one back for so long.
  static let headersLimit = Interval.seconds(2)

  mutating func listen(
    to command: Command, _ payload: RawSpan, reconcileIn interval: Interval, host: inout some BridgeHost & ~Copyable,
    now: Instant, _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    switch command {
    case .cmpctblock:
      // Pushed before the peer connects the block: its first word of it, of which the header will do.
      guard
        let header = parsed(command, &host, { () throws(DecodeError) in try BlockHeader(parsing: payload) })
      else { return }
      switch accept([header], from: command, host: &host, now: now, &sink) {
      case .accepted:
        tip = header.hash
        host.headersFromNode(now: now, into: &sink)
        announced(header.hash, .compactBlock, host: &host, now: now)
      case .unconnected: remember(header.hash, .compactBlock, at: now)
      case .refused: break
      }
    // An empty answer ends its asking.
    case .getheaders: send(.headers([]), now: now, &sink)
    case .ping, .pong, .inv, .headers, .sendcmpct, .feefilter:
      guard
        let message = parsed(
          command, &host, { () throws(DecodeError) in try Message(command, payload: payload) })
      else { return }
      switch message {
      case .ping(let nonce?): send(.pong(nonce), now: now, &sink)
      case .pong(let nonce): receivedPong(nonce, reconcileIn: interval, host: &host, now: now, &sink)
      case .inv(let items):
        guard let block = items.last(where: { $0.kind == .block }), !has.contains(block.hash) else { return }
        if !heard(block.hash, .inventory, at: now, host: &host) { remember(block.hash, .inventory, at: now) }
        askHeaders(host: &host, now: now, &sink)
      case .headers(let headers):
        isAsking = false
        receivedHeaders(headers, host: &host, now: now, &sink)
        // Told of while the question was on its way.
        if told.contains(where: { $0.at > headersAsked }) { askHeaders(host: &host, now: now, &sink) }
      case .sendcmpct(let value): receivedSendCompact(value)
      case .feefilter(let rate): receivedFeeFilter(rate, host: &host, now: now, &sink)
      default: break
      }
    default: break
    }
  }

  /// Notes the first mention of a block whose header is in the chain; false when it isn't.
  mutating func heard(
    _ hash: Hash256, _ form: AnnouncementForm, at: Instant, host: inout some BridgeHost & ~Copyable
  ) -> Bool {
    let isNews = host.withChain { chain in
      chain.entry(hash).map { $0.height > chain.tip.height - NodePeer.newsDepth }
    }
    guard let isNews else { return false }
    var first = (hash: hash, form: form, at: at)
    if let index = told.firstIndex(where: { $0.hash == hash }) { first = told.remove(at: index) }
    if isNews && has.insert(hash) { host.note(.announced(node: index, hash: hash, form: first.form, at: first.at)) }
    return true
  }

  /// Keeps the moment until the header is there.
  private mutating func remember(_ hash: Hash256, _ form: AnnouncementForm, at: Instant) {
    if told.contains(where: { $0.hash == hash }) { return }
    if told.count == NodePeer.toldMax { told.removeFirst() }
    told.append((hash, form, at))
  }

  /// Headers have come, from whomever: what was told of these blocks counts from the moment it was told.
  mutating func tellHeard(host: inout some BridgeHost & ~Copyable) {
    for item in told { _ = heard(item.hash, item.form, at: item.at, host: &host) }
  }
}
