import Ground

/// Makes of a `JobCore` a `DatagramCore` whose jobs run on worker threads: what the engine drives. After each input it
/// asks the core for jobs while the workers have room; when they signal, outcomes go back in as inputs, before whatever
/// else woke the engine.
///
/// ```swift
/// let thread = try EngineThread.start(configuration) { handle in
///   OffloadingCore(MyCore(), workers: 1, waker: handle.waker)
/// }
/// ```
public struct OffloadingCore<Core: JobCore & ~Copyable>: DatagramCore, ~Copyable {
  public var core: Core
  private let pool: WorkerPool<Core.Job, Core.Outcome>

  /// - Parameter waker: of the engine that will drive this.
  public init(_ core: consuming Core, workers: Int, depth: Int = 8, waker: WakeHandle) throws(RingError)
  where Core: SendableMetatype {
    pool = try WorkerPool(workers: workers, depth: depth, wake: waker) { Core.perform($0) }
    self.core = core
  }

  @inline(__always) private mutating func offload() {
    while pool.hasRoom, let job = core.nextJob() { pool.submit(job) }
  }

  public mutating func start(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.start(now: now, into: &sink)
    offload()
  }

  @inline(__always) public mutating func receive(
    _ datagram: inout MutableRawSpan, from source: PeerAddress, arrival: Instant, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    core.receive(&datagram, from: source, arrival: arrival, now: now, into: &sink)
    offload()
  }

  public mutating func batchEnded(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.batchEnded(now: now, into: &sink)
    offload()
  }

  public mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.deadlinePassed(now: now, into: &sink)
    offload()
  }

  public mutating func roomAvailable(
    on link: LinkID, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    core.roomAvailable(on: link, now: now, into: &sink)
    offload()
  }

  public mutating func woken(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    while let outcome = pool.takeOutcome() {
      core.jobFinished(outcome, now: now, into: &sink)
      offload()
    }
    core.woken(now: now, into: &sink)
    offload()
  }

  public mutating func stop(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    core.stop(now: now, into: &sink)
  }

  public var nextDeadline: Instant { core.nextDeadline }
}
