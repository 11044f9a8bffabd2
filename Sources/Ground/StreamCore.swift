/// The port between protocol and network for byte streams (TCP), beside `DatagramCore`: same thread, same clock, same
/// rules. A driver that has both runs a core that speaks both.

/// A stream that the core has named, from 0 up to the driver's stated capacity. A number is free again after
/// `StreamCore.streamClosed`.
public struct StreamID: Hashable, Sendable {
  public var index: UInt16
  @inlinable public init(_ index: UInt16) { self.index = index }
}

/// Where a core puts what it wants done with streams.
public protocol StreamSink: ~Copyable {
  /// Starts connecting; `streamOpened` or `streamClosed` follows. False when the number is in use or out of range.
  @discardableResult
  mutating func connect(_ stream: StreamID, to address: PeerAddress) -> Bool

  /// Starts listening; connections come as `streamAccepted`. Returns the errno of a failure, or 0.
  mutating func listen(on address: PeerAddress, backlog: Int) -> Int32

  /// Queues bytes in order. `write` fills exactly `count` bytes. False (and `write` is not called) when the stream is
  /// not open or more than the driver's bound would be queued; the core then closes the stream or waits for
  /// `streamDrained`.
  @discardableResult
  mutating func write(_ stream: StreamID, count: Int, _ write: (inout MutableRawSpan) -> Void) -> Bool

  /// Bytes queued and not yet taken by the kernel.
  func queued(_ stream: StreamID) -> Int

  /// Stops or resumes reading: what the peer sends then waits in the kernel.
  mutating func setReading(_ stream: StreamID, _ reading: Bool)

  /// Closes; queued bytes are lost. `streamClosed` follows with errno 0.
  mutating func close(_ stream: StreamID)
}

/// A protocol over streams as a state machine without I/O. Each method does nothing unless implemented.
public protocol StreamCore: ~Copyable {
  /// Called once, after `DatagramCore.start`: the moment to listen and to connect.
  mutating func streamsReady(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable)

  /// Called whenever the driver has handed over all inputs at hand, deadlines too: what datagrams and time have decided
  /// about streams is done here, because those inputs come without a `StreamSink`.
  mutating func streamsTurn(now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable)

  /// A connection that the core asked for stands.
  mutating func streamOpened(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable)

  /// A connection came in on a listening address. Returns the number it shall have, or nil to refuse it.
  mutating func streamAccepted(
    from peer: PeerAddress, on local: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) -> StreamID?

  /// Bytes arrived, in order. They are valid during the call only.
  mutating func streamReceived(
    _ bytes: RawSpan, on stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable)

  /// All that was queued has been taken by the kernel.
  mutating func streamDrained(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable)

  /// The stream is gone: errno, or 0 for an orderly end by either side.
  mutating func streamClosed(
    _ stream: StreamID, error: Int32, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable)
}

extension StreamCore where Self: ~Copyable {
  @inlinable public mutating func streamsReady(
    now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {}
  @inlinable public mutating func streamsTurn(
    now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {}
  public mutating func streamOpened(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {}
  public mutating func streamAccepted(
    from peer: PeerAddress, on local: PeerAddress, now: Instant,
    into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) -> StreamID? { nil }
  public mutating func streamReceived(
    _ bytes: RawSpan, on stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {}
  public mutating func streamDrained(
    _ stream: StreamID, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {}
  public mutating func streamClosed(
    _ stream: StreamID, error: Int32, now: Instant, into sink: inout some DatagramSink & StreamSink & ~Copyable
  ) {}
}
