import ArgumentParser
import CLibsodium
import Ground
import Harness
import Session
import Wire

// Sealing and opening against plain libsodium calls in the same run, handshakes a second, and the cost of rejecting what
// strangers send. Sizes: datagrams of 1,200 bytes, so 1,168 bytes of message. Single core; medians of interleaved rounds.

_ = Options.parseOrExit()
let datagramBytes = 1_200
let messageBytes = datagramBytes - SessionFormat.transportOverheadBytes
let batch = 256
let stride64 = 1_216

/// Puts what a table sends into slots of one buffer, one after the other.
struct Slots: DatagramSink, ~Copyable {
  let buffer = UnsafeMutableRawPointer.allocate(byteCount: batch * stride64, alignment: 64)
  var next = 0
  var lengths = [Int](repeating: 0, count: batch)
  deinit { buffer.deallocate() }

  mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {}
  mutating func remove(_ link: LinkID) {}
  @inline(__always) mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    var span = MutableRawSpan(
      _unsafeBytes: UnsafeMutableRawBufferPointer(start: buffer + (next % batch) * stride64, count: capacity))
    lengths[next % batch] = write(&span)
    next += 1
    return true
  }
  mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool {
    send(on: LinkID(0), urgency: .control, flow: .none, capacity: capacity, write)
  }
  mutating func drop(flow: FlowID, on link: LinkID) -> Int { 0 }
  func room(on link: LinkID) -> Int { 1 << 20 }

  func bytes(_ i: Int) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: buffer + (i % batch) * stride64, count: lengths[i % batch])
  }
}

/// One table with one link, and what it sends.
struct End: ~Copyable {
  var table: SessionTable
  var sink = Slots()
  let address: PeerAddress
  var taken = 0

  init(_ identity: Identity, _ peer: PublicKey, _ address: PeerAddress, _ settings: SessionSettings, _ suites: UInt8) {
    table = SessionTable(
      identity: identity, network: "bench", offer: SessionOffer(suites: suites), capacity: 8, settings: settings)
    self.address = address
  }

  mutating func add(_ peer: PublicKey, _ address: PeerAddress?) {
    try! table.addLink(LinkID(0), peer: peer, address: address, now: now, into: &sink)
  }

  @inline(__always) mutating func send(_ message: RawSpan) {
    table.send(message, on: LinkID(0), urgency: .block, into: &sink)
  }

  @inline(__always) mutating func receive(
    _ bytes: UnsafeMutableRawBufferPointer, from source: PeerAddress, _ now: Instant
  ) -> SessionInput {
    var span = MutableRawSpan(_unsafeBytes: bytes)
    return table.receive(&span, from: source, arrival: now, now: now, into: &sink)
  }
}

let now = Instant(nanoseconds: 1_000_000_000)
let settings = {
  var settings = SessionSettings()
  settings.rekeyAfterPackets = .max
  settings.expireAfterPackets = .max
  settings.strangerActsPerSecond = 10_000_000
  return settings
}()

let first = PeerAddress(ipv4: 10, 0, 0, 1, port: 1)
let second = PeerAddress(ipv4: 10, 0, 0, 2, port: 1)

/// Carries datagrams to and fro until both are silent.
func settle(_ a: inout End, _ b: inout End) {
  while a.taken < a.sink.next || b.taken < b.sink.next {
    while a.taken < a.sink.next {
      _ = b.receive(a.sink.bytes(a.taken), from: a.address, now)
      a.taken += 1
    }
    while b.taken < b.sink.next {
      _ = a.receive(b.sink.bytes(b.taken), from: b.address, now)
      b.taken += 1
    }
  }
  while a.table.nextEvent() != nil {}
  while b.table.nextEvent() != nil {}
}

/// Nanoseconds that `body` takes.
@inline(__always) func time(_ body: () -> Void) -> Double {
  let start = Harness.now()
  body()
  return Double((Harness.now() - start).nanoseconds)
}

func measure(_ suites: UInt8, _ suffix: String) {
  let (one, other) = (Identity(), Identity())
  var a = End(one, other.publicKey, first, settings, suites)
  var b = End(other, one.publicKey, second, settings, suites)
  a.add(other.publicKey, second)
  b.add(one.publicKey, nil)
  settle(&a, &b)
  guard let parameters = a.table.status(of: LinkID(0))?.parameters, b.table.isEstablished(LinkID(0)) else {
    Harness.fail("the bench's own session doesn't come up")
  }
  let isAES = parameters.suite == .aes256GCM

  let message = UnsafeMutableRawPointer.allocate(byteCount: stride64, alignment: 64)
  for i in 0..<stride64 { message.storeBytes(of: UInt8(truncatingIfNeeded: i), toByteOffset: i, as: UInt8.self) }
  let raw = UnsafeMutableRawPointer.allocate(byteCount: batch * stride64, alignment: 64)
  let key = [UInt8](repeating: 7, count: 32)
  let state = UnsafeMutableRawPointer.allocate(byteCount: 512, alignment: 64)
    .bindMemory(to: crypto_aead_aes256gcm_state.self, capacity: 1)
  _ = crypto_aead_aes256gcm_beforenm(state, key)
  let nonceBytes = UnsafeMutablePointer<UInt8>.allocate(capacity: 12)
  nonceBytes.initialize(repeating: 0, count: 12)

  func u8(_ p: UnsafeMutableRawPointer) -> UnsafeMutablePointer<UInt8> { p.assumingMemoryBound(to: UInt8.self) }
  let plain = u8(message)

  func rawSeal() {
    for i in 0..<batch {
      UnsafeMutableRawPointer(nonceBytes).storeBytes(of: UInt32(i), toByteOffset: 4, as: UInt32.self)
      let out = u8(raw + i * stride64 + 16)
      if isAES {
        crypto_aead_aes256gcm_encrypt_afternm(
          out, nil, plain, UInt64(messageBytes), nil, 0, nil, nonceBytes, state)
      } else {
        crypto_aead_chacha20poly1305_ietf_encrypt(
          out, nil, plain, UInt64(messageBytes), nil, 0, nil, nonceBytes, key)
      }
    }
  }
  func rawOpen() {
    var good = 0
    for i in 0..<batch {
      UnsafeMutableRawPointer(nonceBytes).storeBytes(of: UInt32(i), toByteOffset: 4, as: UInt32.self)
      let at = u8(raw + i * stride64 + 16)
      let status =
        isAES
        ? crypto_aead_aes256gcm_decrypt_afternm(
          at, nil, nil, at, UInt64(messageBytes + 16), nil, 0, nonceBytes, state)
        : crypto_aead_chacha20poly1305_ietf_decrypt(
          at, nil, nil, at, UInt64(messageBytes + 16), nil, 0, nonceBytes, key)
      if status == 0 { good += 1 }
    }
    precondition(good == batch)
  }
  func seal() {
    let span = RawSpan(_unsafeStart: message, byteCount: messageBytes)
    for _ in 0..<batch { a.send(span) }
  }
  func open() {
    var good = 0
    for i in 0..<batch {
      if case .message = b.receive(a.sink.bytes(i), from: first, now) { good += 1 }
    }
    precondition(good == batch)
  }

  var times: (seal: [Double], rawSeal: [Double], open: [Double], rawOpen: [Double]) = ([], [], [], [])
  a.sink.next = 0
  for round in 0..<3_000 {
    let s = time(seal)
    let rs = time(rawSeal)
    let o = time(open)
    let ro = time(rawOpen)
    if round < 100 { continue }
    times.seal.append(s)
    times.rawSeal.append(rs)
    times.open.append(o)
    times.rawOpen.append(ro)
  }
  func micros(_ values: [Double]) -> Double { Harness.median(values.sorted()) / Double(batch) / 1_000 }
  Harness.report("session", "seal_us" + suffix, micros(times.seal), "us")
  Harness.report("session", "open_us" + suffix, micros(times.open), "us")
  Harness.report("session", "raw_seal_us" + suffix, micros(times.rawSeal), "us")
  Harness.report("session", "raw_open_us" + suffix, micros(times.rawOpen), "us")
  Harness.report("session", "seal_ratio" + suffix, micros(times.seal) / micros(times.rawSeal), "ratio")
  Harness.report("session", "open_ratio" + suffix, micros(times.open) / micros(times.rawOpen), "ratio")

  // A datagram under a live session's index with a bad tag, one already opened, and one for no session.
  if suffix.isEmpty || isAES {
    seal()
    let forged = a.sink.bytes(0)
    forged[forged.count - 1] ^= 1
    // Refusing it zeroes what was sealed, which leaves it as forged as before.
    let forgedTime = Harness.median(
      (0..<400).map { _ in time { for _ in 0..<batch { _ = b.receive(forged, from: first, now) } } }.sorted())
    Harness.report("session", "reject_forged_us" + suffix, forgedTime / Double(batch) / 1_000, "us")
  }
}

func handshakes() {
  let (one, other) = (Identity(), Identity())
  var times: [Double] = []
  for _ in 0..<300 {
    var a = End(one, other.publicKey, first, settings, 0b11)
    var b = End(other, one.publicKey, second, settings, 0b11)
    times.append(
      time {
        b.add(one.publicKey, nil)
        a.add(other.publicKey, second)
        settle(&a, &b)
      })
    precondition(a.table.isEstablished(LinkID(0)) && b.table.isEstablished(LinkID(0)))
  }
  // Both ends on this one core: nothing but the two sides' own work.
  Harness.report("session", "handshakes_per_s", 1e9 / Harness.median(times.sorted()), "1/s")
}

func rejections() {
  let (one, other) = (Identity(), Identity())
  var a = End(one, other.publicKey, first, settings, 0b11)
  a.add(other.publicKey, nil)
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 2_048, alignment: 64)
  func cost(_ kind: UInt32, _ count: Int) -> Double {
    for i in 0..<memory.count { memory[i] = UInt8(truncatingIfNeeded: i &* 31) }
    memory.storeBytes(of: kind, as: UInt32.self)
    let part = UnsafeMutableRawBufferPointer(rebasing: memory[..<count])
    let rounds = (0..<2_000).map { _ in time { for _ in 0..<batch { _ = a.receive(part, from: second, now) } } }
    return Harness.median(rounds.sorted()) / Double(batch) / 1_000
  }
  let openings = cost(SessionFormat.Kind.actOne, SessionFormat.actOneBytes)
  let closings = cost(SessionFormat.Kind.actThree, SessionFormat.actThreeBytes)
  Harness.report("session", "reject_us", max(openings, closings), "us")
  Harness.report("session", "reject_unknown_session_us", cost(SessionFormat.Kind.message, datagramBytes), "us")
  precondition(a.table.counters.strangers > 0 && a.table.counters.curveSteps == 0)
}

/// Openings with a good first MAC from forged addresses, 100,000 a second of the table's time for ten seconds, under the
/// settings of production: what one costs on average, budgets and cookie replies included.
func flood() {
  let (one, other) = (Identity(), Identity())
  var a = End(one, other.publicKey, first, SessionSettings(), 0b11)
  a.add(other.publicKey, nil)
  let key = Mac(label: "lightpath act to", one.publicKey)
  let count = 1_000_000
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: SessionFormat.actOneBytes, alignment: 64)
  for i in 0..<memory.count { memory[i] = 0 }
  memory.storeBytes(of: SessionFormat.Kind.actOne, as: UInt32.self)
  memory[SessionFormat.bodyOffset + 1] = 2
  var random = SeededRandom(seed: 1)
  var making = 0.0
  let all = time {
    for i in 0..<count {
      making += time {
        memory.storeBytes(of: random.next(), toByteOffset: SessionFormat.bodyOffset + 8, as: UInt64.self)
        let covered = memory.count - 2 * SessionFormat.macBytes
        key.over(memory.baseAddress!, covered).store(to: memory.baseAddress! + covered)
      }
      let source = PeerAddress(high: random.next(), low: random.next(), port: 1)
      _ = a.receive(memory, from: source, now + .microseconds(Int64(i) * 10))
    }
  }
  Harness.report("session", "flood_us", (all - making) / Double(count) / 1_000, "us")
  Harness.report("session", "flood_curve_steps_per_s", Double(a.table.counters.curveSteps) / 10, "1/s")
  Harness.report("session", "flood_core_share", (all - making) / 10e9, "ratio")
}

// What two relays of this machine would agree on, then the suite that every relay has.
measure(SessionOffer.bestSuites, "")
measure(0b01, "_chacha20poly1305")
handshakes()
rejections()
flood()
