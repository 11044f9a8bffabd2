import Bitcoin
import Ground
import Mempool
import Wire

/// Passes transactions along between blocks, so that the stores agree before the next block comes: what the local node
/// just learned and what entered the side pool is announced by six-byte ids (TXINV), asked for (TXGET) and sent in
/// fragments (TX), within a byte budget a link.
///
/// Nothing is queued for sending but names: `next` writes one message when the link has room. All tables have a fixed
/// size; what falls out of one is announced or asked for no more, nothing else.
public struct TransactionRelay: ~Copyable {
  public struct Configuration: Sendable {
    /// Of messages of this kind, per link, with 60 bytes of packet around each.
    public var bytesPerSecond: Double
    /// What may be sent at once after a quiet time.
    public var burstBytes: Double
    /// Ids are gathered this long, or until a message is full.
    public var inventoryDelay: Interval
    /// Before another neighbour is asked.
    public var requestTimeout: Interval
    /// Ids remembered; a power of two.
    public var knownMax: Int

    public init(
      bytesPerSecond: Double = 125_000, burstBytes: Double = 250_000,
      inventoryDelay: Interval = .microseconds(20_000), requestTimeout: Interval = .microseconds(2_000_000),
      knownMax: Int = 65_536
    ) {
      self.bytesPerSecond = bytesPerSecond
      self.burstBytes = max(burstBytes, 2 * Double(RelayLimits.messageBytes))
      self.inventoryDelay = inventoryDelay
      self.requestTimeout = requestTimeout
      self.knownMax = knownMax
    }
  }

  /// What came of a TX message.
  public enum Arrival: Sendable {
    /// A fragment, or one that was there already.
    case partial
    /// Whole, and in the store (or known to it, or dropped by it).
    case complete(Insertion)
    /// Whole, and not what it claims to be: the sender is broken or lies.
    case refused(String)
  }

  static let announcedMax = 16_384
  /// An announcement may be lost: who neither asked nor announced by then is told once more.
  static let repeatDelay = Interval.microseconds(1_000_000)
  static let toAskMax = 2_048
  static let toSendMax = 4_096
  static let pendingMax = 8_192
  /// Requests to one neighbour again when no other offered.
  static let retriesMax: UInt8 = 3
  static let patienceMax: UInt8 = 15
  static let packetOverhead = 60.0
  static let inputsWalked = 1_000

  private struct Sending: Sendable {
    var id: UInt64
    var handle: EntryHandle
    var offset: Int
    var parents = ParentInputs.none
  }
  private struct Link: Sendable {
    var isUp = false
    /// Position in `announced` up to which this neighbour was told, and up to which it was told again.
    var cursor: UInt64 = 0
    var repeated: UInt64 = 0
    var gatheringSince = Instant.never
    var toAsk: [UInt64] = []
    var toSend: [Sending] = []
    /// When its last TX came.
    var heard = Instant.zero
    var tokens = 0.0
    var refilled = Instant.zero
    /// No message before this: the budget is spent.
    var restUntil = Instant.zero
  }
  private struct Pending: Sendable {
    var id: UInt64
    var link: LinkID
    var deadline: Instant
    /// How often the deadline was moved because the neighbour was still sending.
    var patience: UInt8 = 0
  }

  public private(set) var configuration: Configuration
  public private(set) var epoch: UInt32
  private var key: SipHash
  private var links = Array(repeating: Link(), count: LinkSet.capacity)
  private var known: KnownTransactions
  private var fragments = FragmentPool()
  /// Ring of ids in the order in which they came; the newest is `announcedEnd` − 1.
  private var announced: [(id: UInt64, time: Instant)]
  private var announcedEnd: UInt64 = 0
  /// Requests in order of their deadlines; read from `pendingStart`.
  private var pending: [Pending] = []
  private var pendingStart = 0
  private var scratch: [UInt64] = []

  /// `key` is derived from the overlay secret of `epoch`.
  public init(epoch: UInt32, key: SipHash, configuration: Configuration = Configuration()) {
    self.epoch = epoch
    self.key = key
    self.configuration = configuration
    known = KnownTransactions(capacity: configuration.knownMax)
    announced = Array(repeating: (0, .zero), count: Self.announcedMax)
    scratch.reserveCapacity(RelayLimits.transactionIDs)
    pending.reserveCapacity(Self.pendingMax)
  }

  /// Another secret: all ids change. What was known by the old ones is forgotten.
  public mutating func rotate(epoch: UInt32, key: SipHash) {
    if epoch == self.epoch { return }
    self.epoch = epoch
    self.key = key
    known = KnownTransactions(capacity: configuration.knownMax)
    pending.removeAll(keepingCapacity: true)
    pendingStart = 0
    for i in links.indices {
      links[i].cursor = announcedEnd
      links[i].repeated = announcedEnd
      links[i].toAsk.removeAll(keepingCapacity: true)
    }
  }

  public mutating func linkUp(_ link: LinkID, now: Instant) {
    let i = Int(link.index)
    linkDown(link)
    links[i].isUp = true
    links[i].cursor = announcedEnd
    links[i].repeated = announcedEnd
    links[i].tokens = configuration.burstBytes
    links[i].refilled = now
  }

  public mutating func linkDown(_ link: LinkID) {
    let unasked = links[Int(link.index)].toAsk
    links[Int(link.index)] = Link()
    known.forget(link)
    fragments.forget(link)
    for id in unasked { askAnother(id, than: link) }
  }

  /// The six-byte id of a transaction in this epoch.
  public func id(_ wtxid: Hash256) -> UInt64 { key.hash(wtxid) & 0xFFFF_FFFF_FFFF }

  // MARK: What is here

  /// A transaction is in the store: the node learned it, or it entered the side pool (`from`: by which neighbour). It will
  /// be announced to the neighbours that are not known to have it, if it is small enough to be passed on.
  public mutating func added(
    _ handle: EntryHandle, wtxid: Hash256, weight: Int, from link: LinkID? = nil, now: Instant
  ) {
    let id = id(wtxid)
    let at = known.touch(id)
    let isNews = known.handles[at] == nil
    known.handles[at] = handle
    known.isAsked[at] = false
    known.offers[at] = .none
    if let link { known.holders[at].insert(link) }
    if !isNews || weight > RelayLimits.transactionBytes { return }
    announced[Int(announcedEnd % UInt64(Self.announcedMax))] = (id, now)
    announcedEnd += 1
    for i in links.indices where links[i].isUp && links[i].gatheringSince == .never { links[i].gatheringSince = now }
  }

  // MARK: Messages

  /// TXINV. False when it is of an epoch that isn't ours.
  @discardableResult
  public mutating func receiveInventory(
    _ message: borrowing TransactionIDsMessage, from link: LinkID, now: Instant
  ) -> Bool {
    if message.epoch != epoch { return false }
    let i = Int(link.index)
    for k in 0..<message.count {
      let id = message.id(k)
      let at = known.touch(id)
      known.holders[at].insert(link)
      if known.handles[at] != nil { continue }
      if known.isAsked[at] {
        known.offers[at].insert(link)
      } else if links[i].toAsk.count < Self.toAskMax {
        known.isAsked[at] = true
        links[i].toAsk.append(id)
      }
    }
    return true
  }

  /// TXGET: what of it is here will be sent. False when it is of an epoch that isn't ours.
  @discardableResult
  public mutating func receiveRequest(
    _ message: borrowing TransactionIDsMessage, from link: LinkID, store: borrowing TransactionStore
  ) -> Bool {
    if message.epoch != epoch { return false }
    let i = Int(link.index)
    for k in 0..<message.count {
      guard links[i].toSend.count < Self.toSendMax else { break }
      guard let at = known.find(message.id(k)), let handle = known.handles[at], store.slot(handle) != nil else {
        continue
      }
      known.holders[at].insert(link)
      if known.queued[at].contains(link) { continue }
      known.queued[at].insert(link)
      links[i].toSend.append(Sending(id: message.id(k), handle: handle, offset: 0))
    }
    return true
  }

  /// TX: a fragment. A whole transaction goes into the side pool, or among the orphans when parents that its sender holds
  /// unconfirmed are not here.
  public mutating func receive(
    _ message: borrowing TransactionMessage, from link: LinkID, now: Instant, store: inout TransactionStore
  ) -> Arrival {
    let whole = fragments.add(
      message.fragment, at: Int(message.offset), of: Int(message.total), wtxid8: message.wtxid8, from: link,
      fragmentBytes: RelayLimits.fragmentBytes, now: now)
    links[Int(link.index)].heard = now
    guard let whole else { return .partial }
    let bytes = whole.span.bytes
    let layout: TransactionLayout
    do { layout = try TransactionLayout(parsing: bytes) } catch { return .refused("transaction: \(error)") }
    if layout.weight > RelayLimits.transactionBytes { return .refused("weight \(layout.weight)") }
    let (txid, wtxid) = layout.hashes(in: bytes)
    if wtxid.w0 != message.wtxid8 { return .refused("another wtxid than announced") }
    let missing = missingParents(of: layout, in: bytes, message.parents, store)
    do {
      let result = try store.insert(
        layout, in: bytes, txid: txid, wtxid: wtxid, as: missing.isEmpty ? .side : .orphan, missingParents: missing)
      if let handle = result.handle { added(handle, wtxid: wtxid, weight: layout.weight, from: link, now: now) }
      return .complete(result)
    } catch {
      return .refused("\(error)")
    }
  }

  private func missingParents(
    of layout: TransactionLayout, in bytes: RawSpan, _ parents: ParentInputs, _ store: borrowing TransactionStore
  ) -> [Hash256] {
    if parents == .none { return [] }
    var missing: [Hash256] = []
    Self.forEachInput(of: layout, in: bytes) { index, txid in
      for k in 0..<4 where Int(parents.indexes[k]) == index && !missing.contains(txid) {
        let slot = store.slot(txid: txid)
        if slot == nil || store.kind(slot!) == .orphan { missing.append(txid) }
      }
      return true
    }
    return missing
  }

  /// The inputs whose parents are unconfirmed here.
  private static func parents(of bytes: RawSpan, in store: borrowing TransactionStore) -> ParentInputs {
    guard let layout = try? TransactionLayout(parsing: bytes) else { return .none }
    var result = ParentInputs.none
    var count = 0
    var last = Hash256.zero
    forEachInput(of: layout, in: bytes) { index, txid in
      if txid != last, store.slot(txid: txid) != nil {
        result.indexes[count] = UInt16(index)
        count += 1
      }
      last = txid
      return count < 4
    }
    return result
  }

  private static func forEachInput(of layout: TransactionLayout, in bytes: RawSpan, _ body: (Int, Hash256) -> Bool) {
    var reader = ByteReader(bytes)
    do throws(DecodeError) {
      try reader.skip(layout.coreOffset, "tx")
      let count = try reader.count(itemBytes: 41, "tx.vin")
      for index in 0..<min(count, inputsWalked) {
        let txid = try reader.hash("tx.vin.prevout")
        try reader.skip(4, "tx.vin.prevout")
        let script = try reader.count(itemBytes: 1, "tx.vin.scriptSig")
        try reader.skip(script + 4, "tx.vin.scriptSig")
        if !body(index, txid) { return }
      }
    } catch {
      // The layout was parsed from the same bytes: there is nothing to report.
    }
  }

  // MARK: Sending

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

  // MARK: Time

  /// Requests that got no answer go to the next neighbour that offered; fragments that wait too long are dropped.
  public mutating func deadlinePassed(now: Instant) {
    fragments.expire(now: now)
    while pendingStart < pending.count, pending[pendingStart].deadline <= now {
      let request = pending[pendingStart]
      pendingStart += 1
      // A neighbour that spends its budget on what was asked before is not silent: wait, within reason.
      let isBusy = now - links[Int(request.link.index)].heard < configuration.requestTimeout
      if isBusy && request.patience < Self.patienceMax {
        if known.find(request.id).map({ known.handles[$0] == nil && known.isAsked[$0] }) ?? false {
          pending.append(
            Pending(
              id: request.id, link: request.link, deadline: now + configuration.requestTimeout,
              patience: request.patience + 1))
        }
        continue
      }
      askAnother(request.id, than: request.link)
    }
    if pendingStart == pending.count || pendingStart > Self.pendingMax / 2 {
      pending.removeFirst(pendingStart)
      pendingStart = 0
    }
  }

  private mutating func askAnother(_ id: UInt64, than link: LinkID) {
    guard let at = known.find(id), known.handles[at] == nil, known.isAsked[at] else { return }
    known.isAsked[at] = false
    while let other = known.offers[at].popFirst() {
      let j = Int(other.index)
      if other != link && links[j].isUp && links[j].toAsk.count < Self.toAskMax {
        known.isAsked[at] = true
        links[j].toAsk.append(id)
        return
      }
    }
    // Nobody else: the same again, for the request or a fragment may have been lost.
    let i = Int(link.index)
    if links[i].isUp && known.retries[at] < Self.retriesMax && links[i].toAsk.count < Self.toAskMax {
      known.retries[at] += 1
      known.isAsked[at] = true
      links[i].toAsk.append(id)
    }
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

  /// When to call `deadlinePassed`.
  public var nextDeadline: Instant {
    let request = pendingStart < pending.count ? pending[pendingStart].deadline : .never
    return min(request, fragments.nextDeadline)
  }

  /// Fragments held, for the bounds of PROTOCOL.md, section 7.
  public var fragmentCount: Int { fragments.count }
  public var fragmentBytesHeld: Int { fragments.byteCount }
}
