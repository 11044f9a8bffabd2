import Bitcoin
import Ground
import Relay

/// One of the sweep's relays: an honest one, or a liar.
struct ChaosCore: SimulatedCore, ~Copyable {
  private let honest: UnsafeMutablePointer<RelayNode>?
  private let liar: UnsafeMutablePointer<LyingRelay>?

  init(_ node: consuming RelayNode) {
    honest = .allocate(capacity: 1)
    honest?.initialize(to: node)
    liar = nil
  }

  init(_ node: consuming LyingRelay) {
    liar = .allocate(capacity: 1)
    liar?.initialize(to: node)
    honest = nil
  }

  deinit {
    honest?.deinitialize(count: 1)
    honest?.deallocate()
    liar?.deinitialize(count: 1)
    liar?.deallocate()
  }

  /// The honest relay, if it is one.
  func withHonest<R>(_ body: (inout RelayNode) -> R) -> R? {
    guard let honest else { return nil }
    return body(&honest.pointee)
  }

  /// Offers a block to an honest relay as its node would, unchecked; the headers of those below it, lowest first, before.
  mutating func submit(
    _ block: [UInt8], on ancestors: [[UInt8]], now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    guard let honest else { return true }
    tell(ancestors, now: now, into: &sink)
    return honest.pointee.submit(raw: block, now: now, into: &sink)
  }

  private mutating func tell(
    _ ancestors: [[UInt8]], now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let headers = ancestors.compactMap { try? BlockHeader(parsing: $0.span.bytes) }
    _ = try? honest?.pointee.core.submitHeaders(headers, vouched: true, now: now, into: &sink)
  }

  /// The block's sketch first, as of a compact block of the node; `isWrong`: two ids changed places. False when it has to
  /// be submitted without.
  mutating func submitSketch(
    _ block: [UInt8], on ancestors: [[UInt8]], isWrong: Bool, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    guard let honest, var parsed = try? ParsedBlock(parsing: block.span.bytes) else { return false }
    parsed.hashAll(in: block.span.bytes)
    if isWrong && parsed.transactions.count > 2 {
      var wtxids = parsed.wtxids
      wtxids.swapAt(1, 2)
      parsed = ParsedBlock(
        header: parsed.header, transactions: parsed.transactions, byteCount: block.count, txids: parsed.txids,
        wtxids: wtxids, unhashed: [])
    }
    tell(ancestors, now: now, into: &sink)
    let coinbase = parsed.transactions[0].bytes(in: block.span.bytes)
    return honest.pointee.submitSketch(of: parsed, coinbase: coinbase, now: now, into: &sink)
  }

  /// What follows: the block, put together and its root checked; or, if the sketch was wrong, as its node then sends it.
  mutating func follow(
    _ block: [UInt8], isWrong: Bool, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) -> Bool {
    guard let honest, var parsed = try? ParsedBlock(parsing: block.span.bytes) else { return true }
    if isWrong {
      honest.pointee.withdrawSketch(of: parsed.hash, now: now)
      return honest.pointee.submit(raw: block, now: now, into: &sink)
    }
    parsed.hashAll(in: block.span.bytes)
    return honest.pointee.submit(block, parsed: parsed, now: now, into: &sink)
  }

  /// Lies told since the last call.
  func takeLies() -> Int { liar?.pointee.takeLies() ?? 0 }
  var workNanoseconds: UInt64 { honest?.pointee.workNanoseconds ?? liar?.pointee.workNanoseconds ?? 0 }
  var nextDeadline: Instant { honest?.pointee.nextDeadline ?? liar?.pointee.nextDeadline ?? .never }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    honest?.pointee.start(now: now, into: &sink)
    liar?.pointee.start(now: now, into: &sink)
  }
  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    honest?.pointee.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
    liar?.pointee.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
  }
  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    honest?.pointee.batchEnded(now: now, into: &sink)
    liar?.pointee.batchEnded(now: now, into: &sink)
  }
  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    honest?.pointee.deadlinePassed(now: now, into: &sink)
    liar?.pointee.deadlinePassed(now: now, into: &sink)
  }
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    honest?.pointee.roomAvailable(on: link, now: now, into: &sink)
    liar?.pointee.roomAvailable(on: link, now: now, into: &sink)
  }
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    honest?.pointee.woken(now: now, into: &sink)
    liar?.pointee.woken(now: now, into: &sink)
  }
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    honest?.pointee.stop(now: now, into: &sink)
    liar?.pointee.stop(now: now, into: &sink)
  }
}
