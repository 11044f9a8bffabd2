import Bitcoin
import Ground
import Mempool

/// A block on its way to a node.
struct Delivery {
  /// The node's answer is waited for this long; a 4 MB block takes a slow node some hundred milliseconds.
  static let limit = Interval.seconds(20)

  var hash: Hash256
  var previous: Hash256
  var method: DeliveryMethod
  var byteCount: Int
  /// Share of the block's transactions that the node lacked, by the mirror.
  var missingShare: Double
  var started: Instant
  var written: Instant
  /// Methods tried, the present one too.
  var tried: [DeliveryMethod]
  /// Fences on their way: only when the last one is answered is it certain that the node has dealt with all of it.
  var fences = 0
  /// The node has checked the block and passes it on; Core does so before it connects it.
  var isAccepted = false
  /// When to ask again whether an accepted block has become the tip.
  var fenceAgain = Instant.never

  /// Handed over while the host still checks it.
  var isUnchecked = false
  /// Meanwhile the host found it wrong: once it has the true one, all of it is sent.
  var isMistaken = false
  /// Meanwhile the node did not take it: as much as a form that failed, but nothing else can be sent before it is checked.
  var isRefused = false
  /// What the node asked for meanwhile.
  var asked: BlockTransactionsRequest?
}

/// How long this node takes with each form of block, learned from every delivery; the choice follows it.
package struct DeliveryStatistics {
  /// The mirror says the node has nearly all of it, or it doesn't.
  package enum Temperature: Int, CaseIterable { case warm = 0, cold = 1 }

  /// Milliseconds a megabyte until the node has checked the block and passes it on, measured on Bitcoin Core v30 with a
  /// block of 3.25 MB: what is believed before anything is measured here. By temperature.
  static let prior: [DeliveryMethod: [Double]] = [
    .compactBlock: [2.5, 14.8], .block: [15, 13.5], .submitBlock: [72, 72],
  ]
  /// The prior counts as this many deliveries.
  static let priorWeight = 2.0
  /// Older deliveries fade.
  static let fade = 0.8

  private var sums: [[Double]] = Array(repeating: [0, 0], count: 3)
  private var weights: [[Double]] = Array(repeating: [0, 0], count: 3)
  private(set) var failures: [Int] = [0, 0, 0]
  /// How this machine's times compare with the prior's, taken from the best recent delivery of any kind: without it the
  /// first measurement of one form on a slower machine would make every other form look better.
  private var pace: Double?
  /// What a good delivery said of the pace holds for some fifty more.
  static let paceDrift = 1.02

  static func temperature(missingShare: Double) -> Temperature { missingShare > 0.4 ? .cold : .warm }

  package init() {}

  /// Expected milliseconds a megabyte.
  package func expected(_ method: DeliveryMethod, _ temperature: Temperature) -> Double {
    let (m, t) = (Int(method.rawValue), temperature.rawValue)
    let prior = DeliveryStatistics.prior[method]![t] * (pace ?? 1)
    return (prior * DeliveryStatistics.priorWeight + sums[m][t]) / (DeliveryStatistics.priorWeight + weights[m][t])
  }

  package mutating func succeeded(
    _ method: DeliveryMethod, _ temperature: Temperature, milliseconds: Double, bytes: Int
  ) {
    let (m, t) = (Int(method.rawValue), temperature.rawValue)
    // Small blocks measure the node's fixed work, not its rate.
    let perMegabyte = milliseconds / (Double(max(bytes, 100_000)) / 1e6)
    let ratio = perMegabyte / DeliveryStatistics.prior[method]![t]
    pace = min(pace.map { $0 * DeliveryStatistics.paceDrift } ?? ratio, ratio)
    sums[m][t] = sums[m][t] * DeliveryStatistics.fade + perMegabyte
    weights[m][t] = weights[m][t] * DeliveryStatistics.fade + 1
    failures[m] = 0
  }

  package mutating func failed(_ method: DeliveryMethod) { failures[Int(method.rawValue)] += 1 }

  /// The quickest of `methods` by what was measured. One that has failed three times in a row is left alone.
  package func best(of methods: [DeliveryMethod], _ temperature: Temperature) -> DeliveryMethod? {
    let sound = methods.filter { failures[Int($0.rawValue)] < 3 }
    return (sound.isEmpty ? methods : sound).min { expected($0, temperature) < expected($1, temperature) }
  }
}

extension NodePeer {
  /// Core from this major version on takes a `cmpctblock` only from peers that it has selected (#32606).
  static let selectiveSince = 31

  var isCore: Bool { theirs?.userAgent.starts(with: "/Satoshi:".utf8) ?? false }

  /// Whether the node takes a compact block from us now, asked or not.
  var takesCompact: Bool {
    guard compactVersion != nil, let theirs else { return false }
    if selectedUs { return true }
    guard isCore else { return false }
    // "/Satoshi:30.0.0/": v30 and before take them unasked.
    let agent = String(decoding: theirs.userAgent, as: UTF8.self)
    let major = agent.dropFirst("/Satoshi:".count).prefix { $0.isNumber }
    return Int(major).map { $0 < NodePeer.selectiveSince } ?? false
  }

  /// Hands a block, whose structure is `block`, to the node in the form that it takes and that has been quickest; nothing
  /// when it has it.
  ///
  /// - Parameter isChecked: false for a block that the host still checks: then only a compact block will do. BIP152 lets
  ///   peers send these as soon as the header is checked, and a node works out the Merkle root itself. Of a body that is
  ///   wrong it asks the whole; the `block` message would have the sender hung up on.
  mutating func deliver(
    _ hash: Hash256, _ block: borrowing ParsedBlock, isChecked: Bool, host: inout some BridgeHost & ~Copyable,
    now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    if !isLocal || has.contains(hash) { return }
    if let at = deliveries.firstIndex(where: { $0.hash == hash }) {
      if isChecked { proved(at, host: &host, now: now, &sink) }
      return
    }
    if !isChecked && !(isReady && takesCompact && configuration.takesUnchecked) { return }
    if !isReady {
      // The node may be there all the same: its P2P port wrong, or full. `submitblock` is what is left.
      host.note(.deliveryFailed(node: index, hash: hash))
      return
    }
    if !owed.isEmpty {
      // Its ancestors come first.
      if isChecked { owe([hash], host: &host) }
      return
    }
    handOver(hash, block, isChecked: isChecked, host: &host, now: now, &sink)
  }

  mutating func handOver(
    _ hash: Hash256, _ block: borrowing ParsedBlock, isChecked: Bool, host: inout some BridgeHost & ~Copyable,
    now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    pending.removeAll { $0.hash == hash }
    lastBlock = now
    // The coinbase is nowhere before its block.
    let lacks = [0] + host.withMempool { $0.lackingAtNode(block.wtxids, from: 1) }
    let share = Double(lacks.count - 1) / Double(max(1, block.transactions.count - 1))
    var methods: [DeliveryMethod] = []
    if takesCompact && block.transactions.count <= CompactBlock.maxTransactions { methods.append(.compactBlock) }
    if block.byteCount <= Framing.maxPayload { methods.append(.block) }
    methods.removeAll { !configuration.deliveryMethods.contains($0) }
    let temperature = DeliveryStatistics.temperature(missingShare: share)
    guard var method = statistics.best(of: methods, temperature) else {
      if isChecked { host.note(.deliveryFailed(node: index, hash: hash)) }
      return
    }
    var prefilled = 0
    var written: Int?
    if method == .compactBlock {
      written = writeCompact(hash, lacks: lacks, isChecked: isChecked, host: &host, now: now, &sink)
      prefilled = lacks.count
    }
    if written == nil && !isChecked { return }
    // Or with all that it lacks a compact block would be longer than a message may be.
    if written == nil {
      method = .block
      prefilled = 0
      written = writeBlock(hash, host: &host, now: now, &sink)
    }
    guard let written else {
      host.note(.deliveryFailed(node: index, hash: hash))
      return
    }
    deliveries.append(
      Delivery(
        hash: hash, previous: block.header.previous, method: method, byteCount: block.byteCount, missingShare: share,
        started: now, written: now, tried: [method], isUnchecked: !isChecked))
    if deliveries.count > 8 { deliveries.removeFirst() }
    host.note(.written(node: index, hash: hash, method: method, bytes: written, prefilled: prefilled, at: now))
    fence(hash, now: now, &sink)
  }

  /// A block that was handed over unchecked has passed the host's checks, which `host` holds.
  private mutating func proved(
    _ at: Int, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    if !deliveries[at].isUnchecked { return }
    deliveries[at].isUnchecked = false
    let asked = deliveries[at].asked
    deliveries[at].asked = nil
    if deliveries[at].isMistaken || deliveries[at].isRefused {
      deliveryFailed(at, host: &host, now: now, &sink)
    } else if let asked {
      answer(asked, host: &host, now: now, &sink)
    }
  }

  /// What was handed over unchecked is not the block.
  mutating func mistaken(_ hash: Hash256, host: inout some BridgeHost & ~Copyable) {
    guard let at = deliveries.firstIndex(where: { $0.hash == hash && $0.isUnchecked && !$0.isMistaken }) else { return }
    deliveries[at].isMistaken = true
    deliveries[at].asked = nil
    host.note(.mistaken(node: index, hash: hash))
  }

  /// Writes a `cmpctblock`; returns the message's bytes, or nil when there is no block, or a message can't hold it.
  private mutating func writeCompact(
    _ hash: Hash256, lacks: [Int], isChecked: Bool, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) -> Int? {
    let version = compactVersion ?? .two
    let encode = { (block: borrowing ParsedBlock, bytes: RawSpan) in
      let prefilled = lacks.reduce(0) { $0 + block.transactions[$1].byteCount + 3 }
      var payload = ByteWriter(reserving: 200 + ShortIDKey.byteCount * block.transactions.count + prefilled)
      // Any nonce serves: the key follows the header, and nobody can prepare collisions for a header unseen.
      CompactBlock.encode(block, in: bytes, nonce: hash.w0, prefill: lacks, version: version, to: &payload)
      return payload
    }
    let payload = isChecked ? host.withBlock(hash, encode) : host.withAssembledBlock(hash, encode)
    guard let payload, payload.count <= Framing.maxPayload else { return nil }
    return write(.cmpctblock, payload.bytes.span.bytes, now: now, &sink)
  }

  /// Writes a `block` straight from where the host holds it; returns the message's bytes, or nil when it holds it no more.
  private mutating func writeBlock(
    _ hash: Hash256, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) -> Int? {
    var written: Int?
    // Taken out, so that the closure may change it while the host lends the block.
    var peer = self
    let found: Void? = host.withBlock(hash) { _, bytes in
      if bytes.byteCount <= Framing.maxPayload { written = peer.write(.block, bytes, now: now, &sink) }
    }
    if found != nil { self = peer }
    return written
  }

  /// The node works through messages in order: when these two are answered it has dealt with what came before them.
  mutating func fence(_ hash: Hash256, now: Instant, _ sink: inout some StreamSink & ~Copyable) {
    guard let at = deliveries.firstIndex(where: { $0.hash == hash }) else { return }
    deliveries[at].fences += 1
    deliveries[at].fenceAgain = .never
    send(.getheaders(GetHeaders(locator: [deliveries[at].previous], stop: hash)), now: now, &sink)
    ping(.delivered(hash), now: now, &sink)
  }

  /// The node has checked the block. What it still does until its tip is updated is the same for all methods.
  mutating func accepted(_ at: Int, now: Instant) {
    if deliveries[at].isAccepted { return }
    deliveries[at].isAccepted = true
    let delivery = deliveries[at]
    // Only now is it certain that it was for the form: a node that takes no block at all says nothing about forms.
    for form in delivery.tried.dropLast() { statistics.failed(form) }
    statistics.succeeded(
      delivery.method, DeliveryStatistics.temperature(missingShare: delivery.missingShare),
      milliseconds: (now - delivery.written).milliseconds, bytes: delivery.byteCount)
  }

  /// The node has the block on its best chain.
  mutating func confirmed(_ at: Int, host: inout some BridgeHost & ~Copyable, now: Instant) {
    accepted(at, now: now)
    let delivery = deliveries.remove(at: at)
    has.insert(delivery.hash)
    let took = now - delivery.written
    host.note(.tipUpdated(node: index, hash: delivery.hash, method: delivery.method, took: took, at: now))
  }

  /// All that was sent with the block has been processed and the node still does not name it among its headers: the
  /// next form.
  mutating func fenceAnswered(
    _ hash: Hash256, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    guard let at = deliveries.firstIndex(where: { $0.hash == hash }) else { return }
    deliveries[at].fences -= 1
    // It may have asked for missing transactions: the answer brings a fence of its own.
    if deliveries[at].fences > 0 { return }
    if deliveries[at].isAccepted {
      // A node that connects blocks beside its message thread (Bitcoin SV) answers before it has done so.
      deliveries[at].fenceAgain = now + .milliseconds(2)
    } else if deliveries[at].isUnchecked {
      // Unless it has only asked for some of it.
      if deliveries[at].asked == nil { deliveries[at].isRefused = true }
    } else {
      deliveryFailed(at, host: &host, now: now, &sink)
    }
  }

  mutating func deliveryFailed(
    _ at: Int, host: inout some BridgeHost & ~Copyable, now: Instant, _ sink: inout some StreamSink & ~Copyable
  ) {
    let delivery = deliveries[at]
    if !delivery.tried.contains(.block) && configuration.deliveryMethods.contains(.block)
      && delivery.byteCount <= Framing.maxPayload
    {
      if let written = writeBlock(delivery.hash, host: &host, now: now, &sink) {
        deliveries[at].method = .block
        // That the block was wrong says nothing about its form.
        deliveries[at].tried = delivery.isMistaken ? [.block] : delivery.tried + [.block]
        deliveries[at].isMistaken = false
        deliveries[at].written = now
        host.note(
          .written(node: index, hash: delivery.hash, method: .block, bytes: written, prefilled: 0, at: now))
        fence(delivery.hash, now: now, &sink)
        return
      }
    }
    deliveries.remove(at: at)
    host.note(.deliveryFailed(node: index, hash: delivery.hash))
  }

  /// `getblocktxn`: the node lacks more than the mirror said.
  mutating func answer(
    _ request: BlockTransactionsRequest, host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) {
    if let at = deliveries.firstIndex(where: { $0.hash == request.block && $0.isUnchecked }) {
      if !deliveries[at].isMistaken { deliveries[at].asked = request }
      return
    }
    let version = compactVersion ?? .two
    let network = network
    let frame = host.withBlock(request.block) { block, bytes -> [UInt8]? in
      var payload = ByteWriter(reserving: 1 << 16)
      do { try BlockTransactions.encode(request, from: block, in: bytes, version: version, to: &payload) } catch {
        return nil
      }
      return payload.count <= Framing.maxPayload
        ? Framing.frame(.blocktxn, payload: payload.bytes.span.bytes, on: network) : nil
    }
    guard let frame, let frame else {
      // Beyond the block, or the block is gone: the node asks another peer or this one for the whole.
      misbehaved("getblocktxn for \(request.block), which can't be answered", host: &host)
      return
    }
    write(frame, now: now, &sink)
    fence(request.block, now: now, &sink)
  }

  /// `getdata` from a node or an inbound peer.
  mutating func answer(
    _ items: [InventoryItem], host: inout some BridgeHost & ~Copyable, now: Instant,
    _ sink: inout some StreamSink & ~Copyable
  ) {
    BlockServer.answer(items, on: network, version: compactVersion ?? .two, host: &host) { bytes in
      write(bytes, now: now, &sink)
    }
  }
}

/// Answers `getdata` from the complete blocks held and from the mirror; used for nodes and inbound peers alike. Ends
/// with the first answer that `write` has no room for.
enum BlockServer {
  /// Blocks sent for one `getdata`, and transactions; the rest is `notfound`, as at a pruned node.
  static let blocksMax = 16
  static let transactionsMax = 1_000

  static func answer(
    _ items: [InventoryItem], on network: Network, version: CompactBlockVersion,
    host: inout some BridgeHost & ~Copyable, write: ([UInt8]) -> Bool
  ) {
    var notFound: [InventoryItem] = []
    var (blocks, transactions) = (0, 0)
    for item in items {
      var frame: [UInt8]?
      switch item.kind {
      case .block, .witnessBlock, .compactBlock:
        if blocks < blocksMax {
          let found = host.withBlock(item.hash) { block, bytes -> [UInt8]? in
            encode(item.kind, item.hash, block, bytes, on: network, version: version)
          }
          if let found { frame = found }
        }
        if frame != nil { blocks += 1 }
      case .transaction, .witnessTransaction, .wtx:
        if transactions < transactionsMax {
          frame = host.withMempool { encode(item, $0, on: network) }
        }
        if frame != nil { transactions += 1 }
      default: break
      }
      if let frame {
        if !write(frame) { return }
      } else if notFound.count < 1_000 {
        notFound.append(item)
      }
    }
    if !notFound.isEmpty { _ = write(Message.notfound(notFound).framed(on: network)) }
  }

  /// A transaction that the site's own node has, in the form asked for (BIP144, BIP339).
  private static func encode(
    _ item: InventoryItem, _ store: borrowing TransactionStore, on network: Network
  ) -> [UInt8]? {
    let found = item.kind == .wtx ? store.slot(wtxid: item.hash) : store.slot(txid: item.hash)
    guard let slot = found, store.kind(slot) == .node else { return nil }
    let bytes = store.bytes(slot)
    if item.kind != .transaction { return Framing.frame(.tx, payload: bytes, on: network) }
    var stripped = ByteWriter(reserving: bytes.byteCount)
    store.layout(slot, at: 0).write(in: bytes, witness: false, to: &stripped)
    return Framing.frame(.tx, payload: stripped.bytes.span.bytes, on: network)
  }

  static func encode(
    _ kind: InventoryItem.Kind, _ hash: Hash256, _ block: borrowing ParsedBlock, _ bytes: RawSpan, on network: Network,
    version: CompactBlockVersion
  ) -> [UInt8]? {
    var payload = ByteWriter(reserving: bytes.byteCount)
    switch kind {
    case .compactBlock where block.transactions.count <= CompactBlock.maxTransactions:
      CompactBlock.encode(block, in: bytes, nonce: hash.w0, version: version, to: &payload)
      return Framing.frame(.cmpctblock, payload: payload.bytes.span.bytes, on: network)
    case .block:
      // Without witnesses (BIP144).
      block.header.write(to: &payload)
      payload.compactSize(block.transactions.count)
      for layout in block.transactions { layout.write(in: bytes, witness: false, to: &payload) }
      return payload.count <= Framing.maxPayload
        ? Framing.frame(.block, payload: payload.bytes.span.bytes, on: network) : nil
    default:
      return bytes.byteCount <= Framing.maxPayload ? Framing.frame(.block, payload: bytes, on: network) : nil
    }
  }
}
