import ArgumentParser
import Foundation
import Ground
import Topology

/// Reads a topology or says everything that is wrong with it.
func readTopology(_ path: String) throws -> OverlayTopology {
  do {
    return try OverlayTopology(contentsOf: URL(filePath: path))
  } catch {
    for mistake in error.mistakes { say("\(path):\(mistake)") }
    let count = error.mistakes.count
    throw failure(Exit.input, "\(path): \(count) mistake\(count == 1 ? "" : "s")")
  }
}

struct Check: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Validates a topology file and prints the picture: relays, links, delays.",
    discussion: """
      Every mistake is told at once, with line and column. Nothing is connected to.

      Exit status: 0 the file is right, 2 it is not, 64 wrong usage.
      """)

  @Argument(help: "Topology file.", completion: .file(extensions: ["toml"]))
  var file: String

  @Flag(help: "One JSON object.")
  var json = false

  private struct Output: Encodable {
    struct Relay: Encodable {
      var name: String
      var public_key: String
      var addresses: [String]
      var uplink_mbit: Double
      var nodes: [String]
    }
    struct Link: Encodable {
      var between: [String]
      var rate_mbit: Double
      var delay_ms: Double
      var light_ms: Double
      var trust: [String: String]
    }
    var overlay: String
    var network: String
    var relays: [Relay]
    var links: [Link]
  }

  func run() throws {
    let topology = try readTopology(file)
    if json { printJSON(topology) } else { printPicture(topology) }
  }

  private func mbit(_ rate: LinkRate) -> Double { Double(rate.bitsPerSecond) / 1e6 }

  private func printJSON(_ topology: OverlayTopology) {
    let names = topology.relays.map(\.name)
    print(
      lightpath.json(
        Output(
          overlay: topology.name, network: topology.network.rawValue,
          relays: topology.relays.map {
            Output.Relay(
              name: $0.name, public_key: Hex.encode($0.publicKey), addresses: $0.addresses.map { "\($0)" },
              uplink_mbit: mbit($0.uplink), nodes: $0.nodes.map { "\($0.p2p)" })
          },
          links: topology.links.map {
            Output.Link(
              between: [names[$0.a], names[$0.b]], rate_mbit: mbit($0.rate), delay_ms: $0.delay.milliseconds,
              light_ms: topology.lightBound($0.a, $0.b).milliseconds,
              trust: [names[$0.a]: $0.trustInA.rawValue, names[$0.b]: $0.trustInB.rawValue])
          })))
  }

  private func rate(_ rate: LinkRate) -> String {
    mbit(rate) >= 1_000 ? number(mbit(rate) / 1_000, 1) + " Gbit/s" : number(mbit(rate), 0) + " Mbit/s"
  }

  private func printPicture(_ topology: OverlayTopology) {
    print("\(file) is right: overlay '\(topology.name)' on \(topology.network.rawValue)\n")
    var rows = [["relay", "address", "links", "uplink", "nodes"]]
    for (index, relay) in topology.relays.enumerated() {
      rows.append([
        relay.name, relay.addresses.first.map { "\($0)" } ?? "dials out", "\(topology.neighbours(of: index).count)",
        rate(relay.uplink), "\(relay.nodes.count)",
      ])
    }
    for line in table(rows, leftColumns: 2) { print(line) }
    let names = topology.relays.map(\.name)
    print("\nOne-way delays in ms (light path over the links; what a vacuum would allow):")
    let paths = topology.lightPaths()
    if topology.relays.count <= 16 {
      var rows = [[""] + names]
      for i in topology.relays.indices {
        rows.append(
          [names[i]]
            + topology.relays.indices.map { j in
              i == j
                ? "·" : "\(number(paths[i][j].milliseconds, 2)) (\(number(topology.lightBound(i, j).milliseconds, 2)))"
            })
      }
      for line in table(rows) { print(line) }
    }
    print("\n\(topology.links.count) links:")
    for link in topology.links.prefix(200) {
      let untrusted = [(link.trustInA, names[link.a]), (link.trustInB, names[link.b])]
        .filter { $0.0 == .verifiedOnly }.map(\.1)
      print(
        "  \(names[link.a]) ── \(number(link.delay.milliseconds, 2)) ms, \(rate(link.rate)) ── \(names[link.b])"
          + (untrusted.isEmpty ? "" : "   verified-only: \(untrusted.joined(separator: ", "))"))
    }
    if topology.links.count > 200 { print("  … and \(topology.links.count - 200) more") }
  }
}
