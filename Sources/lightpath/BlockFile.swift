import Ground

/// A block from a file: raw bytes, or hexadecimal as bitcoin-cli prints it.
enum BlockFile {
  static func decode(_ bytes: [UInt8]) -> [UInt8] {
    var trimmed = bytes[...]
    while let last = trimmed.last, [0x0A, 0x0D, 0x20].contains(last) { trimmed = trimmed.dropLast() }
    guard trimmed.count >= 162, trimmed.prefix(162).allSatisfy(isHex) else { return bytes }
    return Hex.decode(String(decoding: trimmed, as: UTF8.self)) ?? bytes
  }

  private static func isHex(_ byte: UInt8) -> Bool {
    (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte) || (0x41...0x46).contains(byte)
  }
}
