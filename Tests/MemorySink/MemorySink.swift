import Ground

/// Where a core under test sends to: datagrams and streams lie here until the test takes them.
public struct MemorySink: DatagramSink, StreamSink, ~Copyable {
  public var addresses: [LinkID: PeerAddress] = [:]
  public var sent: [(PeerAddress, [UInt8])] = []
  /// Bytes that each link has room for; and those that have a count of their own, which sending uses up.
  public var room = 1 << 20
  public var rooms: [LinkID: Int] = [:]
  public var connecting: [StreamID: PeerAddress] = [:]
  public var written: [StreamID: [UInt8]] = [:]
  public var closed: Set<StreamID> = []

  public init() {}

  // MARK: Datagrams

  public mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) { addresses[link] = address }
  public mutating func remove(_ link: LinkID) { addresses[link] = nil }

  public mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    guard let address = addresses[link] else { return false }
    let before = sent.count
    let isTaken = reply(to: address, capacity: capacity, write)
    if sent.count > before { rooms[link]? -= sent[before].1.count }
    return isTaken
  }

  public mutating func reply(
    to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    var bytes = [UInt8](repeating: 0, count: capacity)
    let count = bytes.withUnsafeMutableBytes { buffer in
      var span = MutableRawSpan(_unsafeBytes: buffer)
      return write(&span)
    }
    if count > 0 { sent.append((address, Array(bytes.prefix(count)))) }
    return true
  }

  public mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  public func room(on link: LinkID) -> Int { rooms.isEmpty ? room : rooms[link] ?? room }

  // MARK: Streams

  public mutating func connect(_ stream: StreamID, to address: PeerAddress) -> Bool {
    connecting[stream] = address
    return true
  }
  public mutating func listen(on address: PeerAddress, backlog: Int) -> Int32 { 0 }

  public mutating func write(_ stream: StreamID, count: Int, _ write: (inout MutableRawSpan) -> Void) -> Bool {
    var bytes = [UInt8](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes { buffer in
      var span = MutableRawSpan(_unsafeBytes: buffer)
      write(&span)
    }
    written[stream, default: []] += bytes
    return true
  }
  public func queued(_ stream: StreamID) -> Int { 0 }
  public mutating func setReading(_ stream: StreamID, _ reading: Bool) {}
  public mutating func close(_ stream: StreamID) { closed.insert(stream) }
}
