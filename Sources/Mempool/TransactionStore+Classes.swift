import Bitcoin
import Ground

extension TransactionStore {
  /// Takes an entry away, whatever its class.
  public mutating func remove(_ slot: UInt32) {
    _ = checked(slot)
    leave(slot)
    discard(slot)
  }

  /// The node no longer has it (it expired, was replaced or evicted there): kept on the side for a while.
  public mutating func demote(_ slot: UInt32) {
    if entries[checked(slot)].kind != TransactionClass.node.rawValue { return }
    leave(slot)
    enter(slot, .side)
    enforce(.side)
  }

  /// Ends an entry's membership: queue, counts, spent outpoints or orphan record.
  mutating func leave(_ slot: UInt32) {
    let index = Int(slot)
    let kind = entries[index].kind
    removeFromQueue(slot)
    counts[Int(kind)].transactions -= 1
    counts[Int(kind)].bytes -= Int(lengths[index])
    if kind == TransactionClass.node.rawValue { forgetSpends(slot) }
    if kind == TransactionClass.orphan.rawValue { untrackOrphan(slot) }
  }

  mutating func enter(_ slot: UInt32, _ kind: TransactionClass) {
    let index = Int(slot)
    entries[index].kind = kind.rawValue
    entries[index].mark = reconciliation.current
    counts[Int(kind.rawValue)].transactions += 1
    counts[Int(kind.rawValue)].bytes += Int(lengths[index])
    switch kind {
    case .node:
      appendToQueue(slot, FeerateBand.band(fee: entries[index].fee, weight: entries[index].weight))
      noteSpends(slot)
      noteAncestors(slot)
    case .side: appendToQueue(slot, FeerateBand.count)
    case .orphan: appendToQueue(slot, FeerateBand.count + 1)
    }
  }

  /// Evicts until the class is within its bounds.
  mutating func enforce(_ kind: TransactionClass) {
    while true {
      let now = counts[Int(kind.rawValue)]
      let over =
        now.transactions > limits.count(kind) || now.bytes > limits.bytes(kind)
        || kind == .node && inputs > limits.nodeInputs
      if !over { return }
      var victim: UInt32?
      for queue in TransactionStore.queueOrder(kind).reversed() where queues[queue].count > 0 {
        victim = queues[queue].oldest
        break
      }
      guard let victim else { return }
      remove(victim)
    }
  }

  // MARK: Queues

  mutating func appendToQueue(_ slot: UInt32, _ queue: Int) {
    entries[Int(slot)].queue = UInt8(queue)
    entries[Int(slot)].position = queues[queue].append(slot)
  }

  mutating func removeFromQueue(_ slot: UInt32) {
    let entries = entries
    queues[Int(entries[Int(slot)].queue)].remove(at: entries[Int(slot)].position) { slot, position in
      entries[Int(slot)].position = position
    }
  }

  // MARK: Ancestors

  /// Inputs looked at to find one entry's ancestors: chains can be as long and broad as a hostile sender likes.
  static let ancestorInputsMax = 100

  /// How deep a new entry of class `node` lies; what it spends from is as likely to be in the next block as it is
  /// itself, because a miner takes parents along with a child that pays for them.
  private mutating func noteAncestors(_ slot: UInt32) {
    let index = Int(slot)
    var depth: UInt8 = 0
    var walk = Outpoints(UnsafeRawPointer(arena.pointer(entries[index].location)))
    while let offset = walk.next() {
      guard let parent = parentAtNode(walk.outpoint(at: offset).txid) else { continue }
      depth = max(depth, min(entries[Int(parent)].depth + 1, UInt8(Reconciliation.depthMax)))
    }
    entries[index].depth = depth
    if depth > 0 { liftAncestors(of: slot, to: Int(entries[index].queue)) }
  }

  mutating func liftAncestors(of slot: UInt32, to band: Int) {
    var budget = TransactionStore.ancestorInputsMax
    lift(slot, to: band, &budget)
  }

  /// Moves ancestors of unknown fee up to a band; those that are there have theirs there.
  private mutating func lift(_ slot: UInt32, to band: Int, _ budget: inout Int) {
    var walk = Outpoints(UnsafeRawPointer(arena.pointer(entries[Int(slot)].location)))
    while budget > 0, let offset = walk.next() {
      budget -= 1
      guard let parent = parentAtNode(walk.outpoint(at: offset).txid), entries[Int(parent)].fee == .max,
        Int(entries[Int(parent)].queue) < band
      else { continue }
      removeFromQueue(parent)
      appendToQueue(parent, band)
      lift(parent, to: band, &budget)
    }
  }

  private func parentAtNode(_ txid: Hash256) -> UInt32? {
    guard let parent = slot(txid: txid), entries[Int(parent)].kind == TransactionClass.node.rawValue else { return nil }
    return parent
  }

  // MARK: Spent outpoints

  /// The outpoint that a cell of `spends` stands for.
  @inline(__always) func outpoint(_ cell: UInt64) -> (txid: Hash256, output: UInt32) {
    let base = arena.pointer(entries[Int(cell >> 32) - 1].location) + Int(cell & 0xFFFF_FFFF)
    return Outpoints.load(UnsafeRawPointer(base))
  }

  private func spendCell(_ slot: UInt32, _ offset: Int) -> UInt64 { UInt64(slot + 1) << 32 | UInt64(offset) }

  private mutating func noteSpends(_ slot: UInt32) {
    inputs += Int(entries[Int(slot)].inputCount)
    var walk = Outpoints(UnsafeRawPointer(arena.pointer(entries[Int(slot)].location)))
    // More than fit the table are left out: `enforce` evicts at once.
    while spends.count < spends.mask - spends.mask / 8, let offset = walk.next() {
      let outpoint = walk.outpoint(at: offset)
      spends.insert(spendCell(slot, offset), hash: key.hash(outpoint.txid, output: outpoint.output))
    }
  }

  private mutating func forgetSpends(_ slot: UInt32) {
    inputs -= Int(entries[Int(slot)].inputCount)
    var walk = Outpoints(UnsafeRawPointer(arena.pointer(entries[Int(slot)].location)))
    let (entries, key, bases) = (entries, key, arena.bases)
    while let offset = walk.next() {
      let outpoint = walk.outpoint(at: offset)
      spends.remove(spendCell(slot, offset), hash: key.hash(outpoint.txid, output: outpoint.output)) { other in
        let start = ByteArena.pointer(entries[Int(other >> 32) - 1].location, bases)
        let outpoint = Outpoints.load(UnsafeRawPointer(start) + Int(other & 0xFFFF_FFFF))
        return key.hash(outpoint.txid, output: outpoint.output)
      }
    }
  }

  /// Entries of class `node` that spend what `slot` spends go to the side, with all that spend from them.
  mutating func displaceConflicts(of slot: UInt32, into conflicts: inout [EntryHandle]) {
    displaceConflicts(
      of: UnsafeRawPointer(arena.pointer(entries[Int(slot)].location)), txid: txids[Int(slot)], into: &conflicts)
  }

  /// The same for the transaction at `start`, which has been parsed and lies where the arena doesn't move it.
  mutating func displaceConflicts(
    of start: UnsafeRawPointer, txid: Hash256, into conflicts: inout [EntryHandle]
  ) {
    var walk = Outpoints(start)
    while let offset = walk.next() {
      let outpoint = walk.outpoint(at: offset)
      while let other = spender(of: outpoint.txid, output: outpoint.output) {
        if txids[Int(other)] == txid {
          // The same transaction with another witness: what spends from it spends from this one too.
          conflicts.append(handle(other))
          demote(other)
        } else {
          displaceWithDescendants(other, into: &conflicts)
        }
      }
    }
  }

  /// Without recursion: chains of descendants can be as long as a hostile sender likes.
  mutating func displaceWithDescendants(_ first: UInt32, into conflicts: inout [EntryHandle]) {
    var pending = [first]
    while let slot = pending.popLast() {
      if entries[Int(slot)].kind != TransactionClass.node.rawValue { continue }
      let txid = txids[Int(slot)]
      for output in 0..<entries[Int(slot)].outputCount {
        if let child = spender(of: txid, output: output) { pending.append(child) }
      }
      leave(slot)
      enter(slot, .side)
      conflicts.append(handle(slot))
    }
    enforce(.side)
  }
}

/// The outpoints of a transaction that has been parsed before: nothing is checked again.
struct Outpoints {
  private let base: UnsafeRawPointer
  private var offset: Int
  private var left: Int

  init(_ transaction: UnsafeRawPointer) {
    base = transaction
    // Version; then the count, unless its place holds the witness form's marker 0.
    offset = base.load(fromByteOffset: 4, as: UInt8.self) == 0 ? 6 : 4
    left = 0
    left = compactSize()
  }

  /// The next outpoint's offset from the transaction's start.
  mutating func next() -> Int? {
    if left == 0 { return nil }
    left -= 1
    let found = offset
    offset += 36
    let script = compactSize()
    offset += script + 4
    return found
  }

  func outpoint(at offset: Int) -> (txid: Hash256, output: UInt32) { Outpoints.load(base + offset) }

  @inline(__always) static func load(_ at: UnsafeRawPointer) -> (txid: Hash256, output: UInt32) {
    (at.loadUnaligned(as: Hash256.self), UInt32(littleEndian: at.loadUnaligned(fromByteOffset: 32, as: UInt32.self)))
  }

  private mutating func compactSize() -> Int {
    let first = base.load(fromByteOffset: offset, as: UInt8.self)
    defer { offset += first < 0xFD ? 1 : first == 0xFD ? 3 : first == 0xFE ? 5 : 9 }
    switch first {
    case 0xFD: return Int(UInt16(littleEndian: base.loadUnaligned(fromByteOffset: offset + 1, as: UInt16.self)))
    case 0xFE: return Int(UInt32(littleEndian: base.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self)))
    case 0xFF: return Int(UInt64(littleEndian: base.loadUnaligned(fromByteOffset: offset + 1, as: UInt64.self)))
    default: return Int(first)
    }
  }
}
