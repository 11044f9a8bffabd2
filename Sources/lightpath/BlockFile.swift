import Bitcoin
import Ground
import Site

/// A block from a file: raw bytes, or hexadecimal as bitcoin-cli prints it.
enum BlockFile {
  static func decode(_ bytes: [UInt8]) -> [UInt8] {
    var trimmed = bytes[...]
    while let last = trimmed.last, [0x0A, 0x0D, 0x20].contains(last) { trimmed = trimmed.dropLast() }
    guard trimmed.count >= 162, trimmed.prefix(162).allSatisfy(isHex) else { return bytes }
    return Hex.decode(String(decoding: trimmed, as: UTF8.self)) ?? bytes
  }

  /// The relay's answer to a submitted block, or why its transactions are not the header's. The relay finds that out by
  /// itself, in slices, and relays nothing of such a block; this says it to whoever submitted it, and costs the block no
  /// time.
  static func explained(_ reply: SiteReply, _ bytes: [UInt8]) -> SiteReply {
    guard case .block = reply else { return reply }
    guard var block = try? ParsedBlock(parsing: bytes.span.bytes) else { return .refused("no block") }
    block.hashAll(in: bytes.span.bytes)
    let (root, isMutated) = Merkle.root(block.txids)
    if root != block.header.merkleRoot {
      return .refused("its transactions don't hash to the Merkle root of its header: the block is damaged")
    }
    return isMutated ? .refused("transactions are there twice (CVE-2012-2459): the block is damaged") : reply
  }

  private static func isHex(_ byte: UInt8) -> Bool {
    (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte) || (0x41...0x46).contains(byte)
  }
}
