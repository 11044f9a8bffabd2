import Bitcoin
import Ground

/// A local node that has connected to the bridge as to any peer: it may sync headers, fetch recent blocks and be told of
/// new ones first. It is asked for nothing, what it sends changes nothing, and all it costs is bounded: one message of
/// at most 4 MB while it arrives (64 KB before the handshake is done), answers from what is held anyway, and a budget of
/// bytes a second for those.
struct InboundPeer {
  /// Bytes of answers a second; a sync of headers takes 160 kB a request, a block up to 4 MB.
  static let budgetPerSecond = 16_000_000
  static let messagesPerSecond = 2_000
  /// More than this queued and unread: it is cut off.
  static let queueMax = 12_000_000
  static let silenceLimit = Interval.seconds(20 * 60)

  let stream: StreamID
  let address: PeerAddress
  let network: Network
  var framing: MessageStream
  var since: Instant
  var lastHeard: Instant
  var theirs: Version?
  var isReady = false
  /// It does not read what it asks for and is cut off: nothing more of it is looked at.
  private var isCut = false
  var wantsHeaders = false
  var compactVersion: CompactBlockVersion?
  var highBandwidth = false
  var has = RecentHashes()
  private var windowStart: Instant
  private var windowBytes = 0
  private var windowMessages = 0

  init(stream: StreamID, address: PeerAddress, network: Network, now: Instant) {
    self.stream = stream
    self.address = address
    self.network = network
    framing = MessageStream(network: network)
    since = now
    lastHeard = now
    windowStart = now
  }

  var deadline: Instant { isReady ? lastHeard + InboundPeer.silenceLimit : since + NodePeer.handshakeLimit }

  mutating func send(_ message: Message, _ sink: inout some StreamSink & ~Copyable) {
    write(message.framed(on: network), &sink)
  }

  /// False when there is no room: it is cut off then.
  @discardableResult
  mutating func write(_ bytes: [UInt8], _ sink: inout some StreamSink & ~Copyable) -> Bool {
    windowBytes += bytes.count
    var taken = false
    if sink.queued(stream) + bytes.count <= InboundPeer.queueMax {
      taken = sink.write(stream, count: bytes.count) { span in
        span.withUnsafeMutableBytes { target in bytes.withUnsafeBytes { target.copyMemory(from: $0) } }
      }
    }
    if !taken {
      isCut = true
      sink.close(stream)
    }
    return taken
  }

  /// Returns why the peer must go, or nil.
  mutating func received(
    _ bytes: RawSpan, nonce: UInt64, userAgent: String, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) -> String? {
    lastHeard = now
    framing.receive(bytes)
    if !isReady && framing.pending > 65_536 { return "64 KB without a handshake" }
    var stream = framing
    framing = MessageStream(network: network)
    defer { framing = stream }
    var reason: String?
    while reason == nil && !isCut {
      do throws(FramingError) {
        let outcome = try stream.next { command, payload in
          handle(command, payload, nonce: nonce, userAgent: userAgent, host: &host, now: now, &sink)
        }
        guard let outcome else { return nil }
        reason = outcome
      } catch {
        return "\(error)"
      }
    }
    return reason
  }

  private mutating func handle(
    _ command: Command, _ payload: RawSpan, nonce: UInt64, userAgent: String, host: inout some BridgeHost & ~Copyable,
    now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) -> String? {
    if now - windowStart >= .seconds(1) {
      windowStart = now
      windowBytes = 0
      windowMessages = 0
    }
    windowMessages += 1
    if windowMessages > InboundPeer.messagesPerSecond {
      return "more than \(InboundPeer.messagesPerSecond) messages a second"
    }
    // What an inbound peer has to offer is not wanted, so it isn't even read.
    switch command {
    case .tx, .block, .cmpctblock, .blocktxn, .inv, .headers, .addr, .addrv2, .notfound: return nil
    default: break
    }
    let message: Message
    do { message = try Message(command, payload: payload) } catch { return "\(command): \(error)" }
    if windowBytes > InboundPeer.budgetPerSecond {
      // Over its budget it is not served; a ping is still answered.
      if case .ping(let nonce?) = message { send(.pong(nonce), &sink) }
      return nil
    }
    switch message {
    case .version(let version):
      if theirs != nil { return "version twice" }
      if version.nonce == nonce { return "connected to ourselves" }
      theirs = version
      let height = host.withChain { $0.tip.height }
      send(
        .version(
          Version(
            services: [.witness, .networkLimited], time: Int64(host.unixTime(at: now)), nonce: nonce,
            userAgent: userAgent, startHeight: Int32(clamping: height), relay: false)), &sink)
      if version.version >= 70_016 { send(.sendaddrv2, &sink) }
      send(.verack, &sink)
    case .verack:
      if theirs == nil { return "verack before version" }
      if isReady { return nil }
      isReady = true
      send(.sendheaders, &sink)
      for version in [CompactBlockVersion.two, .one] {
        send(.sendcmpct(SendCompact(highBandwidth: false, version: version.rawValue)), &sink)
      }
    default:
      if !isReady {
        switch message {
        case .wtxidrelay, .sendaddrv2, .ignored: return nil
        default: return "\(command) before the handshake"
        }
      }
      serve(message, host: &host, &sink)
    }
    return nil
  }

  private mutating func serve(
    _ message: Message, host: inout some BridgeHost & ~Copyable, _ sink: inout some StreamSink & ~Copyable
  ) {
    switch message {
    case .ping(let nonce): if let nonce { send(.pong(nonce), &sink) }
    case .sendheaders: wantsHeaders = true
    case .sendcmpct(let value):
      guard let version = CompactBlockVersion(rawValue: value.version) else { return }
      // The highest version that both speak.
      if let present = compactVersion, present.rawValue > version.rawValue { return }
      compactVersion = version
      highBandwidth = value.highBandwidth
    case .getheaders(let request):
      let headers = host.withChain { $0.headers(after: request.locator, stop: request.stop) }
      for header in headers.suffix(8) { has.insert(header.hash) }
      send(.headers(headers), &sink)
    case .getblocks(let request):
      let headers = host.withChain { $0.headers(after: request.locator, stop: request.stop) }
      let items = headers.prefix(500).map { InventoryItem(.block, $0.hash) }
      if !items.isEmpty { send(.inv(items), &sink) }
    case .getdata(let items):
      let (network, version) = (network, compactVersion ?? .two)
      BlockServer.answer(items, on: network, version: version, host: &host) { write($0, &sink) }
    case .getblocktxn(let request):
      let (network, version) = (network, compactVersion ?? .two)
      let frame = host.withBlock(request.block) { block, bytes -> [UInt8]? in
        var payload = ByteWriter(reserving: 65_536)
        do { try BlockTransactions.encode(request, from: block, in: bytes, version: version, to: &payload) } catch {
          return nil
        }
        return payload.count <= Framing.maxPayload
          ? Framing.frame(.blocktxn, payload: payload.bytes.span.bytes, on: network) : nil
      }
      if let frame, let frame { write(frame, &sink) }
    default: break
    }
  }

  /// Tells the peer of a complete block in the form that it asked for.
  mutating func announce(
    _ hash: Hash256, _ block: borrowing ParsedBlock, host: inout some BridgeHost & ~Copyable,
    _ sink: inout some StreamSink & ~Copyable
  ) {
    if !isReady || !has.insert(hash) { return }
    let network = network
    if highBandwidth, let version = compactVersion, has.contains(block.header.previous),
      let found = host.withBlock(
        hash,
        { block, bytes in
          BlockServer.encode(.compactBlock, hash, block, bytes, on: network, version: version)
        }), let frame = found
    {
      write(frame, &sink)
    } else if wantsHeaders {
      send(.headers([block.header]), &sink)
    } else {
      send(.inv([InventoryItem(.block, hash)]), &sink)
    }
  }
}
