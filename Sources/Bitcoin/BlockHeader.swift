import Ground

/// The 80 bytes that are hashed for proof of work.
public struct BlockHeader: Hashable, Sendable {
  public static let byteCount = 80

  public var version: Int32
  public var previous: Hash256
  public var merkleRoot: Hash256
  /// Seconds since 1970.
  public var time: UInt32
  /// The target in its compact form, `nBits`.
  public var bits: UInt32
  public var nonce: UInt32

  public init(version: Int32, previous: Hash256, merkleRoot: Hash256, time: UInt32, bits: UInt32, nonce: UInt32) {
    self.version = version
    self.previous = previous
    self.merkleRoot = merkleRoot
    self.time = time
    self.bits = bits
    self.nonce = nonce
  }

  /// Reads 80 bytes. Throws `truncated`.
  @_lifetime(reader: copy reader)
  public init(from reader: inout ByteReader) throws(DecodeError) {
    try reader.require(BlockHeader.byteCount, "header")
    version = try reader.integer(Int32.self, "header.version")
    previous = try reader.hash("header.hashPrevBlock")
    merkleRoot = try reader.hash("header.hashMerkleRoot")
    time = try reader.integer(UInt32.self, "header.nTime")
    bits = try reader.integer(UInt32.self, "header.nBits")
    nonce = try reader.integer(UInt32.self, "header.nNonce")
  }

  /// Reads the first 80 of `bytes`; what follows is ignored. Throws `truncated`.
  public init(parsing bytes: RawSpan) throws(DecodeError) {
    var reader = ByteReader(bytes)
    try self.init(from: &reader)
  }

  public func write(to writer: inout ByteWriter) {
    writer.integer(version)
    writer.hash(previous)
    writer.hash(merkleRoot)
    writer.integer(time)
    writer.integer(bits)
    writer.integer(nonce)
  }

  public var bytes: [UInt8] {
    var writer = ByteWriter(reserving: BlockHeader.byteCount)
    write(to: &writer)
    return writer.bytes
  }

  /// The block's hash: double SHA-256 of the 80 bytes.
  public var hash: Hash256 { SHA256.double(bytes.span.bytes) }

  /// True when the hash is at most the target that `bits` states and that is within the network's limit.
  public func hasProofOfWork(limit: UInt256) -> Bool {
    Target.meets(hash, bits: bits, limit: limit)
  }
}
