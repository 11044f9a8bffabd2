/// The port between protocol and network. A `DatagramCore` is a deterministic state machine: datagrams and clock values
/// go in, datagrams come out through a `DatagramSink`. The io_uring engine and the simulator are its two drivers; they
/// never meet.

/// A destination that the core has named: a small number, so that a driver finds its queue without hashing.
/// The core chooses the numbers, from 0 up; drivers may refuse numbers at or above their stated capacity.
public struct LinkID: Hashable, Sendable {
  public var index: UInt16
  @inlinable public init(_ index: UInt16) { self.index = index }
}

/// Which of a link's queued datagrams goes first. Lower raw values overtake higher ones.
public enum Urgency: UInt8, Comparable, Sendable, CaseIterable {
  /// Handshakes, stop signals, requests, clock exchanges: tiny, and others wait for them.
  case control = 0
  /// The newest block.
  case block = 1
  /// An older block, or repair for one that most have.
  case late = 2
  /// Transactions, journeys, catch-up.
  case background = 3

  @inlinable public static func < (a: Urgency, b: Urgency) -> Bool { a.rawValue < b.rawValue }
}

/// Datagrams that can be dropped together when the other side no longer needs them (one block to one link).
/// 0 means 'none': never dropped by name.
public struct FlowID: Hashable, Sendable {
  public var value: UInt64
  @inlinable public init(_ value: UInt64) { self.value = value }
  public static let none = FlowID(0)
}

/// What a link may send.
public struct LinkRate: Hashable, Sendable {
  /// Of IP packets on the wire, UDP and IP headers included. 0 means 'not limited'.
  public var bitsPerSecond: UInt64
  @inlinable public init(bitsPerSecond: UInt64) { self.bitsPerSecond = bitsPerSecond }
  public static let unlimited = LinkRate(bitsPerSecond: 0)
}

/// Where a core puts what it wants sent. Implemented by drivers; generic everywhere, so calls are direct.
public protocol DatagramSink: ~Copyable {
  /// Points a link at an address, or changes its address or rate; queued datagrams follow, or are dropped when nothing
  /// can be sent there from here.
  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate)

  /// Forgets a link and what is queued for it.
  mutating func remove(_ link: LinkID)

  /// Queues one datagram of at most `capacity` bytes. `write` fills the bytes and returns how many it used; 0 queues
  /// nothing. False when the link is unknown or its queue is full, in which case `write` was not called; the driver
  /// counts it.
  @discardableResult
  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool

  /// Answers an address that is no link yet (handshake replies). Not queued behind anything, bounded per second by the
  /// driver.
  @discardableResult
  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool

  /// Drops what is still queued of a flow on a link; returns how many datagrams that were.
  @discardableResult
  mutating func drop(flow: FlowID, on link: LinkID) -> Int

  /// UDP payload bytes that may be queued on a link now before the link's queue is as long as the driver wants it
  /// (about 200 µs of its rate). A core that has much to send keeps the rest to itself and waits for
  /// `DatagramCore.roomAvailable`: what isn't queued needs no dropping, and can still be changed.
  func room(on link: LinkID) -> Int
}

/// A protocol as a state machine without I/O. One thread owns it. A core that speaks over streams too implements
/// `StreamCore`'s methods; for the others they do nothing.
public protocol DatagramCore: StreamCore, ~Copyable {
  /// Called once before anything else.
  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable)

  /// A datagram arrived. The bytes are the driver's and may be changed in place (decryption); they are valid during
  /// the call only. `arrival` is the kernel's receive time on the same clock as `now`.
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable)

  /// All datagrams at hand have been received: the moment for work that is done once a batch.
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable)

  /// `nextDeadline` has passed.
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable)

  /// A link's queue has drained to where more is welcome.
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable)

  /// Another thread woke the driver: read whatever mailbox it filled.
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable)

  /// The driver stops: last words (goodbyes) may be sent.
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable)

  /// When to call `deadlinePassed`; `.never` for not at all.
  var nextDeadline: Instant { get }
}
