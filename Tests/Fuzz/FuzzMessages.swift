import Bitcoin
import Ground
import Mempool
import Relay
import Session
import Wire

// libFuzzer's entry for what relays say to each other: `Tests/Fuzz/run` builds and runs it. The first byte picks: a message
// of Wire, a sketch, or a conversation with a relay core.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard let start, count > 0 else { return 0 }
  // A copy of its own, so that the sanitizer sees a read past the end.
  let input = [UInt8](UnsafeBufferPointer(start: start + 1, count: count - 1))
  switch start[0] % 8 {
  case 0..<4: parseMessage(input)
  case 4..<6: parseSketch(input)
  default: converse(input)
  }
  return 0
}

// MARK: Messages

/// What parses must encode back to the same bytes.
private func parseMessage(_ input: [UInt8]) {
  var expected = input
  guard let type = try? RelayMessageType(of: input.span.bytes) else { return }
  // CHUNK's two unused flag bits are not sent on.
  if type == .chunk && expected.count > 1 { expected[1] &= 0x3F }
  var bytes = [UInt8](repeating: 0, count: 2_048)
  let written = bytes.withUnsafeMutableBytes { buffer in
    var out = MutableRawSpan(_unsafeBytes: buffer)
    return (try? encode(input.span.bytes, type, into: &out)) ?? -1
  }
  if written >= 0 { precondition(Array(bytes.prefix(written)) == expected) }
}

/// Parses and writes again; -1 for TX, which is written from whole transactions only.
private func encode(
  _ message: RawSpan, _ type: RelayMessageType, into out: inout MutableRawSpan
) throws(DecodeError) -> Int {
  switch type {
  case .sketch: return try SketchMessage(parsing: message).write(into: &out)
  case .chunk: return try ChunkMessage(parsing: message).write(into: &out)
  case .need: return try NeedMessage(parsing: message).write(into: &out)
  case .have: return try HaveMessage(parsing: message).write(into: &out)
  case .blame: return try BlameMessage(parsing: message).write(into: &out)
  case .point: return try PointMessage(parsing: message).write(into: &out)
  case .getBlock: return try GetBlockMessage(parsing: message).write(into: &out)
  case .noBlock: return try NoBlockMessage(parsing: message).write(into: &out)
  case .status:
    let status = try StatusMessage(parsing: message)
    let rows = (0..<status.rowCount).map { status.row($0) }
    return StatusMessage.write(status.head, rows: rows.span, into: &out)
  case .map:
    let map = try MapMessage(parsing: message)
    let rows = (0..<map.rowCount).map { map.row($0) }
    return MapMessage.write(origin: map.origin, sequence: map.sequence, rows: rows.span, into: &out)
  case .getHeaders:
    let question = try GetHeadersMessage(parsing: message)
    let locator = (0..<question.count).map { question.hash($0) }
    return GetHeadersMessage.write(locator: locator.span, stop: question.stop, into: &out)
  case .headers:
    let answer = try HeadersMessage(parsing: message)
    let headers = (0..<answer.count).map { answer.header($0) }
    return HeadersMessage.write(
      startHeight: answer.startHeight, lastHeight: answer.lastHeight, headers: headers.span, into: &out)
  case .transactionInventory, .getTransactions:
    let list = try TransactionIDsMessage(parsing: message, as: type)
    let ids = (0..<list.count).map { list.id($0) }
    return TransactionIDsMessage.write(as: type, epoch: list.epoch, ids: ids.span, into: &out)
  case .transaction:
    let part = try TransactionMessage(parsing: message)
    precondition(Int(part.offset) + part.fragment.byteCount <= Int(part.total))
    return -1
  case .journey: return JourneyMessage.write(try JourneyMessage(parsing: message).records, into: &out)
  }
}

// MARK: Sketches

/// The first six bytes are the announced count and size.
private func parseSketch(_ input: [UInt8]) {
  guard input.count > 6 else { return }
  let count = Int(input[0]) | Int(input[1]) << 8
  let body = Int(input[2]) | Int(input[3]) << 8 | Int(input[4]) << 16 | Int(input[5]) << 24
  let bytes = Array(input[6...])
  guard let sketch = try? Sketch(parsing: bytes.span.bytes, transactionCount: count, bodyByteCount: body) else {
    return
  }
  precondition(sketch.transactionCount == count && sketch.offsets.count == count + 1)
  precondition(Int(sketch.offsets[count]) == body)
  precondition(sketch.byteCounts.allSatisfy { $0 >= 51 })
  precondition(sketch.explicit.first?.index == 0)
  precondition(sketch.explicit.allSatisfy { $0.bytes.upperBound <= bytes.count && $0.index < count })
}

// MARK: Conversations

private final class Scene {
  let block: [UInt8]
  let header: HeaderBytes
  let hash: Hash256
  var id8: UInt64 { hash.w0 }
  let identity = Identity(generatedFrom: .predictable(seed: 1))
  let peers = (0..<3).map { Identity(generatedFrom: .predictable(seed: 2 + UInt64($0))).publicKey }

  init() {
    let genesis = Network.regtest.genesis
    let bytes = BlockBuilder(height: 1, previous: genesis.hash, time: genesis.time + 600).build()
    block = bytes
    hash = SHA256.double(bytes.span.bytes.extracting(first: 80))
    header = HeaderBytes(bytes.span.bytes)
  }
}

private nonisolated(unsafe) let scene = Scene()

private struct Nowhere: DatagramSink, ~Copyable {
  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {}
  mutating func remove(_ link: LinkID) {}
  mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    var bytes = [UInt8](repeating: 0, count: capacity)
    return bytes.withUnsafeMutableBytes { buffer in
      var out = MutableRawSpan(_unsafeBytes: buffer)
      return write(&out) > 0
    }
  }
  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool {
    send(on: LinkID(0), urgency: .control, flow: .none, capacity: capacity, write)
  }
  mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  func room(on link: LinkID) -> Int { 1 << 20 }
}

/// A core with its clock. Making one costs as much as many conversations, so that it serves sixty-four: a finding may need
/// those before it (the run's seed repeats them).
private struct Listener: ~Copyable {
  var core: RelayCore
  var sink = Nowhere()
  var now = Instant(nanoseconds: 1_000_000_000)
  var conversations = 0

  init() {
    var configuration = RelayConfiguration(
      identity: scene.identity, overlay: nil,
      links: scene.peers.indices.map {
        RelayLink(id: LinkID(UInt16($0)), peer: scene.peers[$0], address: nil)
      },
      network: .regtest, unixNanosecondsAtZero: Int64(Network.regtest.genesis.time + 1_200) * 1_000_000_000,
      randomness: .predictable(seed: 9), seed: 9)
    configuration.relays = scene.peers + [scene.identity.publicKey]
    configuration.store = StoreLimits(
      nodeCount: 100, nodeBytes: 1 << 20, nodeInputs: 1_000, sideCount: 100, sideBytes: 1 << 20, orphanCount: 10,
      orphanBytes: 1 << 18)
    core = RelayCore(configuration)
    core.start(now: now, into: &sink)
  }
}

private nonisolated(unsafe) var listener = Listener()

/// Messages to a core, each behind a byte for link and form and two for its length. Forms 1 and 2 begin with a
/// header that passes the gate or that block's id, so that what follows is looked at.
private func converse(_ input: [UInt8]) {
  if listener.conversations == 64 { listener = Listener() }
  listener.conversations += 1
  listener.hear(input)
}

extension Listener {
  fileprivate mutating func hear(_ input: [UInt8]) {
    var at = 0
    while at + 3 <= input.count {
      let control = input[at]
      let length = min(Int(input[at + 1]) | Int(input[at + 2] & 7) << 8, input.count - at - 3)
      var message = Array(input[at + 3..<at + 3 + length])
      at += 3 + length
      switch control >> 4 & 3 {
      case 1 where message.count >= 82:
        scene.header.withBytes { header in
          for index in 0..<80 { message[2 + index] = header.unsafeLoad(fromByteOffset: index, as: UInt8.self) }
        }
      case 2 where message.count >= 10:
        // The id lies behind the type in NEED, HAVE, BLAME and POINT, behind the kind in CHUNK.
        let place = message[0] == RelayMessageType.chunk.rawValue ? 2 : 1
        for index in 0..<8 { message[place + index] = UInt8(truncatingIfNeeded: scene.id8 >> UInt64(8 * index)) }
      default: break
      }
      core.receivePlaintext(message.span.bytes, from: LinkID(UInt16(control & 3) % 3), now: now, into: &sink)
      core.batchEnded(now: now, into: &sink)
      if control & 0x80 != 0 {
        now = now + .milliseconds(Int64(control & 0x0C) * 50)
        for _ in 0..<4 where core.nextDeadline <= now { core.deadlinePassed(now: now, into: &sink) }
      }
      while core.nextEvent() != nil {}
    }
    precondition(core.heldBytes < 512 << 20)
    // Whatever was said, what is taken for the block is the block.
    _ = core.withBlock(scene.hash) { bytes, _ in
      precondition(bytes.withUnsafeBytes { $0.elementsEqual(scene.block) })
    }
  }
}
