import CLiburing
import CRing
import Glibc
import Ground

/// How completions reach the thread that owns a ring, best first.
public enum RingMode: Int, Hashable, Sendable, CaseIterable {
  /// Linux 6.1: completions are made when the owner asks for them, so the kernel never interrupts it.
  case deferred
  /// Linux 6.0: made when the owner next enters the kernel, without forcing it in.
  case cooperative
  /// Any: the kernel interrupts the owner.
  case interrupting

  var flags: UInt32 {
    switch self {
    case .deferred:
      UInt32(RING_SETUP_SINGLE_ISSUER | RING_SETUP_DEFER_TASKRUN)
        | UInt32(RING_SETUP_TASKRUN_FLAG)
    case .cooperative:
      UInt32(RING_SETUP_SINGLE_ISSUER | RING_SETUP_COOP_TASKRUN)
        | UInt32(RING_SETUP_TASKRUN_FLAG)
    case .interrupting: 0
    }
  }
}

/// One finished operation.
public struct Completion: Sendable {
  /// What the submission was tagged with.
  public var tag: UInt64
  /// Bytes or a descriptor; negative errno on failure.
  public var result: Int32
  public var flags: UInt32

  /// More completions of the same submission will follow (multishot).
  @inlinable public var hasMore: Bool { flags & 2 != 0 }
  /// The provided buffer that holds the data, if one was taken.
  @inlinable public var buffer: Int? { flags & 1 != 0 ? Int(flags >> 16) : nil }
}

/// An io_uring, owned by one thread: the one that calls `activate`. Knows nothing of datagrams; the UDP engine and TCP
/// drivers put their operations in through `submission` and friends, each with a tag that comes back in its completion.
///
/// Memory: the rings, allocated at once. Submitting and completing allocate nothing. What an operation points at
/// (headers, buffers, addresses) must stay put until its completion has come.
public struct Ring: ~Copyable {
  let ring: UnsafeMutablePointer<io_uring>
  public let mode: RingMode
  /// Places in the submission queue.
  public let entries: Int
  private let completions: UnsafeMutablePointer<ring_completion>
  /// How many completions `take` hands out at most.
  public static let batch = 64
  /// Times that the submission queue was full and had to be flushed to make room.
  public private(set) var timesFull = 0

  /// - Parameters:
  ///   - entries: submission places; the completion queue gets `completionEntries`.
  ///   - mode: `nil` takes the best that the kernel has.
  /// - Throws: `RingError.disabled` naming the sysctl, or `.system`.
  public init(entries: Int = 256, completionEntries: Int = 4096, mode: RingMode? = nil) throws(RingError) {
    ring = .allocate(capacity: 1)
    ring.initialize(to: io_uring())
    completions = .allocate(capacity: Ring.batch)
    completions.initialize(repeating: ring_completion(), count: Ring.batch)
    var places = 0
    let ring = ring
    let (taken, error) = Ring.stepDown(mode.map { [$0] } ?? RingMode.allCases) { candidate in
      var parameters = io_uring_params()
      // Disabled until its thread enables it: that thread, not the one that opened it, becomes the only issuer.
      parameters.flags =
        UInt32(RING_SETUP_CQSIZE | RING_SETUP_CLAMP)
        | UInt32(RING_SETUP_R_DISABLED | RING_SETUP_SUBMIT_ALL) | candidate.flags
      parameters.cq_entries = UInt32(max(completionEntries, entries * 2))
      let result = io_uring_queue_init_params(UInt32(entries), ring, &parameters)
      places = Int(parameters.sq_entries)
      return result
    }
    if let taken {
      self.mode = taken
      self.entries = places
      return
    }
    self.mode = .interrupting
    self.entries = 0
    discard(ring, completions)
    throw RingError.ofSetup(-error)
  }

  deinit {
    if entries > 0 {
      io_uring_queue_exit(ring)
      discard(ring, completions)
    }
  }

  /// The first mode that `setUp` takes. A kernel that doesn't know a flag answers EINVAL, and the next mode is tried; any
  /// other answer ends the search.
  package static func stepDown(
    _ candidates: [RingMode], _ setUp: (RingMode) -> Int32
  ) -> (mode: RingMode?, error: Int32) {
    var last = -EINVAL
    for candidate in candidates {
      last = setUp(candidate)
      if last == 0 { return (candidate, 0) }
      if last != -EINVAL { break }
    }
    return (nil, last)
  }

  /// Whether the kernel has multishot `recvmsg`. That can't be asked; zero-copy sending came with the same release.
  public var hasMultishotReceive: Bool { ring_supports(ring, Int32(RING_OP_OF_6_0)) != 0 }

  /// Makes the calling thread the ring's owner: before the first submission, once.
  public mutating func activate() throws(RingError) {
    let result = ring_enable(ring)
    if result < 0 { throw .system(call: "io_uring_register(enable)", errno: -result) }
    // Saves a descriptor look-up at each entry; a kernel or rlimit without it costs nothing but that.
    _ = io_uring_register_ring_fd(ring)
  }

  /// Registers descriptors; operations name them by index when `fixed` is said.
  public mutating func register(files: [Int32]) throws(RingError) {
    let result = files.withUnsafeBufferPointer { io_uring_register_files(ring, $0.baseAddress, UInt32($0.count)) }
    if result < 0 { throw .system(call: "io_uring_register(files)", errno: -result) }
  }

  /// Lets go of registered descriptors, so that closing them frees ports at once.
  public mutating func unregisterFiles() { _ = io_uring_unregister_files(ring) }

  // MARK: Submitting

  /// A blank submission to be filled by `io_uring_prep_…`, tagged. When the queue is full it is flushed to the kernel
  /// first; `nil` only when the kernel takes nothing now (its completion queue overflows): take completions and retry.
  @inline(__always)
  public mutating func submission(tag: UInt64, _ prepare: (UnsafeMutablePointer<io_uring_sqe>) -> Void) -> Bool {
    var place = io_uring_get_sqe(ring)
    if place == nil {
      timesFull += 1
      _ = io_uring_submit(ring)
      place = io_uring_get_sqe(ring)
    }
    guard let sqe = place else { return false }
    prepare(sqe)
    io_uring_sqe_set_data64(sqe, tag)
    return true
  }

  /// Submissions prepared and not yet handed to the kernel.
  public var pendingSubmissions: Int { Int(io_uring_sq_ready(ring)) }

  /// Hands prepared submissions to the kernel; never blocks.
  @discardableResult
  public mutating func submit() -> Int32 { io_uring_submit(ring) }

  /// Submits, and collects what has completed without waiting. Skips the system call when there is nothing to do.
  public mutating func poll() {
    if io_uring_sq_ready(ring) > 0 || hasKernelWork {
      _ = io_uring_submit_and_get_events(ring)
    }
  }

  /// Whether the kernel has something that `poll` would turn into completions; reads shared memory only.
  @inline(__always) public var hasKernelWork: Bool { mode != .interrupting && ring_kernel_has_work(ring) != 0 }

  /// Submits and sleeps until a completion or until `timeout` has passed; one system call. Returns early at signals.
  public mutating func wait(_ timeout: Interval?) {
    var first: UnsafeMutablePointer<io_uring_cqe>?
    if let timeout {
      let ns = max(timeout.nanoseconds, 0)
      var limit = __kernel_timespec(tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000)
      _ = io_uring_submit_and_wait_timeout(ring, &first, 1, &limit, nil)
    } else {
      _ = io_uring_submit_and_wait(ring, 1)
    }
  }

  // MARK: Completions

  /// Moves up to `Ring.batch` completions out of the queue, handing their places back; no system call.
  public mutating func take() -> Int { Int(ring_take_completions(ring, completions, UInt32(Ring.batch))) }

  /// One of those that the last `take` counted.
  @inline(__always) public func completion(_ index: Int) -> Completion {
    let c = completions[index]
    return Completion(tag: c.user_data, result: c.result, flags: c.flags)
  }

  /// Completions waiting in the queue now.
  public var readyCompletions: Int { Int(io_uring_cq_ready(ring)) }

  /// Whether the completion queue has overflown and the kernel keeps the rest.
  public var isOverflown: Bool { ring_cq_overflown(ring) != 0 }
}

/// For the failing initialiser and `deinit` alike.
private func discard(_ ring: UnsafeMutablePointer<io_uring>, _ completions: UnsafeMutablePointer<ring_completion>) {
  ring.deinitialize(count: 1)
  ring.deallocate()
  completions.deallocate()
}
