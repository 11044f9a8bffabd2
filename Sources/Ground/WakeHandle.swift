import Glibc
import Synchronization

/// Wakes a thread that sleeps in the kernel on a descriptor (an eventfd). Any thread may signal at any time; signals
/// that come before the sleeper has looked count as one and cost no system call.
///
/// The order that loses nothing: fill the mailbox, then `signal()`; the woken side `clear()`s first and reads the
/// mailbox after.
public final class WakeHandle: Sendable {
  /// Owned: closed when the handle dies.
  public let descriptor: Int32
  @usableFromInline let pending = Atomic<Bool>(false)

  /// - Parameter descriptor: an eventfd (or anything to which eight bytes can be written to make it readable).
  public init(owning descriptor: Int32) { self.descriptor = descriptor }

  deinit { _ = close(descriptor) }

  /// Any thread; never blocks.
  public func signal() {
    if pending.exchange(true, ordering: .acquiringAndReleasing) { return }
    var one: UInt64 = 1
    // Fails only when the count is full (then the sleeper is awake anyway) or interrupted before it began.
    while write(descriptor, &one, 8) < 0 && errno == EINTR {}
  }

  /// Whether somebody signalled and `clear` was not called since: for drivers that poll instead of sleeping.
  @inlinable public var isPending: Bool { pending.load(ordering: .relaxed) }

  /// The sleeper, before it reads its mailboxes. True when there was a signal. Leaves the descriptor to the sleeper.
  @discardableResult
  @inlinable public func clear() -> Bool {
    // Read-modify-write rather than a store: it must see every mailbox that was filled before a coalesced signal.
    pending.exchange(false, ordering: .acquiringAndReleasing)
  }
}
