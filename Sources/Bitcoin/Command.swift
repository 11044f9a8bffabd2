import Ground

/// A P2P message's type: up to 12 bytes of ASCII, padded with zeros.
public struct Command: Hashable, Sendable, CustomStringConvertible, ExpressibleByStringLiteral {
  /// The first eight bytes and the last four, little-endian.
  let low: UInt64
  let high: UInt32

  /// Traps unless `text` has 1 … 12 ASCII characters.
  public init(stringLiteral text: StaticString) {
    var bytes: [UInt8] = []
    text.withUTF8Buffer { bytes.append(contentsOf: $0) }
    precondition((1...12).contains(bytes.count) && bytes.allSatisfy { (0x20...0x7E).contains($0) })
    var low: UInt64 = 0
    var high: UInt32 = 0
    for (index, byte) in bytes.enumerated() {
      if index < 8 { low |= UInt64(byte) << UInt64(8 * index) } else { high |= UInt32(byte) << UInt32(8 * (index - 8)) }
    }
    self.low = low
    self.high = high
  }

  /// Reads 12 bytes. Throws unless they are printable ASCII followed by zeros only.
  @_lifetime(reader: copy reader)
  init(from reader: inout ByteReader) throws(DecodeError) {
    let start = reader.offset
    low = try reader.integer(UInt64.self, "message.command")
    high = try reader.integer(UInt32.self, "message.command")
    var ended = false
    for byte in bytes {
      if byte == 0 {
        ended = true
      } else if ended || !(0x20...0x7E).contains(byte) {
        throw DecodeError("message.command", at: start, .invalid("not ASCII padded with zeros"))
      }
    }
  }

  private var bytes: [UInt8] {
    var writer = ByteWriter(reserving: 12)
    write(to: &writer)
    return writer.bytes
  }

  func write(to writer: inout ByteWriter) {
    writer.integer(low)
    writer.integer(high)
  }

  public var description: String { String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }

  public static let version: Command = "version"
  public static let verack: Command = "verack"
  public static let wtxidrelay: Command = "wtxidrelay"
  public static let sendaddrv2: Command = "sendaddrv2"
  public static let addr: Command = "addr"
  public static let addrv2: Command = "addrv2"
  public static let getaddr: Command = "getaddr"
  public static let ping: Command = "ping"
  public static let pong: Command = "pong"
  public static let inv: Command = "inv"
  public static let getdata: Command = "getdata"
  public static let notfound: Command = "notfound"
  public static let getheaders: Command = "getheaders"
  public static let headers: Command = "headers"
  public static let sendheaders: Command = "sendheaders"
  public static let getblocks: Command = "getblocks"
  public static let block: Command = "block"
  public static let tx: Command = "tx"
  public static let mempool: Command = "mempool"
  public static let feefilter: Command = "feefilter"
  public static let merkleblock: Command = "merkleblock"
  public static let filterload: Command = "filterload"
  public static let filteradd: Command = "filteradd"
  public static let filterclear: Command = "filterclear"
  public static let reject: Command = "reject"
  public static let sendcmpct: Command = "sendcmpct"
  public static let cmpctblock: Command = "cmpctblock"
  public static let getblocktxn: Command = "getblocktxn"
  public static let blocktxn: Command = "blocktxn"
}
