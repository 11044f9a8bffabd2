import Bitcoin
import Ground
import Mempool

extension NodePeer {
  /// The connection stands: `version` goes out.
  mutating func opened(
    nonce: UInt64, userAgent: String, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) {
    phase = .handshake(since: now)
    lastHeard = now
    let height = host.withChain { $0.tip.height }
    ours = Version(
      services: [.witness], time: Int64(host.unixTime(at: now)), nonce: nonce, userAgent: userAgent,
      startHeight: Int32(clamping: height), relay: mirrors)
    send(.version(ours), now: now, &sink)
  }

  mutating func receivedVersion(
    _ version: Version, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    if theirs != nil { return }
    if version.nonce == ours.nonce {
      tell(.ourselves, host: &host, now: now)
      cut(&sink)
      return
    }
    theirs = version
    // BIP339 and BIP155: between version and verack.
    if version.version >= 70_016 {
      send(.wtxidrelay, now: now, &sink)
      send(.sendaddrv2, now: now, &sink)
    }
    send(.verack, now: now, &sink)
  }

  mutating func receivedVerack(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    guard let theirs, case .handshake = phase else { return }
    phase = .ready
    readySince = now
    problems = problems.filter { if case .unreachable = $0.key { false } else { true } }
    host.note(
      .connected(
        node: index, userAgent: String(decoding: theirs.userAgent, as: UTF8.self), height: theirs.startHeight))
    send(.sendheaders, now: now, &sink)
    // High bandwidth: the node pushes a `cmpctblock` before it connects the block.
    let version: CompactBlockVersion = speaksWitness ? .two : .one
    send(.sendcmpct(SendCompact(highBandwidth: true, version: version.rawValue)), now: now, &sink)
    askHeaders(host: &host, now: now, &sink)
    if !theirs.services.contains(.network) && theirs.services.contains(.networkLimited) {
      tell(.pruned, host: &host, now: now)
    }
    if mirrors {
      if theirs.relay == false { tell(.blocksOnly, host: &host, now: now) }
      askMempool(host: &host, now: now, &sink)
    }
  }

  /// The node serves high-bandwidth announcements only to peers that have asked for headers with its tip.
  mutating func askHeaders(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    if !isLocal {
      // It can make us ask as often as it likes.
      if isAsking && now - headersAsked < NodePeer.headersLimit { return }
      isAsking = true
    }
    headersAsked = now
    let locator = host.withChain { $0.locator() }
    send(.getheaders(GetHeaders(locator: locator)), now: now, &sink)
  }

  mutating func askMempool(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    // Refused a while ago: asking again so soon would only end the connection again.
    nextReconciliation = now < mempoolAgain ? mempoolAgain : .never
    if now < mempoolAgain { return }
    mempoolAsked = now
    mempoolListed = false
    listedCount = 0
    if index == 0 { host.withMempool { $0.beginReconciliation() } }
    send(.mempool, now: now, &sink)
    ping(.mempoolListed, now: now, &sink)
  }

  /// Core asks for no transactions while in initial download: its filter is then all the money there is, rounded down to
  /// the filter's largest step, some 9,170,000.
  static func isDownload(_ feeFilter: Int64) -> Bool { feeFilter >= 9_000_000 }
  /// Core's rule for initial download (`-maxtipage`), seconds.
  static let tipAgeMax: Int64 = 24 * 3_600

  mutating func setDownloading(_ value: Bool, host: inout some BridgeHost & ~Copyable, now: Instant) {
    if value && !isDownloading { tell(.initialDownload, host: &host, now: now) }
    isDownloading = value
  }

  mutating func receivedFeeFilter(
    _ rate: Int64, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    feeFilter = rate
    let wasDownloading = isDownloading
    setDownloading(NodePeer.isDownload(rate), host: &host, now: now)
    if !wasDownloading || isDownloading { return }
    // It has caught up: what it would not tell before is asked for now.
    headersSynced = false
    askHeaders(host: &host, now: now, &sink)
    if mirrors { askMempool(host: &host, now: now, &sink) }
  }

  /// A hang-up later than this after `mempool` is no answer to it.
  static let refusalLimit = Interval.seconds(10)

  /// What the end of a connection tells.
  mutating func explainClose(error: Int32, host: inout some BridgeHost & ~Copyable, now: Instant) {
    let hungUp = !isCut
    let isAnswer = mempoolAsked != .zero && now - mempoolAsked <= NodePeer.refusalLimit
    let isRefusal = phase == .ready && hungUp && isAnswer && !mempoolListed && listedCount == 0
    // Any other end: it may have restarted with the permission.
    mempoolAgain = isRefusal ? now + NodePeer.problemInterval : .zero
    switch phase {
    case .connecting:
      tell(.unreachable(errno: error), host: &host, now: now)
    case .handshake where bytesReceived == 0 && theirs == nil:
      tell(.wrongNetwork(expected: network.name), host: &host, now: now)
    case .ready:
      if isRefusal {
        tell(.noMempoolPermission, host: &host, now: now)
      } else if hungUp && !deliveries.isEmpty {
        tell(.notWhitelisted, host: &host, now: now)
      }
      host.note(.disconnected(node: index, errno: error))
    default: host.note(.disconnected(node: index, errno: error))
    }
  }

  /// A connection that lasts so long was a good one.
  static let goodAfter = Interval.seconds(10)

  /// Next try: 100 ms, doubling to 10 s. A node restarts in about two seconds.
  mutating func closed(error: Int32, host: inout some BridgeHost & ~Copyable, now: Instant) {
    explainClose(error: error, host: &host, now: now)
    failDeliveries(host: &host)
    if isReady {
      // The site's own node, which shook hands, is worth another try within 2 s in any case.
      attempts = now - readySince >= NodePeer.goodAfter ? 0 : isLocal ? min(attempts, 4) : attempts
    }
    let wait = Interval.milliseconds(Int64(100) << Int64(min(attempts, 7)))
    attempts += 1
    reset(retryAt: now + min(wait, .seconds(10)))
  }
}
