import Bitcoin
import Ground
import Mempool
import Wire

// What neighbours say of transactions: TXINV, TXGET, TX.
extension TransactionRelay {
  /// TXINV. False when it is of an epoch that isn't ours.
  @discardableResult
  public mutating func receiveInventory(
    _ message: borrowing TransactionIDsMessage, from link: LinkID, now: Instant
  ) -> Bool {
    if message.epoch != epoch { return false }
    let i = Int(link.index)
    for k in 0..<message.count {
      let id = message.id(k)
      let at = known.touch(id)
      known.holders[at].insert(link)
      if known.handles[at] != nil { continue }
      if known.isAsked[at] {
        known.offers[at].insert(link)
      } else if links[i].toAsk.count < Self.toAskMax {
        known.isAsked[at] = true
        links[i].toAsk.append(id)
      }
    }
    return true
  }

  /// TXGET: what of it is here will be sent. False when it is of an epoch that isn't ours.
  @discardableResult
  public mutating func receiveRequest(
    _ message: borrowing TransactionIDsMessage, from link: LinkID, store: borrowing TransactionStore
  ) -> Bool {
    if message.epoch != epoch { return false }
    let i = Int(link.index)
    for k in 0..<message.count {
      guard links[i].toSend.count < Self.toSendMax else { break }
      guard let at = known.find(message.id(k)), let handle = known.handles[at], let slot = store.slot(handle),
        store.kind(slot) != .orphan
      else { continue }
      known.holders[at].insert(link)
      if known.queued[at].contains(link) { continue }
      known.queued[at].insert(link)
      links[i].toSend.append(Sending(id: message.id(k), handle: handle, offset: 0))
    }
    return true
  }

  /// TX: a fragment. A whole transaction goes into the side pool, or among the orphans when parents that its sender holds
  /// unconfirmed are not here.
  public mutating func receive(
    _ message: borrowing TransactionMessage, from link: LinkID, now: Instant, store: inout TransactionStore
  ) -> Arrival {
    let whole = fragments.add(
      message.fragment, at: Int(message.offset), of: Int(message.total), wtxid8: message.wtxid8, from: link,
      fragmentBytes: RelayLimits.fragmentBytes, now: now)
    links[Int(link.index)].heard = now
    guard let whole else { return .partial }
    let bytes = whole.span.bytes
    let layout: TransactionLayout
    do { layout = try TransactionLayout(parsing: bytes) } catch { return .refused("transaction: \(error)") }
    if layout.weight > RelayLimits.transactionBytes { return .refused("weight \(layout.weight)") }
    let (txid, wtxid) = layout.hashes(in: bytes)
    if wtxid.w0 != message.wtxid8 { return .refused("another wtxid than announced") }
    let missing = missingParents(of: layout, in: bytes, message.parents, store)
    do {
      let result = try store.insert(
        layout, in: bytes, txid: txid, wtxid: wtxid, as: missing.isEmpty ? .side : .orphan, missingParents: missing)
      if let handle = result.handle, let slot = store.slot(handle) {
        if store.kind(slot) == .orphan {
          addedOrphan(handle, wtxid: wtxid, from: link)
        } else {
          added(handle, wtxid: wtxid, weight: layout.weight, from: link, now: now)
          announceResolved(in: store, now: now)
        }
      }
      return .complete(result)
    } catch {
      return .refused("\(error)")
    }
  }

  private func missingParents(
    of layout: TransactionLayout, in bytes: RawSpan, _ parents: ParentInputs, _ store: borrowing TransactionStore
  ) -> [Hash256] {
    if parents == .none { return [] }
    var missing: [Hash256] = []
    Self.forEachInput(of: layout, in: bytes) { index, txid in
      for k in 0..<4 where Int(parents.indexes[k]) == index && !missing.contains(txid) {
        let slot = store.slot(txid: txid)
        if slot == nil || store.kind(slot!) == .orphan { missing.append(txid) }
      }
      return true
    }
    return missing
  }

  /// The inputs whose parents are unconfirmed here.
  static func parents(of bytes: RawSpan, in store: borrowing TransactionStore) -> ParentInputs {
    guard let layout = try? TransactionLayout(parsing: bytes) else { return .none }
    var result = ParentInputs.none
    var count = 0
    var last = Hash256.zero
    forEachInput(of: layout, in: bytes) { index, txid in
      if txid != last, store.slot(txid: txid) != nil {
        result.indexes[count] = UInt16(index)
        count += 1
      }
      last = txid
      return count < 4
    }
    return result
  }

  private static func forEachInput(of layout: TransactionLayout, in bytes: RawSpan, _ body: (Int, Hash256) -> Bool) {
    var reader = ByteReader(bytes)
    do throws(DecodeError) {
      try reader.skip(layout.coreOffset, "tx")
      let count = try reader.count(itemBytes: 41, "tx.vin")
      for index in 0..<min(count, inputsWalked) {
        let txid = try reader.hash("tx.vin.prevout")
        try reader.skip(4, "tx.vin.prevout")
        let script = try reader.count(itemBytes: 1, "tx.vin.scriptSig")
        try reader.skip(script + 4, "tx.vin.scriptSig")
        if !body(index, txid) { return }
      }
    } catch {
      // The layout was parsed from the same bytes: there is nothing to report.
    }
  }
}
