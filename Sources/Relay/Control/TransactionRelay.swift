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
  static let orphansMax = 1_000
  /// Requests to one neighbour again when no other offered.
  static let retriesMax: UInt8 = 3
  static let patienceMax: UInt8 = 15
  static let packetOverhead = 60.0
  static let inputsWalked = 1_000

  struct Sending: Sendable {
    var id: UInt64
    var handle: EntryHandle
    var offset: Int
    var parents = ParentInputs.none
  }
  struct Link: Sendable {
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
  struct Pending: Sendable {
    var id: UInt64
    var link: LinkID
    var deadline: Instant
    /// How often the deadline was moved because the neighbour was still sending.
    var patience: UInt8 = 0
  }

  public private(set) var configuration: Configuration
  public private(set) var epoch: UInt32
  var key: SipHash
  var links = Array(repeating: Link(), count: LinkSet.capacity)
  var known: KnownTransactions
  var fragments = FragmentPool()
  /// Ring of ids in the order in which they came; the newest is `announcedEnd` − 1.
  var announced: [(id: UInt64, time: Instant)]
  var announcedEnd: UInt64 = 0
  /// Requests in order of their deadlines; read from `pendingStart`.
  var pending: [Pending] = []
  var pendingStart = 0
  /// Here, and not announced yet: their parents are missing. At most as many as the store has by default.
  var orphans: [(id: UInt64, handle: EntryHandle)] = []
  var scratch: [UInt64] = []

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
    orphans.removeAll()
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
    let isNews = isHere(id, handle, from: link)
    if !isNews || weight > RelayLimits.transactionBytes { return }
    announce(id, now: now)
  }

  /// A transaction waits among the orphans: it needs no asking for, and is announced when its parents have come.
  mutating func addedOrphan(_ handle: EntryHandle, wtxid: Hash256, from link: LinkID) {
    let id = id(wtxid)
    _ = isHere(id, handle, from: link)
    if orphans.count == Self.orphansMax { orphans.removeFirst() }
    orphans.append((id, handle))
  }

  /// Announces what waited among the orphans and does no more; call when something was put into the store.
  public mutating func announceResolved(in store: borrowing TransactionStore, now: Instant) {
    if orphans.isEmpty { return }
    var left: [(id: UInt64, handle: EntryHandle)] = []
    for orphan in orphans {
      guard let slot = store.slot(orphan.handle) else { continue }
      if store.kind(slot) == .orphan {
        left.append(orphan)
      } else {
        announce(orphan.id, now: now)
      }
    }
    orphans = left
  }

  /// True when it wasn't known to be here.
  private mutating func isHere(_ id: UInt64, _ handle: EntryHandle, from link: LinkID?) -> Bool {
    let at = known.touch(id)
    let isNews = known.handles[at] == nil
    known.handles[at] = handle
    known.isAsked[at] = false
    known.offers[at] = .none
    if let link { known.holders[at].insert(link) }
    return isNews
  }

  private mutating func announce(_ id: UInt64, now: Instant) {
    announced[Int(announcedEnd % UInt64(Self.announcedMax))] = (id, now)
    announcedEnd += 1
    for i in links.indices where links[i].isUp && links[i].gatheringSince == .never { links[i].gatheringSince = now }
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

  /// When to call `deadlinePassed`.
  public var nextDeadline: Instant {
    let request = pendingStart < pending.count ? pending[pendingStart].deadline : .never
    return min(request, fragments.nextDeadline)
  }

  /// Fragments held, for the bounds of PROTOCOL.md, section 7.
  public var fragmentCount: Int { fragments.count }
  public var fragmentBytesHeld: Int { fragments.byteCount }
}
