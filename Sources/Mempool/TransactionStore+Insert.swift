import Bitcoin
import Ground

extension TransactionStore {
  /// Adds one serialised transaction, or changes the class of one that is there. `bytes` come from anywhere: they are
  /// parsed, and hashed for both ids. `fee` in satoshi, if known. An orphan names the parents it waits for (txids).
  ///
  /// A transaction of class `node` displaces those of class `node` that it conflicts with, and their descendants: the
  /// node has replaced them.
  public mutating func insert(
    _ bytes: RawSpan, as kind: TransactionClass, fee: UInt64? = nil, missingParents: [Hash256] = []
  ) throws(StoreError) -> Insertion {
    let layout: TransactionLayout
    do { layout = try TransactionLayout(parsing: bytes) } catch { throw .malformed(error) }
    let (txid, wtxid) = layout.hashes(in: bytes)
    return try insert(
      layout, in: bytes, txid: txid, wtxid: wtxid, as: kind, fee: fee, missingParents: missingParents)
  }

  /// The same for a transaction of `message` that is parsed and hashed already.
  public mutating func insert(
    _ layout: TransactionLayout, in message: RawSpan, txid: Hash256, wtxid: Hash256, as kind: TransactionClass,
    fee: UInt64? = nil, missingParents: [Hash256] = []
  ) throws(StoreError) -> Insertion {
    if layout.isCoinbase { throw .coinbase }
    let limit = limits.bytes(kind)
    if layout.byteCount > limit { throw .tooLarge(bytes: layout.byteCount, limit: limit) }
    if kind == .node && layout.inputCount > limits.nodeInputs {
      throw .tooLarge(bytes: layout.byteCount, limit: limit)
    }
    var kind = kind
    var waitingFor: [Hash256] = []
    if kind == .orphan {
      if !(1...TransactionStore.missingParentsMax).contains(missingParents.count) {
        throw .missingParents(count: missingParents.count)
      }
      waitingFor = missingParents.filter { parent in
        guard let slot = self.slot(txid: parent) else { return true }
        return self.kind(slot) == .orphan
      }
      if waitingFor.isEmpty { kind = .side }
    }
    var result = Insertion(outcome: .known)
    let slot: UInt32
    if let present = self.slot(wtxid: wtxid) {
      slot = present
      if let fee { setFee(of: slot, to: fee) }
      let from = self.kind(slot)
      result.handle = handle(slot)
      if kind.rawValue >= from.rawValue { return result }
      leave(slot)
      result.outcome = .moved(from: from)
    } else {
      slot = add(layout, in: message, txid: txid, wtxid: wtxid, fee: fee ?? .max)
      result.handle = handle(slot)
      result.outcome = .added
    }
    if kind == .node { displaceConflicts(of: slot, into: &result.conflicts) }
    enter(slot, kind)
    if kind == .orphan { trackOrphan(slot, waitingFor: waitingFor) }
    enforce(kind)
    if let handle = result.handle, self.slot(handle) == nil {
      result.handle = nil
      result.outcome = .dropped
    } else if kind != .orphan {
      parentArrived(txid)
    }
    return result
  }

  /// States a fee, in satoshi, learned after the transaction: its place in the likely order follows.
  public mutating func setFee(of slot: UInt32, to fee: UInt64) {
    let index = checked(slot)
    if entries[index].fee == fee { return }
    entries[index].fee = fee
    if entries[index].kind == TransactionClass.node.rawValue {
      let band = FeerateBand.band(fee: fee, weight: entries[index].weight)
      if band != Int(entries[index].queue) {
        removeFromQueue(slot)
        appendToQueue(slot, band)
      }
    }
  }

  /// A new entry of no class yet: in both id tables and the short-id index.
  private mutating func add(
    _ layout: TransactionLayout, in message: RawSpan, txid: Hash256, wtxid: Hash256, fee: UInt64
  ) -> UInt32 {
    let slot: UInt32
    if firstFree != .max {
      slot = firstFree
      firstFree = entries[Int(slot)].position
    } else {
      precondition(highWater < capacity)
      slot = UInt32(highWater)
      highWater += 1
    }
    let index = Int(slot)
    let (entries, lengths) = (entries, lengths)
    let location = arena.allocate(layout.byteCount, for: slot) { slot, location in
      lengths[Int(slot)] != 0 && entries[Int(slot)].location == location
    } moved: { slot, location in
      entries[Int(slot)].location = location
    }
    unsafe layout.bytes(in: message).withUnsafeBytes { source in
      unsafe arena.pointer(location).copyMemory(from: source.baseAddress!, byteCount: layout.byteCount)
    }
    wtxids[index] = wtxid
    txids[index] = txid
    lengths[index] = UInt32(layout.byteCount)
    entries[index] = Entry(
      location: location, weight: UInt32(clamping: layout.weight), inputCount: UInt32(layout.inputCount),
      outputCount: UInt32(layout.outputCount), generation: entries[index].generation &+ 1, position: 0, mark: 0,
      kind: TransactionClass.side.rawValue, queue: 0, depth: 0, fee: fee)
    byWtxid.insert(slot + 1, hash: key.hash(wtxid))
    byTxid.insert(slot + 1, hash: key.hash(txid))
    shortIDs.insert(slot, wtxid: wtxid)
    return slot
  }

  /// Forgets an entry whose class it has left already.
  mutating func discard(_ slot: UInt32) {
    let index = Int(slot)
    let (txids, wtxids, key) = (txids, wtxids, key)
    byWtxid.remove(slot + 1, hash: key.hash(wtxids[index])) { key.hash(wtxids[Int($0 - 1)]) }
    byTxid.remove(slot + 1, hash: key.hash(txids[index])) { key.hash(txids[Int($0 - 1)]) }
    shortIDs.remove(slot, wtxid: wtxids[index])
    arena.release(entries[index].location, length: Int(lengths[index]))
    lengths[index] = 0
    entries[index].position = firstFree
    firstFree = slot
  }
}
