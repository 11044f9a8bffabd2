import Ground

/// What passes between this relay and one neighbour for one object: a cursor and a few counts each way. Nothing is
/// queued; the next packet is chosen when the link has room. Trivial.
struct Lane {
  // MARK: To the neighbour

  /// Entries of the object's log before this one have been sent there, are known there, or are none of its business.
  var cursor: Int32 = 0
  /// Chunks still to be sent unasked.
  var budget: Int32 = 0
  /// Chunks asked for and still to be sent.
  var asked: Int32 = 0
  /// The next source chunk of our own to send, when source chunks are wanted.
  var nextSource: Int32 = 0
  /// The next repair chunk of our own, and the end of the run that was set aside for this neighbour.
  var nextRepair: UInt32 = 0
  var repairEnd: UInt32 = 0
  /// The budget was set.
  var isOpen = false
  /// Source chunks go first (the sketch always; other objects for neighbours that know nothing).
  var wantsSource = false
  /// The neighbour said "nothing more of this kind".
  var isStopped = false
  /// Only chunks that it can't have from elsewhere: repair chunks of the log, or our own.
  var isSpare = false
  /// What is sent unasked waits until the block is whole here.
  var isHeld = false
  var sent: UInt32 = 0

  // MARK: From the neighbour

  /// What the neighbour's newest packet says it still means to send.
  var promised: Int32 = 0
  /// What we asked it for and has not come.
  var outstanding: Int32 = 0
  /// That packet was sent because we had asked: what it promises covers what is outstanding.
  var isAnswering = false
  /// When the last chunk came, or the last request went out.
  var heard: Instant = .zero
  /// When the last request went out.
  var askedAt: Instant = .zero
  var received: UInt32 = 0
  var useless: UInt32 = 0
  /// When HAVE was last sent there (kept in the body's lane).
  var haveSent: Instant = .zero
  /// Until then the neighbour's promises are believed without another useful chunk of the block (kept in the body's lane);
  /// zero: it hasn't promised anything yet.
  var believedUntil: Instant = .zero
  /// What a useful chunk takes at the slowest that counts, and how far ahead more of them are believed, in nanoseconds
  /// (kept in the body's lane); 0: not reckoned yet.
  var pace: UInt32 = 0
  var slack: UInt32 = 0

  /// Something is due to the neighbour.
  @inline(__always)
  var isDue: Bool { !isStopped && (asked > 0 || budget > 0 && !isHeld) }

  /// Chunks still to be sent, asked for or not, as packets tell.
  @inline(__always)
  var more: UInt16 { isStopped ? 0 : UInt16(clamping: max(budget, 0) + max(asked, 0)) }

  /// The same, once the packet at hand is out.
  @inline(__always)
  var moreAfterThis: UInt16 { more == 0 ? 0 : more - 1 }

  // MARK: What is to come

  /// Chunks that are promised or asked for. Packets that left before a request arrived promise what is sent besides.
  @inline(__always)
  var coming: Int32 { isAnswering ? max(promised, outstanding) : promised + outstanding }

  /// A request now would be for more than the neighbour means to send unasked: it is told to send both.
  var isPromisedBesides: Bool { promised > 0 && !isAnswering }

  /// Of what is to come, what a new request takes the place of: it has to ask for that again.
  var replaced: Int { Int(max(isAnswering ? coming : outstanding, 0)) }

  /// The neighbour is asked for `count` chunks.
  mutating func ask(_ count: Int) {
    if !isPromisedBesides { promised = 0 }
    isAnswering = false
    outstanding = Int32(clamping: min(count, 1 << 20))
  }

  /// A packet came that says how many more are to come.
  @inline(__always)
  mutating func hear(more: UInt16, isAnswer: Bool) {
    promised = Int32(more)
    isAnswering = isAnswer
    if isAnswer { outstanding = max(0, outstanding - 1) }
  }

  /// A useful chunk came: `pace` longer is believed, up to `slack` ahead.
  @inline(__always)
  mutating func keepPace(now: Instant) {
    let (now, most) = (now.nanoseconds, now.nanoseconds &+ UInt64(slack))
    let until = believedUntil == .zero ? most : believedUntil.nanoseconds
    believedUntil = Instant(nanoseconds: max(until, min(max(until, now) &+ UInt64(pace), most)))
  }

  // MARK: What is sent

  /// Counts one chunk sent.
  @inline(__always)
  mutating func spend() {
    sent += 1
    if asked > 0 { asked -= 1 } else { budget -= 1 }
  }
}

/// The lanes of one object, one for each link.
struct Lanes: ~Copyable {
  private let lanes: UnsafeMutablePointer<Lane>

  init() {
    lanes = .allocate(capacity: LinkSet.capacity)
    lanes.initialize(repeating: Lane(), count: LinkSet.capacity)
  }

  deinit { lanes.deallocate() }

  @inline(__always)
  subscript(_ link: LinkID) -> UnsafeMutablePointer<Lane> {
    precondition(Int(link.index) < LinkSet.capacity)
    return lanes + Int(link.index)
  }

  func reset(_ link: LinkID) { self[link].pointee = Lane() }
}
