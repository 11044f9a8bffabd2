import Foundation
import Ground

extension OverlayTopology {
  /// A topology file larger than this is refused, and no more of it read.
  public static let maxFileBytes = 1 << 20
  public static let maxRelays = 256
  /// Links of one relay: what its sets of links hold.
  public static let maxLinks = 64

  /// Reads and checks a topology file. Every mistake is reported at once.
  public init(contentsOf file: URL) throws(TopologyErrors) {
    let start = SourcePosition(line: 1, column: 1)
    let data: Data
    do {
      let handle = try FileHandle(forReadingFrom: file)
      defer { try? handle.close() }
      data = try handle.read(upToCount: Self.maxFileBytes + 1) ?? Data()
    } catch {
      throw TopologyErrors([TopologyMistake(start, "", .invalid("can't be read: \(error.localizedDescription)"))])
    }
    if data.count > Self.maxFileBytes {
      throw TopologyErrors([
        TopologyMistake(start, "", .invalid("more than \(Self.maxFileBytes) bytes: no topology"))
      ])
    }
    guard let text = String(data: data, encoding: .utf8) else {
      throw TopologyErrors([TopologyMistake(start, "", .syntax("not UTF-8"))])
    }
    try self.init(text: text)
  }

  /// Reads and checks the text of a topology file.
  public init(text: String) throws(TopologyErrors) {
    let root: TomlNode
    do {
      root = try TomlParser.parse(text)
    } catch {
      throw TopologyErrors([error])
    }
    var reading = TopologyReading()
    let topology = reading.read(root)
    if !reading.mistakes.isEmpty { throw TopologyErrors(reading.mistakes) }
    self = topology
  }
}

/// One pass over the tree. Whatever is wrong is noted, replaced by something harmless, and reading goes on.
struct TopologyReading {
  var mistakes: [TopologyMistake] = []
  private var relays: [OverlayTopology.Relay] = []
  private var relayPositions: [(path: String, key: SourcePosition)] = []
  private var indexes: [String: Int] = [:]
  private var defaultRate, defaultUplink: LinkRate?
  private var defaultTrust = OverlayTopology.Trust.trusted
  private var pathFactor = 1.5
  private var seen: [String: SourcePosition] = [:]

  /// A relay that can't say where links lead sends at most this, 10 Tbit/s.
  static let maxRateMbit = 1e7
  static let minRateMbit = 0.001

  mutating func read(_ root: TomlNode) -> OverlayTopology {
    var table = TableReader(root, &mistakes)
    var name = ""
    var network = OverlayTopology.Network.main
    if let node = table.optional("overlay") {
      var overlay = TableReader(node, &mistakes)
      name = overlay.name("name", required: "the overlay needs a name", &mistakes)?.text ?? ""
      if overlay.optional("network") == nil {
        overlay.missing("network", "which Bitcoin network? e.g. network = \"main\"", &mistakes)
      }
      network = overlay.choice("network", OverlayTopology.Network.self, &mistakes) ?? .main
      pathFactor = overlay.number("path_factor", 1...10, &mistakes)?.value ?? 1.5
      overlay.finish(&mistakes)
    } else {
      table.missing("overlay", "no [overlay] table with name and network", &mistakes)
    }
    readDefaults(table.optional("defaults"))
    let relayNodes = elements("relay", &table)
    if relayNodes.isEmpty { table.missing("relay", "no [[relay]]: an overlay needs at least two", &mistakes) }
    if relayNodes.count == 1 {
      mistakes.append(TopologyMistake(relayNodes[0].key, "relay", .invalid("one relay has nobody to talk to")))
    }
    if relayNodes.count > OverlayTopology.maxRelays {
      mistakes.append(
        TopologyMistake(
          relayNodes[OverlayTopology.maxRelays].key, "relay", .invalid("at most \(OverlayTopology.maxRelays) relays")))
    }
    for node in relayNodes.prefix(OverlayTopology.maxRelays) { readRelay(node) }
    var wiring = Wiring()
    for node in elements("group", &table) { readGroup(node, &wiring) }
    for node in elements("link", &table) { readLink(node, &wiring) }
    table.finish(&mistakes)
    let links = resolve(&wiring)
    checkDegrees(links)
    checkReach(links, wiring)
    return OverlayTopology(
      name: name, network: network, pathFactor: pathFactor, relays: relays,
      groups: wiring.groups.map { OverlayTopology.Group(name: $0.name, members: $0.members) }, links: links)
  }

  private mutating func elements(_ key: String, _ table: inout TableReader) -> [TomlNode] {
    table.array(key, &mistakes)?.elements ?? []
  }

  private mutating func readDefaults(_ node: TomlNode?) {
    guard let node else { return }
    var table = TableReader(node, &mistakes)
    defaultRate = rate("rate_mbit", &table)
    defaultUplink = rate("uplink_mbit", &table)
    defaultTrust = table.choice("trust", OverlayTopology.Trust.self, &mistakes) ?? .trusted
    table.finish(&mistakes)
  }

  private mutating func rate(_ key: String, _ table: inout TableReader) -> LinkRate? {
    guard let (mbit, _) = table.number(key, Self.minRateMbit...Self.maxRateMbit, &mistakes) else { return nil }
    return LinkRate(bitsPerSecond: UInt64((mbit * 1e6).rounded()))
  }

  /// False, and a mistake noted, if something of this kind was there before.
  @discardableResult
  mutating func isNew(_ what: String, _ id: String, _ node: TomlNode) -> Bool {
    if let first = seen[id] {
      mistakes.append(TopologyMistake(node.position, node.path, .duplicate(what: what, first: first)))
      return false
    }
    seen[id] = node.position
    return true
  }

  // MARK: Relays

  private mutating func readRelay(_ node: TomlNode) {
    var table = TableReader(node, &mistakes)
    let index = relays.count
    let name = table.name("name", required: "this relay needs a name", &mistakes)
    if let name, isNew("relay name '\(name.text)'", "relay \(name.text)", name.node) { indexes[name.text] = index }
    var key: [UInt8] = []
    if let (text, node) = table.string(
      "public_key", required: "this relay needs its public key (from 'lightpath keygen')", &mistakes)
    {
      do {
        key = try PublicKeyText.parse(text)
        isNew("this public key", "key \(Hex.encode(key))", node)
      } catch {
        mistakes.append(TopologyMistake(node.position, node.path, .malformedKey(error.reason)))
      }
    }
    var addresses: [PeerAddress] = []
    if let texts = table.strings("addresses", &mistakes) {
      if texts.isEmpty {
        table.missing("addresses", "this relay needs at least one address, [\"IP:PORT\"]", &mistakes)
      }
      for (text, node) in texts {
        guard let address = address(text, node) else { continue }
        isNew("address \(text)", "address \(AddressText.format(address))", node)
        addresses.append(address)
      }
    } else {
      table.missing("addresses", "this relay needs addresses = [\"IP:PORT\"]", &mistakes)
    }
    let (latitude, longitude) = readPosition(&table)
    var uplink = rate("uplink_mbit", &table) ?? defaultUplink
    if uplink == nil {
      if table.optional("uplink_mbit") == nil {
        table.missing(
          "uplink_mbit", "rate missing: what may this site send in all? Set it here or in [defaults]", &mistakes)
      }
      uplink = .unlimited
    }
    let site = readSite(&table, relay: index)
    table.finish(&mistakes)
    relayPositions.append((node.path, name?.node.position ?? node.key))
    var relay = OverlayTopology.Relay(
      name: name?.text ?? "relay[\(index)]", publicKey: key, addresses: addresses, latitude: latitude,
      longitude: longitude, uplink: uplink ?? .unlimited, nodes: site.nodes)
    relay.watched = site.watched
    relay.pool = site.pool
    relay.relaysTransactions = site.relaysTransactions
    relays.append(relay)
  }

  mutating func address(_ text: String, _ node: TomlNode) -> PeerAddress? {
    do {
      return try AddressText.parse(text)
    } catch {
      mistakes.append(TopologyMistake(node.position, node.path, .malformedAddress(error.reason)))
      return nil
    }
  }

  private mutating func readPosition(_ table: inout TableReader) -> (Double, Double) {
    guard let (elements, node) = table.array("position", &mistakes) else {
      if table.optional("position") == nil {
        table.missing("position", "where is this site? position = [LATITUDE, LONGITUDE]", &mistakes)
      }
      return (0, 0)
    }
    guard elements.count == 2 else {
      mistakes.append(
        TopologyMistake(node.position, node.path, .invalid("needs two numbers, [LATITUDE, LONGITUDE] in degrees")))
      return (0, 0)
    }
    return (
      TableReader.number(elements[0], -90...90, &mistakes) ?? 0,
      TableReader.number(elements[1], -180...180, &mistakes) ?? 0
    )
  }

  // MARK: Groups and links

  private struct Pair: Hashable {
    var a, b: Int
    init(_ x: Int, _ y: Int) { (a, b) = (min(x, y), max(x, y)) }
  }

  private struct Draft {
    var rate: LinkRate?
    var trustInA, trustInB: OverlayTopology.Trust?
    var delay: (ms: Double, node: TomlNode)?
    /// The group or link that made it, for a missing rate.
    var key: SourcePosition
    var path: String
  }

  private struct Wiring {
    var groups: [(name: String, members: [Int], path: String, key: SourcePosition)] = []
    var drafts: [Pair: Draft] = [:]
  }

  private mutating func relayIndex(_ text: String, _ node: TomlNode) -> Int? {
    if let index = indexes[text] { return index }
    mistakes.append(TopologyMistake(node.position, node.path, .unknownRelay(text)))
    return nil
  }

  private mutating func readGroup(_ node: TomlNode, _ wiring: inout Wiring) {
    var table = TableReader(node, &mistakes)
    let name = table.name("name", required: "this group needs a name", &mistakes)
    if let name { isNew("group name '\(name.text)'", "group \(name.text)", name.node) }
    let texts = table.strings("relays", &mistakes)
    if texts == nil && table.optional("relays") == nil {
      table.missing("relays", "which relays are in this group? relays = [\"NAME\", …]", &mistakes)
    }
    var members: [Int] = []
    for (text, node) in texts ?? [] {
      guard let index = relayIndex(text, node) else { continue }
      if isNew("relay '\(text)' in this group", "member \(wiring.groups.count) \(index)", node) {
        members.append(index)
      }
    }
    if let texts, texts.count == 1 {
      mistakes.append(TopologyMistake(node.key, table.path("relays"), .invalid("a group of one connects nothing")))
    }
    let groupRate = rate("rate_mbit", &table)
    let hasRateKey = table.optional("rate_mbit") != nil
    let trust = table.choice("trust", OverlayTopology.Trust.self, &mistakes)
    table.finish(&mistakes)
    wiring.groups.append((name?.text ?? "", members, node.path, node.key))
    for (i, x) in members.enumerated() {
      for y in members[(i + 1)...] where wiring.drafts[Pair(x, y)] == nil {
        // A rate that is there but wrong was noted already: 'missing' would be noise.
        wiring.drafts[Pair(x, y)] = Draft(
          rate: groupRate ?? defaultRate ?? (hasRateKey ? .unlimited : nil), trustInA: trust, trustInB: trust,
          delay: nil, key: node.key, path: table.path("rate_mbit"))
      }
    }
  }

  private mutating func readLink(_ node: TomlNode, _ wiring: inout Wiring) {
    var table = TableReader(node, &mistakes)
    let ends = table.strings("between", &mistakes)
    if ends == nil && table.optional("between") == nil {
      table.missing("between", "which two relays? between = [\"NAME\", \"NAME\"]", &mistakes)
    }
    let linkRate = rate("rate_mbit", &table)
    let hasRateKey = table.optional("rate_mbit") != nil
    // Above ten seconds a number is surely meant in another unit.
    let delay = table.number("delay_ms", 0.001...10_000, &mistakes)
    let trust = readTrust(&table)
    table.finish(&mistakes)
    guard let ends else { return }
    guard ends.count == 2 else {
      mistakes.append(TopologyMistake(node.key, table.path("between"), .invalid("needs exactly two relay names")))
      return
    }
    let indexes = ends.map { relayIndex($0.text, $0.node) }
    for (name, _, place) in trust.byName where !ends.contains(where: { $0.text == name }) {
      mistakes.append(TopologyMistake(place.key, place.path, .invalid("'\(name)' is not an end of this link")))
    }
    guard let x = indexes[0], let y = indexes[1] else { return }
    if x == y {
      mistakes.append(
        TopologyMistake(ends[1].node.position, ends[1].node.path, .invalid("a relay can't be linked with itself")))
      return
    }
    let pair = Pair(x, y)
    guard isNew("the link between '\(ends[0].text)' and '\(ends[1].text)'", "link \(pair.a) \(pair.b)", ends[0].node)
    else { return }
    var draft =
      wiring.drafts[pair]
      ?? Draft(
        rate: defaultRate, trustInA: nil, trustInB: nil, delay: nil, key: node.key, path: table.path("rate_mbit"))
    draft.rate = linkRate ?? draft.rate ?? (hasRateKey ? .unlimited : nil)
    draft.delay = delay.map { ($0.value, $0.node) } ?? draft.delay
    if let both = trust.both { (draft.trustInA, draft.trustInB) = (both, both) }
    for (name, value, _) in trust.byName {
      if name == relays[pair.a].name { draft.trustInA = value }
      if name == relays[pair.b].name { draft.trustInB = value }
    }
    wiring.drafts[pair] = draft
  }

  /// `trust = "verified-only"` for both ends, or `trust = { tokyo = "verified-only" }` for how tokyo is treated.
  private mutating func readTrust(_ table: inout TableReader) -> (
    both: OverlayTopology.Trust?, byName: [(String, OverlayTopology.Trust, TomlNode)]
  ) {
    guard let node = table.optional("trust") else { return (nil, []) }
    guard case .table(let entries) = node.value else {
      return (table.choice("trust", OverlayTopology.Trust.self, &mistakes), [])
    }
    var result: [(String, OverlayTopology.Trust, TomlNode)] = []
    for (name, entry) in entries.sorted(by: { $0.key < $1.key }) {
      guard case .string(let text) = entry.value else {
        mistakes.append(
          TopologyMistake(entry.position, entry.path, .wrongType(expected: "a string", found: entry.typeName)))
        continue
      }
      if let value = TableReader.choice(text, entry, OverlayTopology.Trust.self, &mistakes) {
        result.append((name, value, entry))
      }
    }
    return (nil, result)
  }

  private mutating func resolve(_ wiring: inout Wiring) -> [OverlayTopology.Link] {
    var links: [OverlayTopology.Link] = []
    var complained: Set<String> = []
    for (pair, draft) in wiring.drafts.sorted(by: { ($0.key.a, $0.key.b) < ($1.key.a, $1.key.b) }) {
      if draft.rate == nil, complained.insert(draft.path).inserted {
        mistakes.append(
          TopologyMistake(
            draft.key, draft.path,
            .missing("rate missing: set rate_mbit here, at the link, or in [defaults]")))
      }
      let x = relays[pair.a]
      let y = relays[pair.b]
      let kilometres = Geography.greatCircleKilometres((x.latitude, x.longitude), (y.latitude, y.longitude))
      let bound = kilometres / Geography.vacuumKilometresPerMs
      if let delay = draft.delay, delay.ms < bound {
        mistakes.append(
          TopologyMistake(
            delay.node.position, delay.node.path, .fasterThanLight(delayMs: delay.ms, boundMs: bound)))
      }
      // Two sites at one place still have cables and switches between them.
      let derived = max(0.05, kilometres * pathFactor / Geography.fibreKilometresPerMs)
      links.append(
        OverlayTopology.Link(
          a: pair.a, b: pair.b, rate: draft.rate ?? .unlimited, trustInA: draft.trustInA ?? defaultTrust,
          trustInB: draft.trustInB ?? defaultTrust, delay: .milliseconds(draft.delay?.ms ?? derived),
          isDelayConfigured: draft.delay != nil))
    }
    return links
  }

  /// No relay can have more than so many neighbours.
  private mutating func checkDegrees(_ links: [OverlayTopology.Link]) {
    var counts = Array(repeating: 0, count: relays.count)
    for link in links {
      counts[link.a] += 1
      counts[link.b] += 1
    }
    for (place, count) in zip(relayPositions, counts) where count > OverlayTopology.maxLinks {
      mistakes.append(
        TopologyMistake(
          place.key, place.path,
          .invalid("\(count) links; a relay has at most \(OverlayTopology.maxLinks): divide its groups")))
    }
  }

  /// Every relay must be reachable from the first one; each island is named once, by its group where it has one.
  private mutating func checkReach(_ links: [OverlayTopology.Link], _ wiring: Wiring) {
    guard relays.count > 1 else { return }
    var parent = Array(relays.indices)
    func root(_ i: Int) -> Int {
      var i = i
      while parent[i] != i { i = parent[i] }
      return i
    }
    for link in links { parent[root(link.a)] = root(link.b) }
    let islands = Dictionary(grouping: relays.indices, by: root)
    guard islands.count > 1 else { return }
    // The largest island is the overlay; of equals, the one named first.
    let main = islands.values.max { ($0.count, -$0[0]) < ($1.count, -$1[0]) } ?? []
    for island in islands.values.sorted(by: { $0[0] < $1[0] }) where island != main {
      let names = island.prefix(8).map { "'\(relays[$0].name)'" }.joined(separator: ", ")
      let fix = "no group or link joins it to '\(relays[main[0]].name)' and the others"
      if let group = wiring.groups.first(where: { $0.members.contains(island[0]) }), island.count > 1 {
        mistakes.append(
          TopologyMistake(
            group.key, group.path, .unreachable("group '\(group.name)' (\(names)) is unreachable: \(fix)")))
      } else {
        let place = relayPositions[island[0]]
        mistakes.append(
          TopologyMistake(place.key, place.path, .unreachable("relay \(names) is unreachable: \(fix)")))
      }
    }
  }
}
