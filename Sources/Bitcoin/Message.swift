import Ground

/// A decoded P2P message. Messages that carry transactions own their payload; whoever wants a large one without a copy
/// looks at the command and parses the borrowed payload itself (`ParsedBlock`, `CompactBlock`, `BlockTransactions`).
public enum Message: Sendable {
  case version(Version)
  case verack
  case wtxidrelay
  case sendaddrv2
  case addr([TimedAddress])
  case addrv2([AddressV2])
  case getaddr
  /// `nil` before BIP31.
  case ping(UInt64?)
  case pong(UInt64)
  case inv([InventoryItem])
  case getdata([InventoryItem])
  case notfound([InventoryItem])
  case getheaders(GetHeaders)
  case headers([BlockHeader])
  case sendheaders
  case getblocks(GetHeaders)
  /// The payload, whose structure was checked.
  case block([UInt8])
  /// The payload, whose structure was checked.
  case tx([UInt8])
  case mempool
  /// Satoshi per 1,000 virtual bytes.
  case feefilter(Int64)
  case merkleblock(MerkleBlock)
  case filterload(FilterLoad)
  case filteradd([UInt8])
  case filterclear
  case sendcmpct(SendCompact)
  case cmpctblock(CompactBlock, payload: [UInt8])
  case getblocktxn(BlockTransactionsRequest)
  case blocktxn(BlockTransactions, payload: [UInt8])
  /// `reject` and every command not known here: nothing of the payload was read.
  case ignored(Command)

  /// Decodes a payload. Throws `DecodeError` naming the field; commands not known here are `ignored`. Memory is at most
  /// a few times the payload's size.
  public init(_ command: Command, payload: RawSpan) throws(DecodeError) {
    var reader = ByteReader(payload)
    switch command {
    case .version: self = .version(try Version(from: &reader))
    case .verack: self = .verack
    case .wtxidrelay: self = .wtxidrelay
    case .sendaddrv2: self = .sendaddrv2
    case .addr: self = .addr(try TimedAddress.readList(from: &reader))
    case .addrv2: self = .addrv2(try AddressV2.readList(from: &reader))
    case .getaddr: self = .getaddr
    case .ping: self = .ping(reader.isAtEnd ? nil : try reader.integer(UInt64.self, "ping.nonce"))
    case .pong: self = .pong(try reader.integer(UInt64.self, "pong.nonce"))
    case .inv: self = .inv(try Inventory.read(from: &reader, "inv"))
    case .getdata: self = .getdata(try Inventory.read(from: &reader, "getdata"))
    case .notfound: self = .notfound(try Inventory.read(from: &reader, "notfound"))
    case .getheaders: self = .getheaders(try GetHeaders(from: &reader, "getheaders"))
    case .headers: self = .headers(try Headers.read(from: &reader))
    case .sendheaders: self = .sendheaders
    case .getblocks: self = .getblocks(try GetHeaders(from: &reader, "getblocks"))
    case .block:
      _ = try ParsedBlock(from: &reader)
      self = .block(payload.copied)
    case .tx:
      _ = try TransactionLayout(from: &reader)
      self = .tx(payload.copied)
    case .mempool: self = .mempool
    case .feefilter: self = .feefilter(try reader.integer(Int64.self, "feefilter.feerate"))
    case .merkleblock: self = .merkleblock(try MerkleBlock(from: &reader))
    case .filterload: self = .filterload(try FilterLoad(from: &reader))
    case .filteradd: self = .filteradd(try reader.byteString(max: FilterLoad.maxElement, "filteradd.data"))
    case .filterclear: self = .filterclear
    case .sendcmpct: self = .sendcmpct(try SendCompact(from: &reader))
    case .cmpctblock:
      self = .cmpctblock(try CompactBlock(parsing: payload), payload: payload.copied)
      return
    case .getblocktxn: self = .getblocktxn(try BlockTransactionsRequest(from: &reader))
    case .blocktxn:
      self = .blocktxn(try BlockTransactions(parsing: payload), payload: payload.copied)
      return
    default:
      self = .ignored(command)
      return
    }
    try reader.end("\(command)")
  }

  public var command: Command {
    switch self {
    case .version: .version
    case .verack: .verack
    case .wtxidrelay: .wtxidrelay
    case .sendaddrv2: .sendaddrv2
    case .addr: .addr
    case .addrv2: .addrv2
    case .getaddr: .getaddr
    case .ping: .ping
    case .pong: .pong
    case .inv: .inv
    case .getdata: .getdata
    case .notfound: .notfound
    case .getheaders: .getheaders
    case .headers: .headers
    case .sendheaders: .sendheaders
    case .getblocks: .getblocks
    case .block: .block
    case .tx: .tx
    case .mempool: .mempool
    case .feefilter: .feefilter
    case .merkleblock: .merkleblock
    case .filterload: .filterload
    case .filteradd: .filteradd
    case .filterclear: .filterclear
    case .sendcmpct: .sendcmpct
    case .cmpctblock: .cmpctblock
    case .getblocktxn: .getblocktxn
    case .blocktxn: .blocktxn
    case .ignored(let command): command
    }
  }

  /// Appends the payload; nothing for `ignored`.
  public func writePayload(to writer: inout ByteWriter) {
    switch self {
    case .version(let value): value.write(to: &writer)
    case .addr(let list):
      precondition(list.count <= TimedAddress.maxCount)
      writer.compactSize(list.count)
      for entry in list { entry.write(to: &writer) }
    case .addrv2(let list):
      precondition(list.count <= TimedAddress.maxCount)
      writer.compactSize(list.count)
      for entry in list { entry.write(to: &writer) }
    case .ping(let nonce): if let nonce { writer.integer(nonce) }
    case .pong(let nonce): writer.integer(nonce)
    case .inv(let items), .getdata(let items), .notfound(let items): Inventory.write(items, to: &writer)
    case .getheaders(let value), .getblocks(let value): value.write(to: &writer)
    case .headers(let headers): Headers.write(headers, to: &writer)
    case .block(let bytes), .tx(let bytes): writer.append(bytes.span.bytes)
    case .feefilter(let rate): writer.integer(rate)
    case .merkleblock(let value): value.write(to: &writer)
    case .filterload(let value): value.write(to: &writer)
    case .filteradd(let bytes): writer.byteString(bytes)
    case .sendcmpct(let value): value.write(to: &writer)
    case .cmpctblock(let value, let payload): value.write(to: &writer, payload: payload.span.bytes)
    case .getblocktxn(let value): value.write(to: &writer)
    case .blocktxn(let value, let payload): value.write(to: &writer, payload: payload.span.bytes)
    case .verack, .wtxidrelay, .sendaddrv2, .getaddr, .sendheaders, .mempool, .filterclear, .ignored: break
    }
  }

  /// The whole message with its header.
  public func framed(on network: Network) -> [UInt8] {
    var payload = ByteWriter()
    writePayload(to: &payload)
    return Framing.frame(command, payload: payload.bytes.span.bytes, on: network)
  }
}

extension RawSpan {
  /// The bytes in an array of their own.
  var copied: [UInt8] { withUnsafeBytes { [UInt8]($0) } }
}
