import Bitcoin
import Ground
import Mempool

/// A block being put together from a compact block and the mirror.
///
/// When the mirror has everything, it is known at once what the block will be (`PlannedBlock`), and the block is written
/// once, into memory that was touched beforehand (`SpareBlock`). Nothing of it is parsed or hashed again: the store knows
/// the parts and both ids of what it holds. When something is missing, what is there is kept in block order, because the
/// store may let go of it before the rest arrives.
struct CompactAssembly {
  /// No block that a message could carry is larger. Short ids are cheap to send: without this bound a hostile node
  /// could have the whole mirror copied.
  static let bytesMax = Framing.maxPayload

  enum Outcome {
    case whole(PlannedBlock)
    /// `PendingBlock.missing` and `partial` are set.
    case partial
    case tooLarge
  }

  private let header: BlockHeader
  /// Those that are known lie in `bytes`, the others have length 0.
  private var layouts: [TransactionLayout?]
  private var txids: [Hash256]
  private var wtxids: [Hash256]
  private var bytes: [UInt8] = []
  /// Known, but not hashed: what the compact block brought.
  private var unhashed: [Int] = []

  var heldBytes: Int {
    bytes.capacity + layouts.capacity * MemoryLayout<TransactionLayout?>.stride
      + (txids.capacity + wtxids.capacity) * MemoryLayout<Hash256>.stride + unhashed.capacity * MemoryLayout<Int>.stride
  }

  static func build(
    _ compact: CompactBlock, _ payload: RawSpan, version: CompactBlockVersion, into pending: inout PendingBlock,
    host: inout some BridgeHost & ~Copyable
  ) -> Outcome {
    var assembly = CompactAssembly(compact.header, count: compact.transactionCount)
    var missing: [Int] = []
    let outcome = host.withMempool { store -> Outcome in
      var slots: [UInt32] = []
      store.match(compactIDs: compact.shortIDs.span, key: compact.key, overTxids: version == .one, into: &slots)
      var total = compact.prefilled.reduce(0) { $0 + $1.layout.byteCount }
      var isWhole = true
      for slot in slots {
        if slot == TransactionStore.missing { isWhole = false } else { total += store.byteCount(slot) }
      }
      if total > bytesMax { return .tooLarge }
      if isWhole { return .whole(PlannedBlock(compact, payload, slots, total: total, store)) }
      assembly.keep(compact, payload, slots, total: total, store, missing: &missing)
      return .partial
    }
    if case .partial = outcome {
      pending.missing = missing
      pending.partial = assembly
    }
    return outcome
  }

  private init(_ header: BlockHeader, count: Int) {
    self.header = header
    layouts = []
    txids = Array(repeating: .zero, count: count)
    wtxids = txids
  }

  /// Calls `visit` with each position of the block: its place among the prefilled, or that of its short id.
  static func forEach(
    _ compact: CompactBlock, _ visit: (_ position: Int, _ prefilled: Int?, _ short: Int) -> Void
  ) {
    var (nextPrefilled, nextShort) = (0, 0)
    for position in 0..<compact.transactionCount {
      if nextPrefilled < compact.prefilled.count && compact.prefilled[nextPrefilled].index == position {
        visit(position, nextPrefilled, 0)
        nextPrefilled += 1
      } else {
        visit(position, nil, nextShort)
        nextShort += 1
      }
    }
  }

  private mutating func keep(
    _ compact: CompactBlock, _ payload: RawSpan, _ slots: [UInt32], total: Int, _ store: borrowing TransactionStore,
    missing: inout [Int]
  ) {
    layouts = Array(repeating: nil, count: compact.transactionCount)
    bytes.reserveCapacity(total)
    CompactAssembly.forEach(compact) { position, prefilled, short in
      if let prefilled {
        let layout = compact.prefilled[prefilled].layout
        layouts[position] = layout.moved(to: bytes.count)
        unsafe layout.bytes(in: payload).withUnsafeBytes { bytes.append(contentsOf: $0) }
        unhashed.append(position)
      } else if slots[short] == TransactionStore.missing {
        missing.append(position)
      } else {
        let slot = slots[short]
        layouts[position] = store.layout(slot, at: bytes.count)
        unsafe store.bytes(slot).withUnsafeBytes { bytes.append(contentsOf: $0) }
        txids[position] = store.txid(slot)
        wtxids[position] = store.wtxid(slot)
      }
    }
  }

  /// The whole block, with the transactions at `positions` from `payload`; as many as were missing, in block order.
  func completed(
    with transactions: [TransactionLayout], of positions: [Int], in payload: RawSpan
  ) -> (bytes: [UInt8], block: ParsedBlock) {
    let total = transactions.reduce(bytes.count) { $0 + $1.byteCount }
    var writer = ByteWriter(reserving: BlockHeader.byteCount + 9 + total)
    header.write(to: &writer)
    writer.compactSize(layouts.count)
    var placed: [TransactionLayout] = []
    placed.reserveCapacity(layouts.count)
    let kept = bytes.span.bytes
    var next = 0
    for layout in layouts {
      let source = layout ?? transactions[next]
      placed.append(source.moved(to: writer.count))
      if layout == nil {
        writer.append(source.bytes(in: payload))
        next += 1
      } else {
        writer.append(source.bytes(in: kept))
      }
    }
    return (
      writer.bytes,
      ParsedBlock(
        header: header, transactions: placed, byteCount: writer.count, txids: txids, wtxids: wtxids,
        unhashed: (unhashed + positions).sorted())
    )
  }
}

/// Memory for the next block from a node, touched before it is needed: the first touch of a fresh page costs the kernel
/// about a microsecond, 0.3 ms for a block of 1 MB.
struct SpareBlock {
  static let size = CompactAssembly.bytesMax + BlockHeader.byteCount + 9
  private static let slice = 256 << 10

  private var bytes: [UInt8] = []

  var heldBytes: Int { bytes.capacity }

  /// Touches a slice more; some 60 µs while there is something left to do.
  mutating func refill() {
    if bytes.count == SpareBlock.size { return }
    if bytes.isEmpty { bytes.reserveCapacity(SpareBlock.size) }
    bytes.append(contentsOf: repeatElement(0, count: min(SpareBlock.slice, SpareBlock.size - bytes.count)))
  }

  /// `size` bytes that `write` fills; the memory is the spare's when that is large enough.
  mutating func take(_ size: Int, _ write: (UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
    if bytes.count < size {
      return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
        write(UnsafeMutableRawBufferPointer(buffer))
        count = size
      }
    }
    var taken = bytes
    bytes = []
    taken.withUnsafeMutableBytes { write(UnsafeMutableRawBufferPointer(rebasing: $0[..<size])) }
    taken.removeLast(taken.count - size)
    return taken
  }
}
