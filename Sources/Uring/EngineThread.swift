import Glibc
import Ground
import Synchronization

/// An engine on a thread of its own.
///
/// ```swift
/// let thread = try EngineThread.start(configuration) { handle in MyCore(listeningOn: handle.addresses) }
/// …
/// thread.stop()                      // asks, and waits until the ports are free
/// ```
public final class EngineThread: Sendable {
  public let handle: EngineHandle
  private let thread: PlainThread
  private let outcome: Outcome

  private final class Outcome: Sendable {
    let failed = Atomic<Bool>(false)
    nonisolated(unsafe) var error: RingError?
  }

  private init(_ handle: EngineHandle, _ thread: PlainThread, _ outcome: Outcome) {
    self.handle = handle
    self.thread = thread
    self.outcome = outcome
  }

  /// - Parameters:
  ///   - makeCore: called on the engine thread.
  ///   - finish: called on the engine thread with the core after the engine has stopped.
  /// - Throws: what opening the sockets and the ring throws; the thread is not started then.
  public static func start<Core: DatagramCore & SendableMetatype & ~Copyable>(
    _ configuration: EngineConfiguration, makeCore: @escaping @Sendable (EngineHandle) -> Core,
    finish: @escaping @Sendable (borrowing Core) -> Void = { _ in }
  ) throws(RingError) -> EngineThread {
    let engine = try UDPEngine(configuration)
    let handle = engine.handle
    let box = EngineBox(engine)
    let outcome = Outcome()
    let thread = try PlainThread.start {
      var core = makeCore(handle)
      guard let engine = box.engine.take() else { return }
      do throws(RingError) {
        try engine.run(&core)
      } catch {
        outcome.error = error
        outcome.failed.store(true, ordering: .releasing)
      }
      finish(core)
    }
    return EngineThread(handle, thread, outcome)
  }

  /// What ended the engine other than `stop`.
  public var failure: RingError? { outcome.failed.load(ordering: .acquiring) ? outcome.error : nil }

  /// Asks the engine to stop and waits until it has; its ports are free then. May be called again.
  public func stop() {
    handle.stop()
    thread.join()
  }

  /// Waits until the engine ends.
  public func join() { thread.join() }

  /// Moves the engine, which can't be copied, to its thread.
  private final class EngineBox: @unchecked Sendable {
    var engine: UDPEngine?
    init(_ engine: consuming UDPEngine) { self.engine = consume engine }
  }
}

/// A POSIX thread that runs a closure once. `join` may be called from several threads.
public final class PlainThread: Sendable {
  private let id: pthread_t
  private let joined = Mutex(false)

  private init(_ id: pthread_t) { self.id = id }

  private final class Body {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  public static func start(_ body: @escaping @Sendable () -> Void) throws(RingError) -> PlainThread {
    var id = pthread_t()
    let context = Unmanaged.passRetained(Body(body))
    let result = pthread_create(
      &id, nil,
      { context in
        Unmanaged<Body>.fromOpaque(context!).takeRetainedValue().run()
        return nil
      }, context.toOpaque())
    if result != 0 {
      context.release()
      throw .system(call: "pthread_create", errno: result)
    }
    return PlainThread(id)
  }

  public func join() {
    joined.withLock { joined in
      if !joined { pthread_join(id, nil) }
      joined = true
    }
  }

  deinit { joined.withLock { if !$0 { _ = pthread_detach(id) } } }
}
