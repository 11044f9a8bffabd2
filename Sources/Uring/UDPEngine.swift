import CLiburing
import CRing
import Glibc
import Ground
import Synchronization

/// Drives a `DatagramCore` with real sockets on an io_uring, on the thread that calls `run`.
///
/// ```swift
/// let engine = try UDPEngine(EngineConfiguration(listen: [PeerAddress("[::]:8335")!]))
/// let handle = engine.handle          // for other threads: stop, counters, waking
/// try engine.run(&core)               // returns after handle.stop()
/// ```
///
/// Ownership: a datagram's bytes belong to a kernel buffer that is lent to the core for the length of one call. What
/// the core sends is written once into the engine's pool and stays there until the kernel has taken it. Nothing is
/// allocated after `run` has begun.
public struct UDPEngine: ~Copyable {
  public let handle: EngineHandle
  let configuration: EngineConfiguration
  let counters: CounterWriter
  // Declared and so destroyed in this order: the ring goes before the memory that the kernel may still write to.
  var ring: Ring
  var buffers: BufferRing
  var ports: SocketPorts
  var trains: Trains
  var output: EngineOutput
  var clock: RealtimeConversion
  var idle: IdleSpin
  var lateness = Lateness()
  /// Completions already taken out of the ring, for the next pass.
  var heldOver = 0
  var isWakeArmed = false
  var isDraining = false
  var now: Instant
  var lastFlush: Instant
  var lastDropCheck: Instant

  /// Opens and binds the sockets and takes all memory.
  /// - Throws: `RingError`: io_uring disabled, kernel too old, address not to be had, nonsense configured.
  public init(_ configuration: EngineConfiguration) throws(RingError) {
    try configuration.validate()
    var ring = try Ring(
      entries: configuration.ringEntries, completionEntries: configuration.receiveBuffers * 4 + 1_024,
      mode: configuration.ringMode)
    if !ring.hasMultishotReceive {
      throw .kernelTooOld(missing: "multishot recvmsg", release: RingError.kernelRelease())
    }
    let buffers = try BufferRing(
      group: 0, count: configuration.receiveBuffers, bytesEach: SocketPorts.bufferBytes, on: ring)
    let ports = try SocketPorts(configuration)
    let waker = try WakeHandle.make()
    let sockets = (0..<ports.count).map { ports.ports[$0].socket }
    try ring.register(files: sockets.map(\.descriptor) + [waker.descriptor])
    let handle = EngineHandle(
      addresses: sockets.map(\.address), warnings: sockets.flatMap(\.warnings), ringMode: ring.mode, waker: waker,
      links: configuration.linkCapacity)
    now = SystemClock.now()
    lastFlush = now
    lastDropCheck = now
    clock = RealtimeConversion(now: now, realtime: SystemClock.realtime())
    counters = handle.counters.writer
    output = EngineOutput(
      configuration, sockets: sockets.map { EngineOutput.SocketChoice(isIPv4: $0.isIPv4, address: $0.address) },
      counters: counters, now: now)
    trains = Trains(capacity: configuration.trainsInFlight)
    idle = IdleSpin(short: configuration.patience)
    self.configuration = configuration
    self.handle = handle
    self.ring = ring
    self.buffers = buffers
    self.ports = ports
  }

  /// Runs until `handle.stop()`. The calling thread becomes the engine thread: it is named, pinned if so configured, and
  /// must not do anything else meanwhile.
  public consuming func run<Core: DatagramCore & ~Copyable>(_ core: inout Core) throws(RingError) {
    try prepareThread()
    try ring.activate()
    tick()
    core.start(now: now, into: &output)
    core.streamsReady(now: now, into: &output)
    arm()
    var drainUntil = Instant.never
    while true {
      let wake = pass(&core)
      if !isDraining && handle.stopping.load(ordering: .acquiring) {
        isDraining = true
        tick()
        core.stop(now: now, into: &output)
        drainUntil = now + configuration.drain
        continue
      }
      if isDraining && ((output.queuedTotal == 0 && trains.inFlight == 0) || now >= drainUntil) { break }
      sleep(
        until: min(wake, isDraining ? drainUntil : core.nextDeadline),
        awaitsCompletions: isDraining || wake == .never && output.queuedTotal > 0)
    }
    shutDown()
  }

  private func prepareThread() throws(RingError) {
    configuration.threadName.withCString { thread_set_name($0) }
    // The default slack of 50 µs is what pacing and deadlines would be late by.
    thread_set_timer_slack(1)
    if let cpu = configuration.cpu {
      let error = thread_pin(Int32(clamping: cpu))
      if error != 0 { throw .system(call: "pinning the engine thread to core \(cpu)", errno: error) }
    }
    if let priority = configuration.realtimePriority {
      let error = thread_make_realtime(Int32(clamping: priority))
      if error != 0 { throw .system(call: "giving the engine thread real-time priority \(priority)", errno: error) }
    }
  }

  /// Reads the clock.
  @inline(__always) mutating func tick() {
    now = SystemClock.now()
    output.now = now
  }

  // MARK: One pass

  /// Everything at hand: completions, deadlines, sending, room. Returns when sending wants to go on.
  private mutating func pass<Core: DatagramCore & ~Copyable>(_ core: inout Core) -> Instant {
    tick()
    let realtime = SystemClock.realtime()
    clock.refresh(now: now, realtime: realtime, after: SystemClock.now())
    let began = now
    lastFlush = now
    counters.add(.passes)
    var received = false
    var taken = heldOver > 0 ? heldOver : ring.take()
    heldOver = 0
    while true {
      for i in 0..<taken { work(on: ring.completion(i), &core, &received) }
      // One more look for what came meanwhile would starve sending under load: the next pass takes it.
      if taken < Ring.batch || (now - began) > .milliseconds(Int64(1)) { break }
      taken = ring.take()
    }
    if !isDraining {
      if received {
        // Work that is due may take 100 µs a slice.
        if core.nextDeadline <= now { flush() }
        core.batchEnded(now: now, into: &output)
        checkDrops(every: .seconds(1))
      }
      if handle.waker.isPending && configuration.wait == .spin { wakeCore(&core) }
      tick()
      if core.nextDeadline <= now {
        flush()
        core.deadlinePassed(now: now, into: &output)
        // What streams are sent now is as late as that work has made it.
        tick()
      }
    }
    if !isDraining { serviceStreams(&core) }
    var wake = output.pump(now, coreFirst: !isDraining, &trains, &ring)
    if !isDraining && output.hasRoomy {
      while let link = output.nextRoomy() { core.roomAvailable(on: link, now: now, into: &output) }
      tick()
      wake = output.pump(now, coreFirst: true, &trains, &ring)
    }
    arm()
    if ring.isOverflown { counters.add(.completionOverflows) }
    counters.set(.submissionRingFull, ring.timesFull)
    tick()
    counters.record(.passTime, UInt64(clamping: (now - began).nanoseconds))
    return wake
  }

  /// Submits what was prepared, and sleeps until something completes or the instant has come. With `awaitsCompletions`
  /// what the submitting itself completes is a reason to look again.
  private mutating func sleep(until wake: Instant, awaitsCompletions: Bool) {
    if wake <= now || configuration.wait == .spin || handle.stopping.load(ordering: .relaxed) && !isDraining {
      ring.poll()
      return
    }
    if ring.pendingSubmissions > 0 {
      if !sendsDone() || awaitsCompletions { return }
      now = SystemClock.now()
    }
    let patience = idle.begin(now)
    if patience > .zero && looked(until: min(wake, now + patience)) { return }
    counters.add(.sleeps)
    ring.wait(wake == .never ? nil : wake - now)
    let woke = SystemClock.now()
    if woke >= wake {
      let late = woke - wake
      counters.record(.wakeLateness, UInt64(clamping: late.nanoseconds))
      output.wakeLateness = lateness.usual(late)
    }
  }

  /// Hands over what was prepared, and works on the sends' completions, which are there at once: a pass for them alone
  /// would be wasted. False when there is anything else to do, such as a train that was refused and is queued again.
  private mutating func sendsDone() -> Bool {
    ring.poll()
    let taken = ring.take()
    for i in 0..<taken where EngineTag.split(ring.completion(i).tag).kind != .send {
      heldOver = taken
      return false
    }
    let queued = output.queuedTotal
    for i in 0..<taken {
      let completion = ring.completion(i)
      output.completed(EngineTag.split(completion.tag).index, result: completion.result, &trains, &ring)
    }
    return taken < Ring.batch && ring.pendingSubmissions == 0 && !output.hasRoomy && output.queuedTotal <= queued
  }

  /// Looks for something to do instead of sleeping; true when there is.
  private mutating func looked(until end: Instant) -> Bool {
    ring.poll()
    while ring.readyCompletions == 0 {
      ring_relax()
      now = SystemClock.now()
      if now >= end { return false }
      if ring.hasKernelWork { ring.poll() }
    }
    counters.add(.sleepsSaved)
    return true
  }

  /// Arms whatever has ended.
  private mutating func arm() {
    if isDraining { return }
    for i in 0..<ports.count {
      if !ports.ports[i].isArmed {
        ports.ports[i].isArmed = ring.receiveMessages(
          Int32(i), fixed: true, header: ports.header, group: buffers.group, tag: EngineTag.receive.tag(i))
      }
      if !ports.ports[i].isErrorArmed {
        ports.ports[i].isErrorArmed = ring.pollErrors(Int32(i), fixed: true, tag: EngineTag.errors.tag(i))
      }
    }
    if !isWakeArmed {
      isWakeArmed = ring.read(
        Int32(ports.count), fixed: true, into: ports.wakeValue, count: 8, tag: EngineTag.wake.tag(0))
    }
  }

  @inline(__always)
  private mutating func work<Core: DatagramCore & ~Copyable>(
    on completion: Completion, _ core: inout Core, _ received: inout Bool
  ) {
    let (kind, index) = EngineTag.split(completion.tag)
    switch kind {
    case .receive:
      receive(completion, index, &core)
      received = true
    case .send: output.completed(index, result: completion.result, &trains, &ring)
    case .streamReceive: streamReceived(completion, index, &core)
    case .streamSend: streamSent(completion, index, &core)
    case .connect: connected(completion, index, &core)
    case .accept: accepted(completion, index, &core)
    case .errors: readErrors(index)
    case .wake:
      isWakeArmed = false
      wakeCore(&core)
    case .cancel, nil: break
    }
  }

  private mutating func wakeCore<Core: DatagramCore & ~Copyable>(_ core: inout Core) {
    guard handle.waker.clear(), !isDraining else { return }
    counters.add(.wakes)
    core.woken(now: now, into: &output)
  }

  /// Long batches must not hold back what they caused to be sent.
  @inline(__always) mutating func flushIfDue() {
    if now - lastFlush > .microseconds(20) { flush() }
  }

  /// What is queued leaves now.
  @inline(__always) private mutating func flush() {
    if output.queuedTotal == 0 { return }
    _ = output.pump(now, coreFirst: false, &trains, &ring)
    if ring.pendingSubmissions > 0 { ring.submit() }
    lastFlush = now
  }

  // MARK: Stopping

  /// Cancels what is armed, waits for the last completions and lets go of the sockets, so that the ports are free when
  /// this returns.
  private mutating func shutDown() {
    counters.add(.dropAtStop, output.queuedTotal)
    closeStreams()
    ring.cancelEverything(tag: EngineTag.cancel.tag(0))
    let limit = SystemClock.now() + .milliseconds(Int64(250))
    while isAnythingArmed && SystemClock.now() < limit {
      ring.wait(.milliseconds(Int64(10)))
      let taken = ring.take()
      for i in 0..<taken { finish(ring.completion(i)) }
    }
    checkDrops(every: .zero)
    ring.unregisterFiles()
  }

  private var isAnythingArmed: Bool {
    if isWakeArmed || trains.inFlight > 0 || isAnyStreamArmed { return true }
    for i in 0..<ports.count where ports.ports[i].isArmed || ports.ports[i].isErrorArmed { return true }
    return false
  }

  /// A completion after the end: only tells that nothing is armed any more.
  private mutating func finish(_ completion: Completion) {
    let (kind, index) = EngineTag.split(completion.tag)
    switch kind {
    case .receive:
      if !completion.hasMore { ports.ports[index].isArmed = false }
      if let buffer = completion.buffer { countUnread(completion, buffer) }
    case .errors: ports.ports[index].isErrorArmed = false
    case .wake: isWakeArmed = false
    case .send:
      if completion.result >= 0 {
        output.completed(index, result: completion.result, &trains, &ring)
      } else {
        counters.add(.dropAtStop, trains.trains[index].count)
        trains.giveBack(index)
      }
    case .connect, .accept, .streamReceive, .streamSend:
      if let kind { finishStream(kind, completion, index) }
    case .cancel, nil: break
    }
  }
}
