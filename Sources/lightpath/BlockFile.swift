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

  /// The relay's answer to a submitted block, or why its body is refused. The relay finds that out by itself, in slices,
  /// and relays nothing of such a block; this says it to whoever submitted it, and costs the block no time. `height`
  /// tells where the header stands in the relay's chain.
  static func explained(
    _ reply: SiteReply, _ bytes: [UInt8], on network: Network, height: (Hash256) -> Int?
  ) -> SiteReply {
    guard case .block(let hash) = reply else { return reply }
    guard let block = try? ParsedBlock(parsing: bytes.span.bytes) else { return .refused("no block") }
    let rules = height(hash).map { network.bodyRules(height: $0) } ?? BodyRules(statedHeight: nil)
    switch checkBody(of: block, in: bytes.span.bytes, rules: rules) {
    case .valid: return reply
    case .mutated(.merkleRoot):
      return .refused("its transactions don't hash to the Merkle root of its header: the block is damaged")
    case .mutated(.duplicatedNodes):
      return .refused("transactions are there twice (CVE-2012-2459): the block is damaged")
    case .mutated(.witnessCommitment), .mutated(.witnessNonce), .mutated(.unexpectedWitness):
      return .refused("its witnesses are not those of the coinbase's witness commitment (BIP141): the block is damaged")
    case .mutated(let how): return .refused("its body can't be told from a damaged one (\(how))")
    case .invalid(let rule): return .refused("the block breaks a rule of consensus: \(rule)")
    }
  }

  private static func isHex(_ byte: UInt8) -> Bool {
    (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte) || (0x41...0x46).contains(byte)
  }
}
