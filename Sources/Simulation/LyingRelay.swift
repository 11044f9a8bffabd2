import Bitcoin
import Ground
import Relay
import Session
import Wire

/// What the liars of a run can do with the work they have: headers that they found proof of work for, fewer than the honest
/// blocks, and never a chain of them. Who has more work than the honest miners decides what the chain is; no relay could
/// tell that.
final class Forgeries {
  var left = 4
  var headers: Set<HeaderBytes> = []
}

/// A relay of the overlay that has its keys and lies: it holds real sessions with its neighbours and says what it likes
/// inside them. Whatever it does, its neighbours must stay right; what it can do at worst is in PROTOCOL.md, section 6.
struct LyingRelay: SimulatedCore, ~Copyable {
  struct Attack: OptionSet, Hashable, Sendable {
    let rawValue: UInt32
    init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Passes chunks on with bytes flipped, under their maker's name.
    static let corrupt = Attack(rawValue: 1)
    /// Passes chunks on with another index, maker, flag or promise.
    static let relabel = Attack(rawValue: 2)
    /// Makes up chunks of blocks that it hears of, under its own name and others'.
    static let invent = Attack(rawValue: 4)
    /// Says that it has every block at once, and never sends one.
    static let claim = Attack(rawValue: 8)
    /// Answers requests with rubbish.
    static let answerRubbish = Attack(rawValue: 16)
    /// Asks for more, all the time.
    static let demand = Attack(rawValue: 32)
    /// Lies about its height, work, readiness, losses and links.
    static let misstate = Attack(rawValue: 64)
    /// Random bytes under every message type.
    static let noise = Attack(rawValue: 128)
    /// Accuses and points at others.
    static let accuse = Attack(rawValue: 256)
    /// Announces blocks that don't exist, with proof of work.
    static let forgeBlocks = Attack(rawValue: 512)
    /// Repeats each message.
    static let echo = Attack(rawValue: 1_024)
    static let all = Attack(rawValue: 2_047)
  }

  private var sessions: SessionTable
  private let links: [RelayLink]
  private let attacks: Attack
  private var random: SeededRandom
  private let network: Network
  private let forgeries: Forgeries
  private let ownKey: UInt32
  private let keys: [UInt32]
  private var up: [Bool]
  /// Announcements heard, newest last: what lies are made of.
  private var heard: [SketchHead] = []
  private var nextTick = Instant.never
  /// Messages that it may still send this tick: a liar has a link's rate like everyone.
  private var budget = 0
  private(set) var workNanoseconds: UInt64 = 0
  private var lies = 0

  /// Lies told since the last call.
  mutating func takeLies() -> Int {
    defer { lies = 0 }
    return lies
  }

  init(
    identity: Identity, overlay: OverlaySecret, links: [RelayLink], network: Network, attacks: Attack,
    forgeries: Forgeries,
    seed: UInt64
  ) {
    sessions = SessionTable(
      identity: identity, network: network.name, overlay: overlay, offer: SessionOffer(requiredFeatures: 0),
      capacity: 64, settings: SessionSettings(), random: .predictable(seed: seed))
    self.links = links
    self.attacks = attacks
    self.network = network
    self.forgeries = forgeries
    random = SeededRandom(seed: seed ^ 0xBAD)
    up = [Bool](repeating: false, count: 64)
    ownKey = key4(of: identity.publicKey)
    keys = links.map { key4(of: $0.peer) }
  }

  var nextDeadline: Instant { min(sessions.nextDeadline, nextTick) }

  mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    for link in links {
      try? sessions.addLink(link.id, peer: link.peer, address: link.address, rate: link.rate, now: now, into: &sink)
    }
    nextTick = now + .microseconds(20_000)
  }

  mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) { drain() }
  mutating func roomAvailable(on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {}
  mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    sessions.stop(now: now, into: &sink)
  }

  mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if sessions.nextDeadline <= now { sessions.deadlinePassed(now: now, into: &sink) }
    drain()
    if nextTick > now { return }
    nextTick = now + .microseconds(20_000)
    budget = 60
    tick(&sink)
  }

  private mutating func drain() {
    while let event = sessions.nextEvent() {
      switch event {
      case .established(let link, _): up[Int(link.index)] = true
      case .lost(let link, _): up[Int(link.index)] = false
      default: break
      }
    }
  }

  mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    workNanoseconds += 2_000
    guard
      case .message(let message) = sessions.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
    else {
      drain()
      return
    }
    var plain: [UInt8] = []
    datagram.withUnsafeBytes { plain = Array($0[message.range]) }
    guard let type = try? RelayMessageType(of: plain.span.bytes) else { return }
    switch type {
    case .sketch, .chunk: meddle(plain, type, from: message.link, &sink)
    case .need where attacks.contains(.answerRubbish):
      if let need = try? NeedMessage(parsing: plain.span.bytes) {
        for _ in 0..<min(6, Int(need.count)) {
          invent(need.block, need.kind, to: message.link, flags: [.whole, .asked], &sink)
        }
      }
    default: break
    }
  }

  // MARK: Lies about what it hears

  private mutating func meddle(
    _ plain: [UInt8], _ type: RelayMessageType, from source: LinkID, _ sink: inout some DatagramSink & ~Copyable
  ) {
    let headBytes = type == .sketch ? SketchMessage.headBytes : ChunkMessage.headBytes
    // Another liar's noise.
    if plain.count <= headBytes { return }
    if type == .sketch, let sketch = try? SketchMessage(parsing: plain.span.bytes) {
      if heard.last?.header != sketch.head.header {
        heard.append(sketch.head)
        if heard.count > 8 { heard.removeFirst() }
        if attacks.contains(.claim) { claim(sketch.head.header, &sink) }
      }
    }
    for link in links where link.id != source && up[Int(link.id.index)] {
      if budget <= -40 { return }
      budget -= 1
      var lie = plain
      if attacks.contains(.corrupt) && random.chance(0.5) && lie.count > headBytes {
        lie[headBytes + random.below(lie.count - headBytes)] ^= UInt8(1 + random.below(255))
        lies += 1
      }
      if attacks.contains(.relabel) && random.chance(0.3) {
        // Anything in the head but the type: flags, header, sizes, ids, index, promises.
        lie[1 + random.below(headBytes - 1)] ^= UInt8(1 << random.below(8))
        lies += 1
      }
      for _ in 0..<(attacks.contains(.echo) ? 3 : 1) { say(lie, to: link.id, &sink) }
    }
  }

  private mutating func say(
    _ bytes: [UInt8], to link: LinkID, urgency: Urgency = .block, _ sink: inout some DatagramSink & ~Copyable
  ) {
    _ = sessions.send(bytes.span.bytes, on: link, urgency: urgency, into: &sink)
  }

  private mutating func say(
    to link: LinkID, _ sink: inout some DatagramSink & ~Copyable, _ write: (inout MutableRawSpan) -> Int
  ) {
    lies += 1
    _ = sessions.send(on: link, urgency: .control, capacity: RelayLimits.messageBytes, into: &sink, write)
  }

  private func id8(_ header: HeaderBytes) -> UInt64 { header.withBytes { SHA256.double($0).w0 } }

  private mutating func claim(_ header: HeaderBytes, _ sink: inout some DatagramSink & ~Copyable) {
    let have = HaveMessage(
      block: id8(header), flags: .checked, received: 0, useless: 0, needed: 0, missingBytes: 0,
      missing: SizeClassCounts())
    for link in links where up[Int(link.id.index)] { say(to: link.id, &sink) { have.write(into: &$0) } }
  }

  private mutating func invent(
    _ block: UInt64, _ kind: ObjectKind, to link: LinkID, flags: ChunkFlags,
    _ sink: inout some DatagramSink & ~Copyable
  ) {
    let maker = random.chance(0.5) ? ownKey : keys[random.below(keys.count)]
    let index = UInt32(random.below(random.chance(0.5) ? 64 : 65_536))
    let known = heard.last { id8($0.header) == block }
    if kind == .sketch {
      guard var head = known else { return }
      head.flags = flags
      head.maker = maker
      head.index = index
      let chunk = random.bytes(RelayLimits.sketchChunkBytes)
      say(to: link, &sink) { SketchMessage(head, chunk: chunk.span.bytes).write(into: &$0) }
    } else {
      let chunk = random.bytes(Int(known?.bodyChunkBytes ?? UInt16(RelayLimits.chunkBytes)))
      say(to: link, &sink) {
        ChunkMessage(
          kind: kind, flags: flags, block: block, maker: maker, more: 9, index: index, chunk: chunk.span.bytes
        ).write(into: &$0)
      }
    }
  }

  // MARK: Lies of its own making

  private mutating func tick(_ sink: inout some DatagramSink & ~Copyable) {
    for link in links where up[Int(link.id.index)] {
      let id = link.id
      if attacks.contains(.misstate) && random.chance(0.2) { misstate(to: id, &sink) }
      if attacks.contains(.noise) && random.chance(0.5) {
        var bytes = random.bytes(1 + random.below(RelayLimits.messageBytes))
        bytes[0] = UInt8(random.below(18))
        say(bytes, to: id, urgency: .background, &sink)
        lies += 1
      }
      if attacks.contains(.forgeBlocks) && random.chance(0.1) { forge(to: id, &sink) }
      guard let head = heard.last else { continue }
      let block = id8(head.header)
      let kind = ObjectKind.allCases[random.below(4)]
      if attacks.contains(.invent) && random.chance(0.5) {
        invent(block, kind, to: id, flags: ChunkFlags(rawValue: UInt8(random.below(4))), &sink)
      }
      if attacks.contains(.demand) {
        let need = NeedMessage(
          block: block, kind: kind, flags: NeedMessage.Flags(rawValue: UInt8(random.below(8))),
          count: UInt32(random.below(random.chance(0.1) ? 2_000 : 40)))
        say(to: id, &sink) { need.write(into: &$0) }
      }
      if attacks.contains(.accuse) && random.chance(0.3) {
        let blame = BlameMessage(
          block: block, kind: kind, index: UInt32(random.below(2_000)), maker: keys[random.below(keys.count)])
        let source = keys[random.below(keys.count)]
        if random.chance(0.5) {
          say(to: id, &sink) { blame.write(into: &$0) }
        } else {
          say(to: id, &sink) { PointMessage(blame: blame, source: source).write(into: &$0) }
        }
      }
    }
  }

  private mutating func misstate(to link: LinkID, _ sink: inout some DatagramSink & ~Copyable) {
    func any() -> Bytes32 {
      Bytes32(w0: random.next(), w1: random.next(), w2: random.next(), w3: random.next() >> UInt64(random.below(64)))
    }
    // A tip that exists is the better lie.
    let tip = heard.last.flatMap { random.chance(0.5) ? Bytes32($0.header.withBytes { SHA256.double($0) }) : nil }
    let head = StatusHead(
      flags: .answer, readiness: [.cold, .starting, .inStep][random.below(3)],
      height: UInt32(random.below(random.chance(0.5) ? 1_100 : Int(UInt32.max))), tip: tip ?? any(), work: any(),
      mempoolTransactions: UInt32(truncatingIfNeeded: random.next()), mempoolBytes: random.next(),
      loss: UInt16(truncatingIfNeeded: random.next()), burst: UInt16(256 + random.below(60_000)),
      observed: UInt32(truncatingIfNeeded: random.next()))
    let rows = (0..<random.below(20)).map { _ in
      StatusRow(
        neighbour: keys[random.below(keys.count)], delay: UInt32(random.below(20_000)),
        flags: StatusRow.Flags(rawValue: UInt8(random.below(4))))
    }
    say(to: link, &sink) { StatusMessage.write(head, rows: rows.span, into: &$0) }
  }

  /// A block that nobody can complete: its header has proof of work (cheap on regtest), its body is nowhere.
  private mutating func forge(to link: LinkID, _ sink: inout some DatagramSink & ~Copyable) {
    guard forgeries.left > 0, var head = heard.last, !forgeries.headers.contains(head.header) else { return }
    forgeries.left -= 1
    guard let model = head.header.withBytes({ try? BlockHeader(parsing: $0) }) else { return }
    var header = model
    header.previous = random.chance(0.5) ? head.header.withBytes { SHA256.double($0) } : model.previous
    header.merkleRoot = SHA256.double(random.bytes(32).span.bytes)
    header.time += 1
    header.nonce = 0
    while !header.hasProofOfWork(limit: network.powLimit) && header.nonce < 100_000 { header.nonce += 1 }
    var writer = ByteWriter()
    header.write(to: &writer)
    head.header = HeaderBytes(writer.bytes.span.bytes)
    forgeries.headers.insert(head.header)
    // From now on it is this block that the liar speaks of.
    heard.append(head)
    head.maker = ownKey
    head.flags = .whole
    head.index = UInt32(random.below(8))
    let chunk = random.bytes(RelayLimits.sketchChunkBytes)
    say(to: link, &sink) { SketchMessage(head, chunk: chunk.span.bytes).write(into: &$0) }
  }
}
