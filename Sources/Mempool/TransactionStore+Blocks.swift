import Bitcoin
import Ground

extension TransactionStore {
  /// A block's transaction was confirmed. Those of it that the node had go to the side (a competing block may hold them
  /// too); those that conflict with it go to the side with their descendants. When `keep`, a transaction that the store
  /// lacks is added to the side. Returns how many conflicts there were.
  @discardableResult
  public mutating func confirm(
    _ layout: TransactionLayout, in message: RawSpan, txid: Hash256, wtxid: Hash256, keep: Bool = true
  ) -> Int {
    if layout.isCoinbase { return 0 }
    if let slot = slot(wtxid: wtxid) {
      if kind(slot) == .orphan {
        leave(slot)
        enter(slot, .side)
        enforce(.side)
      } else {
        demote(slot)
      }
    } else {
      if let twin = slot(txid: txid) { demote(twin) }
      if keep { _ = try? insert(layout, in: message, txid: txid, wtxid: wtxid, as: .side) }
    }
    var conflicts: [EntryHandle] = []
    unsafe layout.bytes(in: message).withUnsafeBytes { buffer in
      unsafe displaceConflicts(of: buffer.baseAddress!, txid: txid, into: &conflicts)
    }
    parentArrived(txid)
    return conflicts.count
  }

  /// The same for the transactions `range` of a parsed and hashed block, so that a caller can go in slices
  /// (a transaction costs about half a microsecond).
  @discardableResult
  public mutating func confirm(_ range: Range<Int>, of block: ParsedBlock, in bytes: RawSpan, keep: Bool = true) -> Int
  {
    var conflicts = 0
    for index in range {
      conflicts += confirm(
        block.transactions[index], in: bytes, txid: block.txids[index], wtxid: block.wtxids[index], keep: keep)
    }
    return conflicts
  }

  /// Only the txids of a block are known: what the node had of them goes to the side. Conflicts stay unseen until the
  /// next reconciliation.
  public mutating func confirm(txids: some Sequence<Hash256>) {
    for txid in txids {
      if let slot = slot(txid: txid) { demote(slot) }
    }
  }

  /// The block left the best chain: the node takes its transactions back into its mempool. In block order, so that
  /// parents come before children.
  public mutating func disconnect(_ range: Range<Int>, of block: ParsedBlock, in bytes: RawSpan) {
    for index in range where !block.transactions[index].isCoinbase {
      _ = try? insert(
        block.transactions[index], in: bytes, txid: block.txids[index], wtxid: block.wtxids[index], as: .node)
    }
  }

  // MARK: Reconciliation

  /// The node's full list of transactions is about to be told (`listed`), then the rest swept out.
  public mutating func beginReconciliation() {
    reconciliation.current &+= 1
    reconciliation.cursor = 0
    reconciliation.listed = Reconciliation.none
    reconciliation.isListing = true
  }

  /// The node's list has this id. False when the store lacks the transaction: fetch it. One that was on the side, or
  /// waited for parents, counts as the node's from now on.
  ///
  /// Nodes list by depth (transactions without unconfirmed parents first), and those of one depth by feerate, the best
  /// first. So the order of these calls, between `beginReconciliation` and `sweep`, says which are likely in the next
  /// block where fees are unknown.
  public mutating func listed(wtxid: Hash256) -> Bool {
    guard let slot = slot(wtxid: wtxid) else { return false }
    noteListed(slot)
    return true
  }

  /// As `listed(wtxid:)`, for nodes that list txids.
  public mutating func listed(txid: Hash256) -> Bool {
    guard let slot = slot(txid: txid) else { return false }
    noteListed(slot)
    return true
  }

  private mutating func noteListed(_ slot: UInt32) {
    if kind(slot) != .node {
      var conflicts: [EntryHandle] = []
      let txid = txids[Int(slot)]
      leave(slot)
      displaceConflicts(of: slot, into: &conflicts)
      enter(slot, .node)
      enforce(.node)
      parentArrived(txid)
    } else {
      entries[Int(slot)].mark = reconciliation.current
    }
    if reconciliation.isListing { rank(slot) }
  }

  /// The next of its depth in the node's list.
  private mutating func rank(_ slot: UInt32) {
    let index = Int(slot)
    guard isLive(slot), entries[index].kind == TransactionClass.node.rawValue, entries[index].fee == .max else {
      return
    }
    let depth = Int(entries[index].depth)
    let band = FeerateBand.band(rank: reconciliation.listed[depth])
    reconciliation.listed[depth] += 1
    if band != Int(entries[index].queue) {
      removeFromQueue(slot)
      appendToQueue(slot, band)
    }
    if depth > 0 && band >= FeerateBand.band(rank: Reconciliation.liftedRanks - 1) { liftAncestors(of: slot, to: band) }
  }

  /// Goes on sweeping: looks at `budget` slots (some 2 ns each) and moves to the side what the node had before
  /// `beginReconciliation` and did not list. Entries added since count as listed.
  public mutating func sweep(budget: Int = .max) -> (demoted: Int, isDone: Bool) {
    reconciliation.isListing = false
    var demoted = 0
    let end = budget < highWater - reconciliation.cursor ? reconciliation.cursor + budget : highWater
    for index in reconciliation.cursor..<Swift.max(end, reconciliation.cursor) {
      if lengths[index] != 0 && entries[index].kind == TransactionClass.node.rawValue
        && entries[index].mark != reconciliation.current
      {
        demote(UInt32(index))
        demoted += 1
      }
    }
    reconciliation.cursor = Swift.max(end, reconciliation.cursor)
    return (demoted, reconciliation.cursor >= highWater)
  }
}

struct Reconciliation {
  /// Counts them; an entry's `mark` says in which it was last listed.
  var current: UInt32 = 0
  /// The next slot to sweep.
  var cursor = 0
  /// The list is being told: from `beginReconciliation` to `sweep`.
  var isListing = false
  /// Deeper ones count as this deep: a node allows 25 by default, and hardly any lie deeper than three.
  static let depthMax = 7
  static let none = [Int](repeating: 0, count: depthMax + 1)
  /// Ancestors of those listed among the first so many of their depth are lifted to their band.
  static let liftedRanks = 8_192
  /// How many of each depth were listed.
  var listed = none
}
