import Ground

/// What a node offers; a set of bits.
public struct Services: OptionSet, Hashable, Sendable {
  public var rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  public static let network = Services(rawValue: 1 << 0)
  public static let bloom = Services(rawValue: 1 << 2)
  public static let witness = Services(rawValue: 1 << 3)
  public static let compactFilters = Services(rawValue: 1 << 6)
  public static let networkLimited = Services(rawValue: 1 << 10)
  public static let p2pV2 = Services(rawValue: 1 << 11)
}

/// `version`.
public struct Version: Hashable, Sendable {
  /// The protocol version spoken here: that of BIP339.
  public static let current: UInt32 = 70_016
  public static let maxUserAgent = 256

  public var version: UInt32
  public var services: Services
  /// Seconds since 1970.
  public var time: Int64
  public var receiver: NetworkAddress
  public var sender: NetworkAddress
  public var nonce: UInt64
  /// BIP14, at most 256 bytes; what is no UTF-8 shows as replacement characters.
  public var userAgent: [UInt8]
  public var startHeight: Int32
  /// BIP37: whether transactions may be announced before a filter is set.
  public var relay: Bool

  public init(
    version: UInt32 = Version.current, services: Services, time: Int64, receiver: NetworkAddress = .unspecified,
    sender: NetworkAddress = .unspecified, nonce: UInt64, userAgent: String, startHeight: Int32, relay: Bool = true
  ) {
    self.version = version
    self.services = services
    self.time = time
    self.receiver = receiver
    self.sender = sender
    self.nonce = nonce
    self.userAgent = Array(userAgent.utf8.prefix(Version.maxUserAgent))
    self.startHeight = startHeight
    self.relay = relay
  }

  /// Bytes after the fields known here are ignored, as Bitcoin Core does.
  @_lifetime(reader: copy reader)
  init(from reader: inout ByteReader) throws(DecodeError) {
    version = try reader.integer(UInt32.self, "version.version")
    services = Services(rawValue: try reader.integer(UInt64.self, "version.services"))
    time = try reader.integer(Int64.self, "version.timestamp")
    receiver = try NetworkAddress(from: &reader, "version.addr_recv")
    sender = try NetworkAddress(from: &reader, "version.addr_from")
    nonce = try reader.integer(UInt64.self, "version.nonce")
    userAgent = try reader.byteString(max: Version.maxUserAgent, "version.user_agent")
    startHeight = try reader.integer(Int32.self, "version.start_height")
    relay = reader.isAtEnd ? true : try reader.byte("version.relay") != 0
    try reader.skip(reader.remaining, "version")
  }

  func write(to writer: inout ByteWriter) {
    writer.integer(version)
    writer.integer(services.rawValue)
    writer.integer(time)
    receiver.write(to: &writer)
    sender.write(to: &writer)
    writer.integer(nonce)
    writer.byteString(userAgent)
    writer.integer(startHeight)
    writer.byte(relay ? 1 : 0)
  }
}

/// An address as `version` and `addr` carry it: services, IPv6 or IPv4-mapped address, port in big-endian order.
public struct NetworkAddress: Hashable, Sendable {
  public var services: Services
  public var address: PeerAddress

  public init(services: Services, address: PeerAddress) {
    self.services = services
    self.address = address
  }

  public static let unspecified = NetworkAddress(services: [], address: PeerAddress(high: 0, low: 0, port: 0))

  @_lifetime(reader: copy reader)
  init(from reader: inout ByteReader, _ field: String) throws(DecodeError) {
    services = Services(rawValue: try reader.integer(UInt64.self, "\(field).services"))
    let high = try reader.bigEndian(UInt64.self, "\(field).address")
    let low = try reader.bigEndian(UInt64.self, "\(field).address")
    address = PeerAddress(high: high, low: low, port: try reader.bigEndian(UInt16.self, "\(field).port"))
  }

  func write(to writer: inout ByteWriter) {
    writer.integer(services.rawValue)
    writer.bigEndian(address.high)
    writer.bigEndian(address.low)
    writer.bigEndian(address.port)
  }
}

/// An entry of `addr`.
public struct TimedAddress: Hashable, Sendable {
  public static let maxCount = 1_000

  /// When the node was last seen, seconds since 1970.
  public var time: UInt32
  public var node: NetworkAddress

  public init(time: UInt32, node: NetworkAddress) {
    self.time = time
    self.node = node
  }

  @_lifetime(reader: copy reader)
  static func readList(from reader: inout ByteReader) throws(DecodeError) -> [TimedAddress] {
    let count = try reader.count(itemBytes: 30, max: maxCount, "addr")
    var list: [TimedAddress] = []
    list.reserveCapacity(count)
    for _ in 0..<count {
      let time = try reader.integer(UInt32.self, "addr.time")
      list.append(TimedAddress(time: time, node: try NetworkAddress(from: &reader, "addr")))
    }
    return list
  }

  func write(to writer: inout ByteWriter) {
    writer.integer(time)
    node.write(to: &writer)
  }
}

/// An entry of `addrv2` (BIP155).
public struct AddressV2: Hashable, Sendable {
  public static let maxBytes = 512

  public struct NetworkID: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let ipv4 = NetworkID(rawValue: 1)
    public static let ipv6 = NetworkID(rawValue: 2)
    public static let torV2 = NetworkID(rawValue: 3)
    public static let torV3 = NetworkID(rawValue: 4)
    public static let i2p = NetworkID(rawValue: 5)
    public static let cjdns = NetworkID(rawValue: 6)

    /// The length that an address of this network must have; `nil` for networks not known here.
    public var byteCount: Int? {
      switch self {
      case .ipv4: 4
      case .ipv6, .cjdns: 16
      case .torV2: 10
      case .torV3, .i2p: 32
      default: nil
      }
    }
  }

  public var time: UInt32
  public var services: Services
  public var networkID: NetworkID
  public var bytes: [UInt8]
  public var port: UInt16

  public init(time: UInt32, services: Services, networkID: NetworkID, bytes: [UInt8], port: UInt16) {
    self.time = time
    self.services = services
    self.networkID = networkID
    self.bytes = bytes
    self.port = port
  }

  @_lifetime(reader: copy reader)
  static func readList(from reader: inout ByteReader) throws(DecodeError) -> [AddressV2] {
    let count = try reader.count(itemBytes: 9, max: TimedAddress.maxCount, "addrv2")
    var list: [AddressV2] = []
    list.reserveCapacity(count)
    for _ in 0..<count { list.append(try AddressV2(from: &reader)) }
    return list
  }

  @_lifetime(reader: copy reader)
  private init(from reader: inout ByteReader) throws(DecodeError) {
    time = try reader.integer(UInt32.self, "addrv2.time")
    services = Services(rawValue: try reader.compactSize("addrv2.services"))
    networkID = NetworkID(rawValue: try reader.byte("addrv2.networkID"))
    let at = reader.offset
    bytes = try reader.byteString(max: AddressV2.maxBytes, "addrv2.addr")
    if let expected = networkID.byteCount, bytes.count != expected {
      throw DecodeError("addrv2.addr", at: at, .outOfRange(value: UInt64(bytes.count), limit: UInt64(expected)))
    }
    port = try reader.bigEndian(UInt16.self, "addrv2.port")
  }

  func write(to writer: inout ByteWriter) {
    writer.integer(time)
    writer.compactSize(services.rawValue)
    writer.byte(networkID.rawValue)
    writer.byteString(bytes)
    writer.bigEndian(port)
  }
}

/// `sendcmpct` (BIP152).
public struct SendCompact: Hashable, Sendable {
  /// High-bandwidth mode: push `cmpctblock` without asking.
  public var highBandwidth: Bool
  public var version: UInt64

  public init(highBandwidth: Bool, version: UInt64) {
    self.highBandwidth = highBandwidth
    self.version = version
  }

  @_lifetime(reader: copy reader)
  init(from reader: inout ByteReader) throws(DecodeError) {
    let at = reader.offset
    let announce = try reader.byte("sendcmpct.announce")
    if announce > 1 { throw DecodeError("sendcmpct.announce", at: at, .outOfRange(value: UInt64(announce), limit: 1)) }
    highBandwidth = announce == 1
    version = try reader.integer(UInt64.self, "sendcmpct.version")
  }

  func write(to writer: inout ByteWriter) {
    writer.byte(highBandwidth ? 1 : 0)
    writer.integer(version)
  }
}
