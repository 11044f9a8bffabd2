import Bitcoin
import Dispatch
import Ground
import Relay
import Session
import Synchronization

/// What other threads ask of a running site.
public enum SiteRequest: Sendable {
  case snapshot
  /// A serialised block, to be checked and relayed.
  case submit([UInt8])
  case links(SiteLinks)
  /// The overlay's secret with other epochs.
  case overlay(OverlaySecret?)
  /// What the wall clock shows at `Instant.zero`, in nanoseconds since 1970.
  case wallClock(Int64)
  /// Measurement records for all neighbours, 1 to 1,100 bytes.
  case journeys([UInt8])
  /// Records that the relay with this short key made and the neighbour on this link told: for those that hear them best
  /// from here.
  case passJourneys([UInt8], maker: UInt32, from: LinkID)
  /// What became of blocks; those that are gone are left out.
  case reports([Hash256])
  /// At which height a header stands, also one whose body was refused since.
  case height(Hash256)
  /// The embedded node's mempool gets back what it had of its block number so, with other transactions missing.
  case refill(Int)
  /// The embedded node finds a block with the transactions of its block number so.
  case mine(Int)
}

public enum SiteReply: Sendable {
  case snapshot(SiteSnapshot)
  case block(Hash256)
  case reports([BlockReport])
  case height(Int?)
  case done
  case refused(String)
}

/// The way into a site's core from other threads. Bounded; whoever asks waits, the core never does.
public final class SiteMailbox: Sendable {
  public static let capacity = 64

  final class Box: Sendable {
    private let reply = Mutex<SiteReply?>(nil)
    private let ready = DispatchSemaphore(value: 0)

    func fill(_ value: SiteReply) {
      reply.withLock { $0 = value }
      ready.signal()
    }
    func wait(_ seconds: Double) -> SiteReply? {
      _ = ready.wait(timeout: .now() + seconds)
      return reply.withLock { $0 }
    }
  }

  struct Letter: Sendable {
    var request: SiteRequest
    var box: Box
  }
  private struct State {
    var letters: [Letter] = []
    var waker: WakeHandle?
    var isClosed = false
  }
  private let state = Mutex(State())

  public init() {}

  /// The engine runs: requests are answered from now on.
  public func open(_ waker: WakeHandle) {
    state.withLock { $0.waker = waker }
    waker.signal()
  }

  /// The core has stopped: what waits, and what comes, is refused.
  public func close() {
    let left = state.withLock { state in
      state.isClosed = true
      defer { state.letters = [] }
      return state.letters
    }
    for letter in left { letter.box.fill(.refused("the relay is stopping")) }
  }

  /// Asks and waits at most `seconds`.
  public func ask(_ request: SiteRequest, seconds: Double = 5) -> SiteReply {
    let box = Box()
    let (refusal, waker) = state.withLock { state -> (String?, WakeHandle?) in
      if state.isClosed { return ("the relay is stopping", nil) }
      if state.letters.count >= SiteMailbox.capacity { return ("too many requests are waiting; try again", nil) }
      state.letters.append(Letter(request: request, box: box))
      return (nil, state.waker)
    }
    if let refusal { return .refused(refusal) }
    waker?.signal()
    return box.wait(seconds) ?? .refused("no answer from the relay within \(Int(seconds)) s")
  }

  func take() -> [Letter] {
    state.withLock { state in
      if state.letters.isEmpty { return [] }
      defer { state.letters = [] }
      return state.letters
    }
  }
}

/// What a site tells other threads: for the log, subscribers and metrics. Bounded: when nobody reads, what comes is
/// dropped and counted. The last eighth of the room is for what somebody acts on, whatever floods the rest.
public final class SiteOutbox: Sendable {
  public static let capacity = 8_192
  static let common = capacity / 8 * 7
  private struct State {
    var events: [SiteEvent] = []
    var dropped: UInt64 = 0
  }
  private let state = Mutex(State())
  /// Wakes the reader.
  private let waker: WakeHandle?

  public init(waker: WakeHandle? = nil) { self.waker = waker }

  package func post(_ events: [SiteEvent]) {
    state.withLock { state in
      for event in events {
        if state.events.count < (event.isActedOn ? SiteOutbox.capacity : SiteOutbox.common) {
          state.events.append(event)
        } else {
          state.dropped += 1
        }
      }
    }
    waker?.signal()
  }

  public func take() -> [SiteEvent] {
    state.withLock { state in
      defer { state.events = [] }
      return state.events
    }
  }
  public var dropped: UInt64 { state.withLock { $0.dropped } }
}
