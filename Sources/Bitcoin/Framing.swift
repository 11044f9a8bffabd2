import Ground

/// The 24 bytes before each P2P message: magic 4 ‖ command 12 ‖ payload length 4 ‖ first 4 bytes of the payload's double
/// SHA-256.
public enum Framing {
  public static let headerByteCount = 24
  /// Bitcoin Core's `MAX_PROTOCOL_MESSAGE_LENGTH`.
  public static let maxPayload = 4_000_000

  /// Appends a whole message.
  public static func write(_ command: Command, payload: RawSpan, on network: Network, to writer: inout ByteWriter) {
    writeHeader(command, payload: payload, on: network, to: &writer)
    writer.append(payload)
  }

  /// Appends the header of a message, for callers that put the payload behind it themselves.
  public static func writeHeader(
    _ command: Command, payload: RawSpan, on network: Network, to writer: inout ByteWriter
  ) {
    precondition(payload.byteCount <= maxPayload, "a message may carry at most 4,000,000 bytes")
    writer.integer(network.magic.value)
    command.write(to: &writer)
    writer.integer(UInt32(payload.byteCount))
    writer.integer(checksum(payload))
  }

  /// A whole message.
  public static func frame(_ command: Command, payload: RawSpan, on network: Network) -> [UInt8] {
    var writer = ByteWriter(reserving: headerByteCount + payload.byteCount)
    write(command, payload: payload, on: network, to: &writer)
    return writer.bytes
  }

  public static func checksum(_ payload: RawSpan) -> UInt32 {
    UInt32(truncatingIfNeeded: SHA256.double(payload).w0)
  }
}

/// What made a byte stream no sequence of messages.
public enum FramingError: Error, Hashable, Sendable {
  /// Another network, or lost in the stream: close the connection.
  case magic(UInt32)
  /// A command that is no ASCII padded with zeros: close the connection.
  case command(DecodeError)
  /// A payload above the limit: close the connection.
  case length(UInt32)
  /// The payload is not what the header promised. The message is skipped, and the stream may go on.
  case checksum(Command)
}

/// Cuts a byte stream into P2P messages. Holds at most one message and what follows it in the last piece received:
/// take messages until there is none before receiving more.
public struct MessageStream: Sendable {
  public let network: Network
  private var buffer: [UInt8] = []
  private var start = 0

  public init(network: Network) { self.network = network }

  /// Bytes waiting.
  public var pending: Int { buffer.count - start }

  /// Appends bytes from the connection.
  public mutating func receive(_ bytes: RawSpan) {
    if start == buffer.count {
      buffer.removeAll(keepingCapacity: buffer.capacity <= 1 << 16)
      start = 0
    } else if start > 1 << 16 {
      buffer.removeSubrange(0..<start)
      start = 0
    }
    bytes.withUnsafeBytes { buffer.append(contentsOf: $0) }
  }

  /// Hands the next whole message to `body`, its payload borrowed, and removes it; `nil` when none is whole yet. Throws
  /// `FramingError` as soon as a header is wrong, before its payload arrives.
  public mutating func next<R>(_ body: (Command, RawSpan) -> R) throws(FramingError) -> R? {
    guard pending >= Framing.headerByteCount else { return nil }
    let consumed: Int
    let outcome: Result<R, FramingError>
    do {
      let whole = buffer.span.bytes.extracting(start..<buffer.count)
      let (command, length, checksum) = try header(whole)
      consumed = Framing.headerByteCount + length
      guard whole.byteCount >= consumed else { return nil }
      let payload = whole.extracting(Framing.headerByteCount..<consumed)
      let isIntact = Framing.checksum(payload) == checksum
      outcome = isIntact ? .success(body(command, payload)) : .failure(.checksum(command))
    }
    start += consumed
    return try outcome.get()
  }

  private func header(_ bytes: RawSpan) throws(FramingError) -> (Command, length: Int, checksum: UInt32) {
    var reader = ByteReader(bytes)
    let command: Command
    let length: UInt32
    let checksum: UInt32
    do throws(DecodeError) {
      let magic = try reader.integer(UInt32.self, "message.magic")
      if magic != network.magic.value { throw DecodeError("message.magic", at: 0, .invalid("\(magic)")) }
      command = try Command(from: &reader)
      length = try reader.integer(UInt32.self, "message.length")
      checksum = try reader.integer(UInt32.self, "message.checksum")
    } catch {
      if error.field == "message.magic" {
        throw .magic(UInt32(littleEndian: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 0, as: UInt32.self)))
      }
      throw .command(error)
    }
    if length > UInt32(Framing.maxPayload) { throw .length(length) }
    return (command, Int(length), checksum)
  }
}
