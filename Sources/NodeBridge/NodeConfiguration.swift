import Bitcoin
import Ground

/// One node that the bridge connects to.
public struct NodeConfiguration: Sendable {
  public enum Role: Sendable, Hashable {
    /// The site's own node: its mempool is mirrored, its blocks are relayed, blocks are delivered to it. The first of a
    /// bridge is the one whose mempool the store's class `node` means.
    case local
    /// Any other node: listened to, so that the lead over the public network can be measured. Told nothing, asked for
    /// nothing but headers.
    case watched
  }

  public var name: String
  public var address: PeerAddress
  public var role: Role
  public var mirrorsMempool: Bool
  /// How often the node is pinged when nothing else is said: its message thread sleeps up to 100 ms and is woken by any
  /// message, so this bounds how late its announcements of transactions come.
  public var wakeInterval: Interval
  /// Forms of delivery that may be used; among these the choice follows the measurements.
  public var deliveryMethods: [DeliveryMethod] = DeliveryMethod.allCases
  /// Blocks may be handed to it, as compact blocks, while their Merkle root is still worked out here too: the node checks
  /// it as well, and asks the whole block when it is wrong (BIP152).
  public var takesUnchecked = true

  public init(
    name: String, address: PeerAddress, role: Role = .local, mirrorsMempool: Bool = true,
    wakeInterval: Interval = .milliseconds(20)
  ) {
    self.name = name
    self.address = address
    self.role = role
    self.mirrorsMempool = mirrorsMempool
    self.wakeInterval = wakeInterval
  }
}

public struct BridgeConfiguration: Sendable {
  public var network: Network
  public var nodes: [NodeConfiguration]
  /// Where other local nodes may connect to the bridge as to a peer; nil for nowhere.
  public var listen: PeerAddress?
  public var inboundMax: Int
  /// Stream numbers from here on are the bridge's: one for each node, then the inbound ones.
  public var firstStream: UInt16
  /// Told apart from others by it; any number.
  public var nonce: UInt64
  public var userAgent: String
  /// Re-list the node's mempool this often.
  public var reconciliationInterval: Interval

  public init(
    network: Network, nodes: [NodeConfiguration], listen: PeerAddress? = nil, inboundMax: Int = 8,
    firstStream: UInt16 = 0, nonce: UInt64, userAgent: String = "/Lightpath:1/",
    reconciliationInterval: Interval = .seconds(600)
  ) {
    self.network = network
    self.nodes = nodes
    self.listen = listen
    self.inboundMax = inboundMax
    self.firstStream = firstStream
    self.nonce = nonce
    self.userAgent = userAgent
    self.reconciliationInterval = reconciliationInterval
  }
}

/// What is wrong with a node's set-up, and the line of bitcoin.conf that mends it.
public enum NodeProblem: Hashable, Sendable, CustomStringConvertible {
  /// It hung up on our first message, or its messages start with another magic.
  case wrongNetwork(expected: String)
  /// It hung up when asked for its mempool, or never listed it.
  case noMempoolPermission
  /// It hung up on a block that was good, or for misbehaviour it should have forgiven.
  case notWhitelisted
  /// It says that it relays no transactions, or keeps silent about feerates as Core does in that mode.
  case blocksOnly
  /// Not reachable.
  case unreachable(errno: Int32)
  /// It has not caught up with its network yet, by its own word or because its tip is a day old.
  case initialDownload
  /// It keeps only the last blocks: no harm to blocks that are new, and worth knowing.
  case pruned
  /// Connected to ourselves.
  case ourselves

  public static let whitebind = "whitebind=noban,mempool,relay,download@127.0.0.1:8339"

  public var description: String {
    switch self {
    case .wrongNetwork(let expected):
      "the node is not on \(expected), or something else listens on that port: check 'network' in the topology and "
        + "'chain=' in bitcoin.conf"
    case .noMempoolPermission:
      "the node refuses to list its mempool; add to bitcoin.conf: \(NodeProblem.whitebind) (with bind=0.0.0.0 and "
        + "bind=[::]) and connect to that port"
    case .notWhitelisted:
      "the node hung up on us; without 'noban' one bad block can do that. Add to bitcoin.conf: \(NodeProblem.whitebind)"
    case .blocksOnly:
      "the node runs with blocksonly=1 and has no mempool to mirror; remove blocksonly from bitcoin.conf"
    case .unreachable(let errno):
      "the node can't be reached (errno \(errno)): is it running, and does it listen on that address? bitcoin.conf: "
        + NodeProblem.whitebind
    case .initialDownload:
      "the node is still downloading its chain, or has seen no block for a day; blocks flow once it has caught up. A "
        + "larger dbcache= in bitcoin.conf (say dbcache=4000) makes that quicker"
    case .pruned:
      "the node is pruned and serves only its last 288 blocks; new blocks flow all the same. To serve older ones, remove "
        + "prune= from bitcoin.conf"
    case .ourselves: "the configured node address is this bridge itself"
    }
  }
}
