import CLiburing
import Glibc
import Ground

/// From queues to the kernel: which datagrams go now, coupled into trains of equal length for segmentation offload.
extension EngineOutput {
  /// Trains handed over between two looks at what has arrived.
  static let trainsPerPass = 16

  /// Hands the ring what may leave at `now`. Returns when to come back for more: `.never` when nothing waits or a
  /// completion must come first, an instant not after `now` when there is more to send at once.
  ///
  /// With `coreFirst` a link that is about to send the short rest of its queue waits until its core, which is owed a word
  /// about room, has had it: so the rest leaves as part of a full train.
  mutating func pump(_ now: Instant, coreFirst: Bool, _ trains: inout Trains, _ ring: inout Ring) -> Instant {
    if queuedTotal == 0 { return .never }
    uplink.begin(now)
    var budget = EngineOutput.trainsPerPass
    while replyCount > 0 {
      if !uplink.allows(now) { return uplink.wake(more: 0, lateness: .zero) }
      guard sendReply(&trains, &ring) else { return .never }
    }
    var wake = Instant.never
    for urgency in 0..<4 {
      var progress = true
      while progress {
        progress = false
        let origin = cursors[urgency]
        var distance = -1
        var index = nextActive(urgency, after: origin)
        while index >= 0 {
          // Once around: distances from where this round began only grow.
          let from = index > origin ? index - origin - 1 : index - origin - 1 + linkCapacity
          if from <= distance { break }
          distance = from
          if trains.freeCount == 0 { return .never }
          // Control datagrams don't wait for company.
          let first = Int(pool.places[Int(links[index].lists[urgency].head)].length)
          let more = urgency == 0 ? 0 : links[index].queuedBytes - first
          let moreInAll = urgency == 0 ? 0 : queuedTotalBytes - first
          if !uplink.isReady(now, more: moreInAll, lateness: wakeLateness) {
            return uplink.wake(more: moreInAll, lateness: wakeLateness)
          }
          if budget == 0 || coreFirst && urgency > 0 && isRestToFill(index) { return now }
          links[index].bucket.begin(now)
          if links[index].bucket.isReady(now, more: more, lateness: wakeLateness) {
            guard sendTrain(index, urgency, now, &trains, &ring) else { return now }
            cursors[urgency] = index
            progress = true
            budget -= 1
          } else {
            wake = min(wake, links[index].bucket.wake(more: more, lateness: wakeLateness))
          }
          index = nextActive(urgency, after: index)
        }
      }
    }
    return wake
  }

  /// Whether a link's queue holds less than a train while its core is about to hear of room.
  @inline(__always) private func isRestToFill(_ index: Int) -> Bool {
    hasRoomy && roomy[index >> 6] & 1 << UInt64(index & 63) != 0 && configuration.segmentation
      && links[index].queuedCount < Trains.maxSegments && links[index].queuedBytes * 2 < Trains.maxBytes
  }

  /// The next link after `index`, cyclically, with something queued at an urgency; -1 when there is none.
  @inline(__always) private func nextActive(_ urgency: Int, after index: Int) -> Int {
    let base = active + urgency * words
    let start = index + 1 < linkCapacity ? index + 1 : 0
    var word = start >> 6
    var bits = base[word] & (~0 << UInt64(start & 63))
    for _ in 0...words {
      if bits != 0 { return word << 6 | bits.trailingZeroBitCount }
      word += 1
      if word == words { word = 0 }
      bits = base[word]
    }
    return -1
  }

  /// One train of a link; false when the ring takes nothing.
  private mutating func sendTrain(
    _ index: Int, _ urgency: Int, _ now: Instant, _ trains: inout Trains, _ ring: inout Ring
  ) -> Bool {
    guard let id = trains.take() else { return false }
    let link = links + index
    let overhead = link.pointee.overhead
    let vector = trains.vectors + id * Trains.maxSegments
    var list = link.pointee.lists[urgency]
    var bucket = link.pointee.bucket
    let head = list.head
    let segment = pool.places[Int(head)].length
    var last = head
    var count = 0
    var pieces = 0
    var end = UnsafeMutableRawPointer(bitPattern: 0)
    var bytes = 0
    repeat {
      let place = list.head
      let length = Int(pool.places[Int(place)].length)
      list.head = pool.places[Int(place)].next
      let start = pool.bytes(place)
      if start == end {
        vector[pieces - 1].iov_len += length
      } else {
        vector[pieces] = iovec(iov_base: start, iov_len: length)
        pieces += 1
      }
      end = start + length
      bucket.take(length + overhead)
      uplink.take(length + overhead)
      count += 1
      bytes += length
      last = place
      if length < Int(segment) || pool.places[Int(place)].single { break }
      let next = list.head
      if next < 0 || count == Trains.maxSegments || !configuration.segmentation { break }
      let nextLength = pool.places[Int(next)].length
      if nextLength > segment || bytes + Int(nextLength) > Trains.maxBytes || pool.places[Int(next)].single { break }
    } while bucket.allows(now) && uplink.allows(now)
    pool.places[Int(last)].next = -1
    if list.head < 0 {
      list.tail = -1
      clearActive(index, urgency)
    }
    link.pointee.lists[urgency] = list
    link.pointee.bucket = bucket
    link.pointee.queuedBytes -= bytes
    link.pointee.queuedCount -= count
    queuedTotalBytes -= bytes
    queuedTotal -= count
    trains.trains[id] = Trains.Train(
      head: head, tail: last, count: count, pieces: pieces, bytes: bytes, link: Int32(index),
      generation: link.pointee.generation,
      urgency: UInt8(urgency), attempts: 0, socket: link.pointee.socket)
    trains.address(
      id, link.pointee.address, ipv4Socket: sockets[Int(link.pointee.socket)].isIPv4, segment: Int(segment))
    drained(index)
    return hand(id, &trains, &ring)
  }

  private mutating func sendReply(_ trains: inout Trains, _ ring: inout Ring) -> Bool {
    guard let id = trains.take() else { return false }
    let reply = replies[replyHead]
    replyHead = replyHead + 1 == replyCapacity ? 0 : replyHead + 1
    replyCount -= 1
    queuedTotal -= 1
    let length = Int(pool.places[Int(reply.place)].length)
    uplink.take(length + (reply.address.isIPv4 ? 28 : 48))
    pool.places[Int(reply.place)].next = -1
    trains.vectors[id * Trains.maxSegments] = iovec(iov_base: pool.bytes(reply.place), iov_len: length)
    trains.trains[id] = Trains.Train(
      head: reply.place, tail: reply.place, count: 1, pieces: 1, bytes: length, link: -1, socket: reply.socket)
    trains.address(id, reply.address, ipv4Socket: sockets[Int(reply.socket)].isIPv4, segment: length)
    return hand(id, &trains, &ring)
  }

  private mutating func hand(_ id: Int, _ trains: inout Trains, _ ring: inout Ring) -> Bool {
    let handed = ring.sendMessage(
      trains.trains[id].socket, fixed: true, header: trains.headers + id, tag: EngineTag.send.tag(id))
    if !handed { putBack(id, &trains) }
    return handed
  }

  // MARK: Completions

  /// A train has left or failed.
  mutating func completed(_ id: Int, result: Int32, _ trains: inout Trains, _ ring: inout Ring) {
    guard id < trains.capacity else { return }
    let train = trains.trains[id]
    if result >= 0 {
      counters.add(.sentDatagrams, train.count)
      counters.add(.sentBytes, train.bytes)
      counters.add(.sentTrains)
      counters.record(.trainLength, UInt64(train.count))
      if let link = current(train) {
        counters.add(.sentDatagrams, link: link, train.count)
        counters.add(.sentBytes, link: link, train.bytes)
      }
      pool.giveBack(chain: train.head, last: train.tail, count: train.count)
      trains.giveBack(id)
      return
    }
    let error = -result
    // A socket hands the pending error of *another* destination (an ICMP answer) to whoever calls next, without
    // sending: ask again, and only what persists is this destination's own.
    let maybeAnothers: Bool
    switch error {
    case ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN, EPROTO, EMSGSIZE, ECONNRESET, ENOPROTOOPT,
      EACCES, EINTR, EAGAIN:
      maybeAnothers = true
    default: maybeAnothers = false
    }
    if maybeAnothers && train.attempts < 3 {
      trains.trains[id].attempts += 1
      counters.add(.sendRetries)
      if ring.sendMessage(train.socket, fixed: true, header: trains.headers + id, tag: EngineTag.send.tag(id)) {
        return
      }
    }
    if train.count > 1 {
      switch error {
      case EINVAL, EMSGSIZE, EIO, EOPNOTSUPP:
        // No segmentation here (a datagram above the MTU, a device without checksum offload): one by one, so that each
        // has its own answer.
        counters.add(.segmentationRefused)
        putBack(id, &trains, single: true)
        return
      default: break
      }
    }
    fail(train, error)
    pool.giveBack(chain: train.head, last: train.tail, count: train.count)
    trains.giveBack(id)
  }

  private mutating func fail(_ train: Trains.Train, _ error: Int32) {
    let (counter, linkCounter): (EngineCounter, LinkCounter)
    switch error {
    case ENETUNREACH, EHOSTUNREACH, ECONNREFUSED, EHOSTDOWN, ENETDOWN, EADDRNOTAVAIL:
      (counter, linkCounter) = (.sendErrorUnreachable, .sendErrorUnreachable)
    case EMSGSIZE: (counter, linkCounter) = (.sendErrorTooBig, .sendErrorTooBig)
    default: (counter, linkCounter) = (.sendErrorOther, .sendErrorOther)
    }
    counters.add(counter)
    counters.add(.dropSendFailed, train.count)
    if let link = current(train) {
      counters.add(linkCounter, link: link)
      counters.add(.dropSendFailed, link: link, train.count)
    }
  }

  /// The link that a train was sent for, unless its number means another destination by now.
  @inline(__always) private func current(_ train: Trains.Train) -> Int? {
    guard train.link >= 0 else { return nil }
    let link = links[Int(train.link)]
    return link.isAssigned && link.generation == train.generation ? Int(train.link) : nil
  }

  /// A train that the kernel never took goes back to the front of its queue.
  private mutating func putBack(_ id: Int, _ trains: inout Trains, single: Bool = false) {
    let train = trains.trains[id]
    if let link = current(train) {
      if single {
        var at = train.head
        while at >= 0 {
          pool.places[Int(at)].single = true
          at = pool.places[Int(at)].next
        }
      }
      links[link].lists[Int(train.urgency)].prepend(chain: train.head, last: train.tail, in: pool)
      setActive(link, Int(train.urgency))
      links[link].queuedBytes += train.bytes
      links[link].queuedCount += train.count
      links[link].owesRoomNotice = true
      queuedTotalBytes += train.bytes
      queuedTotal += train.count
    } else {
      counters.add(train.link < 0 ? .dropSendFailed : .dropLinkRemoved, train.count)
      pool.giveBack(chain: train.head, last: train.tail, count: train.count)
    }
    trains.giveBack(id)
  }

  /// An ICMP answer about `destination`; forged ones are counted just the same, and nothing else happens.
  mutating func heardICMP(_ destination: PeerAddress?, _ error: Int32) {
    let (counter, linkCounter): (EngineCounter, LinkCounter)
    switch error {
    case ECONNREFUSED: (counter, linkCounter) = (.icmpRefused, .icmpRefused)
    case EHOSTUNREACH, ENETUNREACH, EHOSTDOWN: (counter, linkCounter) = (.icmpUnreachable, .icmpUnreachable)
    case EMSGSIZE: (counter, linkCounter) = (.icmpTooBig, .icmpTooBig)
    default: (counter, linkCounter) = (.icmpOther, .icmpOther)
    }
    counters.add(counter)
    for index in 0..<linksUsed where links[index].isAssigned && links[index].address == destination {
      counters.add(linkCounter, link: index)
    }
  }
}
