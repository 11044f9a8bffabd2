import Foundation
import Ground

/// A core that says how much CPU time its work would have taken, so that virtual time doesn't flatter.
public protocol SimulatedCore: DatagramCore, ~Copyable {
  /// Nanoseconds of work since the core was made; only ever grows.
  var workNanoseconds: UInt64 { get }
}

/// Drives cores of one type over a virtual clock and a packet network. The other driver of `DatagramCore`, beside the
/// io_uring engine; deterministic: one seed, one run. Confined to one thread.
///
/// A node is one pinned thread: it takes what has arrived (at most `maxBatch` at a time), calls the core, and while the
/// core's work and the driver's own take virtual time, what arrives waits. What it sends leaves when the run is over.
public final class Simulation<Core: SimulatedCore & ~Copyable> {
  let network: UnsafeMutablePointer<NetworkState>
  private var cores: [UnsafeMutablePointer<Core>?] = []
  private var makers: [(_ incarnation: Int) -> Core] = []
  private var incarnations: [Int] = []
  private var actions: [((Simulation) -> Void)?] = []
  private var freeActions: [UInt32] = []
  private var random: SeededRandom
  private var hasPaths = false
  /// What paths are like that nobody has described.
  public let defaultPath: PathModel

  public init(seed: UInt64, model: NetworkModel = NetworkModel(), defaultPath: PathModel = PathModel(delay: .zero)) {
    precondition(model.maxLinks <= 128)
    network = .allocate(capacity: 1)
    network.initialize(to: NetworkState(model: model))
    random = SeededRandom(seed: seed)
    self.defaultPath = defaultPath
  }

  deinit {
    for core in cores {
      core?.deinitialize(count: 1)
      core?.deallocate()
    }
    network.deinitialize(count: 1)
    network.deallocate()
  }

  // MARK: Building

  /// Adds a node, not yet started. `make` builds its core, anew after each crash. All nodes come before any path.
  @discardableResult
  public func addNode(
    address: PeerAddress, uplink: LinkRate = .unlimited, clock: ClockModel = .exact,
    make: @escaping (_ incarnation: Int) -> Core
  ) -> Int {
    precondition(!hasPaths, "add all nodes before paths are described or anything runs")
    let index = network.pointee.nodes.count
    precondition(index < 1 << 15)
    let count = network.pointee.model.maxLinks + 1
    let links = UnsafeMutablePointer<SimulatedLink>.allocate(capacity: count)
    links.initialize(repeating: SimulatedLink(), count: count)
    links[count - 1].isAssigned = true
    network.pointee.nodes.append(
      SimulatedNode(address: addressNumber(address), uplink: uplink, clock: clock, links: links))
    network.pointee.nodeOfAddress[address] = Int32(index)
    cores.append(nil)
    makers.append(make)
    incarnations.append(0)
    return index
  }

  public var nodeCount: Int { network.pointee.nodes.count }

  private func addressNumber(_ address: PeerAddress) -> UInt32 {
    if let known = network.pointee.addresses.firstIndex(of: address) { return UInt32(known) }
    network.pointee.addresses.append(address)
    return UInt32(network.pointee.addresses.count - 1)
  }

  private func preparePaths() {
    if hasPaths { return }
    hasPaths = true
    let transitions = defaultPath.loss.transitions
    for _ in 0..<nodeCount * nodeCount {
      network.pointee.paths.append(
        SimulatedPath(
          model: defaultPath, toGood: transitions.toGood, toBad: transitions.toBad, random: random.fork()))
    }
  }

  /// Describes one direction; may be changed while the run goes on.
  public func setPath(from: Int, to: Int, _ model: PathModel) {
    preparePaths()
    let path = from * nodeCount + to
    let transitions = model.loss.transitions
    network.pointee.paths[path].model = model
    network.pointee.paths[path].toGood = transitions.toGood
    network.pointee.paths[path].toBad = transitions.toBad
    // A burst under way ends with the model that it belonged to.
    if model.loss.rate == 0 { network.pointee.paths[path].isBad = false }
  }

  public func path(from: Int, to: Int) -> PathModel {
    preparePaths()
    return network.pointee.paths[from * nodeCount + to].model
  }

  /// Cuts or heals one direction. Datagrams under way still arrive; those sent into the cut don't.
  public func setCut(from: Int, to: Int, _ isCut: Bool) {
    preparePaths()
    network.pointee.paths[from * nodeCount + to].isCut = isCut
  }

  /// Cuts (or heals) everything between the nodes of `side` and all others.
  public func partition(_ side: Set<Int>, _ isCut: Bool) {
    for a in side {
      for b in 0..<nodeCount where !side.contains(b) {
        setCut(from: a, to: b, isCut)
        setCut(from: b, to: a, isCut)
      }
    }
  }

  public func setClock(of node: Int, _ clock: ClockModel) { network.pointee.nodes[node].clock = clock }
  public func setUplink(of node: Int, _ rate: LinkRate) { network.pointee.nodes[node].uplink = rate }

  // MARK: Clock and counters

  /// True time.
  public var now: Instant { Instant(nanoseconds: network.pointee.now) }
  /// The same instant on a node's clock.
  public func localTime(of node: Int) -> Instant { network.pointee.nodes[node].clock.local(network.pointee.now) }
  /// True time at which a node's clock shows `local`.
  public func trueTime(of local: Instant, at node: Int) -> Instant {
    Instant(nanoseconds: network.pointee.nodes[node].clock.trueTime(of: local))
  }
  /// Hash of every arrival and loss so far: equal traces, equal runs.
  public var traceHash: UInt64 { network.pointee.trace }
  public func counters(of node: Int) -> NodeCounters { network.pointee.nodes[node].counters }
  public func pathCounters(from: Int, to: Int) -> PathCounters {
    preparePaths()
    return network.pointee.paths[from * nodeCount + to].counters
  }
  /// Most datagrams that were queued or under way at once.
  public var mostDatagrams: Int { network.pointee.pool.mostInUse }
  /// Datagrams queued or under way now.
  public var datagramsInUse: Int { network.pointee.pool.inUse }
  public func isUp(_ node: Int) -> Bool { network.pointee.nodes[node].isUp }

  // MARK: Life and death

  /// Makes a node's core and starts it.
  public func start(_ node: Int) {
    preparePaths()
    precondition(!network.pointee.nodes[node].isUp)
    let core = UnsafeMutablePointer<Core>.allocate(capacity: 1)
    core.initialize(to: makers[node](incarnations[node]))
    incarnations[node] += 1
    cores[node] = core
    network.pointee.nodes[node].isUp = true
    network.pointee.nodes[node].busyUntil = network.pointee.now
    call(node) { core, now, sink in core.start(now: now, into: &sink) }
  }

  /// Ends a node at once: queues and memory are gone, nobody is told. `start` brings it back with a new core.
  public func crash(_ node: Int) {
    guard network.pointee.nodes[node].isUp else { return }
    for link in 0...network.pointee.model.maxLinks {
      _ = network.pointee.drop(flow: nil, node, link)
      network.pointee.nodes[node].links[link] = SimulatedLink()
    }
    network.pointee.nodes[node].links[network.pointee.model.maxLinks].isAssigned = true
    while let slot = network.pointee.nodes[node].inbox.popFirst(network.pointee.pool.slots) {
      network.pointee.pool.give(slot)
    }
    network.pointee.nodes[node].isUp = false
    network.pointee.nodes[node].roomDue = (0, 0)
    network.pointee.nodes[node].isWoken = false
    network.pointee.nodes[node].runAt = .max
    network.pointee.nodes[node].pumpAt = .max
    cores[node]?.deinitialize(count: 1)
    cores[node]?.deallocate()
    cores[node] = nil
  }

  /// Lets a core say its last words, gives them `grace` to leave, then ends the node.
  public func stop(_ node: Int, grace: Interval = .microseconds(100_000)) {
    guard network.pointee.nodes[node].isUp else { return }
    perform(on: node) { core, now, sink in core.stop(now: now, into: &sink) }
    at(now + grace) { $0.crash(node) }
  }

  // MARK: Acting

  /// Runs `action` at a true time (or now, if that is past).
  public func at(_ time: Instant, _ action: @escaping (Simulation) -> Void) {
    let index: UInt32
    if let free = freeActions.popLast() {
      index = free
      actions[Int(index)] = action
    } else {
      index = UInt32(actions.count)
      actions.append(action)
    }
    let due = max(time.nanoseconds, network.pointee.now)
    network.pointee.heap.push(.action, at: due, node: 0, payload: index)
  }

  /// Calls into a core from outside (a block from its node, a command) as soon as it isn't busy. Costs what it costs.
  public func perform(on node: Int, _ body: @escaping (inout Core, Instant, inout NodeSink) -> Void) {
    if network.pointee.nodes[node].busyUntil > network.pointee.now {
      at(Instant(nanoseconds: network.pointee.nodes[node].busyUntil)) { $0.perform(on: node, body) }
    } else if network.pointee.nodes[node].isUp {
      call(node, body)
    }
  }

  /// Looks at a core, or changes what is no part of the run (test data), in no time. Nil when the node is down.
  @discardableResult
  public func inspect<R>(_ node: Int, _ body: (inout Core) -> R) -> R? {
    guard let core = cores[node] else { return nil }
    return body(&core.pointee)
  }

  /// Has `DatagramCore.woken` called.
  public func wake(_ node: Int) {
    guard network.pointee.nodes[node].isUp else { return }
    network.pointee.nodes[node].isWoken = true
    network.pointee.schedule(run: node, at: network.pointee.nodes[node].busyUntil)
  }

  /// A datagram out of nowhere: forged, replayed or random bytes from any address.
  public func inject(_ bytes: [UInt8], from source: PeerAddress, to node: Int, at time: Instant? = nil) {
    preparePaths()
    precondition(bytes.count <= network.pointee.model.maxDatagram)
    let slot = network.pointee.pool.take()
    network.pointee.pool.slots[slot].length = Int32(bytes.count)
    network.pointee.pool.slots[slot].source = addressNumber(source)
    network.pointee.pool.slots[slot].destination = Int32(node)
    bytes.withUnsafeBytes { raw in
      if let base = raw.baseAddress { network.pointee.pool.bytes(slot).copyMemory(from: base, byteCount: raw.count) }
    }
    network.pointee.arrive(slot, at: max(time ?? now, now).nanoseconds, node)
  }

  // MARK: Running

  /// Runs until nothing is left to do before `end`; the clock then shows `end`.
  public func run(until end: Instant) { run(until: end) { false } }

  /// Runs until `end` or until `isDone`, asked every `step` of virtual time. True if it was done.
  @discardableResult
  public func run(until end: Instant, step: Interval = .microseconds(1_000), _ isDone: () -> Bool) -> Bool {
    preparePaths()
    var nextAsk = now + step
    while network.pointee.heap.firstTime <= end.nanoseconds {
      let event = network.pointee.heap.pop()
      network.pointee.now = event.time
      handle(event)
      if event.time >= nextAsk.nanoseconds {
        if isDone() { return true }
        nextAsk = Instant(nanoseconds: event.time) + step
      }
    }
    if end != .never { network.pointee.now = max(network.pointee.now, end.nanoseconds) }
    return isDone()
  }

  private func handle(_ event: Event) {
    let node = Int(event.node)
    switch event.kind {
    case .arrival: arrived(Int(event.payload), node)
    case .run:
      if network.pointee.nodes[node].runAt == event.time { run(node) }
    case .pump:
      if network.pointee.nodes[node].pumpAt == event.time {
        network.pointee.nodes[node].pumpAt = .max
        network.pointee.pump(node)
      }
    case .action:
      let action = actions[Int(event.payload)]
      actions[Int(event.payload)] = nil
      freeActions.append(event.payload)
      action?(self)
    }
  }

  private func arrived(_ slot: Int, _ node: Int) {
    let length = Int(network.pointee.pool.slots[slot].length)
    let bytes = network.pointee.pool.bytes(slot)
    network.pointee.note(network.pointee.now)
    network.pointee.note(UInt64(node) << 32 | UInt64(length))
    if length >= 16 {
      // The first bytes are headers and counters, the last ones a tag over everything.
      network.pointee.note(bytes.loadUnaligned(as: UInt64.self))
      network.pointee.note(bytes.loadUnaligned(fromByteOffset: length - 8, as: UInt64.self))
    }
    guard network.pointee.nodes[node].isUp else {
      network.pointee.pool.give(slot)
      return
    }
    if network.pointee.nodes[node].inbox.count >= network.pointee.model.maxInbox {
      network.pointee.nodes[node].counters.overflowed += 1
      network.pointee.pool.give(slot)
      return
    }
    network.pointee.nodes[node].inbox.append(slot, network.pointee.pool.slots)
    let depth = UInt64(network.pointee.nodes[node].inbox.count)
    if depth > network.pointee.nodes[node].counters.deepestInbox {
      network.pointee.nodes[node].counters.deepestInbox = depth
    }
    if network.pointee.nodes[node].busyUntil <= network.pointee.now {
      run(node)
    } else {
      network.pointee.schedule(run: node, at: network.pointee.nodes[node].busyUntil)
    }
  }

  /// One turn of a node's loop: what arrived, what is due, what has room, what woke it.
  private func run(_ node: Int) {
    network.pointee.nodes[node].runAt = .max
    guard let core = cores[node] else { return }
    if network.pointee.nodes[node].busyUntil > network.pointee.now {
      network.pointee.schedule(run: node, at: network.pointee.nodes[node].busyUntil)
      return
    }
    let clock = network.pointee.nodes[node].clock
    let begin = network.pointee.now
    let model = network.pointee.model
    let workBefore = core.pointee.workNanoseconds
    var driver = model.wakeNanoseconds
    var sink = NodeSink(network: network, node: node)
    network.pointee.nodes[node].run &+= 1
    network.pointee.nodes[node].sentInRun = 0
    func elapsed() -> Instant { clock.local(begin + driver + core.pointee.workNanoseconds - workBefore) }

    var received = 0
    while received < model.maxBatch,
      let slot = network.pointee.nodes[node].inbox.popFirst(network.pointee.pool.slots)
    {
      received += 1
      driver += model.receiveNanoseconds
      let source = network.pointee.addresses[Int(network.pointee.pool.slots[slot].source)]
      let arrival = clock.local(network.pointee.pool.slots[slot].arrival)
      let buffer = UnsafeMutableRawBufferPointer(
        start: network.pointee.pool.bytes(slot), count: Int(network.pointee.pool.slots[slot].length))
      var span = buffer.mutableBytes
      core.pointee.receive(&span, from: source, arrival: arrival, now: elapsed(), into: &sink)
      network.pointee.pool.give(slot)
    }
    if received > 0 {
      network.pointee.nodes[node].counters.received += UInt64(received)
      core.pointee.batchEnded(now: elapsed(), into: &sink)
    }
    if network.pointee.nodes[node].isWoken {
      network.pointee.nodes[node].isWoken = false
      core.pointee.woken(now: elapsed(), into: &sink)
    }
    announceRoom(node, core, &sink, elapsed)
    let before = core.pointee.nextDeadline
    let isDue = before <= elapsed()
    if isDue { core.pointee.deadlinePassed(now: elapsed(), into: &sink) }
    // A deadline that stays where it was must not stop the clock.
    finish(node, core, begin, driver, workBefore, isStuck: isDue && core.pointee.nextDeadline == before)
  }

  private func announceRoom(
    _ node: Int, _ core: UnsafeMutablePointer<Core>, _ sink: inout NodeSink, _ elapsed: () -> Instant
  ) {
    var due = network.pointee.nodes[node].roomDue
    if due.0 | due.1 == 0 { return }
    network.pointee.nodes[node].roomDue = (0, 0)
    while due.0 != 0 {
      let link = due.0.trailingZeroBitCount
      due.0 &= due.0 - 1
      core.pointee.roomAvailable(on: LinkID(UInt16(link)), now: elapsed(), into: &sink)
    }
    while due.1 != 0 {
      let link = 64 + due.1.trailingZeroBitCount
      due.1 &= due.1 - 1
      core.pointee.roomAvailable(on: LinkID(UInt16(link)), now: elapsed(), into: &sink)
    }
  }

  /// A single call from outside, as a run of its own. The node isn't busy.
  private func call(_ node: Int, _ body: (inout Core, Instant, inout NodeSink) -> Void) {
    guard let core = cores[node] else { return }
    let begin = network.pointee.now
    let workBefore = core.pointee.workNanoseconds
    let driver = network.pointee.model.wakeNanoseconds
    network.pointee.nodes[node].run &+= 1
    network.pointee.nodes[node].sentInRun = 0
    var sink = NodeSink(network: network, node: node)
    body(&core.pointee, network.pointee.nodes[node].clock.local(begin + driver), &sink)
    finish(node, core, begin, driver, workBefore, isStuck: false)
  }

  /// Charges the run's time and arranges what comes after it.
  private func finish(
    _ node: Int, _ core: UnsafeMutablePointer<Core>, _ begin: UInt64, _ driver: UInt64, _ workBefore: UInt64,
    isStuck: Bool
  ) {
    let sent = network.pointee.nodes[node].sentInRun
    let cost =
      driver + sent * network.pointee.model.sendNanoseconds + (core.pointee.workNanoseconds - workBefore)
    let end = begin + cost
    network.pointee.nodes[node].busyUntil = end
    network.pointee.nodes[node].counters.busyNanoseconds += cost
    if sent > 0 { network.pointee.schedule(pump: node, at: end) }
    if !network.pointee.nodes[node].inbox.isEmpty || network.pointee.nodes[node].isWoken
      || network.pointee.nodes[node].roomDue.0 | network.pointee.nodes[node].roomDue.1 != 0
    {
      network.pointee.schedule(run: node, at: end)
    }
    let deadline = core.pointee.nextDeadline
    if deadline != .never {
      let due = network.pointee.nodes[node].clock.trueTime(of: deadline)
      network.pointee.schedule(run: node, at: max(due, isStuck && end == begin ? end + 1_000 : end))
    }
  }
}
