import Ground
import Synchronization

/// What the engine counts. Raw values are positions in its table; names are what reports show.
public enum EngineCounter: Int, CaseIterable, Sendable {
  case receivedDatagrams, receivedBytes
  /// Receives from the kernel; each brought one datagram or several coalesced ones.
  case receives, receivesCoalesced
  case sentDatagrams, sentBytes, sentTrains
  // Datagrams not queued.
  case dropUnknownLink, dropQueueFull, dropPoolExhausted, dropTooLarge, dropReplyBudget, dropReplyUnroutable
  // Datagrams queued and not sent.
  case dropByFlow, dropLinkRemoved, dropSendFailed, dropAtStop
  // Datagrams received and not handed on. `dropSocketBuffer` is the kernel's count (SO_RXQ_OVFL): it counts a coalesced
  // train once; known with the next datagram, within a second under traffic, and at the stop.
  case dropSocketBuffer, dropTruncated, dropBadSource, dropWhileStopping
  /// Receives that ended for want of buffers: nothing is lost, datagrams wait in the socket buffer.
  case buffersExhausted
  case receivesRearmed, receiveErrors
  case sendRetries, segmentationRefused, sendErrorUnreachable, sendErrorTooBig, sendErrorOther
  /// From the network, forgeable; they change nothing.
  case icmpRefused, icmpUnreachable, icmpTooBig, icmpOther
  case submissionRingFull, completionOverflows
  /// `sleepsSaved`: idle times that ended while the engine still looked (`EngineConfiguration.patience`).
  case passes, sleeps, sleepsSaved, wakes
  case realtimeSteps, arrivalsImplausible, arrivalsWithoutStamp
}

/// Per destination.
public enum LinkCounter: Int, CaseIterable, Sendable {
  case sentDatagrams, sentBytes, dropQueueFull, dropByFlow, dropSendFailed
  case sendErrorUnreachable, sendErrorTooBig, sendErrorOther
  case icmpRefused, icmpUnreachable, icmpTooBig, icmpOther
}

/// A histogram by powers of two: slot 0 counts zeros and ones, slot n values in 2ⁿ⁻¹+1 … 2ⁿ.
public enum EngineHistogram: Int, CaseIterable, Sendable {
  /// Datagrams a train sent.
  case trainLength
  /// Datagrams a receive brought.
  case receiveLength
  /// Busy time of a pass of the loop, ns: from waking to sleeping.
  case passTime
  /// How late a timed wake-up came, ns.
  case wakeLateness

  public static let slots = 40
  @inlinable public static func slot(of value: UInt64) -> Int {
    value <= 1 ? 0 : min(slots - 1, 64 - (value - 1).leadingZeroBitCount)
  }
  /// The largest value that a slot counts.
  public static func upperBound(_ slot: Int) -> UInt64 { slot >= slots - 1 ? .max : 1 << UInt64(slot) }
}

/// The counters as they stood: each exact, all together not of one instant.
public struct EngineSnapshot: Sendable {
  public let values: [UInt64]
  public let histograms: [[UInt64]]

  public subscript(_ counter: EngineCounter) -> UInt64 { values[counter.rawValue] }
  public subscript(_ histogram: EngineHistogram) -> [UInt64] { histograms[histogram.rawValue] }
}

/// Words that one thread counts in and any thread reads. Relaxed atomics without read-modify-write: counting costs what
/// an ordinary addition does.
final class CounterTable: Sendable {
  private nonisolated(unsafe) let words: UnsafeMutablePointer<Atomic<UInt64>>
  private let count: Int
  private let links: Int

  static let linkStride = 16
  static var fixed: Int { EngineCounter.allCases.count + EngineHistogram.allCases.count * EngineHistogram.slots }

  init(links: Int) {
    self.links = links
    count = CounterTable.fixed + links * CounterTable.linkStride
    words = .allocate(capacity: count)
    for i in 0..<count { (words + i).initialize(to: Atomic(0)) }
  }

  deinit { words.deallocate() }

  var writer: CounterWriter { CounterWriter(words: words) }

  func snapshot() -> EngineSnapshot {
    let counters = EngineCounter.allCases.count
    return EngineSnapshot(
      values: (0..<counters).map { words[$0].load(ordering: .relaxed) },
      histograms: EngineHistogram.allCases.map { histogram in
        (0..<EngineHistogram.slots).map {
          words[counters + histogram.rawValue * EngineHistogram.slots + $0].load(ordering: .relaxed)
        }
      })
  }

  func snapshot(link: Int) -> [UInt64]? {
    guard link < links else { return nil }
    let base = CounterTable.fixed + link * CounterTable.linkStride
    return LinkCounter.allCases.map { words[base + $0.rawValue].load(ordering: .relaxed) }
  }
}

/// The counting side. Trivial: valid as long as its table lives, which the engine sees to.
struct CounterWriter {
  let words: UnsafeMutablePointer<Atomic<UInt64>>

  @inline(__always) private func bump(_ index: Int, _ n: UInt64) {
    words[index].store(words[index].load(ordering: .relaxed) &+ n, ordering: .relaxed)
  }
  @inline(__always) func add(_ counter: EngineCounter, _ n: Int = 1) {
    bump(counter.rawValue, UInt64(truncatingIfNeeded: n))
  }
  @inline(__always) func set(_ counter: EngineCounter, _ n: Int) {
    words[counter.rawValue].store(UInt64(n), ordering: .relaxed)
  }
  @inline(__always) func add(_ counter: LinkCounter, link: Int, _ n: Int = 1) {
    bump(CounterTable.fixed + link * CounterTable.linkStride + counter.rawValue, UInt64(truncatingIfNeeded: n))
  }
  @inline(__always) func record(_ histogram: EngineHistogram, _ value: UInt64) {
    bump(
      EngineCounter.allCases.count + histogram.rawValue * EngineHistogram.slots + EngineHistogram.slot(of: value), 1)
  }
  /// A link's number goes to another destination.
  func clear(link: Int) {
    let base = CounterTable.fixed + link * CounterTable.linkStride
    for i in 0..<CounterTable.linkStride { words[base + i].store(0, ordering: .relaxed) }
  }
}
