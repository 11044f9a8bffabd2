import Bitcoin
import Ground
import Mempool

extension NodePeer {
  /// Bytes from the node. What is no message of this network ends the connection.
  mutating func received(
    _ bytes: RawSpan, reconcileIn interval: Interval, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    lastHeard = now
    bytesReceived &+= bytes.byteCount
    framing.receive(bytes)
    // The stream is taken out while its messages are handled, so that a handler may change everything else.
    var stream = framing
    framing = MessageStream(network: network)
    while !isCut {
      do throws(FramingError) {
        let done: Void? = try stream.next { command, payload in
          handle(command, payload, reconcileIn: interval, host: &host, now: now, &sink)
        }
        if done == nil { break }
      } catch {
        misbehaved("\(error)", host: &host)
        guard case .checksum = error else {
          if theirs == nil { tell(.wrongNetwork(expected: network.name), host: &host, now: now) }
          cut(&sink)
          break
        }
      }
      if !isLocal && !messages.allows(now: now) {
        misbehaved("more than \(InboundPeer.messagesPerSecond) messages a second", host: &host)
        cut(&sink)
      }
    }
    framing = stream
    deliverOwed(host: &host, now: now, &sink)
  }

  private mutating func handle(
    _ command: Command, _ payload: RawSpan, reconcileIn interval: Interval, host: inout some BridgeHost & ~Copyable,
    now: Instant, _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    if !isReady {
      handshake(command, payload, host: &host, now: now, &sink)
      return
    }
    if !isLocal {
      listen(to: command, payload, reconcileIn: interval, host: &host, now: now, &sink)
      return
    }
    switch command {
    // Large and frequent ones are read where they lie.
    case .cmpctblock: receivedCompactBlock(payload, host: &host, now: now, &sink)
    case .blocktxn: receivedBlockTransactions(payload, host: &host, now: now, &sink)
    case .block: receivedBlock(payload, host: &host, now: now, &sink)
    case .tx: receivedTransaction(payload, host: &host, now: now, &sink)
    default:
      guard
        let message = parsed(
          command, &host, { () throws(DecodeError) in try Message(command, payload: payload) })
      else { return }
      switch message {
      case .ping(let nonce): if let nonce { send(.pong(nonce), now: now, &sink) }
      case .pong(let nonce): receivedPong(nonce, reconcileIn: interval, host: &host, now: now, &sink)
      case .inv(let items): receivedInventory(items, host: &host, now: now, &sink)
      case .notfound(let items): receivedNotFound(items, now: now, &sink)
      case .headers(let headers): receivedHeaders(headers, host: &host, now: now, &sink)
      case .getheaders(let request):
        // Always answered: a node waits for it before it trusts a peer with blocks.
        let headers = host.withChain { $0.headers(after: request.locator, stop: request.stop) }
        send(.headers(headers), now: now, &sink)
      case .getblocktxn(let request): answer(request, host: &host, now: now, &sink)
      case .getdata(let items): answer(items, host: &host, now: now, &sink)
      case .sendcmpct(let value): receivedSendCompact(value)
      case .feefilter(let rate): receivedFeeFilter(rate, host: &host, now: now, &sink)
      default: break
      }
    }
  }

  private mutating func handshake(
    _ command: Command, _ payload: RawSpan, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) {
    switch command {
    case .version:
      guard
        case .version(let version)? = parsed(
          command, &host, { () throws(DecodeError) in try Message(command, payload: payload) })
      else { return cut(&sink) }
      receivedVersion(version, host: &host, now: now, &sink)
    case .wtxidrelay: relaysByWtxid = true
    case .sendcmpct:
      if case .sendcmpct(let value)? = try? Message(command, payload: payload) { receivedSendCompact(value) }
    case .verack: receivedVerack(host: &host, now: now, &sink)
    default: break  // sendaddrv2 and whatever comes later
    }
  }

  mutating func receivedSendCompact(_ value: SendCompact) {
    // Core sends version 2 only; Bitcoin SV version 1 only.
    guard let version = CompactBlockVersion(rawValue: value.version) else { return }
    let usable: CompactBlockVersion = speaksWitness ? .two : .one
    if version != usable { return }
    compactVersion = version
    selectedUs = value.highBandwidth
  }

  mutating func receivedPong(
    _ nonce: UInt64, reconcileIn interval: Interval, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) {
    guard let at = pings.firstIndex(where: { $0.nonce == nonce }) else { return }
    let ping = pings[at]
    pings.removeFirst(at + 1)
    roundTrip = now - ping.sent
    switch ping.purpose {
    case .wake: break
    case .mempoolListed: mempoolWasListed(host: &host, reconcileIn: interval, now: now)
    case .delivered(let hash): fenceAnswered(hash, host: &host, now: now, &sink)
    }
  }

  /// What time demands.
  mutating func tick(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    switch phase {
    case .waiting(let until):
      if now >= until {
        phase = .connecting(since: now)
        if !sink.connect(stream, to: configuration.address) { phase = .waiting(until: now + .seconds(1)) }
      }
    case .connecting(let since), .handshake(let since):
      if now - since >= NodePeer.handshakeLimit { cut(&sink) }
    case .ready:
      if now - lastHeard > NodePeer.silenceLimit {
        cut(&sink)
        return
      }
      tellHeard(host: &host)
      if now >= nextReconciliation && now - lastBlock >= NodePeer.blockTime { askMempool(host: &host, now: now, &sink) }
      retryPending(now: now, &sink)
      if isLocal { spare.refill() }
      while let at = deliveries.firstIndex(where: { now - $0.written >= Delivery.limit }) {
        deliveryFailed(at, host: &host, now: now, &sink)
      }
      while let at = deliveries.firstIndex(where: { now >= $0.fenceAgain }) {
        fence(deliveries[at].hash, now: now, &sink)
      }
      deliverOwed(host: &host, now: now, &sink)
      let wake = mirrors ? configuration.wakeInterval : .seconds(30)
      if now - lastSpoke >= wake { ping(.wake, now: now, &sink) }
    }
  }
}
