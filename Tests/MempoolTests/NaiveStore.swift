import Bitcoin
import Ground
import Mempool

/// A transaction as tests see it.
struct TestTransaction {
  struct Outpoint: Hashable {
    var txid: Hash256
    var output: UInt32
  }
  var bytes: [UInt8]
  var txid, wtxid: Hash256
  var inputs: [Outpoint]
  var outputCount: Int
  var weight: Int

  /// `padding` bytes in the first output's script; a witness of so many bytes unless 0.
  init(spending inputs: [Outpoint], outputs: Int, padding: Int, witness: Int, random: inout SeededRandom) {
    var writer = ByteWriter()
    writer.integer(UInt32(2))
    if witness > 0 { writer.append([0, 1]) }
    writer.compactSize(inputs.count)
    for input in inputs {
      writer.hash(input.txid)
      writer.integer(input.output)
      writer.compactSize(0)
      writer.integer(UInt32.max)
    }
    writer.compactSize(outputs)
    for output in 0..<outputs {
      writer.integer(random.next())
      writer.compactSize(output == 0 ? padding : 0)
      if output == 0 { writer.append(random.bytes(padding)) }
    }
    if witness > 0 {
      for index in inputs.indices {
        writer.compactSize(index == 0 ? 1 : 0)
        if index == 0 {
          writer.compactSize(witness)
          writer.append(random.bytes(witness))
        }
      }
    }
    writer.integer(UInt32(0))
    self.init(writer.bytes, inputs: inputs, outputs: outputs)
  }

  private init(_ bytes: [UInt8], inputs: [Outpoint], outputs: Int) {
    self.bytes = bytes
    self.inputs = inputs
    outputCount = outputs
    let layout = try! TransactionLayout(parsing: bytes.span.bytes)
    (txid, wtxid) = layout.hashes(in: bytes.span.bytes)
    weight = layout.weight
  }

  /// The same transaction with another witness: same txid.
  func twin(random: inout SeededRandom) -> TestTransaction {
    var other = bytes
    // The last witness byte lies before the lock time and the empty witnesses of the further inputs.
    other[other.count - 4 - inputs.count] ^= UInt8(1 + random.below(255))
    return TestTransaction(other, inputs: inputs, outputs: outputCount)
  }
}

/// What `TransactionStore` promises, in the plainest way: one dictionary, lists in order of arrival, everything looked
/// through each time.
struct NaiveStore {
  struct Entry {
    var transaction: TestTransaction
    var kind: TransactionClass
    var fee: UInt64?
    var band: Int
    /// Of its arrival in its class (and band).
    var order: Int
    var missing: Set<Hash256> = []
    var isListed = true
  }
  var limits: StoreLimits
  var entries: [Hash256: Entry] = [:]
  var clock = 0

  static func band(_ fee: UInt64?, _ weight: Int) -> Int {
    guard let fee else { return 14 }
    let rate = fee * 40 / UInt64(weight)
    if rate == 0 { return 0 }
    var band = 1
    // rate ≥ √2^band, in whole numbers: rate² ≥ 2^band.
    while band < 47 && rate * rate >= 1 << UInt64(band) { band += 1 }
    return band
  }

  func sorted(_ kind: TransactionClass) -> [Entry] {
    entries.values.filter { $0.kind == kind }.sorted { ($0.band, $0.order) < ($1.band, $1.order) }
  }

  func spender(_ outpoint: TestTransaction.Outpoint) -> Hash256? {
    entries.values.first { $0.kind == .node && $0.transaction.inputs.contains(outpoint) }?.transaction.wtxid
  }

  mutating func enter(_ wtxid: Hash256, _ kind: TransactionClass) {
    clock += 1
    entries[wtxid]!.kind = kind
    entries[wtxid]!.order = clock
    entries[wtxid]!.isListed = true
    let entry = entries[wtxid]!
    entries[wtxid]!.band = kind == .node ? NaiveStore.band(entry.fee, entry.transaction.weight) : 0
    if kind != .orphan { entries[wtxid]!.missing = [] }
    if kind == .node {
      var budget = 100
      lift(entry.transaction, to: entries[wtxid]!.band, &budget)
    }
  }

  /// What a transaction of the node spends from is as likely as it is.
  mutating func lift(_ transaction: TestTransaction, to band: Int, _ budget: inout Int) {
    for input in transaction.inputs where budget > 0 {
      budget -= 1
      guard
        let parent = entries.values.first(where: { $0.kind == .node && $0.transaction.txid == input.txid }),
        parent.fee == nil, parent.band < band
      else { continue }
      clock += 1
      entries[parent.transaction.wtxid]!.band = band
      entries[parent.transaction.wtxid]!.order = clock
      lift(parent.transaction, to: band, &budget)
    }
  }

  mutating func enforce(_ kind: TransactionClass) {
    while true {
      let all = sorted(kind)
      let bytes = all.reduce(0) { $0 + $1.transaction.bytes.count }
      let inputs = all.reduce(0) { $0 + $1.transaction.inputs.count }
      if all.count <= limits.count(kind) && bytes <= limits.bytes(kind)
        && (kind != .node || inputs <= limits.nodeInputs)
      {
        return
      }
      entries[all[0].transaction.wtxid] = nil
    }
  }

  mutating func displaceWithDescendants(_ first: Hash256) {
    var pending = [first]
    while let wtxid = pending.popLast() {
      guard let entry = entries[wtxid], entry.kind == .node else { continue }
      for output in 0..<entry.transaction.outputCount {
        let outpoint = TestTransaction.Outpoint(txid: entry.transaction.txid, output: UInt32(output))
        if let child = spender(outpoint) { pending.append(child) }
      }
      enter(wtxid, .side)
    }
    enforce(.side)
  }

  mutating func displaceConflicts(_ transaction: TestTransaction) {
    for input in transaction.inputs {
      while let other = spender(input), other != transaction.wtxid {
        if entries[other]!.transaction.txid == transaction.txid {
          enter(other, .side)
          enforce(.side)
        } else {
          displaceWithDescendants(other)
        }
      }
    }
  }

  mutating func parentArrived(_ txid: Hash256) {
    var arrived = [txid]
    while !arrived.isEmpty {
      let txid = arrived.removeFirst()
      let waiting = entries.values.filter { $0.missing.contains(txid) }.sorted { $0.order < $1.order }
      for orphan in waiting {
        let wtxid = orphan.transaction.wtxid
        entries[wtxid]!.missing.remove(txid)
        if entries[wtxid]!.missing.isEmpty {
          enter(wtxid, .side)
          arrived.append(orphan.transaction.txid)
        }
      }
    }
    enforce(.side)
  }

  mutating func insert(
    _ transaction: TestTransaction, _ wanted: TransactionClass, fee: UInt64?, missing: [Hash256] = []
  ) {
    var kind = wanted
    var waiting: Set<Hash256> = []
    if kind == .orphan {
      waiting = Set(
        missing.filter { parent in
          !entries.values.contains { $0.transaction.txid == parent && $0.kind != .orphan }
        })
      if waiting.isEmpty { kind = .side }
    }
    let wtxid = transaction.wtxid
    if let present = entries[wtxid] {
      if let fee, fee != present.fee {
        entries[wtxid]!.fee = fee
        let band = NaiveStore.band(fee, transaction.weight)
        if present.kind == .node && band != present.band {
          clock += 1
          entries[wtxid]!.band = band
          entries[wtxid]!.order = clock
        }
      }
      if kind.rawValue >= present.kind.rawValue { return }
      entries[wtxid]!.kind = .side
      entries[wtxid]!.order = .max
    } else {
      entries[wtxid] = Entry(transaction: transaction, kind: .side, fee: fee, band: 0, order: .max)
    }
    // Not yet of any class while others make room.
    let own = entries.removeValue(forKey: wtxid)!
    if kind == .node { displaceConflicts(transaction) }
    entries[wtxid] = own
    enter(wtxid, kind)
    if kind == .orphan { entries[wtxid]!.missing = waiting }
    enforce(kind)
    if entries[wtxid] != nil && kind != .orphan { parentArrived(transaction.txid) }
  }

  mutating func demote(_ wtxid: Hash256) {
    if entries[wtxid]?.kind != .node { return }
    enter(wtxid, .side)
    enforce(.side)
  }

  mutating func confirm(_ transaction: TestTransaction, keep: Bool) {
    if let present = entries[transaction.wtxid] {
      if present.kind != .side {
        enter(transaction.wtxid, .side)
        enforce(.side)
      }
    } else {
      for twin in Array(entries.values) where twin.transaction.txid == transaction.txid && twin.kind == .node {
        demote(twin.transaction.wtxid)
      }
      if keep { insert(transaction, .side, fee: nil) }
    }
    displaceConflicts(transaction)
    parentArrived(transaction.txid)
  }

  mutating func list(_ wtxid: Hash256) {
    guard let entry = entries[wtxid] else { return }
    if entry.kind == .node {
      entries[wtxid]!.isListed = true
    } else {
      let own = entries.removeValue(forKey: wtxid)!
      displaceConflicts(own.transaction)
      entries[wtxid] = own
      enter(wtxid, .node)
      enforce(.node)
      parentArrived(own.transaction.txid)
    }
    // Without a fee, the place in the list counts: the worlds here are smaller than the first band of 1,024.
    if let entry = entries[wtxid], entry.kind == .node, entry.fee == nil, entry.band != 13 {
      clock += 1
      entries[wtxid]!.band = 13
      entries[wtxid]!.order = clock
    }
  }
}
