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
      startHeight: Int32(clamping: height), relay: isLocal && configuration.mirrorsMempool)
    send(.version(ours), now: now, &sink)
  }

  mutating func receivedVersion(
    _ version: Version, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    if theirs != nil { return }
    if version.nonce == ours.nonce {
      host.note(.problem(node: index, .ourselves))
      sink.close(stream)
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
    attempts = 0
    host.note(
      .connected(
        node: index, userAgent: String(decoding: theirs.userAgent, as: UTF8.self), height: theirs.startHeight))
    send(.sendheaders, now: now, &sink)
    // High bandwidth: the node pushes a `cmpctblock` before it connects the block.
    let version: CompactBlockVersion = speaksWitness ? .two : .one
    send(.sendcmpct(SendCompact(highBandwidth: true, version: version.rawValue)), now: now, &sink)
    askHeaders(host: &host, now: now, &sink)
    if isLocal && configuration.mirrorsMempool {
      if theirs.relay == false { host.note(.problem(node: index, .blocksOnly)) }
      askMempool(host: &host, now: now, &sink)
    }
  }

  /// The node serves high-bandwidth announcements only to peers that have asked for headers with its tip.
  mutating func askHeaders(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    headersAsked = now
    let locator = host.withChain { $0.locator() }
    send(.getheaders(GetHeaders(locator: locator)), now: now, &sink)
  }

  mutating func askMempool(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    nextReconciliation = .never
    // Refused once: asking again would only end the connection again.
    if mempoolRefused {
      return
    }
    mempoolAsked = now
    mempoolListed = false
    listedCount = 0
    if index == 0 { host.withMempool { $0.beginReconciliation() } }
    send(.mempool, now: now, &sink)
    ping(.mempoolListed, now: now, &sink)
  }

  /// What a hang-up tells.
  mutating func explainClose(error: Int32, host: inout some BridgeHost & ~Copyable) {
    switch phase {
    case .connecting: host.note(.problem(node: index, .unreachable(errno: error)))
    case .handshake where bytesReceived == 0 && theirs == nil:
      host.note(.problem(node: index, .wrongNetwork(expected: network.name)))
    case .ready:
      if mempoolAsked != .zero && !mempoolListed && listedCount == 0 && !mempoolRefused {
        mempoolRefused = true
        host.note(.problem(node: index, .noMempoolPermission))
      } else if !deliveries.isEmpty {
        host.note(.problem(node: index, .notWhitelisted))
      }
      host.note(.disconnected(node: index, errno: error))
    default: host.note(.disconnected(node: index, errno: error))
    }
  }

  /// Next try: 100 ms, doubling to 10 s. A node restarts in about two seconds.
  mutating func closed(error: Int32, host: inout some BridgeHost & ~Copyable, now: Instant) {
    explainClose(error: error, host: &host)
    let wait = Interval.milliseconds(Int64(100) << Int64(min(attempts, 7)))
    attempts += 1
    reset(retryAt: now + min(wait, .seconds(10)))
  }
}
