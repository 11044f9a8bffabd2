import Ground

/// What an `inv`, `getdata` or `notfound` names.
public struct InventoryItem: Hashable, Sendable, BitwiseCopyable {
  public struct Kind: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let transaction = Kind(rawValue: 1)
    public static let block = Kind(rawValue: 2)
    public static let filteredBlock = Kind(rawValue: 3)
    public static let compactBlock = Kind(rawValue: 4)
    /// BIP339: a transaction by its wtxid.
    public static let wtx = Kind(rawValue: 5)
    /// BIP144: with witnesses; for `getdata` only.
    public static let witnessTransaction = Kind(rawValue: 1 | 1 << 30)
    public static let witnessBlock = Kind(rawValue: 2 | 1 << 30)
  }
  public var kind: Kind
  public var hash: Hash256

  public init(_ kind: Kind, _ hash: Hash256) {
    self.kind = kind
    self.hash = hash
  }
}

/// `inv`, `getdata`, `notfound`: up to 50,000 items.
public enum Inventory {
  public static let maxCount = 50_000

  @_lifetime(reader: copy reader)
  static func read(from reader: inout ByteReader, _ field: String) throws(DecodeError) -> [InventoryItem] {
    let count = try reader.count(itemBytes: 36, max: maxCount, field)
    var items: [InventoryItem] = []
    items.reserveCapacity(count)
    for _ in 0..<count {
      let kind = InventoryItem.Kind(rawValue: try reader.integer(UInt32.self, "\(field).type"))
      items.append(InventoryItem(kind, try reader.hash("\(field).hash")))
    }
    return items
  }

  static func write(_ items: [InventoryItem], to writer: inout ByteWriter) {
    precondition(items.count <= maxCount)
    writer.compactSize(items.count)
    for item in items {
      writer.integer(item.kind.rawValue)
      writer.hash(item.hash)
    }
  }
}

/// `getheaders` and `getblocks`: what the sender has, and where to stop.
public struct GetHeaders: Hashable, Sendable {
  /// Bitcoin Core drops peers that send more.
  public static let maxLocator = 101

  public var version: UInt32
  /// Block hashes, newest first.
  public var locator: [Hash256]
  /// The last block wanted; zero for as many as fit.
  public var stop: Hash256

  public init(version: UInt32 = Version.current, locator: [Hash256], stop: Hash256 = .zero) {
    self.version = version
    self.locator = locator
    self.stop = stop
  }

  @_lifetime(reader: copy reader)
  init(from reader: inout ByteReader, _ field: String) throws(DecodeError) {
    version = try reader.integer(UInt32.self, "\(field).version")
    let count = try reader.count(itemBytes: 32, max: GetHeaders.maxLocator, "\(field).locator")
    locator = []
    for _ in 0..<count { locator.append(try reader.hash("\(field).locator")) }
    stop = try reader.hash("\(field).hashStop")
  }

  func write(to writer: inout ByteWriter) {
    precondition(locator.count <= GetHeaders.maxLocator)
    writer.integer(version)
    writer.compactSize(locator.count)
    for hash in locator { writer.hash(hash) }
    writer.hash(stop)
  }
}

/// `headers`: up to 2,000, each followed by a transaction count that is always 0.
public enum Headers {
  public static let maxCount = 2_000

  @_lifetime(reader: copy reader)
  static func read(from reader: inout ByteReader) throws(DecodeError) -> [BlockHeader] {
    let count = try reader.count(itemBytes: BlockHeader.byteCount + 1, max: maxCount, "headers")
    var headers: [BlockHeader] = []
    headers.reserveCapacity(count)
    for _ in 0..<count {
      headers.append(try BlockHeader(from: &reader))
      let at = reader.offset
      let transactions = try reader.compactSize("headers.txn_count")
      if transactions != 0 {
        throw DecodeError("headers.txn_count", at: at, .outOfRange(value: transactions, limit: 0))
      }
    }
    return headers
  }

  static func write(_ headers: [BlockHeader], to writer: inout ByteWriter) {
    precondition(headers.count <= maxCount)
    writer.compactSize(headers.count)
    for header in headers {
      header.write(to: &writer)
      writer.compactSize(0)
    }
  }
}

/// `merkleblock` (BIP37): a header and a partial Merkle tree.
public struct MerkleBlock: Hashable, Sendable {
  public var header: BlockHeader
  public var transactionCount: UInt32
  public var hashes: [Hash256]
  /// Bits, least significant first.
  public var flags: [UInt8]

  public init(header: BlockHeader, transactionCount: UInt32, hashes: [Hash256], flags: [UInt8]) {
    self.header = header
    self.transactionCount = transactionCount
    self.hashes = hashes
    self.flags = flags
  }

  @_lifetime(reader: copy reader)
  init(from reader: inout ByteReader) throws(DecodeError) {
    header = try BlockHeader(from: &reader)
    transactionCount = try reader.integer(UInt32.self, "merkleblock.total_transactions")
    let count = try reader.count(itemBytes: 32, "merkleblock.hashes")
    hashes = []
    hashes.reserveCapacity(count)
    for _ in 0..<count { hashes.append(try reader.hash("merkleblock.hashes")) }
    flags = try reader.byteString("merkleblock.flags")
  }

  func write(to writer: inout ByteWriter) {
    header.write(to: &writer)
    writer.integer(transactionCount)
    writer.compactSize(hashes.count)
    for hash in hashes { writer.hash(hash) }
    writer.byteString(flags)
  }
}

/// `filterload` (BIP37).
public struct FilterLoad: Hashable, Sendable {
  public static let maxBytes = 36_000
  public static let maxFunctions = 50
  /// `filteradd`'s limit, that of a script element.
  public static let maxElement = 520

  public var filter: [UInt8]
  public var functionCount: UInt32
  public var tweak: UInt32
  public var flags: UInt8

  public init(filter: [UInt8], functionCount: UInt32, tweak: UInt32, flags: UInt8) {
    self.filter = filter
    self.functionCount = functionCount
    self.tweak = tweak
    self.flags = flags
  }

  @_lifetime(reader: copy reader)
  init(from reader: inout ByteReader) throws(DecodeError) {
    filter = try reader.byteString(max: FilterLoad.maxBytes, "filterload.filter")
    let at = reader.offset
    functionCount = try reader.integer(UInt32.self, "filterload.nHashFuncs")
    if functionCount > FilterLoad.maxFunctions {
      throw DecodeError(
        "filterload.nHashFuncs", at: at,
        .outOfRange(value: UInt64(functionCount), limit: UInt64(FilterLoad.maxFunctions)))
    }
    tweak = try reader.integer(UInt32.self, "filterload.nTweak")
    flags = try reader.byte("filterload.nFlags")
  }

  func write(to writer: inout ByteWriter) {
    writer.byteString(filter)
    writer.integer(functionCount)
    writer.integer(tweak)
    writer.byte(flags)
  }
}

extension ByteReader {
  /// A CompactSize length and that many bytes, copied.
  @_lifetime(self: copy self)
  mutating func byteString(max limit: Int = .max, _ field: @autoclosure () -> String) throws(DecodeError) -> [UInt8] {
    let length = try count(itemBytes: 1, max: limit, field())
    let span = try take(length, field())
    return span.withUnsafeBytes { [UInt8]($0) }
  }
}

extension ByteWriter {
  mutating func byteString(_ bytes: [UInt8]) {
    compactSize(bytes.count)
    append(bytes)
  }
}
