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
}

extension NodePeer {
  /// Notes a block's first mention by this node.
  mutating func announced(
    _ hash: Hash256, _ form: AnnouncementForm, host: inout some BridgeHost & ~Copyable, now: Instant
  ) {
    if has.insert(hash) { host.note(.announced(node: index, hash: hash, form: form, at: now)) }
    guard let at = deliveries.firstIndex(where: { $0.hash == hash }) else { return }
    // A compact block is pushed before the block is connected, some 10 ms before the tip moves; headers and inventory
    // follow the tip, and the fence's `getheaders` is answered after all that.
    if form == .compactBlock { accepted(at, now: now) } else { confirmed(at, host: &host, now: now) }
  }

  mutating func receivedHeaders(
    _ headers: [BlockHeader], host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    let time = host.unixTime(at: now)
    let local = isLocal
    // The word of the site's own node stands where history is too short to check the difficulty.
    let outcome = host.withChain { chain in
      Result { () throws(HeaderRejection) in try chain.accept(headers, now: time, vouched: local) }
    }
    if case .failure(let rejection) = outcome {
      if case .unknownParent = rejection, !headers.isEmpty {
        askHeaders(host: &host, now: now, &sink)
      } else {
        host.note(.misbehaved(node: index, "headers: \(rejection)"))
      }
      return
    }
    guard let last = headers.last else {
      finishSync(host: &host)
      return
    }
    let hash = last.hash
    tip = hash
    host.headersFromNode(now: now, into: &sink)
    if headers.count == Headers.maxCount {
      send(.getheaders(GetHeaders(locator: [hash])), now: now, &sink)
      return
    }
    let wasSynced = headersSynced
    finishSync(host: &host)
    for header in headers.suffix(RecentHashes.capacity) {
      let hash = header.hash
      if wasSynced { announced(hash, .headers, host: &host, now: now) } else { has.insert(hash) }
    }
    if wasSynced && local {
      // A reorganisation tells of several at once.
      for header in headers.suffix(NodePeer.pendingMax) {
        let hash = header.hash
        if host.hasBlock(hash) || deliveries.contains(where: { $0.hash == hash }) { continue }
        fetch(hash, compact: true, form: .headers, now: now, &sink)
      }
    }
    // With the node's tip as our locator it knows that we can be served compact blocks unasked.
    if !wasSynced && !headers.isEmpty { askHeaders(host: &host, now: now, &sink) }
  }

  private mutating func finishSync(host: inout some BridgeHost & ~Copyable) {
    if headersSynced { return }
    headersSynced = true
    let height = host.withChain { $0.tip.height }
    if let theirs, Int(theirs.startHeight) > height + 1 { host.note(.problem(node: index, .initialDownload)) }
    host.note(.headersSynced(node: index, height: height))
  }

  mutating func fetch(
    _ hash: Hash256, compact: Bool, form: AnnouncementForm, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
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
    let compact: CompactBlock
    do { compact = try CompactBlock(parsing: payload) } catch {
      host.note(.misbehaved(node: index, "cmpctblock: \(error)"))
      return
    }
    let hash = compact.hash
    let already = pending.firstIndex { $0.hash == hash }
    announced(hash, .compactBlock, host: &host, now: now)
    let time = host.unixTime(at: now)
    let local = isLocal
    let outcome = host.withChain { chain in
      Result { () throws(HeaderRejection) in try chain.accept(compact.header, now: time, vouched: local) }
    }
    switch outcome {
    case .success: break
    case .failure(.unknownParent): askHeaders(host: &host, now: now, &sink)
    case .failure(let rejection):
      host.note(.misbehaved(node: index, "cmpctblock header: \(rejection)"))
      return
    }
    tip = hash
    host.headersFromNode(now: now, into: &sink)
    if !local || host.hasBlock(hash) {
      pending.removeAll { $0.hash == hash }
      return
    }
    var block =
      already.map { pending.remove(at: $0) }
      ?? PendingBlock(hash: hash, form: .compactBlock, announced: now, asked: now)
    let assembled = CompactAssembly.build(
      compact, payload, version: compactVersion ?? .two, into: &block, spare: &spare, host: &host)
    switch assembled {
    case .whole(let bytes, let parsed): complete(block, bytes, parsed, host: &host, now: now, &sink)
    case .partial:
      block.asked = now
      send(.getblocktxn(BlockTransactionsRequest(block: hash, indexes: block.missing)), now: now, &sink)
      if pending.count == NodePeer.pendingMax { pending.removeFirst() }
      pending.append(block)
    case .tooLarge: host.note(.misbehaved(node: index, "cmpctblock \(hash): more bytes than a block may have"))
    }
  }

  /// A `blocktxn` payload.
  mutating func receivedBlockTransactions(
    _ payload: RawSpan, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {
    let transactions: BlockTransactions
    do { transactions = try BlockTransactions(parsing: payload) } catch {
      host.note(.misbehaved(node: index, "blocktxn: \(error)"))
      return
    }
    guard let at = pending.firstIndex(where: { $0.hash == transactions.block && $0.partial != nil }) else { return }
    let block = pending.remove(at: at)
    if transactions.transactions.count != block.missing.count {
      host.note(
        .misbehaved(
          node: index, "blocktxn: \(transactions.transactions.count) transactions, asked for \(block.missing.count)"))
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
    block.hashAll(in: bytes.span.bytes)
    // A short id may have named the wrong transaction: then the root is another, and the whole block is asked for.
    guard !block.txids.isEmpty, Merkle.root(block.txids).root == block.header.merkleRoot else {
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
    var block: ParsedBlock
    do { block = try ParsedBlock(parsing: payload) } catch {
      host.note(.misbehaved(node: index, "block: \(error)"))
      return
    }
    let hash = block.hash
    let at = pending.firstIndex { $0.hash == hash }
    let (first, form) = at.map { (pending[$0].announced, pending[$0].form) } ?? (now, .block)
    if let at { pending.remove(at: at) }
    announced(hash, form, host: &host, now: now)
    if !isLocal || host.hasBlock(hash) { return }
    block.hashAll(in: payload)
    guard !block.txids.isEmpty, Merkle.root(block.txids).root == block.header.merkleRoot else {
      // Says nothing about the hash: only these bytes are worthless.
      host.note(.misbehaved(node: index, "block \(hash): its transactions don't hash to the Merkle root"))
      return
    }
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
