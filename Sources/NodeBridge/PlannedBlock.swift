import Bitcoin
import Ground
import Mempool

/// A block of which everything is in the mirror or came with the compact block, before its bytes are put together.
struct PlannedBlock {
  /// Fully hashed; the layouts say where the transactions will lie.
  let block: ParsedBlock
  /// The mirror's entry of each transaction; nil for what the compact block brought.
  private let entries: [EntryHandle?]
  /// What the compact block brought, in block order.
  private let brought: [UInt8]

  init(
    _ compact: CompactBlock, _ payload: RawSpan, _ slots: [UInt32], total: Int, _ store: borrowing TransactionStore
  ) {
    let count = compact.transactionCount
    var layouts: [TransactionLayout] = []
    layouts.reserveCapacity(count)
    var txids: [Hash256] = []
    txids.reserveCapacity(count)
    var wtxids: [Hash256] = []
    wtxids.reserveCapacity(count)
    var entries: [EntryHandle?] = []
    entries.reserveCapacity(count)
    var brought: [UInt8] = []
    var offset = BlockHeader.byteCount + compactSizeByteCount(count)
    let size = offset + total
    CompactAssembly.forEach(compact) { position, prefilled, short in
      if let prefilled {
        let layout = compact.prefilled[prefilled].layout
        unsafe layout.bytes(in: payload).withUnsafeBytes { brought.append(contentsOf: $0) }
        let (txid, wtxid) = layout.hashes(in: payload)
        layouts.append(layout.moved(to: offset))
        txids.append(txid)
        wtxids.append(wtxid)
        entries.append(nil)
      } else {
        let slot = slots[short]
        if short + 24 < slots.count { store.prefetchFacts(slots[short + 24]) }
        layouts.append(store.layout(slot, at: offset))
        txids.append(store.txid(slot))
        wtxids.append(store.wtxid(slot))
        entries.append(store.handle(slot))
      }
      offset = layouts[position].end
    }
    precondition(offset == size)
    self.entries = entries
    self.brought = brought
    block = ParsedBlock(
      header: compact.header, transactions: layouts, byteCount: size, txids: txids, wtxids: wtxids, unhashed: [])
  }

  var heldBytes: Int {
    brought.capacity + entries.count
      * (MemoryLayout<EntryHandle?>.stride + MemoryLayout<TransactionLayout>.stride + 2 * MemoryLayout<Hash256>.stride
        + 1)
  }

  /// Lends the first transaction's bytes, when they came with the compact block: nodes always send them.
  func withCoinbase<R>(_ body: (RawSpan) -> R) -> R? {
    guard let first = entries.first, first == nil else { return nil }
    return body(brought.span.bytes.extracting(0..<block.transactions[0].byteCount))
  }

  /// The block's bytes; nil when the mirror has let go of something meanwhile.
  func write(_ store: borrowing TransactionStore, _ spare: inout SpareBlock) -> [UInt8]? {
    var slots: [UInt32] = []
    slots.reserveCapacity(entries.count)
    for entry in entries {
      guard let entry else {
        slots.append(TransactionStore.missing)
        continue
      }
      guard let slot = store.slot(entry) else { return nil }
      slots.append(slot)
    }
    var start = ByteWriter(reserving: BlockHeader.byteCount + 9)
    block.header.write(to: &start)
    start.compactSize(block.transactions.count)
    return spare.take(block.byteCount) { buffer in
      start.bytes.withUnsafeBytes { buffer.copyMemory(from: $0) }
      var target = MutableRawSpan(_unsafeBytes: buffer)
      var next = 0
      for (position, layout) in block.transactions.enumerated() {
        if position + 8 < slots.count, slots[position + 8] != TransactionStore.missing {
          store.prefetchBytes(slots[position + 8])
        }
        if slots[position] == TransactionStore.missing {
          brought.withUnsafeBytes { source in
            unsafe target.withUnsafeMutableBytes {
              unsafe ($0.baseAddress! + layout.offset).copyMemory(
                from: source.baseAddress! + next, byteCount: layout.byteCount)
            }
          }
          next += layout.byteCount
        } else {
          store.copy(slots[position], to: &target, at: layout.offset)
        }
      }
    }
  }
}
