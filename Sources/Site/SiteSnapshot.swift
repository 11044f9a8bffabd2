import Bitcoin
import Ground
import Mempool
import NodeBridge
import Relay
import Session

/// What happened at a site.
public enum SiteEvent: Sendable {
  case relay(RelayEvent)
  case node(NodeEvent)
  /// A header passed the gate: its proof of work is done, its body is on the way.
  case header(HeaderNotice)
  /// A block is complete, checked and handed to the site's nodes.
  case delivered(BlockDelivery)
  /// No form of delivery over P2P worked: `submitblock` is worth a try.
  case wantsSubmit(node: Int, hash: Hash256, bytes: [UInt8])
  /// A block of the site's node can't be relayed, and why.
  case notRelayed(Hash256, String)
  /// A ping came back: what it tells of the neighbour's clock and of losses.
  case clock(ClockNotice)
  /// A neighbour tells how blocks came to it: its own words, not looked at here.
  case journey(link: LinkID, bytes: [UInt8], at: Instant)

  /// Somebody does more with it than note it, and a block's work stands behind it: it can't come in floods.
  var isActedOn: Bool {
    switch self {
    case .header, .delivered, .wantsSubmit, .notRelayed: true
    default: false
    }
  }
}

/// Four timestamps of a neighbour, with this end's counts at the same moment.
public struct ClockNotice: Sendable, Hashable {
  public var link: LinkID
  public var sample: ClockSample
  /// Counts this end's sessions: the counts below begin anew in each.
  public var generation: UInt32
  /// Datagrams opened here, and the highest counter among them.
  public var opened: UInt64
  public var highestCounter: UInt64
  /// Since the session began: packets that came here out of order, and those that the neighbour says came so there.
  public var reordered: UInt64
  public var peerReordered: UInt32
  /// Likewise: packets sealed here for the neighbour and dropped here, and what it says of its own.
  public var withdrawn: UInt64
  public var peerWithdrawn: UInt32

  public init(
    link: LinkID, sample: ClockSample, generation: UInt32, opened: UInt64, highestCounter: UInt64,
    reordered: UInt64 = 0, peerReordered: UInt32 = 0, withdrawn: UInt64 = 0, peerWithdrawn: UInt32 = 0
  ) {
    (self.withdrawn, self.peerWithdrawn) = (withdrawn, peerWithdrawn)
    (self.reordered, self.peerReordered) = (reordered, peerReordered)
    self.link = link
    self.sample = sample
    self.generation = generation
    self.opened = opened
    self.highestCounter = highestCounter
  }
}

public struct HeaderNotice: Sendable, Hashable {
  public var hash: Hash256
  public var height: Int
  public var header: BlockHeader?
  /// The neighbour that told it first; nil: this site.
  public var from: String?
  public var at: Instant
}

/// A block's arrival at a site.
public struct BlockDelivery: Sendable, Hashable {
  public var report: BlockReport
  /// The neighbour that brought the first packet; nil for a block of this site.
  public var from: String?
  /// When it was handed to the node; where that was before it was checked here, then.
  public var delivered: Instant

  public init(report: BlockReport, from: String?, delivered: Instant) {
    self.report = report
    self.from = from
    self.delivered = delivered
  }
}

/// One neighbour, now.
public struct PeerSnapshot: Sendable {
  public var link: LinkID
  public var name: String
  public var rate: LinkRate
  public var status: RelayLinkStatus
  /// Blocks of which this neighbour brought the first packet, and blocks whose last missing piece it brought.
  public var blocksFirst: UInt64
  public var blocksLast: UInt64
  /// The peer's clock less this one's, by the last exchange of timestamps.
  public var clockOffset: Interval?
}

/// A site at one instant: copied on its thread, told in words elsewhere.
public struct SiteSnapshot: Sendable {
  public var name = ""
  public var overlay = ""
  public var network = ""
  public var key = ""
  public var at = Instant.zero
  public var startedAt = Instant.zero
  public var tipHash = Hash256.zero
  public var tipHeight = 0
  public var mempool: [StoreCounts] = []
  public var heldBytes = 0
  public var counters = RelayCounters()
  public var session = SessionCounters()
  public var eventsDropped: UInt64 = 0
  public var peers: [PeerSnapshot] = []
  public var nodes: [NodeBridge.NodeStatus] = []
  public var inbound = 0
  /// The last 64, oldest first, with the counts as they stand now.
  public var blocks: [BlockDelivery] = []
  public var blocksDelivered: UInt64 = 0
  public var isEmbedded = false
  /// Datagrams lost and held back on purpose.
  public var impairedLost: UInt64 = 0
  public var impairedDelayed: UInt64 = 0
}
