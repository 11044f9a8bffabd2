import Bitcoin
import Ground

// The node's header chain, followed in the host's.
extension NodePeer {
  enum HeaderOutcome { case accepted, unconnected, refused }

  /// Puts headers from the node into the host's chain. When their parent is missing the headers between are asked for;
  /// whatever else is wrong is told.
  mutating func accept(
    _ headers: [BlockHeader], from command: Command, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) -> HeaderOutcome {
    let time = host.unixTime(at: now)
    // The word of the site's own node stands where history is too short to check the difficulty.
    let vouched = isLocal
    let outcome = host.withChain { chain in
      Result { () throws(HeaderRejection) in try chain.accept(headers, now: time, vouched: vouched) }
    }
    switch outcome {
    case .success: return .accepted
    case .failure(.unknownParent):
      askHeaders(host: &host, now: now, &sink)
      return .unconnected
    case .failure(let rejection):
      misbehaved("\(command): \(rejection)", host: &host)
      return .refused
    }
  }

  /// A `headers` message.
  mutating func receivedHeaders(
    _ headers: [BlockHeader], host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    if accept(headers, from: .headers, host: &host, now: now, &sink) != .accepted { return }
    tellHeard(host: &host)
    guard let last = headers.last else {
      finishSync(host: &host, now: now)
      return
    }
    let hash = last.hash
    tip = hash
    host.headersFromNode(now: now, into: &sink)
    if headers.count == Headers.maxCount {
      send(.getheaders(GetHeaders(locator: [hash])), now: now, &sink)
      return
    }
    let wasSynced = headersSynced
    finishSync(host: &host, now: now)
    for header in headers.suffix(RecentHashes.capacity) {
      let hash = header.hash
      if wasSynced { announced(hash, .headers, host: &host, now: now) } else { has.insert(hash) }
    }
    if wasSynced && isLocal {
      // A reorganisation tells of several at once.
      for header in headers.suffix(NodePeer.pendingMax) {
        let hash = header.hash
        if host.hasBlock(hash) || deliveries.contains(where: { $0.hash == hash }) { continue }
        fetch(hash, compact: true, form: .headers, now: now, &sink)
      }
    }
    // With the node's tip as our locator it knows that we can be served compact blocks unasked.
    if !wasSynced && !headers.isEmpty { askHeaders(host: &host, now: now, &sink) }
  }

  private mutating func finishSync(host: inout some BridgeHost & ~Copyable, now: Instant) {
    if headersSynced { return }
    headersSynced = true
    let tip = host.withChain { $0.tip }
    // A node that told of more blocks than it has headers for holds them back while it is far behind; and one whose tip
    // is a day old is in initial download by its own rule.
    let isBehind = theirs.map { Int($0.startHeight) > tip.height + 1 } ?? false
    let age = Int64(host.unixTime(at: now)) - Int64(tip.time)
    setDownloading(isBehind || feeFilter.map(NodePeer.isDownload) ?? (age > NodePeer.tipAgeMax), host: &host, now: now)
    host.note(.headersSynced(node: index, height: tip.height))
  }
}
