import Bitcoin
import Glibc

/// What each orphan waits for: flat arrays of records, and a table from a parent's txid to the records that name it.
struct OrphanRecords: ~Copyable {
  let slots: UnsafeMutablePointer<UInt32>
  /// `missingParentsMax` a record; bit i of `missing` says that parent i has not come.
  let parents: UnsafeMutablePointer<Hash256>
  let missing: UnsafeMutablePointer<UInt8>
  var firstFree = 0
  let capacity: Int
  /// Cells are `missingParentsMax` · record + parent + 1.
  var waiting: CellTable<UInt32>

  /// Free records are chained through `slots`.
  init(most: Int) {
    let per = TransactionStore.missingParentsMax
    capacity = most
    slots = allocateZeroed(UInt32.self, most)
    parents = allocateZeroed(Hash256.self, most * per)
    missing = allocateZeroed(UInt8.self, most)
    waiting = CellTable(most: most * per)
    for record in 0..<most { slots[record] = UInt32(record + 1) }
  }

  deinit {
    free(slots)
    free(parents)
    free(missing)
  }
}

extension TransactionStore {
  mutating func trackOrphan(_ slot: UInt32, waitingFor parents: [Hash256]) {
    let record = orphans.firstFree
    precondition(record < orphans.capacity)
    orphans.firstFree = Int(orphans.slots[record])
    orphans.slots[record] = slot
    orphans.missing[record] = 0
    entries[Int(slot)].mark = UInt32(record)
    for (index, parent) in parents.enumerated() {
      let cell = record * TransactionStore.missingParentsMax + index
      orphans.parents[cell] = parent
      orphans.missing[record] |= 1 << UInt8(index)
      orphans.waiting.insert(UInt32(cell + 1), hash: key.hash(parent))
    }
  }

  mutating func untrackOrphan(_ slot: UInt32) {
    let record = Int(entries[Int(slot)].mark)
    for index in 0..<TransactionStore.missingParentsMax where orphans.missing[record] & (1 << UInt8(index)) != 0 {
      stopWaiting(record * TransactionStore.missingParentsMax + index)
    }
    orphans.slots[record] = UInt32(orphans.firstFree)
    orphans.firstFree = record
  }

  private mutating func stopWaiting(_ cell: Int) {
    let (key, parents) = (key, orphans.parents)
    orphans.waiting.remove(UInt32(cell + 1), hash: key.hash(parents[cell])) { key.hash(parents[Int($0 - 1)]) }
    orphans.missing[cell / TransactionStore.missingParentsMax] &=
      ~(1 << UInt8(cell % TransactionStore.missingParentsMax))
  }

  /// Orphans that waited for this transaction alone go to the side, the oldest first, then those that waited for them.
  mutating func parentArrived(_ txid: Hash256) {
    if orphans.waiting.count == 0 { return }
    var arrived = [txid]
    var next = 0
    while next < arrived.count {
      var freed: [UInt32] = []
      while let cell = waitingCell(arrived[next]) {
        stopWaiting(cell)
        let record = cell / TransactionStore.missingParentsMax
        if orphans.missing[record] == 0 { freed.append(orphans.slots[record]) }
      }
      next += 1
      let entries = entries
      freed.sort { entries[Int($0)].position < entries[Int($1)].position }
      for slot in freed {
        leave(slot)
        enter(slot, .side)
        arrived.append(txids[Int(slot)])
      }
    }
    enforce(.side)
  }

  private func waitingCell(_ txid: Hash256) -> Int? {
    var found: Int?
    orphans.waiting.probe(key.hash(txid)) { cell in
      if orphans.parents[Int(cell - 1)] == txid { found = Int(cell - 1) }
      return found == nil
    }
    return found
  }
}
