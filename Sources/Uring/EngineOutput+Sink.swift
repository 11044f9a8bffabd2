import Ground

extension EngineOutput: DatagramSink {
  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {
    let index = Int(link.index)
    guard index < linkCapacity else { return counters.add(.dropUnknownLink) }
    linksUsed = max(linksUsed, index + 1)
    if !links[index].isAssigned || links[index].address != address {
      links[index].generation &+= 1
      if !links[index].isAssigned { counters.clear(link: index) }
      links[index].address = address
      links[index].socket = socket(for: address, from: receivingFrom)
      links[index].overhead = address.isIPv4 ? 28 : 48
      if links[index].socket < 0 {
        // No socket here reaches it: what was queued can't follow.
        counters.add(.dropUnknownLink, removeQueued(index) { _ in true })
        drained(index)
      }
    }
    links[index].isAssigned = true
    links[index].bucket = TokenBucket(rate: rate, fullDatagram: configuration.maxDatagramBytes + links[index].overhead)
    let rates = [rate.bitsPerSecond, configuration.uplink.bitsPerSecond].filter { $0 > 0 }
    if let least = rates.min() {
      let bytes = Double(least) / 8 * configuration.roomInterval.seconds
      links[index].roomTarget = max(Int(Int64(clampingRounded: min(bytes, 1e9))), 2 * configuration.maxDatagramBytes)
    } else {
      links[index].roomTarget = max(configuration.roomUnlimited, 2 * configuration.maxDatagramBytes)
    }
  }

  mutating func remove(_ link: LinkID) {
    let index = Int(link.index)
    guard index < linkCapacity, links[index].isAssigned else { return }
    counters.add(.dropLinkRemoved, removeQueued(index) { _ in true })
    links[index].isAssigned = false
    links[index].generation &+= 1
    links[index].owesRoomNotice = false
  }

  @discardableResult
  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    let index = Int(link.index)
    guard index < linkCapacity, links[index].isAssigned, links[index].socket >= 0 else {
      counters.add(.dropUnknownLink)
      return false
    }
    guard capacity > 0, capacity <= configuration.maxDatagramBytes else {
      counters.add(.dropTooLarge)
      return false
    }
    if links[index].queuedCount >= limit(urgency) {
      counters.add(.dropQueueFull)
      counters.add(.dropQueueFull, link: index)
      return false
    }
    if urgency != .control && pool.freeCount <= controlReserve {
      counters.add(.dropPoolExhausted)
      return false
    }
    guard let place = pool.take() else {
      counters.add(.dropPoolExhausted)
      return false
    }
    var span = unsafe MutableRawSpan(_unsafeStart: pool.bytes(place), byteCount: capacity)
    let length = write(&span)
    precondition(length >= 0 && length <= capacity, "a datagram longer than its capacity")
    if length == 0 {
      pool.giveBack(place)
      return true
    }
    pool.places[Int(place)].flow = flow.value
    pool.places[Int(place)].length = UInt32(length)
    pool.places[Int(place)].single = false
    let which = Int(urgency.rawValue)
    links[index].lists[which].append(place, in: pool)
    setActive(index, which)
    links[index].queuedBytes += length
    links[index].queuedCount += 1
    links[index].owesRoomNotice = true
    queuedTotalBytes += length
    queuedTotal += 1
    return true
  }

  @discardableResult
  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool {
    guard capacity > 0, capacity <= configuration.maxDatagramBytes else {
      counters.add(.dropTooLarge)
      return false
    }
    guard takeReplyToken() else {
      counters.add(.dropReplyBudget)
      return false
    }
    let socket = self.socket(for: address, from: receivingFrom)
    guard socket >= 0 else {
      counters.add(.dropReplyUnroutable)
      return false
    }
    guard let place = pool.take() else {
      counters.add(.dropPoolExhausted)
      return false
    }
    var span = unsafe MutableRawSpan(_unsafeStart: pool.bytes(place), byteCount: capacity)
    let length = write(&span)
    precondition(length >= 0 && length <= capacity, "a datagram longer than its capacity")
    if length == 0 {
      pool.giveBack(place)
      return true
    }
    pool.places[Int(place)].flow = 0
    pool.places[Int(place)].length = UInt32(length)
    pool.places[Int(place)].single = true
    var at = replyHead + replyCount
    if at >= replyCapacity { at -= replyCapacity }
    (replies + at).initialize(to: Reply(place: place, socket: socket, address: address))
    replyCount += 1
    queuedTotal += 1
    return true
  }

  /// Replies per second, with bursts; and never more waiting than the reply queue holds.
  private mutating func takeReplyToken() -> Bool {
    let elapsed = UInt64(clamping: (now - replyTokensAt).nanoseconds)
    if elapsed > 0 {
      replyTokensAt = now
      // At most a second's worth: neither factor can overflow.
      let gained = Double(min(elapsed, 1_000_000_000)) * Double(configuration.repliesPerSecond) * 4.294967296
      replyTokens = min(replyTokens + UInt64(gained), UInt64(configuration.replyBurst) << 32)
    }
    guard replyTokens >= 1 << 32, replyCount < replyCapacity else { return false }
    replyTokens -= 1 << 32
    return true
  }

  @discardableResult
  mutating func drop(flow: FlowID, on link: LinkID) -> Int {
    let index = Int(link.index)
    guard flow != .none, index < linkCapacity, links[index].isAssigned, links[index].queuedCount > 0 else { return 0 }
    let removed = removeQueued(index) { $0.flow == flow.value }
    if removed > 0 {
      counters.add(.dropByFlow, removed)
      counters.add(.dropByFlow, link: index, removed)
      drained(index)
    }
    return removed
  }

  func room(on link: LinkID) -> Int {
    let index = Int(link.index)
    guard index < linkCapacity, links[index].isAssigned else { return 0 }
    if links[index].queuedCount * 2 >= configuration.queueDatagramsPerLink { return 0 }
    return max(links[index].roomTarget - links[index].queuedBytes, 0)
  }
}
