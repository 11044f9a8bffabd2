import CLibsodium
import Ground
import Wire

/// All sessions of one relay: handshakes, keys, sealing and opening, keepalive, roaming, clock samples.
///
/// Sans-IO and owned by one thread: datagrams and instants go in; datagrams leave through a `DatagramSink`; messages are
/// opened in place; what happened is drained with `nextEvent`. Everything is allocated at `init`, and nothing that
/// arrives makes it allocate, grow or trap.
public struct SessionTable: ~Copyable {
  static let slotsPerLink = 5

  public let identity: Identity
  public let settings: SessionSettings
  /// How many links there can be: IDs from 0 up to this.
  public let capacity: Int
  public internal(set) var counters = SessionCounters()
  /// The control message that the last `receive` opened, if that was one: its counter belongs to the same sequence as
  /// messages' (for loss meters).
  public internal(set) var openedControl: SessionMessage?
  /// When to call `deadlinePassed`.
  public internal(set) var nextDeadline = Instant.never

  /// After `stop`: nothing is taken any more.
  var isStopped = false

  let random: RandomSource
  let prologue: [UInt8]
  var overlay: OverlaySecret?
  var hello: Hello
  /// Raised when the hello changes: tickets given out before are void.
  var helloVersion: UInt32 = 0

  let links: UnsafeMutablePointer<LinkRecord>
  let configured: UnsafeMutablePointer<Bool>
  let slots: UnsafeMutablePointer<Slot>
  let windows: UnsafeMutablePointer<UInt64>
  /// The act under way of each link, as sent, for retransmission.
  let acts: UnsafeMutableRawPointer
  static let actStride = 384

  let secrets: GuardedBytes
  var gate: HandshakeGate
  let ownMacKey: Mac
  let ownNoticeKey: Mac
  /// Hides link numbers in session indexes.
  let indexMask: UInt16

  // Tickets: key number `ticketEpoch & 1` of the two in `secrets` seals new ones.
  var ticketEpoch: UInt64 = 0
  var ticketSerial: UInt64 = 0
  var ticketsIssued = false
  var ticketRotation = Instant.never

  var notices = Pacer()
  var unknownPeerEvents = Pacer()

  let events: UnsafeMutablePointer<SessionEvent>
  let eventCapacity: Int
  var eventHead = 0
  var eventCount = 0

  /// - Parameters:
  ///   - network: goes into the handshake's prologue: relays of different networks never come to a session.
  ///   - overlay: the secret that all sites hold; `nil` on both sides agrees epoch 0.
  ///   - offer: what this relay can do and wants.
  ///   - capacity: how many links there can be, at most 8,192.
  public init(
    identity: Identity, network: String, overlay: OverlaySecret? = nil, offer: SessionOffer = SessionOffer(),
    capacity: Int, settings: SessionSettings = SessionSettings(), random: RandomSource = .system
  ) {
    precondition(capacity > 0 && capacity <= 8_192)
    Sodium.start()
    self.identity = identity
    self.settings = settings
    self.capacity = capacity
    self.random = random
    self.overlay = overlay
    prologue = Array("lightpath/1 ".utf8) + Array(network.utf8)
    hello = Hello(instance: random.next(), index: 0, offer: offer)
    hello.set(overlay)

    let slotCount = capacity * SessionTable.slotsPerLink
    links = .allocate(capacity: capacity)
    links.initialize(
      repeating: LinkRecord(peer: identity.publicKey, address: nil, rate: .unlimited), count: capacity)
    configured = .allocate(capacity: capacity)
    configured.initialize(repeating: false, count: capacity)
    slots = .allocate(capacity: slotCount)
    slots.initialize(repeating: Slot(), count: slotCount)
    windows = .allocate(capacity: slotCount * ReplayWindow.wordCount)
    windows.initialize(repeating: 0, count: slotCount * ReplayWindow.wordCount)
    acts = .allocate(byteCount: capacity * SessionTable.actStride, alignment: 64)
    acts.initializeMemory(as: UInt8.self, repeating: 0, count: capacity * SessionTable.actStride)
    secrets = GuardedBytes(count: SessionTable.secretBytes(capacity))
    eventCapacity = 256 + 4 * capacity
    events = .allocate(capacity: eventCapacity)

    gate = HandshakeGate(identity: identity, settings: settings, random: random)
    ownMacKey = Mac(label: "lightpath act to", identity.publicKey)
    ownNoticeKey = Mac(label: "lightpath unknown session from", identity.publicKey)
    indexMask = random.next()
    random.fill(ticketKey(0), 32)
    random.fill(ticketKey(1), 32)
  }

  deinit {
    links.deallocate()
    configured.deallocate()
    slots.deallocate()
    windows.deallocate()
    acts.deallocate()
    events.deallocate()
  }

  // MARK: Guarded memory, laid out

  // Responder's scratch, ticket keys, then per link: initiator's state, then per slot: send key, receive key.
  private static let sharedSecretBytes = NoiseXK.byteCount + 64
  private static let linkSecretBytes = NoiseXK.byteCount + slotsPerLink * 2 * TransportKey.byteCount
  static func secretBytes(_ capacity: Int) -> Int { sharedSecretBytes + capacity * linkSecretBytes }

  /// Holds a handshake while one datagram is worked on, and nothing in between.
  var scratch: NoiseXK { NoiseXK(secrets.pointer) }
  func ticketKey(_ number: Int) -> UnsafeMutableRawPointer { secrets.pointer + NoiseXK.byteCount + 32 * number }

  func initiatorState(_ link: Int) -> NoiseXK {
    NoiseXK(secrets.pointer + SessionTable.sharedSecretBytes + link * SessionTable.linkSecretBytes)
  }

  @inline(__always) func sendKey(_ slot: Int) -> TransportKey {
    let (link, number) = slot.quotientAndRemainder(dividingBy: SessionTable.slotsPerLink)
    return TransportKey(
      secrets.pointer + SessionTable.sharedSecretBytes + link * SessionTable.linkSecretBytes + NoiseXK.byteCount
        + number * 2 * TransportKey.byteCount)
  }

  @inline(__always) func receiveKey(_ slot: Int) -> TransportKey {
    let (link, number) = slot.quotientAndRemainder(dividingBy: SessionTable.slotsPerLink)
    return TransportKey(
      secrets.pointer + SessionTable.sharedSecretBytes + link * SessionTable.linkSecretBytes + NoiseXK.byteCount
        + (number * 2 + 1) * TransportKey.byteCount)
  }

  @inline(__always) func window(_ slot: Int) -> ReplayWindow {
    ReplayWindow(windows + slot * ReplayWindow.wordCount)
  }

  func act(_ link: Int) -> UnsafeMutableRawPointer { acts + link * SessionTable.actStride }

  // MARK: Looking up

  @inline(__always) func isConfigured(_ link: LinkID) -> Bool {
    Int(link.index) < capacity && configured[Int(link.index)]
  }

  /// The link of a peer, if there is one.
  public func link(of peer: PublicKey) -> LinkID? {
    for i in 0..<capacity where configured[i] && links[i].peer == peer { return LinkID(UInt16(i)) }
    return nil
  }

  func link(at address: PeerAddress) -> Int? {
    for i in 0..<capacity where configured[i] {
      if links[i].address == address || links[i].configuredAddress == address { return i }
      for j in links[i].alternates.indices where links[i].alternates[j] == address { return i }
    }
    return nil
  }

  /// `nil` for a link that isn't configured.
  public func status(of link: LinkID) -> LinkStatus? {
    guard isConfigured(link) else { return nil }
    let record = links[Int(link.index)]
    let slot = record.current == LinkRecord.none ? nil : slots[record.current]
    return LinkStatus(
      isEstablished: slot != nil, address: record.address, peer: record.peer,
      parameters: slot?.parameters ?? record.lastParameters, generation: slot?.generation ?? record.generation,
      sent: slot?.sendCounter ?? 0, opened: slot?.opened ?? 0,
      highestCounter: max(slot?.receiveNext ?? 0, 1) - 1, roundTrip: record.smoothedRoundTrip,
      leastRoundTrip: record.leastRoundTrip, lastHeard: record.lastHeard)
  }

  /// Cheap: for asking per message.
  @inlinable public func isEstablished(_ link: LinkID) -> Bool { currentSlot(of: link) >= 0 }

  @usableFromInline func currentSlot(of link: LinkID) -> Int {
    isConfigured(link) ? links[Int(link.index)].current : LinkRecord.none
  }

  // MARK: Events

  /// The next thing that happened, in order; `nil` when there is nothing more. Drain after every batch: the queue holds
  /// 256 and four per link, then drops the oldest and counts it.
  public mutating func nextEvent() -> SessionEvent? {
    if eventCount == 0 { return nil }
    let event = events[eventHead]
    eventHead = (eventHead + 1) % eventCapacity
    eventCount -= 1
    return event
  }

  mutating func note(_ event: SessionEvent) {
    if eventCount == eventCapacity {
      eventHead = (eventHead + 1) % eventCapacity
      eventCount -= 1
      counters.eventsDropped += 1
    }
    (events + (eventHead + eventCount) % eventCapacity).initialize(to: event)
    eventCount += 1
  }
}

extension Hello {
  mutating func set(_ overlay: OverlaySecret?) {
    let checks = overlay?.checks ?? []
    epochCount = checks.count
    for (i, check) in checks.enumerated() { epochs[i] = check }
  }
}
