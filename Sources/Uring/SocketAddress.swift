import Glibc
import Ground

/// `PeerAddress` as the kernel spells it, and back. Written into the caller's memory: no allocation.
public enum SocketAddress {
  /// Bytes that either family needs at most.
  public static let maxBytes = MemoryLayout<sockaddr_in6>.size

  /// Writes `sockaddr_in` when `ipv4Socket`, else `sockaddr_in6` (IPv4 as ::ffff:a.b.c.d, as dual-stack sockets want
  /// it). Returns the length; 0 when the address can't be said in that family.
  @discardableResult
  public static func write(
    _ address: PeerAddress, ipv4Socket: Bool, to memory: UnsafeMutableRawPointer
  ) -> socklen_t {
    if ipv4Socket {
      guard address.isIPv4 else { return 0 }
      var name = sockaddr_in()
      name.sin_family = sa_family_t(AF_INET)
      name.sin_port = address.port.bigEndian
      name.sin_addr.s_addr = UInt32(truncatingIfNeeded: address.low).bigEndian
      memory.copyMemory(from: &name, byteCount: MemoryLayout<sockaddr_in>.size)
      return socklen_t(MemoryLayout<sockaddr_in>.size)
    }
    var name = sockaddr_in6()
    name.sin6_family = sa_family_t(AF_INET6)
    name.sin6_port = address.port.bigEndian
    name.sin6_scope_id = address.scope
    withUnsafeMutableBytes(of: &name.sin6_addr) { raw in
      raw.storeBytes(of: address.high.bigEndian, as: UInt64.self)
      raw.storeBytes(of: address.low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }
    memory.copyMemory(from: &name, byteCount: MemoryLayout<sockaddr_in6>.size)
    return socklen_t(MemoryLayout<sockaddr_in6>.size)
  }

  /// `nil` for other families and short lengths.
  @inline(__always) public static func read(_ memory: UnsafeRawPointer, length: Int) -> PeerAddress? {
    guard length >= 2 else { return nil }
    switch Int32(memory.loadUnaligned(as: sa_family_t.self)) {
    case AF_INET6 where length >= MemoryLayout<sockaddr_in6>.size:
      let low = UInt64(bigEndian: memory.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
      let high = UInt64(bigEndian: memory.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
      let mapped = high == 0 && low >> 32 == 0xFFFF
      return PeerAddress(
        high: high, low: low, port: UInt16(bigEndian: memory.loadUnaligned(fromByteOffset: 2, as: UInt16.self)),
        scope: mapped ? 0 : memory.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
    case AF_INET where length >= 8:
      let quad = UInt32(bigEndian: memory.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
      return PeerAddress(
        high: 0, low: 0xFFFF_0000_0000 | UInt64(quad),
        port: UInt16(bigEndian: memory.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
    default: return nil
    }
  }
}
