/// An IP address and UDP or TCP port. IPv4 is held as IPv4-mapped IPv6 (::ffff:a.b.c.d), so one table and one
/// dual-stack socket serve both. Trivial: copied without reference counting.
public struct PeerAddress: Hashable, Sendable {
  /// The address's first and last eight bytes, big-endian numbers.
  public var high, low: UInt64
  /// Host byte order.
  public var port: UInt16
  /// Zone of a link-local address, else 0.
  public var scope: UInt32

  @inlinable public init(high: UInt64, low: UInt64, port: UInt16, scope: UInt32 = 0) {
    self.high = high
    self.low = low
    self.port = port
    self.scope = scope
  }

  /// From four octets, 127.0.0.1 being (127, 0, 0, 1).
  @inlinable public init(ipv4 a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8, port: UInt16) {
    let quad = UInt64(a) << 24 | UInt64(b) << 16 | UInt64(c) << 8 | UInt64(d)
    self.init(high: 0, low: 0xFFFF_0000_0000 | quad, port: port)
  }

  @inlinable public var isIPv4: Bool { high == 0 && low >> 32 == 0xFFFF }
}
