import ArgumentParser
import Foundation
import Measurement

struct Status: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Shows the running relay's peers, blocks, mempool mirror and nodes.",
    discussion: """
      Peers: round trip, clock offset (the peer's less ours, ± what the exchanges leave open; clocks count from each \
      machine's start), loss to and from, share of packets that came out of order and jitter (each to and from, over the \
      last one to two minutes), packets sent, blocks of which the peer \
      brought the first packet and the last needed one, and when it was last heard.

      Exit status: 0 done, 1 the relay doesn't answer in time, 5 no relay runs.
      """)

  @OptionGroup var control: ControlOption

  @Flag(help: "Again every second, until interrupted.")
  var watch = false

  @Flag(help: "One JSON object.")
  var json = false

  func run() throws {
    repeat {
      let reply = try ControlClient.command(ControlRequest(command: "status"), control: control.control)
      guard let status = reply.status else { throw failure(Exit.failed, "no status in the answer") }
      if json {
        print(lightpath.json(status))
      } else {
        let text = Status.text(status).joined(separator: "\n")
        // Home and clear what is below: no flicker.
        print(watch ? "\u{1B}[H\u{1B}[2J" + text : text)
      }
      fflush(nil)
      if watch { sleep(1) }
    } while watch
  }

  static func text(_ status: StatusReport) -> [String] {
    func ms(_ value: Double?) -> String { value.map { number($0, 2) } ?? "–" }
    func percent(_ value: Double) -> String { number(value * 100, 2) + "%" }
    func pair(_ to: String?, _ from: String?) -> String {
      to == nil && from == nil ? "–" : "\(to ?? "–") \(from ?? "–")"
    }
    var lines = [
      "\(status.relay) · overlay \(status.overlay) on \(status.network) · up \(duration(status.uptime_s)) · tip "
        + "\(status.tip_height) \(status.tip_hash.prefix(20))…",
      "listening on \(status.listen.joined(separator: ", ")) · mempool \(status.mempool.transactions) transactions, "
        + "\(amount(status.mempool.bytes)) · memory \(amount(status.resident_bytes)) · \(status.descriptors) descriptors",
    ]
    let clock =
      switch status.clock_synchronised {
      case true?:
        "disciplined by the kernel's word"
          + (status.clock_max_error_ms.map { ", within \(number($0, 1)) ms" } ?? "")
      case false?: "NOT disciplined by the kernel's word"
      case nil: "unknown (adjtimex is refused)"
      }
    let store = status.store_open == false ? "not kept: see the log" : status.store ?? "not kept (--store)"
    lines.append("clock \(clock) · measurements \(store)")
    for warning in status.warnings { lines.append("warning: \(warning)") }
    var rows = [
      [
        "peer", "address", "", "rtt ms", "offset ms", "loss to", "from", "reordered", "jitter ms", "sent", "first",
        "last", "seen", "mempool",
      ]
    ]
    for peer in status.peers {
      rows.append([
        peer.name, peer.address ?? "–", peer.up ? (peer.trusted ? "up" : "up (verified-only)") : "down",
        ms(peer.round_trip_ms),
        ms(peer.clock_offset_ms) + (peer.clock_uncertainty_ms.map { " ± \(number($0, 2))" } ?? ""),
        percent(peer.loss_to), percent(peer.loss_from),
        pair(peer.reordered_to.map { percent($0) }, peer.reordered_from.map { percent($0) }),
        pair(peer.jitter_to_ms.map { number($0, 2) }, peer.jitter_from_ms.map { number($0, 2) }),
        amount(Int(peer.sent_bytes)), "\(peer.blocks_first)", "\(peer.blocks_last)",
        peer.last_seen_s.map { number($0, 1) + " s" } ?? "never", peer.mempool,
      ])
    }
    lines.append("")
    lines += table(rows, leftColumns: 3)
    if !status.nodes.isEmpty {
      lines.append("")
      lines += table(
        [["node", "", "software", "rtt ms"]]
          + status.nodes.map {
            [$0.name, $0.ready ? "ready" : "not connected", Text.tame($0.user_agent), ms($0.round_trip_ms)]
          },
        leftColumns: 3)
    }
    if !status.blocks.isEmpty {
      rows = [["block", "height", "size", "from", "ms", "mempool", "missing", "in", "repair", "extra rounds"]]
      for block in status.blocks.suffix(10).reversed() {
        rows.append([
          "…" + block.hash.suffix(12), "\(block.height)", amount(block.bytes), block.from ?? "here",
          number(block.delivered_ms, 2), number(block.mempool_pct, 1) + "%", "\(block.missing_transactions)",
          amount(block.bytes_in), "\(block.repair_packets)", "\(block.extra_rounds)",
        ])
      }
      lines.append("")
      lines += table(rows)
    }
    return lines
  }

  static func duration(_ seconds: Double) -> String {
    let whole = Int(seconds)
    if whole >= 86_400 { return "\(whole / 86_400) d \(whole % 86_400 / 3_600) h" }
    if whole >= 3_600 { return "\(whole / 3_600) h \(whole % 3_600 / 60) min" }
    return whole >= 60 ? "\(whole / 60) min \(whole % 60) s" : "\(whole) s"
  }
}
