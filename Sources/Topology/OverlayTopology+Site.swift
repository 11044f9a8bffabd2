import Ground

// What stands beside a relay: its nodes, its pool, and the public peers it listens to.
extension TopologyReading {
  struct Site {
    var nodes: [OverlayTopology.Node] = []
    var watched: [OverlayTopology.WatchedPeer] = []
    var pool: PeerAddress?
    var relaysTransactions = true
  }

  static let maxWatched = 32

  mutating func readSite(_ table: inout TableReader, relay: Int) -> Site {
    var site = Site()
    for (i, child) in (table.array("node", &mistakes)?.elements ?? []).enumerated() {
      if let node = readNode(child, number: i) { site.nodes.append(node) }
    }
    let watched = table.array("watch", &mistakes)?.elements ?? []
    if watched.count > Self.maxWatched {
      mistakes.append(
        TopologyMistake(
          watched[Self.maxWatched].key, watched[Self.maxWatched].path,
          .invalid("a relay watches at most \(Self.maxWatched) public peers")))
    }
    for (i, child) in watched.prefix(Self.maxWatched).enumerated() {
      if let peer = readWatched(child, number: i, relay: relay) { site.watched.append(peer) }
    }
    site.pool = table.string("pool", &mistakes).flatMap { address($0.text, $0.node) }
    site.relaysTransactions = table.boolean("relay_transactions", &mistakes) ?? true
    return site
  }

  private mutating func readWatched(_ node: TomlNode, number: Int, relay: Int) -> OverlayTopology.WatchedPeer? {
    var table = TableReader(node, &mistakes)
    let given = table.optional("name") == nil ? nil : table.name("name", required: "", &mistakes)
    let name = given?.text ?? "public\(number)"
    isNew("watched peer '\(name)' of this relay", "watch \(relay) \(name)", given?.node ?? node)
    let p2p = table.string(
      "p2p", required: "which public peer? its P2P address, p2p = \"198.51.100.7:8333\"", &mistakes)
    let reached = p2p.flatMap { address($0.text, $0.node) }
    table.finish(&mistakes)
    return reached.map { OverlayTopology.WatchedPeer(name: name, p2p: $0) }
  }

  private mutating func readNode(_ node: TomlNode, number: Int) -> OverlayTopology.Node? {
    var table = TableReader(node, &mistakes)
    var name = "node\(number)"
    if table.optional("name") != nil { name = table.name("name", required: "", &mistakes)?.text ?? name }
    let p2p = table.string("p2p", required: "this node needs its P2P address, p2p = \"127.0.0.1:8333\"", &mistakes)
    let p2pAddress = p2p.flatMap { address($0.text, $0.node) }
    let rpc = table.string("rpc", &mistakes).flatMap { address($0.text, $0.node) }
    let cookie = table.string("rpc_cookie_file", &mistakes)?.text
    let checkedOnly = table.boolean("checked_only", &mistakes) ?? false
    for secret in ["rpc_password", "rpcpassword", "password", "rpc_user"] {
      if let found = table.optional(secret) {
        mistakes.append(
          TopologyMistake(
            found.key, found.path,
            .invalid("secrets stay at the site: this file goes to every site. Use rpc_cookie_file")))
      }
    }
    table.finish(&mistakes)
    guard let p2pAddress else { return nil }
    return OverlayTopology.Node(name: name, p2p: p2pAddress, rpc: rpc, rpcCookieFile: cookie, checkedOnly: checkedOnly)
  }
}
