import Foundation
import Ground
import Testing
import Topology

private let keys = [
  "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
  "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
  "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
  "02e493dbf1c10d80f3581e4904930b1404cc6c13900ee0758474fa94abe8c4cd13",
]

/// A good file of `count` relays in one group; tests break it in one place.
private func file(_ count: Int = 3, tail: String = "") -> String {
  var text = """
    [overlay]
    name = "test"
    network = "regtest"

    [defaults]
    rate_mbit = 1000
    uplink_mbit = 2000

    """
  for i in 0..<count {
    text += """
      [[relay]]
      name = "r\(i)"
      public_key = "\(keys[i])"
      addresses = ["192.0.2.\(i + 1):8335"]
      position = [\(10 * i), \(20 * i)]

      """
  }
  let names = (0..<count).map { "\"r\($0)\"" }.joined(separator: ", ")
  return text + "[[group]]\nname = \"all\"\nrelays = [\(names)]\n" + tail
}

private func mistakes(_ text: String) -> [TopologyMistake] {
  do {
    _ = try OverlayTopology(text: text)
    return []
  } catch {
    return error.mistakes
  }
}

/// Where `needle` begins, as an editor shows it.
private func place(_ needle: String, in text: String) -> SourcePosition {
  guard let range = text.range(of: needle) else { return SourcePosition(line: 0, column: 0) }
  let before = text[..<range.lowerBound].unicodeScalars
  let line = before.count { $0 == "\n" } + 1
  let column = before.reversed().prefix { $0 != "\n" }.count + 1
  return SourcePosition(line: line, column: column)
}

@Suite struct ReadingTests {
  @Test func whatStandsBesideARelayIsRead() throws {
    let beside = """
      pool = "127.0.0.1:3333"
      relay_transactions = false
      [[relay.watch]]
      name = "far"
      p2p = "198.51.100.7:8333"
      [[relay.watch]]
      p2p = "[2001:db8::7]:8333"

      """
    let good = file().replacingOccurrences(of: "position = [0, 0]\n", with: "position = [0, 0]\n" + beside)
    let relay = try OverlayTopology(text: good).relays[0]
    #expect(relay.pool == PeerAddress("127.0.0.1:3333") && !relay.relaysTransactions)
    #expect(relay.watched.map(\.name) == ["far", "public1"])
    #expect(relay.watched[1].p2p == PeerAddress("[2001:db8::7]:8333"))
    let other = try OverlayTopology(text: good).relays[1]
    #expect(other.pool == nil && other.relaysTransactions && other.watched.isEmpty)
    for (old, new, needle) in [
      ("\"127.0.0.1:3333\"", "\"pool.example:3333\"", "\"pool.example"),
      ("relay_transactions = false", "relay_transactions = 17", "17\n[[relay.watch]]"),
      ("p2p = \"198.51.100.7:8333\"", "peer = \"198.51.100.7:8333\"", "peer ="),
      ("p2p = \"[2001", "name = \"far\"\np2p = \"[2001", "\"far\"\np2p = \"[2001"),
    ] {
      let broken = good.replacingOccurrences(of: old, with: new)
      let found = mistakes(broken)
      #expect(!found.isEmpty, "\(new)")
      #expect(found.contains { $0.position == place(needle, in: broken) }, "\(new): \(found)")
    }
  }

  @Test func aGoodFileIsReadWhole() throws {
    let topology = try OverlayTopology(
      text: file(
        tail: """
          [[link]]
          between = ["r2", "r0"]
          rate_mbit = 0.5
          delay_ms = 70
          trust = { r2 = "verified-only" }
          """))
    #expect(topology.name == "test")
    #expect(topology.network == .regtest)
    #expect(topology.relays.map(\.name) == ["r0", "r1", "r2"])
    #expect(topology.relays[1].addresses == [PeerAddress(ipv4: 192, 0, 2, 2, port: 8335)])
    #expect(topology.relays[0].uplink.bitsPerSecond == 2_000_000_000)
    #expect(topology.links.map { [$0.a, $0.b] } == [[0, 1], [0, 2], [1, 2]])
    let link = try #require(topology.link(between: 2, 0))
    #expect(link.rate.bitsPerSecond == 500_000)
    #expect(link.delay == .microseconds(70_000))
    #expect(link.isDelayConfigured)
    #expect(link.trustInA == .trusted)
    #expect(link.trustInB == .verifiedOnly)
    // How each end treats the other one.
    #expect(topology.neighbours(of: 0).map(\.trust) == [.trusted, .verifiedOnly])
    #expect(topology.neighbours(of: 2).map(\.trust) == [.trusted, .trusted])
    #expect(!topology.links[0].isDelayConfigured)
  }

  @Test func lightPathsTakeTheShorterWayRound() throws {
    let topology = try OverlayTopology(
      text: file(
        tail: """
          [[link]]
          between = ["r0", "r1"]
          delay_ms = 20
          [[link]]
          between = ["r1", "r2"]
          delay_ms = 20
          [[link]]
          between = ["r0", "r2"]
          delay_ms = 100
          """))
    let paths = topology.lightPaths()
    #expect(paths[0][2] == .microseconds(40_000))
    #expect(paths[2][0] == .microseconds(40_000))
    #expect(paths[1][1] == .zero)
  }

  @Test func distancesAgreeWithTheSphere() {
    // A quarter of a meridian, and the antipodes.
    #expect(abs(Geography.greatCircleKilometres((0, 0), (90, 0)) - 10_007.557) < 0.01)
    #expect(abs(Geography.greatCircleKilometres((0, 0), (0, 180)) - 20_015.115) < 0.01)
    // Frankfurt to Tokyo is about 9,340 km.
    #expect(abs(Geography.greatCircleKilometres((50.11, 8.68), (35.68, 139.69)) - 9_340) < 30)
  }

  @Test(arguments: [
    ("[overlay]", "[overlay]\ncolour = 3", "colour", "overlay.colour", "unknown key"),
    ("rate_mbit = 1000\n", "rate_mbits = 1000\n", "rate_mbits", "defaults.rate_mbits", "did you mean 'rate_mbit'?"),
    ("name = \"r1\"", "name = \"r0\"", "", "relay[1].name", "was already used at"),
    ("192.0.2.2:8335", "192.0.2.1:8335", "", "relay[1].addresses[0]", "was already used at"),
    ("192.0.2.2:8335", "192.0.2.256:8335", "\"192.0.2.256", "relay[1].addresses[0]", "no IPv4 address"),
    ("192.0.2.2:8335", "192.0.2.2", "\"192.0.2.2\"", "relay[1].addresses[0]", "no ':PORT'"),
    ("192.0.2.2:8335", "[::1:8335", "\"[::1:8335", "relay[1].addresses[0]", "without ']'"),
    ("192.0.2.2:8335", "::1:8335", "\"::1:8335", "relay[1].addresses[0]", "brackets"),
    ("192.0.2.2:8335", "192.0.2.2:0", "\"192.0.2.2:0", "relay[1].addresses[0]", "1 to 65535"),
    ("\"regtest\"", "\"mainnet\"", "\"mainnet\"", "overlay.network", "one of 'main'"),
    ("\"regtest\"", "7", "7\n", "overlay.network", "needs a string, found an integer"),
    ("position = [10, 20]", "position = [10, 200]", "200]", "relay[1].position[1]", "200.0 is not allowed"),
    ("position = [10, 20]", "position = \"here\"", "\"here\"", "relay[1].position", "needs an array"),
    ("uplink_mbit = 2000", "uplink_mbit = -3", "-3", "defaults.uplink_mbit", "is not allowed"),
    ("\"r2\"]", "\"r2\", \"rX\"]", "\"rX\"", "group[0].relays[3]", "no relay is named 'rX'"),
    ("\"r2\"]", "\"r2\", \"r2\"]", "", "group[0].relays[3]", "was already used at"),
    ("name = \"r1\"", "name = \"r 1\"", "\"r 1\"", "relay[1].name", "letters, digits"),
  ])
  func oneMistakeIsNamedWhereItStands(_ old: String, _ new: String, _ needle: String, _ path: String, _ text: String) {
    let good = file()
    #expect(mistakes(good).isEmpty)
    let bad = good.replacingOccurrences(of: old, with: new)
    let found = mistakes(bad)
    let hit = found.first { $0.path == path }
    #expect(hit?.explanation.contains(text) == true, "\(found)")
    if !needle.isEmpty { #expect(hit?.position == place(needle, in: bad), "\(found)") }
  }

  @Test func keysAreCheckedToThePoint() {
    for (bad, text) in [
      (String(keys[1].dropLast(2)), "64 characters"), ("04" + keys[1].dropFirst(2), "begins with 02 or 03"),
      ("zz" + keys[1].dropFirst(2), "not hexadecimal"), (String(keys[1].dropLast()) + "2", "no point"),
    ] {
      let broken = file().replacingOccurrences(of: keys[1], with: bad)
      let found = mistakes(broken)
      #expect(found.map(\.path) == ["relay[1].public_key"])
      #expect(found.first?.explanation.contains(text) == true, "\(found)")
      #expect(found.first?.position == place("\"\(bad)\"", in: broken))
    }
    let twice = file().replacingOccurrences(of: keys[1], with: keys[0])
    #expect(
      mistakes(twice).first?.reason == .duplicate(what: "this public key", first: place("\"\(keys[0])", in: twice)))
  }

  @Test func aMissingRateIsNamedOnceForAGroup() {
    let text = file().replacingOccurrences(of: "rate_mbit = 1000\n", with: "")
    let found = mistakes(text)
    #expect(found.map(\.path) == ["group[0].rate_mbit"])
    #expect(found.first?.position == place("[[group]]", in: text))
    #expect(found.first?.explanation.contains("rate missing") == true)
  }

  @Test func islandsAreNamed() {
    let text = file(4).replacingOccurrences(
      of: "relays = [\"r0\", \"r1\", \"r2\", \"r3\"]",
      with: "relays = [\"r0\", \"r1\"]\n[[group]]\nname = \"far\"\nrelays = [\"r2\", \"r3\"]")
    let found = mistakes(text)
    #expect(found.map(\.path) == ["group[1]"])
    #expect(found.first?.explanation.contains("group 'far' ('r2', 'r3') is unreachable") == true)
    let lonely = file(3).replacingOccurrences(of: "\"r1\", \"r2\"]", with: "\"r1\"]")
    #expect(mistakes(lonely).first?.explanation.contains("relay 'r2' is unreachable") == true)
  }

  /// A group of 65 is the largest mesh there can be; in one of 66 every relay has a link too many, and is named.
  @Test func aRelayHasNoMoreLinksThanItCanServe() throws {
    let example = try String(contentsOf: ExampleFiles.folder.appending(path: "six-continents-64.toml"), encoding: .utf8)
    let known = example.split(separator: "\n").compactMap { line in
      line.hasPrefix("public_key") ? line.split(separator: "\"").dropFirst().first.map(String.init) : nil
    }
    let all = known.filter { !keys.contains($0) } + keys
    func mesh(_ count: Int) -> String {
      var text = "[overlay]\nname = \"mesh\"\nnetwork = \"regtest\"\n"
      text += "[defaults]\nrate_mbit = 1000\nuplink_mbit = 2000\n"
      for i in 0..<count {
        text += "[[relay]]\nname = \"r\(i)\"\npublic_key = \"\(all[i])\"\n"
        text += "addresses = [\"192.0.2.1:\(8_000 + i)\"]\nposition = [0, \(i)]\n"
      }
      let names = (0..<count).map { "\"r\($0)\"" }.joined(separator: ", ")
      return text + "[[group]]\nname = \"all\"\nrelays = [\(names)]\n"
    }
    #expect(mistakes(mesh(65)).isEmpty)
    let text = mesh(66)
    let found = mistakes(text)
    #expect(found.map(\.path) == (0..<66).map { "relay[\($0)]" })
    #expect(found.first?.explanation.contains("65 links; a relay has at most 64") == true)
    #expect(found.first?.position == place("\"r0\"", in: text))
  }

  @Test func linksAreChecked() {
    #expect(mistakes(file(tail: "[[link]]\nbetween = [\"r0\"]\n")).first?.explanation.contains("exactly two") == true)
    #expect(
      mistakes(file(tail: "[[link]]\nbetween = [\"r0\", \"r0\"]\n")).first?.explanation.contains("itself") == true)
    let twice = file(tail: "[[link]]\nbetween = [\"r0\", \"r1\"]\n[[link]]\nbetween = [\"r1\", \"r0\"]\n")
    #expect(mistakes(twice).first?.path == "link[1].between[0]")
    // r0 and r1 are 2,476 km apart: 8.26 ms of vacuum.
    let fast = mistakes(file(tail: "[[link]]\nbetween = [\"r0\", \"r1\"]\ndelay_ms = 8\n"))
    guard case .fasterThanLight(8, let bound)? = fast.first?.reason else {
      Issue.record("\(fast)")
      return
    }
    #expect(abs(bound - 8.26) < 0.02)
    let stranger = mistakes(file(tail: "[[link]]\nbetween = [\"r0\", \"r1\"]\ntrust = { r2 = \"trusted\" }\n"))
    #expect(stranger.first?.explanation.contains("not an end") == true)
  }

  @Test func secretsAreRefusedByName() {
    let text = file().replacingOccurrences(
      of: "position = [0, 0]",
      with: "position = [0, 0]\n[[relay.node]]\np2p = \"127.0.0.1:8333\"\nrpc_password = \"hunter2\"")
    let found = mistakes(text)
    #expect(found.map(\.path) == ["relay[0].node[0].rpc_password"])
    #expect(found.first?.position == place("rpc_password", in: text))
    #expect("\(found)".contains("hunter2") == false)
  }

  /// Nodes take blocks that are still checked unless they are told not to.
  @Test(arguments: [nil, true, false]) func checkedOnly(_ value: Bool?) throws {
    let option = value.map { "\nchecked_only = \($0)" } ?? ""
    let text = file().replacingOccurrences(
      of: "position = [0, 0]", with: "position = [0, 0]\n[[relay.node]]\np2p = \"127.0.0.1:8333\"" + option)
    #expect(try OverlayTopology(text: text).relays[0].nodes[0].checkedOnly == (value ?? false))
    let wrong = mistakes(text + "\n[[relay.node]]\np2p = \"127.0.0.1:8334\"\nchecked_only = \"yes\"")
    #expect(wrong.contains { $0.path.hasSuffix("checked_only") })
  }

  @Test func everyMistakeComesAtOnceInOrder() {
    let text = file().replacingOccurrences(of: "\"regtest\"", with: "\"x\"")
      .replacingOccurrences(of: keys[2], with: "00").replacingOccurrences(of: "\"r2\"]", with: "\"r2\"]\nspeed = 1")
    let found = mistakes(text)
    #expect(found.map(\.path) == ["overlay.network", "relay[2].public_key", "group[0].speed"])
    #expect(found.map(\.position) == found.map(\.position).sorted())
  }

  @Test func syntaxErrorsCarryTheirPlace() {
    let found = mistakes("[overlay]\nname = \"a\nnetwork = 3\n")
    #expect(found.count == 1)
    #expect(found.first?.position.line == 2)
    #expect(mistakes("[overlay]\nname = \"a\0b\"\n").first?.explanation.contains("control character") == true)
  }

  @Test func positionsSurviveUnusualTOML() {
    // Comments, quoted and dotted keys, inline tables, long strings, arrays over lines.
    let text = """
      overlay.name = "t" # comment with [brackets] = "and quotes"
      overlay . network = '''regtest'''
      defaults = { rate_mbit = 5, uplink_mbit = 9, "colour" = [1, { a = "]" }] }
      relay = [
        # a comment, with "quotes
        { name = "ä", public_key = "00", addresses = [], position = [0, 0] },
        { name = "b", public_key = "\(keys[1])", addresses = ["192.0.2.1:1"], position = [1, 1], x.y = 1 },
      ]
      [[group]]
      name = "g"
      relays = [
        "b",
        "nobody",
      ]
      """
    let found = mistakes(text)
    #expect(found.contains { $0.path == "defaults.colour" && $0.position == place("\"colour\"", in: text) }, "\(found)")
    #expect(found.contains { $0.path == "relay[0].public_key" && $0.position == place("\"00\"", in: text) }, "\(found)")
    #expect(found.contains { $0.path == "relay[1].x" && $0.position == place("x.y", in: text) }, "\(found)")
    #expect(found.contains { $0.path == "group[0].relays[1]" && $0.position == place("\"nobody\"", in: text) })
  }

  @Test func noTextTrapsTheReader() {
    var random = SeededRandom(seed: 8)
    let good = Array(file(tail: "[[link]]\nbetween = [\"r0\", \"r1\"]\ntrust = { r0 = \"trusted\" }\n").utf8)
    for _ in 0..<3000 {
      var bytes = good
      for _ in 0...random.below(4) {
        let at = random.below(bytes.count)
        switch random.below(3) {
        case 0: bytes[at] = UInt8(random.below(128))
        case 1: bytes.remove(at: at)
        default: bytes.insert(Array("[]{}\"'=.,#\n".utf8)[random.below(11)], at: at)
        }
      }
      _ = mistakes(String(decoding: bytes, as: UTF8.self))
    }
  }

  /// A device without end, and a file that is far too long: what there is of it beyond the bound isn't read.
  @Test func noMoreIsReadThanATopologyHas() {
    #expect(throws: TopologyErrors.self) { try OverlayTopology(contentsOf: URL(filePath: "/dev/zero")) }
    do { _ = try OverlayTopology(contentsOf: URL(filePath: "/dev/zero")) } catch {
      #expect(error.mistakes.first?.explanation.contains("more than 1048576 bytes") == true, "\(error)")
    }
    for path in ["/nowhere/topology.toml", "/tmp"] {
      do { _ = try OverlayTopology(contentsOf: URL(filePath: path)) } catch {
        #expect(error.mistakes.first?.explanation.contains("can't be read") == true, "\(error)")
      }
    }
  }

  @Test func addressesPrintAsTheyParse() throws {
    for text in ["192.0.2.7:1", "[2001:db8::1]:8335", "[::1]:65535"] {
      #expect(AddressText.format(try AddressText.parse(text)) == text)
    }
    #expect(try AddressText.parse("127.0.0.1:80") == PeerAddress(ipv4: 127, 0, 0, 1, port: 80))
  }
}

@Suite struct ExampleFiles {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appending(path: "topology")

  @Test(arguments: [
    ("local-3", 3, 3), ("two-datacenters", 4, 6), ("six-continents", 8, 28), ("six-continents-16", 16, 0),
    ("six-continents-32", 32, 0), ("six-continents-64", 64, 0),
  ])
  func everyExampleIsGood(_ name: String, _ relays: Int, _ links: Int) throws {
    let topology = try OverlayTopology(contentsOf: Self.folder.appending(path: "\(name).toml"))
    #expect(topology.name == name)
    #expect(topology.relays.count == relays)
    if links > 0 { #expect(topology.links.count == links) }
    for i in topology.relays.indices {
      #expect((1...63).contains(topology.neighbours(of: i).count))
      for link in topology.neighbours(of: i) {
        #expect(link.link.delay >= topology.lightBound(i, link.relay))
        // Two neighbours each: no single relay or link cuts another off.
        #expect(topology.neighbours(of: i).count >= 2)
      }
    }
  }
}

/// A key of so many parts.
private func parts(_ count: Int) -> String { Array(repeating: "a", count: count).joined(separator: ".") }

/// TOML 1.0 itself, seen through the reader: what must be refused is, at its place; what must pass does.
@Suite struct SyntaxTests {
  @Test(arguments: [
    ("a = ", "1:5", "expected a value"), ("a 1", "1:3", "expected '='"), ("a = 1 2", "1:7", "end of the line"),
    ("a = [1, 2", "1:10", "expected ','"), ("a = \"x", "1:5", "does not end"), ("a = 'x\n'", "1:5", "does not end on"),
    ("a = \"\\q\"", "1:6", "is no escape"), ("a = \"\\uD800\"", "1:6", "not a Unicode escape"), ("[a", "1:3", "']'"),
    ("[[a]\n", "1:5", "']'"), ("a = 01", "1:5", "is no value"), ("a = 1_", "1:5", "is no value"),
    ("a = 1.", "1:5", "is no value"), ("a = truth", "1:5", "text needs quotes"), ("a = 1\na = 2", "2:1", "at 1:1"),
    ("[a]\n[a]", "2:1", "at 1:1"), ("a = { b = 1 }\n[a.c]", "2:2", "no table"), ("a = 1\n[a.b]", "2:2", "no table"),
    ("a.b = 1\n[a]", "2:1", "at 1:1"), ("[[a]]\n[a]", "2:1", "at 1:1"), ("[a]\n[[a]]", "2:1", "at 1:1"),
    ("= 1", "1:1", "expected a key"), ("a = 1 # \u{1}", "1:9", "control character"),
    ("a = \"ä\" x", "1:9", "end of the line"), ("a = 0x", "1:5", "is no value"),
    ("a = 9223372036854775808", "1:5", "is no value"),
    (String(repeating: "a = ", count: 1) + String(repeating: "[", count: 99), "1:38", "nested deeper"),
    ("[" + parts(24_000) + "]", "1:66", "more than 32 parts"), ("[[" + parts(24_000) + "]]", "1:67", "than 32 parts"),
    (parts(24_000) + " = 1", "1:65", "than 32 parts"), ("x = {" + parts(33) + " = 1}", "1:70", "than 32 parts"),
  ])
  func malformedTextIsRefusedAtItsPlace(_ text: String, _ place: String, _ what: String) {
    let found = mistakes(text)
    #expect(found.count == 1, "\(found)")
    #expect(found.first?.position.description == place, "\(found)")
    #expect(found.first?.explanation.contains(what) == true, "\(found)")
  }

  @Test(arguments: [
    "a = 1979-05-27T07:32:00Z", "a = 1979-05-27 07:32:00", "a = 07:32:00", "a = +1_000", "a = 0xdead_beef", "a = -0",
    "a = 6.626e-34", "a = inf", "a = [1, \"x\",\n # c\n]", "a = \"\"\"\nx\\\n   y\"\"\"\"\"", "a = '''x'''",
    "\"a b\" = 1", "[\(parts(32))]\n\(parts(32)) = 1",
    "a.b.c = 1\na.b.d = 2", "[a.b]\n[a]", "[[a]]\n[a.b]\n[[a]]\n[a.b]", "a = {}", "a = \"\\u00e4\\\\\"",
    "a = 1\r\nb = 2\r\n",
  ])
  func wellFormedTextPasses(_ text: String) {
    // No overlay in it: mistakes of meaning there must be, of syntax none.
    let found = mistakes(text)
    #expect(!found.isEmpty)
    for mistake in found {
      if case .syntax = mistake.reason { Issue.record("\(mistake)") }
      if case .duplicate = mistake.reason { Issue.record("\(mistake)") }
    }
  }
}
