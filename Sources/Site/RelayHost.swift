import Bitcoin
import Ground
import Mempool
import NodeBridge
import Relay

/// The relay core as the bridge sees it: the owner of mempool, header chain and complete blocks. What happens in either
/// is collected here until the site's turn ends.
struct RelayHost: BridgeHost, ~Copyable {
  var core: RelayCore
  let unixNanosecondsAtZero: Int64
  /// Complete blocks that wait to be handed to the nodes.
  var deliveries: [Hash256] = []
  var events: [SiteEvent] = []
  /// By link: blocks whose first packet, and whose last needed one, it brought.
  var blocksFirst = [UInt64](repeating: 0, count: 64)
  var blocksLast = [UInt64](repeating: 0, count: 64)
  var names: [LinkID: String]
  private var noted = 0

  init(_ core: consuming RelayCore, names: [LinkID: String], unixNanosecondsAtZero: Int64) {
    self.core = core
    self.names = names
    self.unixNanosecondsAtZero = unixNanosecondsAtZero
    events.reserveCapacity(64)
  }

  /// Takes what the core has to tell. After every call into it.
  mutating func drain() {
    while let event = core.nextEvent() {
      switch event.kind {
      case .clockSample, .journey: continue
      case .verified: deliveries.append(event.block)
      case .firstPacket where event.link.index < 64: blocksFirst[Int(event.link.index)] += 1
      case .lastNeeded where event.link.index < 64: blocksLast[Int(event.link.index)] += 1
      case .gatePassed:
        let entry = core.chain.entry(event.block)
        let link = core.report(of: event.block)?.firstLink
        events.append(
          .header(
            HeaderNotice(
              hash: event.block, height: Int(event.a), header: entry?.header, from: link.flatMap { names[$0] },
              at: event.at)))
      default: break
      }
      events.append(.relay(event))
    }
  }

  mutating func withMempool<R>(_ body: (inout TransactionStore) -> R) -> R { core.withMempool(body) }
  mutating func withChain<R>(_ body: (inout HeaderChain) -> R) -> R { core.withChain(body) }

  func unixTime(at now: Instant) -> UInt32 {
    let (sum, overflow) = unixNanosecondsAtZero.addingReportingOverflow(Int64(clamping: now.nanoseconds))
    return overflow ? .max : UInt32(clamping: sum / 1_000_000_000)
  }

  mutating func withBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    core.withParsedBlock(hash, body)
  }
  func hasBlock(_ hash: Hash256) -> Bool { core.hasBlock(hash) }

  mutating func blockFromNode(
    _ block: consuming NodeBlock, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let (hash, arrival) = (block.hash, block.announced)
    do throws(SubmitError) {
      try core.submit(
        block.bytes.span.bytes, parsed: block.block, isChecked: true, arrival: arrival, now: now, into: &sink)
    } catch { events.append(.notRelayed(hash, "\(error)")) }
    drain()
  }

  mutating func headersFromNode(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.chainChanged(now: now, into: &sink)
    drain()
  }

  mutating func transactionFromNode(slot: UInt32, now: Instant) {}

  mutating func note(_ event: NodeEvent) { events.append(.node(event)) }
}
