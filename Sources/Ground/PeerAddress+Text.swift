import Glibc

extension PeerAddress: CustomStringConvertible, LosslessStringConvertible {
  /// `127.0.0.1:8335` or `[2001:db8::1]:8335`, `[fe80::1%2]:8335` with a numeric zone. Numbers only: no names are looked
  /// up, and IPv4 in the forms of RFC 6943 that hide other numbers (`127.1`, `0x7f.0.0.1`, leading zeros) is refused.
  /// An IPv4-mapped IPv6 address becomes the IPv4 address. `nil` for anything else.
  public init?(_ text: String) {
    let host: Substring
    let port: Substring
    if text.hasPrefix("[") {
      guard let close = text.lastIndex(of: "]") else { return nil }
      host = text[text.index(after: text.startIndex)..<close]
      let rest = text[text.index(after: close)...]
      guard rest.hasPrefix(":"), host.contains(":") else { return nil }
      port = rest.dropFirst()
    } else {
      guard let colon = text.lastIndex(of: ":") else { return nil }
      host = text[..<colon]
      port = text[text.index(after: colon)...]
      if host.contains(":") { return nil }
    }
    guard let port = PeerAddress.number(port, as: UInt16.self) else { return nil }
    self.init(host: String(host), port: port)
  }

  /// An address without brackets and port: `127.0.0.1`, `::1`, `fe80::1%2`.
  public init?(host: String, port: UInt16) {
    var name = Substring(host)
    var scope: UInt32 = 0
    if let percent = name.firstIndex(of: "%") {
      guard let zone = PeerAddress.number(name[name.index(after: percent)...], as: UInt32.self) else { return nil }
      guard name[..<percent].contains(":") else { return nil }
      scope = zone
      name = name[..<percent]
    }
    // A NUL would end the C string early and hide what follows.
    if name.utf8.contains(0) { return nil }
    if name.contains(":") {
      var bytes = in6_addr()
      guard inet_pton(AF_INET6, String(name), &bytes) == 1 else { return nil }
      self = withUnsafeBytes(of: bytes) { raw in
        PeerAddress(
          high: UInt64(bigEndian: raw.loadUnaligned(as: UInt64.self)),
          low: UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self)), port: port, scope: scope)
      }
      if isIPv4 { self.scope = 0 }
    } else {
      var bytes = in_addr()
      guard inet_pton(AF_INET, String(name), &bytes) == 1 else { return nil }
      self.init(high: 0, low: 0xFFFF_0000_0000 | UInt64(UInt32(bigEndian: bytes.s_addr)), port: port)
    }
  }

  public var description: String { isIPv4 ? "\(host):\(port)" : "[\(host)]:\(port)" }

  /// The address alone, in its canonical form (RFC 5952).
  public var host: String {
    var text = [CChar](repeating: 0, count: 64)
    if isIPv4 {
      var bytes = in_addr(s_addr: UInt32(truncatingIfNeeded: low).bigEndian)
      _ = inet_ntop(AF_INET, &bytes, &text, socklen_t(text.count))
    } else {
      var bytes = in6_addr()
      withUnsafeMutableBytes(of: &bytes) { raw in
        raw.storeBytes(of: high.bigEndian, as: UInt64.self)
        raw.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
      }
      _ = inet_ntop(AF_INET6, &bytes, &text, socklen_t(text.count))
    }
    let name = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return scope == 0 ? name : "\(name)%\(scope)"
  }

  /// Digits only, and no sign, as `Int("+1")` would allow; no leading zeros.
  private static func number<T: FixedWidthInteger>(_ text: Substring, as type: T.Type) -> T? {
    guard !text.isEmpty, text.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else { return nil }
    if text.utf8.count > 1 && text.utf8.first == 0x30 { return nil }
    return T(text)
  }

  public static let loopbackIPv4 = PeerAddress(ipv4: 127, 0, 0, 1, port: 0)
  public static let loopbackIPv6 = PeerAddress(high: 0, low: 1, port: 0)

  /// The same address with another port.
  @inlinable public func with(port: UInt16) -> PeerAddress {
    PeerAddress(high: high, low: low, port: port, scope: scope)
  }
}
