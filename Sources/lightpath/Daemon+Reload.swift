import Foundation
import Ground
import Logging
import Measurement
import NodeBridge
import Relay
import Session
import Site
import Synchronization
import Topology

extension Daemon {
  /// Reads topology and overlay secret again; true, and what changed, when they are in force. What has a mistake changes
  /// nothing at all.
  func reload() -> (Bool, String) {
    let topology: OverlayTopology
    do { topology = try OverlayTopology(contentsOf: URL(filePath: topologyPath)) } catch {
      let text = error.mistakes.map { "\(topologyPath):\($0)" }.joined(separator: "\n")
      let line = text.replacingOccurrences(of: "\n", with: "; ")
      logger.error("reload: the topology has mistakes; the old one stays", metadata: ["mistakes": "\(line)"])
      return (false, text)
    }
    let old = plan.withLock { $0 }
    let new: SitePlan
    let key = links.withLock { $0.relays }[old.own]
    do { new = try SitePlan(topology, as: old.relay.name, key: key, listen: old.listen) } catch {
      logger.error("reload: \(error); the old topology stays")
      return (false, "\(error)")
    }
    guard new.topology.network == old.topology.network else {
      return refused("the network can't change while the relay runs: restart it")
    }
    var secret: OverlaySecret?
    if let overlayKeyPath {
      do { secret = try OverlaySecret(contentsOf: overlayKeyPath) } catch {
        logger.error("reload: \(error); all stays as it was")
        return (false, "\(error)")
      }
    }
    let before = links.withLock { $0 }
    let wanted = new.links(keeping: before)
    guard case .done = mailbox.ask(.links(wanted)) else { return refused("the relay doesn't answer") }
    var text = Daemon.changes(from: before, to: wanted)
    if let secret, overlay.withLock({ !Daemon.isSame($0, secret) }) {
      guard case .done = mailbox.ask(.overlay(secret)) else { return refused("the relay doesn't answer") }
      overlay.withLock { $0 = secret }
      text += "; overlay epochs \(secret.epochs.map(String.init).joined(separator: ", "))"
    }
    links.withLock { $0 = wanted }
    plan.withLock { $0 = new }
    measurements.set(new.neighbours(wanted), makers: new.makers)
    if Daemon.needsRestart(from: old.relay, to: new.relay) {
      text += "; this relay's own addresses, uplink, nodes, watched peers or pool changed: restart it for that"
    }
    logger.notice("topology reloaded: \(text)")
    return (true, text)
  }

  /// SIGHUP has nobody but the log to tell.
  private func refused(_ text: String) -> (Bool, String) {
    logger.error("reload: \(text)")
    return (false, text)
  }

  private static func changes(from before: SiteLinks, to wanted: SiteLinks) -> String {
    let added = wanted.links.filter { link in !before.links.contains { $0.peer == link.peer } }
    let removed = before.links.filter { link in !wanted.links.contains { $0.peer == link.peer } }
    let changed = wanted.links.filter { link in before.links.contains { $0.peer == link.peer && $0 != link } }
    var text = "\(wanted.links.count) links of \(wanted.relays.count) relays"
    if !added.isEmpty { text += "; added \(added.compactMap { wanted.names[$0.id] }.joined(separator: ", "))" }
    if !removed.isEmpty { text += "; removed \(removed.compactMap { before.names[$0.id] }.joined(separator: ", "))" }
    if !changed.isEmpty { text += "; changed \(changed.compactMap { wanted.names[$0.id] }.joined(separator: ", "))" }
    return text
  }

  private static func needsRestart(from old: OverlayTopology.Relay, to new: OverlayTopology.Relay) -> Bool {
    old.addresses != new.addresses || old.nodes != new.nodes || old.uplink != new.uplink || old.watched != new.watched
      || old.pool != new.pool || old.relaysTransactions != new.relaysTransactions
  }

  /// Compares derived keys: the secrets themselves are not copied.
  private static func isSame(_ a: OverlaySecret?, _ b: OverlaySecret) -> Bool {
    guard let a, a.epochs == b.epochs else { return false }
    return b.epochs.allSatisfy { a.derive("lightpath reload", epoch: $0) == b.derive("lightpath reload", epoch: $0) }
  }

  /// Begins to measure.
  static func measure(
    _ configuration: SiteConfiguration, _ plan: SitePlan, storePath: String?, limits: JourneyStore.Limits,
    mailbox: SiteMailbox, logger: Logger
  ) throws -> MeasurementThread {
    var journal = SiteJournal(
      home: plan.relay.name, identity: configuration.relay.identity, makers: plan.makers,
      unixNanosecondsAtZero: configuration.relay.unixNanosecondsAtZero,
      sources: configuration.bridge.nodes.map { SiteJournal.Source(name: $0.name, isWatched: $0.role == .watched) },
      hasPool: plan.relay.pool != nil)
    journal.setNeighbours(
      plan.neighbours(
        SiteLinks(links: configuration.relay.links, names: configuration.names, relays: configuration.relay.relays)))
    let (topology, home) = (plan.topology, plan.relay.name)
    return try MeasurementThread(
      journal: journal, storePath: storePath, limits: limits, mailbox: mailbox, logger: logger
    ) { store throws(StoreError) in
      for relay in topology.relays {
        try store.setSite(
          relay.name, position: SitePosition(latitude: relay.latitude, longitude: relay.longitude))
      }
      try store.setHome(home)
    }
  }
}
