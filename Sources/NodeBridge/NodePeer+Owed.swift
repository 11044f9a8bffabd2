import Bitcoin
import Ground

// Blocks that were complete here while the node was away.
extension NodePeer {
  static let owedMax = 32

  mutating func owe(_ hashes: [Hash256], host: inout some BridgeHost & ~Copyable) {
    for hash in hashes where !has.contains(hash) && !owed.contains(hash) {
      if deliveries.contains(where: { $0.hash == hash }) { continue }
      if owed.count < NodePeer.owedMax {
        owed.append(hash)
      } else {
        host.note(.deliveryFailed(node: index, hash: hash))
      }
    }
  }

  /// Each goes out when the node has dealt with the one before: together they might be more than a connection's queue
  /// holds.
  mutating func deliverOwed(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    while deliveries.isEmpty && !owed.isEmpty && isReady && !isCut {
      let hash = owed.removeFirst()
      if has.contains(hash) { continue }
      guard let block = host.withBlock(hash, { block, _ in copy block }) else { continue }
      handOver(hash, block, isChecked: true, host: &host, now: now, &sink)
    }
  }

  /// The connection is gone with blocks on their way; what is still being checked is delivered after that.
  mutating func failDeliveries(host: inout some BridgeHost & ~Copyable) {
    for delivery in deliveries where !delivery.isUnchecked && !delivery.isAccepted {
      host.note(.deliveryFailed(node: index, hash: delivery.hash))
    }
  }
}
