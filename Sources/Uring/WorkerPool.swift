import CRing
import Glibc
import Ground
import Synchronization

/// Threads for work too long for the packet path. One owner thread puts jobs in and takes outcomes out, without locks:
/// each worker has a ring of jobs and a ring of outcomes to itself. A worker without work sleeps in the kernel; the owner
/// is woken through its `WakeHandle` when an outcome is ready.
///
/// Bounded: at most `workers × depth` jobs are inside, so there is always room for their outcomes. A job goes to the
/// worker with the fewest.
public final class WorkerPool<Job: Sendable, Outcome: Sendable>: @unchecked Sendable {
  private struct Worker {
    let jobs: SPSCRing<Job>
    let outcomes: SPSCRing<Outcome>
    let waker: WakeHandle
    let thread: PlainThread
    /// Jobs inside, as the owner counts them.
    var inside = 0
  }

  private var workers: [Worker] = []
  private let depth: Int
  private let stopping: StopFlag
  /// Jobs put in and outcomes not yet taken out. Owner only.
  public private(set) var inside = 0

  final class StopFlag: Sendable {
    let isSet = Atomic<Bool>(false)
  }

  /// - Parameters:
  ///   - depth: jobs that one worker may have waiting, the one at hand included.
  ///   - wake: signalled after each outcome; the owner then calls `takeOutcome` until it says `nil`.
  public init(
    workers count: Int, depth: Int = 8, wake owner: WakeHandle, name: String = "lightpath-work",
    perform: @escaping @Sendable (Job) -> Outcome
  ) throws(RingError) {
    guard count > 0, count <= 64, depth > 0, depth <= 1 << 16 else {
      throw .configuration("a worker pool has 1 to 64 workers of depth 1 to 65536")
    }
    self.depth = depth
    let stopping = StopFlag()
    self.stopping = stopping
    for _ in 0..<count {
      let jobs = SPSCRing<Job>(capacity: depth)
      let outcomes = SPSCRing<Outcome>(capacity: depth)
      let waker: WakeHandle
      let thread: PlainThread
      do throws(RingError) {
        waker = try WakeHandle.make()
        thread = try PlainThread.start {
          name.withCString { thread_set_name($0) }
          while true {
            while let job = jobs.pop() {
              // Never full: no more jobs are let in than outcomes fit.
              _ = outcomes.push(perform(job))
              owner.signal()
              if stopping.isSet.load(ordering: .acquiring) { return }
            }
            if stopping.isSet.load(ordering: .acquiring) { return }
            waker.sleep()
          }
        }
      } catch {
        stop()
        throw error
      }
      workers.append(Worker(jobs: jobs, outcomes: outcomes, waker: waker, thread: thread))
    }
  }

  deinit { stop() }

  /// Whether `submit` would take one more job. Owner only.
  public var hasRoom: Bool { inside < workers.count * depth }

  /// Owner only. False when every worker is full; the job is dropped then.
  @discardableResult
  public func submit(_ job: Job) -> Bool {
    var least = 0
    for i in workers.indices where workers[i].inside < workers[least].inside { least = i }
    guard workers[least].inside < depth, workers[least].jobs.push(job) == nil else { return false }
    workers[least].inside += 1
    inside += 1
    workers[least].waker.signal()
    return true
  }

  /// Owner only. `nil` when no outcome is ready.
  public func takeOutcome() -> Outcome? {
    for i in workers.indices where workers[i].inside > 0 {
      if let outcome = workers[i].outcomes.pop() {
        workers[i].inside -= 1
        inside -= 1
        return outcome
      }
    }
    return nil
  }

  /// Ends the threads after the jobs they are at; waits for them. Jobs still waiting are dropped. Owner only.
  public func stop() {
    stopping.isSet.store(true, ordering: .releasing)
    for worker in workers { worker.waker.signal() }
    for worker in workers { worker.thread.join() }
    workers = []
    inside = 0
  }
}

extension WakeHandle {
  /// Blocks the calling thread until somebody signals, and clears the signal. For threads that wait for nothing else.
  public func sleep() {
    var value: UInt64 = 0
    while read(descriptor, &value, 8) < 0 && errno == EINTR {}
    clear()
  }
}
