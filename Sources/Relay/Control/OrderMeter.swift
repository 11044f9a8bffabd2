import Wire

/// Counts packets that came after one that was sealed later: RFC 4737's reordered packets (type P). One a link, at the
/// receiving end; STATUS tells the sender.
///
/// The sender's driver lets urgent datagrams overtake others that are sealed already, so counters alone would blame the
/// network for it. Within one *lane* the driver is first in, first out: packets are compared with those of their own
/// lane only. Lanes are the control messages, sketch chunks, chunks of one block's objects, and the rest, which travels
/// in the background. Two blocks may have different urgency, so what one lane holds of another block begins anew.
///
/// A packet costs two loads, a comparison and a store; nothing is allocated. Trivial.
public struct OrderMeter: Sendable {
  private static let control = 0
  private static let sketch = 1
  private static let chunk = 2
  private static let background = 3

  /// By lane: the highest counter that came.
  private var highest = InlineArray<4, UInt64>(repeating: 0)
  /// Of which block the lanes of sketch and chunks are.
  private var block = InlineArray<4, UInt64>(repeating: 0)
  /// Reordered packets since the meter was made, whatever was restarted.
  public private(set) var reordered: UInt64 = 0

  public init() {}

  /// A datagram of the session layer itself was opened (`message` empty), or this message.
  @inline(__always)
  public mutating func received(counter: UInt64, message: UnsafeRawBufferPointer) {
    var lane = OrderMeter.control
    var flow: UInt64 = 0
    if message.count > 0 {
      switch message[0] {
      case RelayMessageType.sketch.rawValue:
        lane = OrderMeter.sketch
        // Eight bytes of the header's Merkle root.
        if message.count >= 46 { flow = message.loadUnaligned(fromByteOffset: 38, as: UInt64.self) }
      case RelayMessageType.chunk.rawValue:
        lane = OrderMeter.chunk
        if message.count >= 10 { flow = message.loadUnaligned(fromByteOffset: 2, as: UInt64.self) }
      case RelayMessageType.headers.rawValue,
        RelayMessageType.transactionInventory
        .rawValue...RelayMessageType
        .transaction.rawValue, RelayMessageType.journey.rawValue...RelayMessageType.map.rawValue:
        lane = OrderMeter.background
      default: break
      }
    }
    if block[lane] != flow {
      block[lane] = flow
      highest[lane] = counter
      return
    }
    if counter < highest[lane] { reordered &+= 1 } else { highest[lane] = counter }
  }

  /// New keys, counters from 0 again.
  public mutating func restart() {
    highest = InlineArray(repeating: 0)
    block = InlineArray(repeating: 0)
  }
}
