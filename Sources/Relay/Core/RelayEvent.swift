import Bitcoin
import Ground

/// Something that happened, for the daemon's log, the measurement room's journeys and the simulator's tables. Trivial:
/// events lie in a bounded ring until the owner drains them (`RelayCore.nextEvent`).
public struct RelayEvent: Hashable, Sendable {
  public enum Kind: UInt8, Sendable, CaseIterable {
    // A block's journey, in order.
    /// First packet of an unknown block: `at` is the kernel's receive time; `link` delivered it.
    case firstPacket
    /// The header passed the gate (the early header notice): `a` height.
    case gatePassed
    /// A header was refused at the gate: `a` a `GateRefusal`; `link` sent it. Of a flood only some, as with `malformed`.
    case gateRefused
    /// The sketch is decoded: `a` transactions, `b` sketch bytes.
    case sketchComplete
    /// Matched against the mempool: `a` body bytes known, `b` body bytes.
    case matched
    /// NEED went out: `a` chunks asked for, `b` kind. An extra round for this relay and block.
    case asked
    /// The last chunk that was needed has come: `at` its kernel receive time; `link` delivered it.
    case lastNeeded
    /// The body is solved.
    case decoded
    /// Put together: every transaction and its ids are there (`RelayCore.withAssembledBlock`), out of nothing but what
    /// trusted neighbours sent and the mempool holds, and no check of this block has failed. Its Merkle root is worked out
    /// from now on. For an owner whose node does that itself: `verified` or `failedChecks` follows, or `abandoned` for a
    /// block that breaks a rule.
    case assembled
    /// All checks passed: the bytes are there (`RelayCore.withBlock`). Deliver now. `a` is 1 for a block that was
    /// submitted at this site, 0 for one that came over the overlay.
    case verified
    /// First datagram of the block sent to `link`.
    case forwarded
    /// `link` says that it has the block: `a` chunks it needed, `b` chunks of ours that were of no use to it.
    case peerHas
    /// An incomplete block was given up: `a` 1 evicted by a better one, 2 invalid by consensus, 3 no source left, 4 its
    /// sketch went out and it didn't follow.
    case abandoned

    // Trouble.
    /// The assembled body failed: `a` attempt.
    case failedChecks
    /// Matches withdrawn because the mempool's transaction was another one: `a` how many.
    case falseMatches
    /// A chunk proved wrong: `a` chunk index, `b` maker (key4); `link` delivered it.
    case wrongChunk
    /// `link` is verified-only until further notice: `a` seconds.
    case demoted
    /// `link` pointed at another relay: `a` key4 pointed at, `b` seconds of demotion left for `link`.
    case pointed
    /// A message that makes no sense from an authenticated neighbour: `a` message type. With `gateRefused` told once a second
    /// for each neighbour, after ten at once: counters have them all.
    case malformed

    // Links and chain.
    case linkUp
    /// `a` is a `SessionLoss`.
    case linkDown
    /// `link` proved who it is, but no session is possible: `a` an `Incompatibility`.
    case linkIncompatible
    /// A peer's clock sample is in `RelayCore.lastClockSample(of:)`.
    case clockSample
    /// The best header changed: `a` height.
    case tip
    /// A journey record from `link` waits in `RelayCore.takeJourney`.
    case journey
  }

  public var kind: Kind
  /// The neighbour concerned; `RelayEvent.noLink` when there is none.
  public var link: LinkID
  public var at: Instant
  /// The block concerned, or zero.
  public var block: Hash256
  public var a: UInt64
  public var b: UInt64

  public static let noLink = LinkID(.max)

  public init(
    _ kind: Kind, link: LinkID = RelayEvent.noLink, at: Instant, block: Hash256 = .zero, a: UInt64 = 0, b: UInt64 = 0
  ) {
    (self.kind, self.link, self.at, self.block, self.a, self.b) = (kind, link, at, block, a, b)
  }
}

/// Why a header was refused at the gate.
public enum GateRefusal: UInt8, Sendable {
  case proofOfWork = 1
  case difficulty = 2
  case time = 3
  /// Its parent lies further than two blocks below the best tip.
  case tooOld = 4
  /// Its chain has less work than the tip's less two blocks'.
  case tooLittleWork = 5
  /// Sizes or counts outside the limits.
  case sizes = 6
  case invalidChain = 7
  case version = 8
}

/// A bounded first-in, first-out ring of events; the oldest is dropped, and counted, when nobody drains it.
struct EventRing: ~Copyable {
  private let slots: UnsafeMutablePointer<RelayEvent>
  private let mask: Int
  private var head = 0
  private var tail = 0
  private(set) var dropped: UInt64 = 0

  /// `capacity` is rounded up to a power of two.
  init(capacity: Int) {
    var size = 16
    while size < capacity { size *= 2 }
    slots = .allocate(capacity: size)
    mask = size - 1
  }

  deinit { slots.deallocate() }

  @inline(__always)
  mutating func push(_ event: RelayEvent) {
    if tail - head > mask {
      head += 1
      dropped += 1
    }
    (slots + (tail & mask)).initialize(to: event)
    tail += 1
  }

  mutating func pop() -> RelayEvent? {
    if head == tail { return nil }
    defer { head += 1 }
    return slots[head & mask]
  }

  var isEmpty: Bool { head == tail }
}
