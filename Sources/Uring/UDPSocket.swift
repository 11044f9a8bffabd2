import CLiburing
import CRing
import Glibc
import Ground

/// A bound UDP socket with everything asked of it that the engine relies on.
struct UDPSocket {
  let descriptor: Int32
  let isIPv4: Bool
  /// As bound: with the port that the kernel chose.
  let address: PeerAddress
  /// What an operator should know: buffers that the kernel cut short and the sysctl that raises them.
  let warnings: [String]

  /// A dual-stack socket for `[::]`, IPv6 only for other IPv6 addresses, IPv4 for IPv4. A port still held by a ring that
  /// is being torn down is tried again for a quarter of a second.
  static func open(_ address: PeerAddress, _ configuration: EngineConfiguration) throws(RingError) -> UDPSocket {
    let isIPv4 = address.isIPv4
    let type = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(isIPv4 ? AF_INET : AF_INET6, type, 0)
    if descriptor < 0 { throw .bind(address: address.description, errno: errno) }
    do throws(RingError) {
      let warnings = try configure(descriptor, address, configuration)
      try bind(descriptor, address)
      return UDPSocket(
        descriptor: descriptor, isIPv4: isIPv4, address: try boundAddress(descriptor), warnings: warnings)
    } catch {
      close(descriptor)
      throw error
    }
  }

  private static func configure(
    _ descriptor: Int32, _ address: PeerAddress, _ configuration: EngineConfiguration
  ) throws(RingError) -> [String] {
    func set(_ level: Int32, _ option: Int32, _ value: Int32, _ name: String) throws(RingError) {
      var value = value
      if setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size)) != 0 {
        throw .system(call: "setsockopt \(name)", errno: errno)
      }
    }
    let (ip, ipv6) = (Int32(LEVEL_IP), Int32(LEVEL_IPV6))
    let dual = !address.isIPv4 && address.high == 0 && address.low == 0
    if !address.isIPv4 { try set(ipv6, IPV6_V6ONLY, dual ? 0 : 1, "IPV6_V6ONLY") }
    if address.isIPv4 || dual {
      // PROBE: don't fragment, and don't believe ICMP about the path's MTU: who forges it could shut a path.
      try set(ip, Int32(OPTION_IP_MTU_DISCOVER), Int32(OPTION_PMTU_PROBE), "IP_MTU_DISCOVER")
      try set(ip, Int32(OPTION_IP_RECVERR), 1, "IP_RECVERR")
    }
    if !address.isIPv4 {
      try set(ipv6, IPV6_MTU_DISCOVER, Int32(OPTION_PMTU_PROBE), "IPV6_MTU_DISCOVER")
      try set(ipv6, IPV6_RECVERR, 1, "IPV6_RECVERR")
    }
    try set(SOL_SOCKET, SO_TIMESTAMPNS, 1, "SO_TIMESTAMPNS")
    try set(SOL_SOCKET, SO_RXQ_OVFL, 1, "SO_RXQ_OVFL")
    if configuration.coalescing { try set(Int32(LEVEL_UDP), Int32(OPTION_UDP_GRO), 1, "UDP_GRO") }
    var warnings: [String] = []
    let buffers: [(Int32, Int32, String, Int)] = [
      (SO_RCVBUF, SO_RCVBUFFORCE, "net.core.rmem_max", configuration.receiveSocketBytes),
      (SO_SNDBUF, SO_SNDBUFFORCE, "net.core.wmem_max", configuration.sendSocketBytes),
    ]
    for (option, force, sysctl, wanted) in buffers {
      let asked = Int32(clamping: min(max(wanted, 4_096), 1 << 30))
      try set(SOL_SOCKET, option, asked, sysctl)
      // With CAP_NET_ADMIN the limit needn't be raised.
      if granted(descriptor, option) < asked { try? set(SOL_SOCKET, force, asked, sysctl) }
      let got = granted(descriptor, option)
      if got < asked {
        warnings.append(
          "\(address): socket buffer of \(asked) bytes asked for, \(got) granted; raise it with "
            + "sysctl -w \(sysctl)=\(asked)")
      }
    }
    return warnings
  }

  /// The kernel reports twice what it grants, to allow for its own bookkeeping.
  static func granted(_ descriptor: Int32, _ option: Int32) -> Int32 {
    var value: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, option, &value, &size) == 0 ? value / 2 : 0
  }

  private static func bind(_ descriptor: Int32, _ address: PeerAddress) throws(RingError) {
    var attempts = 0
    while true {
      let result = withUnsafeTemporaryAllocation(byteCount: SocketAddress.maxBytes, alignment: 8) { memory in
        let length = SocketAddress.write(address, ipv4Socket: address.isIPv4, to: memory.baseAddress!)
        return Glibc.bind(
          descriptor, memory.baseAddress!.assumingMemoryBound(to: sockaddr.self), length)
      }
      if result == 0 { return }
      attempts += 1
      if errno != EADDRINUSE || attempts > 50 {
        throw .bind(address: address.description, errno: errno)
      }
      usleep(5_000)
    }
  }

  static func boundAddress(_ descriptor: Int32) throws(RingError) -> PeerAddress {
    var found: PeerAddress?
    withUnsafeTemporaryAllocation(byteCount: SocketAddress.maxBytes, alignment: 8) { memory in
      var length = socklen_t(SocketAddress.maxBytes)
      if getsockname(descriptor, memory.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length) == 0 {
        found = SocketAddress.read(memory.baseAddress!, length: Int(length))
      }
    }
    guard let found else { throw .system(call: "getsockname", errno: errno) }
    return found
  }

  /// The local address that the routing table would send from to `destination`; `nil` without a route.
  static func sourceAddress(to destination: PeerAddress) -> PeerAddress? {
    let probe = socket(
      destination.isIPv4 ? AF_INET : AF_INET6, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    if probe < 0 { return nil }
    defer { close(probe) }
    let connected = withUnsafeTemporaryAllocation(byteCount: SocketAddress.maxBytes, alignment: 8) { memory in
      let length = SocketAddress.write(destination, ipv4Socket: destination.isIPv4, to: memory.baseAddress!)
      return connect(probe, memory.baseAddress!.assumingMemoryBound(to: sockaddr.self), length)
    }
    return connected == 0 ? try? boundAddress(probe) : nil
  }
}
