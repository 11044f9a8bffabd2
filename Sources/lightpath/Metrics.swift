import Foundation

/// Prometheus text, exposition format 0.0.4.
struct Metrics {
  private(set) var text = ""

  init(_ report: StatusReport) {
    gauge("lightpath_up", "1 while the relay runs.", 1)
    family("lightpath_info", "Which relay this is.", "gauge")
    sample("lightpath_info", ["relay": report.relay, "overlay": report.overlay, "version": report.version], 1)
    gauge("lightpath_uptime_seconds", "Since the relay started.", report.uptime_s)
    gauge("lightpath_tip_height", "Height of the best known header.", Double(report.tip_height))
    gauge("lightpath_mempool_transactions", "Mirrored from the site's node.", Double(report.mempool.transactions))
    gauge("lightpath_mempool_bytes", "Of those transactions.", Double(report.mempool.bytes))
    gauge("lightpath_held_bytes", "Held for chunks, blocks and packets.", Double(report.held_bytes))
    gauge("process_resident_memory_bytes", "Resident set size.", Double(report.resident_bytes))
    gauge("process_open_fds", "Open descriptors.", Double(report.descriptors))
    counter("lightpath_blocks_delivered_total", "Blocks handed to the site's nodes.", Double(report.blocks_delivered))
    counter("lightpath_log_lines_lost_total", "Log lines that could not be written.", Double(report.log_lines_lost))
    counter("lightpath_events_dropped_total", "Events that nobody read in time.", Double(report.events_dropped))
    let peers: [(String, String, String, (StatusReport.Peer) -> Double?)] = [
      ("lightpath_peer_up", "1 when there is a session.", "gauge", { $0.up ? 1 : 0 }),
      ("lightpath_peer_round_trip_seconds", "Smoothed.", "gauge", { $0.round_trip_ms.map { $0 / 1e3 } }),
      ("lightpath_peer_loss_to_ratio", "Lost on the way to the peer.", "gauge", { $0.loss_to }),
      ("lightpath_peer_loss_from_ratio", "Lost on the way from the peer.", "gauge", { $0.loss_from }),
      ("lightpath_peer_sent_bytes_total", "UDP payload.", "counter", { Double($0.sent_bytes) }),
      ("lightpath_peer_sent_packets_total", "Datagrams.", "counter", { Double($0.sent_packets) }),
      (
        "lightpath_peer_blocks_first_total", "Blocks whose first packet it brought.", "counter",
        { Double($0.blocks_first) }
      ),
      (
        "lightpath_peer_blocks_last_total", "Blocks whose last needed packet it brought.", "counter",
        { Double($0.blocks_last) }
      ),
      ("lightpath_peer_last_seen_seconds", "Since anything authentic came.", "gauge", { $0.last_seen_s }),
      ("lightpath_peer_queue_drops_total", "Datagrams not queued.", "counter", { Double($0.queue_drops) }),
    ]
    for (name, help, kind, value) in peers where !report.peers.isEmpty {
      family(name, help, kind)
      for peer in report.peers { if let value = value(peer) { sample(name, ["peer": peer.name], value) } }
    }
    if !report.nodes.isEmpty {
      family("lightpath_node_ready", "1 when the bridge talks with the node.", "gauge")
      for node in report.nodes { sample("lightpath_node_ready", ["node": node.name], node.ready ? 1 : 0) }
    }
    if let block = report.blocks.last {
      gauge("lightpath_last_block_delivery_seconds", "From its first packet to the node.", block.delivered_ms / 1e3)
      gauge(
        "lightpath_last_block_mempool_ratio", "Share of its bytes that was in the mempool.", block.mempool_pct / 100)
      gauge("lightpath_last_block_height", "Height.", Double(block.height))
      gauge("lightpath_last_block_repair_packets", "Repair packets that came for it.", Double(block.repair_packets))
    }
    for (group, values) in [("relay", report.counters), ("engine", report.engine), ("session", report.session)] {
      for (name, value) in values.sorted(by: { $0.key < $1.key }) {
        counter("lightpath_\(group)_\(Metrics.snake(name))_total", "Counter of the \(group).", Double(value))
      }
    }
  }

  private mutating func family(_ name: String, _ help: String, _ kind: String) {
    text += "# HELP \(name) \(help)\n# TYPE \(name) \(kind)\n"
  }
  private mutating func sample(_ name: String, _ labels: [String: String] = [:], _ value: Double) {
    let list = labels.sorted { $0.key < $1.key }.map { "\($0.key)=\"\(Metrics.escape($0.value))\"" }
    let number = value == value.rounded() && abs(value) < 1e15 ? "\(Int64(value))" : "\(value)"
    text += name + (list.isEmpty ? "" : "{\(list.joined(separator: ","))}") + " \(number)\n"
  }
  private mutating func gauge(_ name: String, _ help: String, _ value: Double) {
    family(name, help, "gauge")
    sample(name, [:], value)
  }
  private mutating func counter(_ name: String, _ help: String, _ value: Double) {
    family(name, help, "counter")
    sample(name, [:], value)
  }

  static func escape(_ text: String) -> String {
    text.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: "\"", with: "\\\"")
      .replacingOccurrences(of: "\n", with: "\\n")
  }
  static func snake(_ name: String) -> String {
    var result = ""
    for character in name {
      if character.isUppercase { result += "_" }
      result += character.lowercased()
    }
    return result
  }
}
