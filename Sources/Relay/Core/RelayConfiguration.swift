import Bitcoin
import Ground
import Mempool
import Session

/// One neighbour, as the operator configured it.
public struct RelayLink: Hashable, Sendable {
  /// The neighbour's number here, 0 ..< 64; it never changes while the link exists.
  public var id: LinkID
  public var peer: PublicKey
  /// nil: the neighbour dials us.
  public var address: PeerAddress?
  /// Tried in turn when nothing answers there; three at most.
  public var alternates: [PeerAddress]
  public var rate: LinkRate
  /// Packets from and to a trusted neighbour are cut through. A verified-only neighbour gets a block, and has its
  /// chunks passed on, only after the block is checked here.
  public var isTrusted: Bool
  /// One-way delay from the topology, used until it is measured.
  public var expectedDelay: Interval?

  public init(
    id: LinkID, peer: PublicKey, address: PeerAddress?, alternates: [PeerAddress] = [],
    rate: LinkRate = .unlimited, isTrusted: Bool = true, expectedDelay: Interval? = nil
  ) {
    self.id = id
    self.peer = peer
    self.address = address
    self.alternates = alternates
    self.rate = rate
    self.isTrusted = isTrusted
    self.expectedDelay = expectedDelay
  }
}

/// How much is sent unasked.
public enum RedundancyPolicy: Hashable, Sendable {
  /// REDUNDANCY.md: what the receiver is likely to lack, and the link to lose.
  case adaptive
  /// What FIBRE does, as a baseline to compare with: a fixed schedule (sketch: source chunks, 10 repair chunks and 1 ms
  /// of the link's rate more; body: N + 10 repair chunks, then the N source chunks), repair by whole chunks, body chunks
  /// that come before the sketch thrown away.
  case fibreLike
}

/// What a core needs to know to begin.
public struct RelayConfiguration: Sendable {
  public var identity: Identity
  /// Keys the short ids; nil only in tests: then the ids are keyed by zeros.
  public var overlay: OverlaySecret?
  public var links: [RelayLink]
  /// Every relay of the overlay, this one among them: whose claims about links count. Without it, only neighbours.
  public var relays: [PublicKey] = []
  public var network: Network
  /// Where the header chain begins; nil: the network's genesis block.
  public var anchor: HeaderChain.Anchor?
  /// The wall clock at `Instant.zero`, in nanoseconds since 1970: headers state times. `RelayCore.setWallClock` follows it
  /// when it is set.
  public var unixNanosecondsAtZero: Int64
  public var redundancy: RedundancyPolicy
  public var session: SessionSettings
  public var offer: SessionOffer
  /// Keys and nonces. `.system` outside simulations.
  public var randomness: RandomSource
  /// Hash functions of tables that hostile input reaches.
  public var seed: UInt64
  public var store: StoreLimits
  /// Bits of a short id that the mempool's index compares; fewer than all 40 make false matches, for tests.
  package var shortIDBits = ShortIDIndex.defaultBits
  /// Bytes of packets, chunks and complete blocks held: PROTOCOL.md, section 7.
  public var limits: RelayMemoryLimits

  public init(
    identity: Identity, overlay: OverlaySecret?, links: [RelayLink], network: Network,
    anchor: HeaderChain.Anchor? = nil, unixNanosecondsAtZero: Int64, randomness: RandomSource = .system, seed: UInt64
  ) {
    self.identity = identity
    self.overlay = overlay
    self.links = links
    self.network = network
    self.anchor = anchor
    self.unixNanosecondsAtZero = unixNanosecondsAtZero
    self.randomness = randomness
    self.seed = seed
    redundancy = .adaptive
    session = SessionSettings()
    offer = SessionOffer(requiredFeatures: 0)
    store = StoreLimits()
    limits = RelayMemoryLimits()
  }
}

/// The bounds of what a core holds; PROTOCOL.md, section 7.
public struct RelayMemoryLimits: Hashable, Sendable {
  /// Incomplete blocks in hand.
  public var blocksInHand = 8
  /// Complete blocks kept to serve others, and their bytes.
  public var blocksKept = 16
  public var blockBytesKept = 64 << 20
  /// Chunks logged for forwarding and blame, over all blocks.
  public var logBytes = 48 << 20
  public var events = 4_096

  public init() {}
}
