import CRing
import Glibc
import Ground
import Synchronization

/// What other threads may do with a running engine. Everything here is safe from any thread and takes no lock.
public final class EngineHandle: Sendable {
  /// Where the engine listens, ports filled in, in the configuration's order.
  public let addresses: [PeerAddress]
  /// What an operator should know, such as socket buffers that the kernel cut short.
  public let warnings: [String]
  public let ringMode: RingMode
  /// Wakes the engine thread: its core's `woken` is called.
  public let waker: WakeHandle
  let counters: CounterTable
  let stopping = Atomic<Bool>(false)

  init(addresses: [PeerAddress], warnings: [String], ringMode: RingMode, waker: WakeHandle, links: Int) {
    self.addresses = addresses
    self.warnings = warnings
    self.ringMode = ringMode
    self.waker = waker
    counters = CounterTable(links: links)
  }

  /// Asks the engine to stop: its core may say goodbye, queued datagrams have `EngineConfiguration.drain` to leave, then
  /// the ports are free and `run` returns.
  public func stop() {
    stopping.store(true, ordering: .releasing)
    waker.signal()
  }

  public func snapshot() -> EngineSnapshot { counters.snapshot() }

  /// In the order of `LinkCounter.allCases`; zeros for a number not assigned yet, `nil` beyond the capacity. The counts
  /// start anew when the number is assigned anew.
  public func snapshot(link: LinkID) -> [UInt64]? { counters.snapshot(link: Int(link.index)) }
  public func count(_ counter: LinkCounter, link: LinkID) -> UInt64 {
    snapshot(link: link)?[counter.rawValue] ?? 0
  }
}

extension WakeHandle {
  /// A wake handle on an eventfd of its own.
  public static func make() throws(RingError) -> WakeHandle {
    let descriptor = event_descriptor()
    if descriptor < 0 { throw .system(call: "eventfd", errno: errno) }
    return WakeHandle(owning: descriptor)
  }
}

/// What a completion is about: the kind in the top byte of its tag, an index below.
enum EngineTag: UInt64 {
  case receive = 1, errors, send, wake, cancel, connect, accept, streamReceive, streamSend

  @inline(__always) func tag(_ index: Int) -> UInt64 { rawValue << 56 | UInt64(index) }
  @inline(__always) static func split(_ tag: UInt64) -> (kind: EngineTag?, index: Int) {
    (EngineTag(rawValue: tag >> 56), Int(tag & 0xFFFF_FFFF))
  }
}
