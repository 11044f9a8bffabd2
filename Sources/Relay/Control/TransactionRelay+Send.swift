import Bitcoin
import Ground
import Mempool
import Wire

// What is said to neighbours, a message at a time, when the link has room and the budget allows it.
extension TransactionRelay {
  /// The next message for a link, if there is one and the budget allows it: writes it and returns its length, else 0. Call
  /// when the link has room for background traffic; `out` should hold `RelayLimits.messageBytes`.
  public mutating func next(
    on link: LinkID, now: Instant, store: borrowing TransactionStore, into out: inout MutableRawSpan
  ) -> Int {
    let i = Int(link.index)
    guard links[i].isUp else { return 0 }
    refill(i, now)
    if links[i].tokens < Double(RelayLimits.messageBytes) + Self.packetOverhead {
      let short = Double(RelayLimits.messageBytes) + Self.packetOverhead - links[i].tokens
      links[i].restUntil =
        now + Interval(nanoseconds: Int64(clampingRounded: short / configuration.bytesPerSecond * 1e9) + 1)
      return 0
    }
    var count = request(i, link, now, &out)
    if count == 0 { count = send(i, link, store, &out) }
    if count == 0 { count = announce(i, link, now, store, &out) }
    if count > 0 { links[i].tokens -= Double(count) + Self.packetOverhead }
    return count
  }

  private mutating func refill(_ i: Int, _ now: Instant) {
    let passed = Double((now - links[i].refilled).nanoseconds) / 1e9
    links[i].refilled = now
    links[i].restUntil = .zero
    links[i].tokens = min(
      configuration.burstBytes, links[i].tokens + max(passed, 0) * configuration.bytesPerSecond)
  }

  private mutating func request(_ i: Int, _ link: LinkID, _ now: Instant, _ out: inout MutableRawSpan) -> Int {
    if links[i].toAsk.isEmpty { return 0 }
    // What came from elsewhere meanwhile needs no asking.
    links[i].toAsk.removeAll { id in known.find(id).map { !known.isAsked[$0] } ?? true }
    let batch = min(links[i].toAsk.count, RelayLimits.transactionIDs)
    scratch.removeAll(keepingCapacity: true)
    scratch.append(contentsOf: links[i].toAsk[..<batch])
    let count = TransactionIDsMessage.write(as: .getTransactions, epoch: epoch, ids: scratch.span, into: &out)
    if count == 0 { return 0 }
    let deadline = now + configuration.requestTimeout
    for id in links[i].toAsk[..<batch] {
      if pending.count - pendingStart < Self.pendingMax {
        pending.append(Pending(id: id, link: link, deadline: deadline))
      } else if let at = known.find(id) {
        known.isAsked[at] = false
      }
    }
    links[i].toAsk.removeFirst(batch)
    return count
  }

  private mutating func send(
    _ i: Int, _ link: LinkID, _ store: borrowing TransactionStore, _ out: inout MutableRawSpan
  ) -> Int {
    while let first = links[i].toSend.first {
      guard let slot = store.slot(first.handle), store.byteCount(slot) > first.offset else {
        sent(i, link)
        continue
      }
      let bytes = store.bytes(slot)
      if first.offset == 0 { links[i].toSend[0].parents = Self.parents(of: bytes, in: store) }
      let count = TransactionMessage.write(
        wtxid8: store.wtxid(slot).w0, transaction: bytes, offset: first.offset, parents: links[i].toSend[0].parents,
        into: &out)
      links[i].toSend[0].offset += RelayLimits.fragmentBytes
      if count == 0 || links[i].toSend[0].offset >= bytes.byteCount { sent(i, link) }
      if count > 0 { return count }
    }
    return 0
  }

  private mutating func sent(_ i: Int, _ link: LinkID) {
    let done = links[i].toSend.removeFirst()
    if let at = known.find(done.id) { known.queued[at].remove(link) }
  }

  private mutating func announce(
    _ i: Int, _ link: LinkID, _ now: Instant, _ store: borrowing TransactionStore, _ out: inout MutableRawSpan
  ) -> Int {
    let oldest = announcedEnd - min(announcedEnd, UInt64(Self.announcedMax))
    links[i].cursor = max(links[i].cursor, oldest)
    links[i].repeated = max(links[i].repeated, oldest)
    scratch.removeAll(keepingCapacity: true)
    let isFull = announcedEnd - links[i].cursor >= UInt64(RelayLimits.transactionIDs)
    if links[i].cursor < announcedEnd && (isFull || now >= links[i].gatheringSince + configuration.inventoryDelay) {
      while links[i].cursor < announcedEnd && scratch.count < RelayLimits.transactionIDs {
        gather(announced[Int(links[i].cursor % UInt64(Self.announcedMax))].id, for: link, store)
        links[i].cursor += 1
      }
    }
    if links[i].cursor == announcedEnd { links[i].gatheringSince = .never }
    while links[i].repeated < links[i].cursor && scratch.count < RelayLimits.transactionIDs {
      let (id, time) = announced[Int(links[i].repeated % UInt64(Self.announcedMax))]
      if now < time + Self.repeatDelay { break }
      gather(id, for: link, store)
      links[i].repeated += 1
    }
    return TransactionIDsMessage.write(as: .transactionInventory, epoch: epoch, ids: scratch.span, into: &out)
  }

  /// Takes an id into the announcement unless the transaction is gone or the neighbour has shown that it has it.
  private mutating func gather(_ id: UInt64, for link: LinkID, _ store: borrowing TransactionStore) {
    guard let at = known.find(id), let handle = known.handles[at], store.slot(handle) != nil else { return }
    if !known.holders[at].contains(link) { scratch.append(id) }
  }

  /// When a link has something to say (so `next` should be called): now, later, or `.never`.
  public func ready(_ link: LinkID) -> Instant {
    let entry = links[Int(link.index)]
    if !entry.isUp { return .never }
    var time = Instant.never
    if !entry.toAsk.isEmpty || !entry.toSend.isEmpty {
      time = .zero
    } else if entry.cursor < announcedEnd {
      let isFull = announcedEnd - entry.cursor >= UInt64(RelayLimits.transactionIDs)
      time = isFull ? .zero : entry.gatheringSince + configuration.inventoryDelay
    }
    if entry.repeated < entry.cursor {
      let oldest = announcedEnd - min(announcedEnd, UInt64(Self.announcedMax))
      let next = announced[Int(max(entry.repeated, oldest) % UInt64(Self.announcedMax))]
      time = min(time, next.time + Self.repeatDelay)
    }
    return time == .never ? .never : max(time, entry.restUntil)
  }
}
