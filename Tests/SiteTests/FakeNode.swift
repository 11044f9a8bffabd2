import Bitcoin
import Ground

/// The other end of the bridge's connection: as much of a node as the site's wiring needs, in the real protocol's bytes.
final class FakeNode {
  var isUp = true
  /// Serialised transactions, as listed and served.
  var mempool: [[UInt8]]
  /// The active chain above genesis.
  var headers: [BlockHeader] = []
  /// Held back while false, so that a test sees the mirror fill.
  var servesTransactions = true
  /// Says that it takes compact blocks.
  var takesCompact = false
  /// Drops those that it gets, all the same.
  var dropsCompact = false
  /// Reads nothing while true.
  var isStuck = false
  private(set) var delivered: [Hash256] = []
  private var input = MessageStream(network: .regtest)
  private var output: [UInt8] = []
  private var heldBack: [InventoryItem] = []

  init(mempool: [[UInt8]] = []) { self.mempool = mempool }

  func begin() {
    input = MessageStream(network: .regtest)
    output = []
    heldBack = []
  }

  func take() -> [UInt8] {
    if servesTransactions && !heldBack.isEmpty {
      let items = heldBack
      heldBack = []
      serve(items)
    }
    defer { output = [] }
    return output
  }

  func say(_ message: Message) { output += message.framed(on: .regtest) }
  func say(framed bytes: [UInt8]) { output += bytes }

  /// The mempool gets a transaction, and the bridge hears of it.
  func learn(_ raw: [UInt8]) {
    mempool.append(raw)
    say(.inv([InventoryItem(.wtx, FakeNode.ids(raw).wtxid)]))
  }

  static func ids(_ raw: [UInt8]) -> (txid: Hash256, wtxid: Hash256) {
    let layout = try! TransactionLayout(parsing: raw.span.bytes)
    return layout.hashes(in: raw.span.bytes)
  }

  func hear(_ bytes: [UInt8]) {
    if isStuck { return }
    input.receive(bytes.span.bytes)
    while let message = try? input.next({ command, payload in Result { try Message(command, payload: payload) } }) {
      guard case .success(let message) = message else { continue }
      answer(message)
    }
  }

  private func answer(_ message: Message) {
    switch message {
    case .version:
      say(
        .version(
          Version(
            services: [.witness], time: 0, nonce: 77, userAgent: "/Satoshi:30.0.0/",
            startHeight: Int32(headers.count))))
      if takesCompact { say(.sendcmpct(SendCompact(highBandwidth: true, version: 2))) }
      say(.verack)
    case .ping(let nonce): if let nonce { say(.pong(nonce)) }
    case .getheaders(let request):
      let known = headers.lastIndex { request.locator.contains($0.hash) }
      say(.headers(Array(headers.dropFirst(known.map { $0 + 1 } ?? 0))))
    case .mempool:
      if !mempool.isEmpty { say(.inv(mempool.map { InventoryItem(.wtx, FakeNode.ids($0).wtxid) })) }
    case .getdata(let items):
      if servesTransactions { serve(items) } else { heldBack += items }
    case .block(let bytes): took(bytes.span.bytes)
    case .cmpctblock(let compact, _):
      if dropsCompact { return }
      delivered.append(compact.header.hash)
      headers.append(compact.header)
    default: break
    }
  }

  private func took(_ bytes: RawSpan) {
    guard let header = try? BlockHeader(parsing: bytes) else { return }
    delivered.append(header.hash)
    headers.append(header)
  }

  private func serve(_ items: [InventoryItem]) {
    for item in items {
      for raw in mempool {
        let ids = FakeNode.ids(raw)
        if item.hash == ids.wtxid || item.hash == ids.txid {
          say(.tx(raw))
          break
        }
      }
    }
  }
}
