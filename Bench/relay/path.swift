import Bitcoin
import CLibsodium
import Ground
import Harness
import RealBlocks
import Relay
import Session
import UringSupport

/// A block of the bench, parsed and hashed.
struct BenchBlock {
  let bytes: [UInt8]
  let parsed: ParsedBlock
  let height: Int

  init(_ name: String) throws {
    let raw = try RealBlocks.bytes(name)
    var block = try ParsedBlock(parsing: raw.span.bytes)
    block.hashAll(in: raw.span.bytes)
    height = BIP34.height(of: block.transactions[0], in: raw.span.bytes) ?? 1
    (bytes, parsed) = (raw, block)
  }
}

/// The origin: from a reconstructed compact block (all ids known, root checked by the bridge) to the first sketch and the
/// first repair packet, and from raw bytes to the first sketch packet; eight neighbours, all in step.
func benchOrigin(_ block: BenchBlock) throws {
  var sketch: [Double] = []
  var repair: [Double] = []
  var raw: [Double] = []
  for run in 0..<12 {
    let isRaw = run % 2 == 1
    let loop = try Loop(
      [[1, 2, 3, 4, 5, 6, 7, 8]] + Array(repeating: [0], count: 8), block: block.bytes, height: block.height)
    for node in 0..<9 { loop.fill(node, block.parsed, block.bytes, missing: 0.01, seed: UInt64(run * 10 + node)) }
    loop.run(.seconds(3))
    loop.sinks[0].keeps = false
    loop.sinks[0].firstSketch = nil
    loop.sinks[0].firstChunk = nil
    let start = Harness.now()
    try loop.call(0) { core, sink, now in
      _ = try core.submit(
        block.bytes, parsed: isRaw ? nil : block.parsed, isChecked: !isRaw, arrival: now, now: now,
        into: &sink)
    }
    while loop.sinks[0].firstChunk == nil && loop.cores[0].nextDeadline <= loop.now {
      loop.call(0) { core, sink, now in core.deadlinePassed(now: now, into: &sink) }
    }
    guard let first = loop.sinks[0].firstSketch, let chunk = loop.sinks[0].firstChunk else {
      Harness.fail("the origin sent nothing")
    }
    if isRaw {
      raw.append((first - start).milliseconds)
    } else {
      sketch.append((first - start).milliseconds)
      repair.append((chunk - start).milliseconds)
    }
  }
  Harness.report("relay", "first_sketch_cmpct_ms", Harness.median(sketch.sorted()), "ms")
  Harness.report("relay", "first_repair_cmpct_ms", Harness.median(repair.sorted()), "ms")
  Harness.report("relay", "first_sketch_raw_ms", Harness.median(raw.sorted()), "ms")
}

/// Cut-through: one packet from the maker, opened and passed on to eight neighbours, against eight raw seals, which are
/// timed before and after each run's packets: a shared machine's clock is another one a second later.
func benchForward(_ block: BenchBlock) throws {
  var forward: [Double] = []
  var seals: [Double] = []
  var ratios: [Double] = []
  var allocations: Int64 = 0
  let raw = RawSeal(bytes: 1_144)
  for run in 0..<24 {
    // 0 makes it, 1 forwards to 2 … 9, who have no other way to it.
    let loop = try Loop(
      [[1], [0, 2, 3, 4, 5, 6, 7, 8, 9]] + Array(repeating: [1], count: 8), block: block.bytes, height: block.height)
    for node in 0..<2 { loop.fill(node, block.parsed, block.bytes, missing: 0.01, seed: UInt64(run * 10 + node)) }
    loop.run(.seconds(3))
    try loop.call(0) { core, sink, now in
      _ = try core.submit(
        block.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
    let packets = loop.queues[1].filter { $0.bytes.count == LoopSink.sketchBytes }
    loop.sinks[1].keeps = false
    var times: [Double] = []
    let before = raw.microseconds()
    // The first opens the gate; the last ones complete the sketch: neither is what a forwarded packet costs.
    for (index, packet) in packets.prefix(14).enumerated() {
      var bytes = packet.bytes
      let sent = loop.sinks[1].count
      // Inside: the array makes its own copy on the way in, which no engine does.
      let (time, allocated) = bytes.withUnsafeMutableBytes { buffer in
        var span = MutableRawSpan(_unsafeBytes: buffer)
        let allocated = thread_allocations()
        let start = Harness.now()
        loop.cores[1].receive(
          &span, from: Loop.address(0), arrival: loop.now, now: loop.now, into: &loop.sinks[1])
        let end = Harness.now()
        return (end - start, thread_allocations() - allocated)
      }
      if index > 1 && loop.sinks[1].count == sent + 8 {
        times.append(time.milliseconds * 1_000)
        allocations += allocated
      }
    }
    if times.isEmpty { continue }
    let seal = (before + raw.microseconds()) / 2
    seals.append(seal)
    ratios.append(Harness.median(times.sorted()) / (8 * seal))
    forward += times
  }
  guard !forward.isEmpty else { Harness.fail("nothing was forwarded to eight") }
  Harness.report("relay", "forward8_us", Harness.median(forward.sorted()), "us")
  Harness.report("relay", "raw_seal_us", Harness.median(seals.sorted()), "us")
  Harness.report("relay", "forward8_ratio", Harness.median(ratios.sorted()), "ratio")
  Harness.report("relay", "allocations_per_packet", Double(allocations) / Double(forward.count), "allocations")
}

/// The AEAD that sessions use on this CPU, by itself.
struct RawSeal {
  private let state = UnsafeMutableRawPointer.allocate(byteCount: 512, alignment: 16)
    .bindMemory(to: crypto_aead_aes256gcm_state.self, capacity: 1)
  private let key = [UInt8](repeating: 7, count: 32)
  private let plain: [UInt8]
  private let header = [UInt8](repeating: 2, count: 16)
  private let isAES: Bool

  init(bytes count: Int) {
    _ = sodium_init()
    isAES = crypto_aead_aes256gcm_is_available() == 1
    if isAES { _ = crypto_aead_aes256gcm_beforenm(state, key) }
    plain = [UInt8](repeating: 1, count: count)
  }

  /// Of one seal: the median of nine times 64, about 0.5 ms in all.
  func microseconds() -> Double {
    let rounds = 64
    var sealed = [UInt8](repeating: 0, count: plain.count + 16)
    var nonce = [UInt8](repeating: 0, count: 12)
    var times: [Double] = []
    for _ in 0..<9 {
      let start = Harness.now()
      for _ in 0..<rounds {
        nonce[0] &+= 1
        if isAES {
          crypto_aead_aes256gcm_encrypt_afternm(
            &sealed, nil, plain, UInt64(plain.count), header, 16, nil, nonce, state)
        } else {
          crypto_aead_chacha20poly1305_ietf_encrypt(
            &sealed, nil, plain, UInt64(plain.count), header, 16, nil, nonce, key)
        }
      }
      times.append((Harness.now() - start).milliseconds * 1_000 / Double(rounds))
    }
    return Harness.median(times.sorted())
  }
}

/// The receiver: from the packet that makes the body solvable, to the block with all checks passed; 1% missing.
func benchVerify(_ block: BenchBlock) throws {
  var times: [Double] = []
  for run in 0..<12 {
    let loop = try Loop([[1], [0]], block: block.bytes, height: block.height)
    for node in 0..<2 { loop.fill(node, block.parsed, block.bytes, missing: 0.01, seed: UInt64(run * 10 + node)) }
    loop.run(.seconds(3))
    try loop.call(0) { core, sink, now in
      _ = try core.submit(
        block.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
    loop.work(0)
    let packets = loop.queues[1]
    loop.queues[1] = []
    for packet in packets where !loop.verified[1] {
      let start = Harness.now()
      loop.deliver(packet, to: 1)
      while !loop.verified[1] && loop.cores[1].nextDeadline <= loop.now {
        loop.call(1) { core, sink, now in core.deadlinePassed(now: now, into: &sink) }
      }
      let end = Harness.now()
      if loop.verified[1] && loop.lastNeeded[1] { times.append((end - start).milliseconds) }
    }
    if !loop.verified[1] { Harness.fail("the receiver did not complete") }
  }
  Harness.report("relay", "last_packet_to_verified_ms", Harness.median(times.sorted()), "ms")
}
