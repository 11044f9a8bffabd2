import Ground

/// The sink that the engine hands its core: a queue per link and urgency, paced per link and for the whole site. Datagrams
/// are written once, into a place of the pool, and handed to the kernel from there.
struct EngineOutput: ~Copyable {
  struct Link {
    var isAssigned = false
    var address = PeerAddress(high: 0, low: 0, port: 0)
    var socket: Int32 = -1
    /// Counts assignments of the number to other destinations, so that late completions don't speak for the wrong one.
    var generation: UInt32 = 0
    var bucket = TokenBucket(rate: .unlimited, fullDatagram: 1)
    /// UDP and IP headers.
    var overhead = 28
    var queuedBytes = 0
    var queuedCount = 0
    /// Bytes that its queue should hold at most.
    var roomTarget = 0
    /// Something was queued since the core last heard of room.
    var owesRoomNotice = false
    var lists: InlineArray<4, PlaceList> = .init(repeating: PlaceList())
  }

  struct Reply {
    var place: Int32
    var socket: Int32
    var address: PeerAddress
  }

  struct SocketChoice {
    var isIPv4: Bool
    var address: PeerAddress
    var isWildcard: Bool { address.isIPv4 ? address.low == 0xFFFF_0000_0000 : address.high == 0 && address.low == 0 }
  }

  let configuration: EngineConfiguration
  let counters: CounterWriter
  let sockets: [SocketChoice]
  var pool: DatagramPool
  let links: UnsafeMutablePointer<Link>
  let linkCapacity: Int
  /// Numbers at and above this were never assigned.
  var linksUsed = 0
  var uplink: TokenBucket
  /// Links with something queued, a bit each, per urgency; `words` words per urgency.
  let active: UnsafeMutablePointer<UInt64>
  let words: Int
  var cursors: InlineArray<4, Int> = .init(repeating: 0)
  /// Links whose core may be told of room, a bit each.
  let roomy: UnsafeMutablePointer<UInt64>
  var hasRoomy = false
  let replies: UnsafeMutablePointer<Reply>
  let replyCapacity: Int
  var replyHead = 0
  var replyCount = 0
  /// Replies in 2⁻³² units.
  var replyTokens: UInt64
  var replyTokensAt: Instant
  var queuedTotalBytes = 0
  var queuedTotal = 0
  /// What timed wake-ups are usually late by (`Lateness`); kept by the engine.
  var wakeLateness = Interval.zero
  /// Set by the engine before each call of the core.
  var now: Instant
  /// Where the datagram being handled came in; replies leave there.
  var receivingSocket: Int32 = 0
  /// Who sent it; `nil` outside `receive`.
  var receivingFrom: PeerAddress?
  let controlReserve: Int
  var streams: StreamTable

  init(_ configuration: EngineConfiguration, sockets: [SocketChoice], counters: CounterWriter, now: Instant) {
    self.configuration = configuration
    self.counters = counters
    self.sockets = sockets
    self.now = now
    pool = DatagramPool(count: configuration.queueDatagrams, bytesEach: configuration.maxDatagramBytes)
    linkCapacity = configuration.linkCapacity
    links = .allocate(capacity: linkCapacity)
    links.initialize(repeating: Link(), count: linkCapacity)
    uplink = TokenBucket(rate: configuration.uplink, fullDatagram: configuration.maxDatagramBytes + 48)
    words = (linkCapacity + 63) / 64
    active = .allocate(capacity: words * 4)
    active.initialize(repeating: 0, count: words * 4)
    roomy = .allocate(capacity: words)
    roomy.initialize(repeating: 0, count: words)
    replyCapacity = max(configuration.replyBurst, 1)
    replies = .allocate(capacity: replyCapacity)
    replyTokens = UInt64(configuration.replyBurst) << 32
    replyTokensAt = now
    controlReserve = configuration.queueDatagrams / 16
    streams = StreamTable(capacity: configuration.streamCapacity, queueMax: configuration.streamQueueBytes)
  }

  deinit {
    links.deinitialize(count: linkCapacity)
    links.deallocate()
    active.deallocate()
    roomy.deallocate()
    replies.deallocate()
  }

  // MARK: Choosing sockets

  /// The socket from which `address` is reached: the one it last spoke to if this is its datagram, else the one bound
  /// to the address that the routing table picks, else any of its family. -1 when there is none.
  func socket(for address: PeerAddress, from source: PeerAddress?) -> Int32 {
    func fits(_ i: Int) -> Bool {
      let socket = sockets[i]
      if address.isIPv4 { return socket.isIPv4 || socket.isWildcard }
      return !socket.isIPv4
    }
    if source == address { return receivingSocket }
    let candidates = sockets.indices.filter(fits)
    if candidates.count > 1, let local = UDPSocket.sourceAddress(to: address),
      let exact = candidates.first(where: { sockets[$0].address.with(port: 0) == local.with(port: 0) })
    {
      return Int32(exact)
    }
    return Int32(candidates.first { sockets[$0].isWildcard } ?? candidates.first ?? -1)
  }

  // MARK: Queueing

  /// The most datagrams that may be queued on a link before one of this urgency is refused.
  @inline(__always) func limit(_ urgency: Urgency) -> Int {
    let n = configuration.queueDatagramsPerLink
    return switch urgency {
    case .control: n + n / 8 + 1
    case .block: n
    case .late: n - n / 4
    case .background: n - n / 2
    }
  }

  @inline(__always) func setActive(_ link: Int, _ urgency: Int) {
    active[urgency * words + link >> 6] |= 1 << UInt64(link & 63)
  }
  @inline(__always) func clearActive(_ link: Int, _ urgency: Int) {
    active[urgency * words + link >> 6] &= ~(1 << UInt64(link & 63))
  }

  /// A link has fewer datagrams queued than before: the core may be owed a word.
  @inline(__always) mutating func drained(_ index: Int) {
    let link = links + index
    if link.pointee.owesRoomNotice && link.pointee.queuedBytes * 2 <= link.pointee.roomTarget
      && link.pointee.queuedCount * 4 <= configuration.queueDatagramsPerLink
    {
      link.pointee.owesRoomNotice = false
      roomy[index >> 6] |= 1 << UInt64(index & 63)
      hasRoomy = true
    }
  }

  /// The next link whose core is to be told of room.
  mutating func nextRoomy() -> LinkID? {
    if !hasRoomy { return nil }
    for word in 0..<words {
      while roomy[word] != 0 {
        let bit = roomy[word].trailingZeroBitCount
        roomy[word] &= roomy[word] &- 1
        let index = word << 6 | bit
        if links[index].isAssigned { return LinkID(UInt16(index)) }
      }
    }
    hasRoomy = false
    return nil
  }

  /// Takes out of all four queues what `condition` holds for.
  mutating func removeQueued(_ index: Int, where condition: (borrowing DatagramPool.Place) -> Bool) -> Int {
    var removed = 0
    for urgency in 0..<4 {
      var kept = PlaceList()
      var at = links[index].lists[urgency].head
      while at >= 0 {
        let next = pool.places[Int(at)].next
        if condition(pool.places[Int(at)]) {
          let length = Int(pool.places[Int(at)].length)
          links[index].queuedBytes -= length
          links[index].queuedCount -= 1
          queuedTotalBytes -= length
          queuedTotal -= 1
          removed += 1
          pool.giveBack(at)
        } else {
          kept.append(at, in: pool)
        }
        at = next
      }
      links[index].lists[urgency] = kept
      if kept.isEmpty { clearActive(index, urgency) }
    }
    return removed
  }
}
