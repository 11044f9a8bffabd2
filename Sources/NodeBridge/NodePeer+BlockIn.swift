import Bitcoin
import Ground
import Mempool

/// A block of which the node has told and that is not whole here yet.
struct PendingBlock {
  /// After this the whole block is asked for; after twice this it is given up.
  static let limit = Interval.seconds(3)

  var hash: Hash256
  var form: AnnouncementForm
  var announced: Instant
  var asked: Instant
  var askedWhole = false
  /// What is known of it, while `missing` is asked for.
  var partial: CompactAssembly?
  var missing: [Int] = []

  var heldBytes: Int { (partial?.heldBytes ?? 0) + missing.count * MemoryLayout<Int>.stride }
}

extension NodePeer {
  /// Notes a block's first mention by this node.
  mutating func announced(
    _ hash: Hash256, _ form: AnnouncementForm, host: inout some BridgeHost & ~Copyable, now: Instant
  ) {
    if !isLocal {
      _ = heard(hash, form, at: now, host: &host)
      return
    }
    lastBlock = now
    if has.insert(hash) { host.note(.announced(node: index, hash: hash, form: form, at: now)) }
    guard let at = deliveries.firstIndex(where: { $0.hash == hash }) else { return }
    // A compact block is pushed before the block is connected, some 10 ms before the tip moves; headers and inventory
    // follow the tip, and the fence's `getheaders` is answered after all that.
    if form == .compactBlock { accepted(at, now: now) } else { confirmed(at, host: &host, now: now) }
  }

  mutating func fetch(
    _ hash: Hash256, compact: Bool, form: AnnouncementForm, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    // A block that was still to be put together when the connection went: the next one brings it.
    if !isReady { return }
    if let at = pending.firstIndex(where: { $0.hash == hash }) {
      if compact || pending[at].askedWhole { return }
      pending[at].askedWhole = true
      pending[at].asked = now
    } else {
      if pending.count == NodePeer.pendingMax { pending.removeFirst() }
      var block = PendingBlock(hash: hash, form: form, announced: now, asked: now)
      block.askedWhole = !compact
      pending.append(block)
    }
    let whole: InventoryItem.Kind = speaksWitness ? .witnessBlock : .block
    let kind: InventoryItem.Kind = compact && compactVersion != nil ? .compactBlock : whole
    send(.getdata([InventoryItem(kind, hash)]), now: now, &sink)
  }

  /// A `cmpctblock` payload.
  mutating func receivedCompactBlock(
    _ payload: RawSpan, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    guard let compact = parsed(.cmpctblock, &host, { () throws(DecodeError) in try CompactBlock(parsing: payload) })
    else { return }
    let hash = compact.hash
    let already = pending.firstIndex { $0.hash == hash }
    announced(hash, .compactBlock, host: &host, now: now)
    // Without its parent it is put together all the same: the headers between are asked for.
    if accept([compact.header], from: .cmpctblock, host: &host, now: now, &sink) == .refused { return }
    tip = hash
    host.headersFromNode(now: now, into: &sink)
    if host.hasBlock(hash) {
      pending.removeAll { $0.hash == hash }
      return
    }
    var block =
      already.map { pending.remove(at: $0) }
      ?? PendingBlock(hash: hash, form: .compactBlock, announced: now, asked: now)
    putTogether(host: &host, now: now, &sink)
    let assembled = CompactAssembly.build(
      compact, payload, version: compactVersion ?? .two, into: &block, host: &host)
    switch assembled {
    case .whole(let plan):
      planned = (block, plan)
      let isOfUse =
        plan.withCoinbase {
          host.blockComing(plan.block, coinbase: $0, announced: block.announced, now: now, into: &sink)
        } ?? false
      if !isOfUse { putTogether(host: &host, now: now, &sink) }
    case .partial:
      block.asked = now
      send(.getblocktxn(BlockTransactionsRequest(block: hash, indexes: block.missing)), now: now, &sink)
      if pending.count == NodePeer.pendingMax { pending.removeFirst() }
      pending.append(block)
    case .tooLarge: misbehaved("cmpctblock \(hash): more bytes than a block may have", host: &host)
    }
  }

  /// Puts the planned block together and hands it over.
  mutating func putTogether(
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    guard let (pending, plan) = planned else { return }
    planned = nil
    var spare = SpareBlock()
    swap(&spare, &self.spare)
    let bytes = host.withMempool { store in plan.write(store, &spare) }
    self.spare = spare
    guard let bytes else {
      fetch(pending.hash, compact: false, form: pending.form, now: now, &sink)
      return
    }
    complete(pending, bytes, plan.block, host: &host, now: now, &sink)
  }

  /// A `blocktxn` payload.
  mutating func receivedBlockTransactions(
    _ payload: RawSpan, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    guard
      let transactions = parsed(
        .blocktxn, &host, { () throws(DecodeError) in try BlockTransactions(parsing: payload) })
    else { return }
    guard let at = pending.firstIndex(where: { $0.hash == transactions.block && $0.partial != nil }) else { return }
    let block = pending.remove(at: at)
    if transactions.transactions.count != block.missing.count {
      misbehaved(
        "blocktxn: \(transactions.transactions.count) transactions, asked for \(block.missing.count)", host: &host)
      fetch(block.hash, compact: false, form: block.form, now: now, &sink)
      return
    }
    let whole = block.partial!.completed(with: transactions.transactions, of: block.missing, in: payload)
    complete(block, whole.bytes, whole.block, host: &host, now: now, &sink)
  }

  /// Every transaction is there: check the Merkle root, hand over.
  private mutating func complete(
    _ pending: PendingBlock, _ bytes: consuming [UInt8], _ parsed: consuming ParsedBlock,
    host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    var block = parsed
    // A short id may have named the wrong transaction: then the root is another, and the whole block is asked for.
    block.hashAll(in: bytes.span.bytes)
    let (root, isMutated) = Merkle.root(block.txids)
    guard !block.txids.isEmpty, root == block.header.merkleRoot, !isMutated else {
      host.blockMistaken(pending.hash, now: now)
      fetch(pending.hash, compact: false, form: pending.form, now: now, &sink)
      return
    }
    host.note(
      .reconstructed(
        node: index, hash: pending.hash, transactions: block.transactions.count, missing: pending.missing.count,
        took: now - pending.announced))
    host.blockFromNode(
      NodeBlock(
        node: index, bytes: bytes, block: block, hash: pending.hash, announced: pending.announced, form: pending.form),
      now: now, into: &sink)
  }

  /// A `block` payload.
  mutating func receivedBlock(
    _ payload: RawSpan, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    guard var block = parsed(.block, &host, { () throws(DecodeError) in try ParsedBlock(parsing: payload) }) else {
      return
    }
    let hash = block.hash
    let at = pending.firstIndex { $0.hash == hash }
    let (first, form) = at.map { (pending[$0].announced, pending[$0].form) } ?? (now, .block)
    if let at { pending.remove(at: at) }
    announced(hash, form, host: &host, now: now)
    if host.hasBlock(hash) { return }
    // A whole block comes on no path that is in a hurry, so all that tells a tampered body is looked at. What breaks a
    // rule is the node's business: it has the last word on its own blocks.
    let height = host.withChain { $0.entry(hash)?.height }
    let rules = height.map { network.bodyRules(height: $0) } ?? BodyRules(statedHeight: nil)
    var check = BodyCheck(block, rules: rules)
    switch check.advance(in: payload) {
    case .mutated(let how)?:
      // Says nothing about the hash: only these bytes are worthless.
      misbehaved("block \(hash): not this header's transactions (\(how))", host: &host)
      return
    case .invalid(.noTransactions)?:
      misbehaved("block \(hash): no transactions", host: &host)
      return
    default: break
    }
    block = check.block
    block.hashAll(in: payload)
    host.blockFromNode(
      NodeBlock(
        node: index, bytes: payload.withUnsafeBytes { [UInt8]($0) }, block: block, hash: hash, announced: first,
        form: form), now: now, into: &sink)
  }

  /// Blocks asked for in vain.
  mutating func retryPending(now: Instant, _ sink: inout some StreamSink & ~Copyable) {
    let due = pending.filter { now - $0.asked >= PendingBlock.limit }
    for block in due {
      if block.askedWhole {
        pending.removeAll { $0.hash == block.hash }
      } else {
        fetch(block.hash, compact: false, form: block.form, now: now, &sink)
      }
    }
  }
}
