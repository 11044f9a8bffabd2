import Bitcoin
import Foundation
import Ground
import Logging
import Measurement
import NodeBridge
import Relay
import Site
import Synchronization
import Uring

/// What is measured of the site, on a thread of its own: writing may wait for the disk, and the packet thread must not.
///
/// Bounded: `queueMax` events wait, further ones are counted and dropped; the store has bounds of its own. A store that
/// can't be opened or written costs the records, which are counted, and nothing else; opening is tried again.
final class MeasurementThread: Sendable {
  static let queueMax = 16_384

  enum Item: Sendable {
    case site(SiteEvent)
    case job(BlockID, Instant)
    case neighbours([SiteJournal.Neighbour], makers: [SiteJournal.Maker])
    case wallClock(Int64)
  }

  private struct Inbox {
    var items: [Item] = []
    var lost: UInt64 = 0
    var isStopping = false
  }
  /// Figures of the store, for metrics.
  struct StoreFigures: Sendable {
    var bytes: Int64 = 0
    var written: UInt64 = 0
    var lost: UInt64 = 0
    var removed = 0
    var isOpen = false
  }

  let storePath: String?
  private let inbox = Mutex(Inbox())
  private let journal: Mutex<SiteJournal>
  private let figures = Mutex(StoreFigures())
  private let waker: WakeHandle
  private let mailbox: SiteMailbox
  private let logger: Logger
  private let thread = Mutex<PlainThread?>(nil)

  /// - Parameters:
  ///   - storePath: nil: measured, told and shown, but not kept.
  ///   - prepare: writes sites and home into a store that was just opened.
  init(
    journal: SiteJournal, storePath: String?, limits: JourneyStore.Limits, mailbox: SiteMailbox, logger: Logger,
    prepare: @escaping @Sendable (JourneyStore) throws(StoreError) -> Void
  ) throws {
    do { waker = try WakeHandle.make() } catch { throw failure(Exit.failed, "\(error)") }
    self.journal = Mutex(journal)
    self.storePath = storePath
    self.mailbox = mailbox
    self.logger = logger
    let thread = try? PlainThread.start { [self] in run(limits, prepare) }
    self.thread.withLock { $0 = thread }
  }

  // MARK: From other threads

  func hear(_ events: [SiteEvent]) { put(events.lazy.filter(MeasurementThread.matters).map(Item.site)) }
  func job(on previous: BlockID, at: Instant) { put(CollectionOfOne(.job(previous, at))) }
  func set(_ neighbours: [SiteJournal.Neighbour], makers: [SiteJournal.Maker]) {
    put(CollectionOfOne(.neighbours(neighbours, makers: makers)))
  }

  func set(unixNanosecondsAtZero: Int64) { put(CollectionOfOne(.wallClock(unixNanosecondsAtZero))) }

  /// Most of what happens is of no interest here.
  private static func matters(_ event: SiteEvent) -> Bool {
    switch event {
    case .clock, .journey, .delivered, .node(.announced(node: _, hash: _, form: _, at: _)),
      .node(.written(node: _, hash: _, method: _, bytes: _, prefilled: _, at: _)),
      .node(.mistaken(node: _, hash: _)), .node(.tipUpdated(node: _, hash: _, method: _, took: _, at: _)):
      true
    default: false
    }
  }

  private func put(_ items: some Sequence<Item>) {
    let isNews = inbox.withLock { inbox in
      let before = inbox.items.count
      for item in items {
        if inbox.items.count < MeasurementThread.queueMax { inbox.items.append(item) } else { inbox.lost += 1 }
      }
      return inbox.items.count > before
    }
    if isNews { waker.signal() }
  }

  /// What is known of a neighbour's clock.
  func clock(of link: LinkID) -> ClockBounds? {
    journal.withLock { $0.recorder.clock(of: link, at: SystemClock.now()) }
  }

  /// Both directions of a link over the last one to two minutes.
  func figures(of link: LinkID) -> (to: LinkMeter.Summary, from: LinkMeter.Summary)? {
    journal.withLock { $0.recorder.figures(of: link) }
  }

  /// Prometheus text of all that is measured.
  func metrics() -> String {
    var text = MetricsText()
    journal.withLock { $0.recorder.metrics(into: &text, now: SystemClock.now(), kernel: KernelClock.read()) }
    let figures = figures.withLock { $0 }
    text.family("lightpath_store_bytes", .gauge, help: "In use in the file of measurements.")
    text.sample(Double(figures.bytes))
    text.family("lightpath_store_records_total", .counter, help: "Records written to it.")
    text.sample(Double(figures.written))
    text.family(
      "lightpath_store_records_lost_total", .counter, help: "Records that could not be written or kept up with.")
    text.sample(Double(figures.lost + inbox.withLock { $0.lost }))
    text.family(
      "lightpath_store_records_removed_total", .counter, help: "Records removed for age or to keep the file small.")
    text.sample(Double(figures.removed))
    return text.text
  }

  /// Where records are kept; nil when they aren't meant to be.
  var store: (path: String, isOpen: Bool)? { storePath.map { ($0, figures.withLock { $0.isOpen }) } }

  /// Writes what there is and ends. Call when the site has stopped.
  func stop() {
    inbox.withLock { $0.isStopping = true }
    waker.signal()
    thread.withLock { $0 }?.join()
  }

  // MARK: On the thread

  private func run(
    _ limits: JourneyStore.Limits, _ prepare: @Sendable (JourneyStore) throws(StoreError) -> Void
  ) {
    var store: JourneyStore?
    var nextOpen = SystemClock.now()
    var nextWrite = nextOpen
    var nextInterval = nextWrite
    var complained = Instant.zero
    while true {
      let (items, isStopping) = inbox.withLock { inbox in
        defer { inbox.items = [] }
        return (inbox.items, inbox.isStopping)
      }
      let deadline = journal.withLock { journal in
        for item in items {
          switch item {
          case .site(let event): journal.hear(event)
          case .job(let block, let at): journal.job(on: block, at: at)
          case .neighbours(let neighbours, let makers):
            journal.setMakers(makers)
            journal.setNeighbours(neighbours)
            // A reload: perhaps the operator has mended the file, too.
            nextOpen = .zero
          case .wallClock(let zero): journal.setWallClock(zero)
          }
        }
        return journal.nextDeadline
      }
      var now = SystemClock.now()
      if deadline <= now || isStopping { closeJourneys(isStopping: isStopping) }
      for name in journal.withLock({ $0.takeImpossible() }) {
        logger.warning(
          "packets from the peer are faster than light between the positions in the topology: correct 'position'",
          metadata: ["peer": "\(name)"])
      }
      now = SystemClock.now()
      if store == nil, storePath != nil, nextOpen <= now {
        nextOpen = now + .seconds(60)
        store = open(limits, prepare)
        figures.withLock { $0.isOpen = store != nil }
      }
      if nextInterval <= now || isStopping {
        nextInterval = now + .seconds(60)
        journal.withLock { $0.endInterval(now: now) }
        if let store, !isStopping { tidy(store) }
      }
      if nextWrite <= now || isStopping {
        nextWrite = now + .seconds(1)
        let records = journal.withLock { $0.takeRecords() }
        if store == nil, storePath != nil { figures.withLock { $0.lost += UInt64(records.count) } }
        if let store, !records.isEmpty {
          do throws(StoreError) {
            try store.write(records)
            figures.withLock { $0.written += UInt64(records.count) }
          } catch {
            figures.withLock { $0.lost += UInt64(records.count) }
            if complained == .zero || now - complained > .seconds(60) {
              complained = now
              logger.error("measurements can't be stored: \(error)", metadata: ["store": "\(storePath ?? "")"])
            }
          }
        }
      }
      if isStopping { break }
      var descriptor = pollfd(fd: waker.descriptor, events: Int16(POLLIN), revents: 0)
      let rest = min(min(nextWrite, deadline <= now ? now + .milliseconds(100 as Int64) : deadline), nextInterval) - now
      _ = poll(&descriptor, 1, Int32(clamping: max(rest.nanoseconds / 1_000_000 + 1, 1)))
      if descriptor.revents != 0 {
        var value: UInt64 = 0
        _ = read(waker.descriptor, &value, 8)
      }
      waker.clear()
    }
    // Closes the file on this thread.
    store = nil
  }

  private func open(
    _ limits: JourneyStore.Limits, _ prepare: @Sendable (JourneyStore) throws(StoreError) -> Void
  ) -> JourneyStore? {
    guard let storePath else { return nil }
    do throws(StoreError) {
      let store = try JourneyStore(path: storePath, limits: limits)
      try prepare(store)
      return store
    } catch {
      logger.error(
        "the file of measurements can't be used, the relay goes on without and tries again in a minute: \(error)",
        metadata: ["store": "\(storePath)"])
      return nil
    }
  }

  /// Asks the site how the blocks went whose journeys end, and tells the neighbours.
  private func closeJourneys(isStopping: Bool) {
    let due = journal.withLock { $0.due(now: SystemClock.now()) }
    if !due.isEmpty {
      var reports: [BlockReport] = []
      if !isStopping, case .reports(let list) = mailbox.ask(.reports(due), seconds: 1) { reports = list }
      journal.withLock { $0.close(reports, now: SystemClock.now()) }
    }
    while !isStopping, let message = journal.withLock({ $0.takeMessage(now: SystemClock.now()) }) {
      if case .refused = mailbox.ask(message.request, seconds: 1) { break }
    }
  }

  private func tidy(_ store: JourneyStore) {
    do throws(StoreError) {
      try store.prune(nowUnix: Int64(clamping: SystemClock.realtime()))
      let bytes = try store.usedBytes()
      figures.withLock { figures in
        figures.bytes = bytes
        figures.removed = store.expired + store.evicted
      }
    } catch { logger.error("measurements can't be tidied: \(error)", metadata: ["store": "\(storePath ?? "")"]) }
  }
}
