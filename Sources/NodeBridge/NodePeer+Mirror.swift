import Bitcoin
import Ground
import Mempool

// The mempool mirror: `mempool` once, then `inv` and `getdata`.
extension NodePeer {
  /// Transactions asked for in one `getdata`.
  static let batch = 500
  /// From so many transactions on that a listing brought, it is repeated to learn their order.
  static let ranksFrom = 2_000
  /// An unanswered request is given up after this; the next listing asks again.
  static let requestLimit = Interval.seconds(60)

  mutating func receivedInventory(
    _ items: [InventoryItem], host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) {
    var newBlock: Hash256?
    let mirrors = mirrors
    host.withMempool { store in
      for item in items {
        switch item.kind {
        case .block: newBlock = item.hash
        case .transaction, .wtx, .witnessTransaction:
          if !mirrors { continue }
          listedCount += 1
          let known =
            index != 0
            ? store.slot(wtxid: item.hash) != nil || store.slot(txid: item.hash) != nil
            : item.kind == .wtx ? store.listed(wtxid: item.hash) : store.listed(txid: item.hash)
          if known || requested[item.hash] != nil || waiting.count - waitingStart >= NodePeer.waitingMax { continue }
          waiting.append(item)
        default: continue
        }
      }
    }
    askTransactions(now: now, &sink)
    if let hash = newBlock, !has.contains(hash) {
      announced(hash, .inventory, host: &host, now: now)
      askHeaders(host: &host, now: now, &sink)
      if !host.hasBlock(hash) { fetch(hash, compact: true, form: .inventory, now: now, &sink) }
    }
  }

  mutating func askTransactions(now: Instant, _ sink: inout some StreamSink & ~Copyable) {
    while waitingStart < waiting.count && requested.count < NodePeer.requestsMax {
      let end = min(waiting.count, waitingStart + min(NodePeer.batch, NodePeer.requestsMax - requested.count))
      var items: [InventoryItem] = []
      items.reserveCapacity(end - waitingStart)
      for item in waiting[waitingStart..<end] where requested[item.hash] == nil {
        requested[item.hash] = now
        // Asked by wtxid when announced by it; else with its witness, where the node has witnesses.
        let kind: InventoryItem.Kind =
          item.kind == .wtx ? .wtx : speaksWitness ? .witnessTransaction : .transaction
        items.append(InventoryItem(kind, item.hash))
      }
      waitingStart = end
      if !items.isEmpty { send(.getdata(items), now: now, &sink) }
    }
    if waitingStart == waiting.count {
      waiting.removeAll(keepingCapacity: waiting.capacity < 4_096)
      waitingStart = 0
    } else if waitingStart > 65_536 {
      waiting.removeSubrange(0..<waitingStart)
      waitingStart = 0
    }
  }

  /// A `tx` payload.
  mutating func receivedTransaction(
    _ payload: RawSpan, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    do {
      let layout = try TransactionLayout(parsing: payload)
      let (txid, wtxid) = layout.hashes(in: payload)
      requested[wtxid] = nil
      requested[txid] = nil
      if mirrors {
        let kind: TransactionClass = index == 0 ? .node : .side
        let slot = host.withMempool { store -> UInt32? in
          guard
            let insertion = try? store.insert(layout, in: payload, txid: txid, wtxid: wtxid, as: kind),
            case .added = insertion.outcome, let handle = insertion.handle
          else { return nil }
          return handle.slot
        }
        if let slot, mempoolListed {
          learnedCount += 1
          host.transactionFromNode(slot: slot, now: now)
        }
      }
    } catch {
      misbehaved("tx: \(error)", host: &host)
    }
    if requested.count < NodePeer.requestsMax / 2 { askTransactions(now: now, &sink) }
    // Some of the last may never come.
    if ranksSoon && waiting.isEmpty && requested.count < NodePeer.batch {
      ranksSoon = false
      nextReconciliation = min(nextReconciliation, now + .seconds(1))
    }
  }

  mutating func receivedNotFound(_ items: [InventoryItem], now: Instant, _ sink: inout some StreamSink & ~Copyable) {
    for item in items {
      requested[item.hash] = nil
      if item.kind == .compactBlock || item.kind == .witnessBlock || item.kind == .block {
        pending.removeAll { $0.hash == item.hash }
      }
    }
    askTransactions(now: now, &sink)
  }

  /// While it takes a block in, a node may list what the block has confirmed, or nothing of what the mirror still holds.
  static let blockTime = Interval.seconds(1)
  /// A block came while the node listed, or shortly before it was asked to: the list shows neither what was nor what is.
  private var isListingBlurred: Bool { lastBlock != .zero && lastBlock + NodePeer.blockTime >= mempoolAsked }

  /// Lists in a row that may be taken for those of a node that is still loading.
  static let shortMost = 5

  /// A node that was restarted answers while it still loads its mempool, which takes minutes: its first lists name little of
  /// what the mirror holds, each more than the one before. They say nothing about the rest, and none of that is told again.
  private mutating func isLoading(_ held: Int) -> Bool {
    guard listedCount * 2 < held, listedCount > lastShort, shortLists < NodePeer.shortMost else { return false }
    lastShort = listedCount
    shortLists += 1
    return true
  }

  /// The ping sent after `mempool` is answered: all was listed.
  mutating func mempoolWasListed(host: inout some BridgeHost & ~Copyable, reconcileIn interval: Interval, now: Instant)
  {
    mempoolListed = true
    if isListingBlurred {
      host.note(.mempoolListed(node: index, transactions: listedCount))
      nextReconciliation = now + NodePeer.blockTime
      return
    }
    ranksSoon = index == 0 && waiting.count - waitingStart + requested.count > NodePeer.ranksFrom
    let listedNothing = listedCount == 0
    let held = host.withMempool { $0.counts(.node).transactions }
    let isLoading = index == 0 && isLoading(held)
    // An empty list is asked for again soon: it may have been withheld.
    nextReconciliation = now + (listedNothing || isLoading ? interval / 10 : interval)
    // Without the permission a `noban` peer is not hung up on: the node says nothing, as if its mempool were empty. It is
    // not when the mirror holds what this very connection has told since the last listing.
    if listedNothing && learnedCount > 0 && held > 0 {
      tell(.noMempoolPermission, host: &host, now: now)
    } else if index == 0 && !isLoading {
      host.withMempool { store in _ = store.sweep() }
    }
    // Core tells every peer its least feerate, but not in blocksonly mode; to a peer with the permission `relay` it
    // does not even say then that it relays no transactions.
    if listedNothing && feeFilter == nil && isCore && theirs?.relay != false {
      tell(.blocksOnly, host: &host, now: now)
    }
    learnedCount = 0
    host.note(.mempoolListed(node: index, transactions: listedCount))
    for (hash, asked) in requested where now - asked > NodePeer.requestLimit { requested[hash] = nil }
  }
}
