import Foundation
import Ground

/// `PeerAddress` as text: `192.0.2.1:8335` or `[2001:db8::1]:8335`.
public enum AddressText {
  /// What is wrong with the text, for the operator's eyes.
  public struct Malformed: Error, Hashable, Sendable {
    public var reason: String
  }

  /// Literal addresses only: a relay must reach its peers when name servers don't answer.
  public static func parse(_ text: String) throws(Malformed) -> PeerAddress {
    let host: Substring
    let portText: Substring
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else { throw Malformed(reason: "'[' without ']'") }
      host = text[text.index(after: text.startIndex)..<end]
      let rest = text[text.index(after: end)...]
      guard rest.hasPrefix(":") else { throw Malformed(reason: "no ':PORT' after ']'") }
      portText = rest.dropFirst()
    } else {
      guard let colon = text.lastIndex(of: ":") else { throw Malformed(reason: "no ':PORT' in '\(text)'") }
      host = text[..<colon]
      portText = text[text.index(after: colon)...]
      if host.contains(":") { throw Malformed(reason: "an IPv6 address needs brackets: [ADDRESS]:PORT") }
    }
    guard portText.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(portText), port > 0 else {
      throw Malformed(reason: "port '\(portText)' is not 1 to 65535")
    }
    if text.hasPrefix("[") {
      var address = in6_addr()
      guard inet_pton(AF_INET6, String(host), &address) == 1 else {
        throw Malformed(reason: "'\(host)' is no IPv6 address")
      }
      return withUnsafeBytes(of: &address) { bytes in
        PeerAddress(
          high: UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
          low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)), port: port)
      }
    }
    var address = in_addr()
    guard inet_pton(AF_INET, String(host), &address) == 1 else {
      throw Malformed(reason: "'\(host)' is no IPv4 address (names are not looked up)")
    }
    return PeerAddress(high: 0, low: 0xFFFF_0000_0000 | UInt64(UInt32(bigEndian: address.s_addr)), port: port)
  }

  public static func format(_ address: PeerAddress) -> String {
    var text = [CChar](repeating: 0, count: 64)
    if address.isIPv4 {
      var ip = in_addr(s_addr: UInt32(truncatingIfNeeded: address.low).bigEndian)
      inet_ntop(AF_INET, &ip, &text, 64)
      return "\(string(text)):\(address.port)"
    }
    var bytes = (address.high.bigEndian, address.low.bigEndian)
    inet_ntop(AF_INET6, &bytes, &text, 64)
    return "[\(string(text))]:\(address.port)"
  }

  private static func string(_ text: [CChar]) -> String {
    String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
