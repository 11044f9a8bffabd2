import Foundation
import RegtestNode
import Synchronization
import Testing

/// What running relays measure: real sockets to a pool and to a public peer, the store, the report.
@Suite(.serialized) struct MeasurementProcessTests {
  private func report(_ arguments: [String]) -> [String: Any]? {
    guard let result = try? Program.run(["report", "--json"] + arguments), result.status == 0 else { return nil }
    return (try? JSONSerialization.jsonObject(with: Data(result.out.utf8))) as? [String: Any]
  }

  /// One block, seen by both sites, the pool and the public network.
  @Test func aBlockIsMeasuredFromPacketToJob() throws {
    let (pool, peer) = (TestPool(), TestPublicPeer())
    pool.start()
    peer.start()
    defer {
      pool.stop()
      peer.stop()
    }
    let overlay = try TestOverlay(["alice", "bob"])
    let site = "pool = \"127.0.0.1:\(pool.port)\"\n[[relay.watch]]\nname = \"far\"\np2p = \"127.0.0.1:\(peer.port)\"\n"
    try overlay.writeTopology(links: overlay.pairs, site: ["bob": site])
    let alice = try overlay.start("alice", ["--store", overlay.path("alice.sqlite")])
    let port = TestOverlay.freePorts(1)[0]
    var arguments = overlay.arguments("bob") + ["--store", overlay.path("bob.sqlite")]
    arguments[arguments.firstIndex(of: "off")!] = "127.0.0.1:\(port)"
    let bob = try RelayProcess(arguments, socket: overlay.path("bob.sock"))
    defer { bob.kill() }
    #expect(eventually { alice.peersUp == 1 && bob.peersUp == 1 })
    #expect(eventually { pool.subscribed.load(ordering: .acquiring) && peer.isReady.load(ordering: .acquiring) })
    // A first exchange of pings, so that the clocks are known.
    #expect(eventually { bob.peers.first?["clock_uncertainty_ms"] as? Double != nil })
    let hash = try #require(alice.mine(0))
    #expect(eventually { bob.blocks.contains(hash) })
    pool.job(on: hash)
    usleep(20_000)
    peer.announce(hash)
    // From the running daemon's store, found by its control socket.
    var block: [String: Any]?
    func stations(_ site: String) -> [String] {
      let arrivals = block?["arrivals"] as? [[String: Any]] ?? []
      let own = arrivals.first { $0["site"] as? String == site }
      return (own?["stations"] as? [[String: Any]] ?? []).compactMap { $0["name"] as? String }
    }
    #expect(
      eventually(seconds: 20) {
        block = report(["--control", overlay.path("bob.sock"), "--block", hash])?["block"] as? [String: Any]
        return stations("alice").count > 0 && stations("bob").contains("miner_job") && block?["lead"] is Double
      }, "\(String(describing: block)) \(bob.log)")
    #expect(block?["origin"] as? String == "alice")
    for stage in ["gate_passed", "sketch_complete", "matched", "decoded", "verified", "written"] {
      #expect(stations("bob").contains(stage), "\(stage): \(stations("bob"))")
    }
    #expect((block?["lead"] as? Double ?? 0) > 15, "the public peer was 20 ms later")
    // Alice hears from bob, and keeps it under bob's name.
    #expect(
      eventually(seconds: 20) {
        block = report(["--store", overlay.path("alice.sqlite"), "--block", hash])?["block"] as? [String: Any]
        return stations("bob").contains("written")
      })
    let page = overlay.path("report.html")
    #expect(try Program.run(["report", "--store", overlay.path("bob.sqlite"), "--html", page]).status == 0)
    #expect(try String(contentsOfFile: page, encoding: .utf8).contains("</html>"))
    // The same in metrics.
    let metrics = http(port, Array("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8))
    #expect(metrics.contains("lightpath_clock_uncertainty_seconds{peer=\"alice\"}"))
    #expect(metrics.contains("lightpath_lead_blocks 1\n") && metrics.contains("lightpath_lead_wins 1\n"))
    #expect(metrics.contains("lightpath_block_receive_seconds_count 1\n"))
    #expect(metrics.contains("lightpath_journeys_total{peer=\"alice\"} 1\n"))
    // Status tells how far the clock can be believed.
    let status = try Program.run(["status", "--control", overlay.path("bob.sock")])
    #expect(status.status == 0 && status.out.contains(" ± "), "\(status.out)")
  }

  /// A public peer that calls itself what would forge a line of the log and clear the operator's terminal.
  @Test func whatAPeerCallsItselfIsShownTame() throws {
    let peer = TestPublicPeer(userAgent: "/a\u{1B}[2J\n2026-01-01T00:00:00Z critical forged\u{202E}/")
    peer.start()
    defer { peer.stop() }
    let overlay = try TestOverlay(["alice", "bob"])
    let site = "[[relay.watch]]\nname = \"far\"\np2p = \"127.0.0.1:\(peer.port)\"\n"
    try overlay.writeTopology(links: overlay.pairs, site: ["alice": site])
    let alice = try overlay.start("alice")
    #expect(eventually { alice.log.contains("agent=/a") }, "\(alice.log)")
    let record = alice.log.split(separator: "\n").first { $0.contains("agent=/a") } ?? ""
    #expect(record.contains("/a\u{FFFD}[2J\u{FFFD}2026") && record.contains("critical forged\u{FFFD}/"), "\(record)")
    let status = try Program.run(["status", "--control", overlay.path("alice.sock")])
    #expect(status.out.contains("/a\u{FFFD}[2J\u{FFFD}2026"), "\(status.out)")
    #expect(!(status.out + alice.log).unicodeScalars.contains { $0 == "\u{1B}" || $0 == "\u{202E}" })
    // As JSON it is told as it is, by JSON's own means.
    let nodes = alice.status?["nodes"] as? [[String: Any]] ?? []
    #expect((nodes.first?["user_agent"] as? String)?.contains("\u{1B}[2J\n") == true)
    // A status without the kernel's word about the clock still says where measurements are.
    let fake = try FakeControl(overlay.path("fake.sock"), alice.status ?? [:]) {
      $0["clock_synchronised"] = nil
      $0["store"] = "/somewhere/alice.sqlite"
    }
    defer { fake.stop() }
    let text = try Program.run(["status", "--control", overlay.path("fake.sock")]).out
    #expect(text.contains("clock unknown") && text.contains("measurements /somewhere/alice.sqlite"), "\(text)")
  }

  /// Three relays in a chain, one line with jitter: the ends see each other by way of the middle, and the line shows.
  @Test func aChainIsSeenWhole() throws {
    let overlay = try TestOverlay()
    try overlay.writeTopology(links: [("alice", "bob"), ("bob", "carol")])
    let port = TestOverlay.freePorts(1)[0]
    var arguments = overlay.arguments("alice") + ["--store", overlay.path("alice.sqlite"), "--impair", "bob:0:2:4"]
    arguments[arguments.firstIndex(of: "off")!] = "127.0.0.1:\(port)"
    let alice = try RelayProcess(arguments, socket: overlay.path("alice.sock"))
    defer { alice.kill() }
    let bob = try overlay.start("bob", ["--store", "off"])
    let carol = try overlay.start("carol", ["--store", "off"])
    #expect(eventually { alice.peersUp == 1 && bob.peersUp == 2 && carol.peersUp == 1 })
    #expect(
      eventually { [alice, bob, carol].allSatisfy { $0.peers.allSatisfy { $0["clock_uncertainty_ms"] is Double } } })
    let hash = try #require(carol.mine(0))
    #expect(eventually { alice.blocks.contains(hash) })
    var arrivals: [[String: Any]] = []
    #expect(
      eventually(seconds: 20) {
        let block = report(["--store", overlay.path("alice.sqlite"), "--block", hash])?["block"] as? [String: Any]
        arrivals = block?["arrivals"] as? [[String: Any]] ?? []
        return arrivals.count == 3
      }, "\(arrivals.map { $0["site"] ?? "" }) \(alice.log) \(bob.log)")
    let far = try #require(arrivals.first { $0["site"] as? String == "carol" })
    #expect(far["via"] as? String == "bob" && far["hops"] as? Int == 1 && far["isOrigin"] as? Bool == true)
    // Half of the line's 2 to 10 ms there and nothing back, at least; no more than its worst.
    let (near, beyond) = (
      arrivals.first { $0["site"] as? String == "bob" }?["uncertainty"] as? Double ?? 0,
      far["uncertainty"] as? Double ?? 0
    )
    #expect(near > 0.9 && beyond == 0, "the origin's own times are the scale: \(near) \(beyond)")
    let text = try Program.run(["report", "--store", overlay.path("alice.sqlite"), "--block", hash]).out
    #expect(text.contains("carol (origin) (via bob)"), "\(text)")
    // 2 to 6 ms, drawn anew for each packet. Jitter takes a sixteenth of each ping's difference, 1.3 ms in the mean: it
    // comes near only after several. One block's packets may show none on a busy machine: then others do.
    var next = 1
    #expect(
      eventually(seconds: 30) {
        let peer = alice.peers.first
        if peer?["reordered_from"] as? Double ?? 0 > 0.01 && peer?["jitter_from_ms"] as? Double ?? 0 > 0.3 {
          return true
        }
        usleep(500_000)
        _ = carol.mine(next)
        next += 1
        return false
      }, "\(alice.peers)")
    // What alice counts bob hears by STATUS.
    #expect(eventually { bob.peers.first { $0["name"] as? String == "alice" }?["reordered_to"] as? Double ?? 0 > 0.01 })
    let metrics = http(port, Array("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8))
    for line in [
      "lightpath_link_reordered_ratio{peer=\"bob\",direction=\"from\"} 0.",
      "lightpath_link_jitter_seconds{peer=\"bob\",direction=\"from\"} 0.",
      "lightpath_journeys_relayed_total{peer=\"bob\"} ",
    ] { #expect(metrics.contains(line), "\(line)") }
    #expect(!metrics.contains("lightpath_journeys_relayed_total{peer=\"bob\"} 0\n"))
    let status = try Program.run(["status", "--control", overlay.path("alice.sock")]).out
    #expect(status.contains("reordered") && status.contains("jitter ms"), "\(status)")
  }

  /// A store that can't be written, or is none, costs the records and nothing else.
  @Test func aStoreThatCannotBeUsedStopsNothing() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    try "this is no database, and long enough to be seen as none".write(
      toFile: overlay.path("bad.sqlite"), atomically: true, encoding: .utf8)
    let port = TestOverlay.freePorts(1)[0]
    var arguments = overlay.arguments("alice") + ["--store", overlay.path("bad.sqlite")]
    arguments[arguments.firstIndex(of: "off")!] = "127.0.0.1:\(port)"
    let alice = try RelayProcess(arguments, socket: overlay.path("alice.sock"))
    defer { alice.kill() }
    let bob = try overlay.start("bob", ["--store", "/dev/full"])
    #expect(eventually { alice.peersUp == 1 && bob.peersUp == 1 })
    let hash = try #require(alice.mine(1))
    #expect(eventually { bob.blocks.contains(hash) })
    for relay in [alice, bob] {
      #expect(eventually { relay.log.contains("the file of measurements can't be used") }, "\(relay.log)")
    }
    // It is left as it was, for whoever it belongs to.
    let rest = try String(contentsOfFile: overlay.path("bad.sqlite"), encoding: .utf8)
    #expect(rest.hasPrefix("this is no database"))
    // What is lost is counted and shown.
    func metric(_ name: String) -> Double {
      let text = http(port, Array("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8))
      let line = text.split(whereSeparator: \.isNewline).first { $0.hasPrefix(name + " ") }
      return line.flatMap { Double($0.dropFirst(name.count + 1)) } ?? -1
    }
    #expect(eventually { metric("lightpath_store_records_lost_total") > 0 })
    #expect(alice.status?["store_open"] as? Bool == false)
    // Tried again, at a reload at once.
    try FileManager.default.removeItem(atPath: overlay.path("bad.sqlite"))
    #expect(try Program.run(["reload", "--control", overlay.path("alice.sock")]).status == 0)
    #expect(eventually { alice.status?["store_open"] as? Bool == true })
    #expect(alice.mine(0) != nil)
    #expect(eventually { metric("lightpath_store_records_total") > 0 }, "\(alice.log)")
  }

  @Test func reloadRotatesTheSecretWithoutLosingALink() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let relays = try overlay.startAll()
    #expect(relays[0].peers.first?["overlay_epoch"] as? Int == 1)
    #expect(try overlay.rotateSecret() == 0)
    for name in overlay.names {
      let result = try Program.run(["reload", "--control", overlay.path("\(name).sock")])
      #expect(result.status == 0 && result.out.contains("overlay epochs 1, 2"), "\(result)")
    }
    #expect(eventually { relays.allSatisfy { $0.peers.first?["overlay_epoch"] as? Int == 2 } })
    #expect(relays.allSatisfy { !$0.log.contains("link down") }, "\(relays[0].log)")
    let hash = try #require(relays[0].mine(0))
    #expect(eventually { relays[1].blocks.contains(hash) })
    // A file that can't be read changes nothing.
    try FileManager.default.removeItem(atPath: overlay.path("overlay.key"))
    #expect(try Program.run(["reload", "--control", overlay.path("alice.sock")]).status == 1)
    #expect(relays[0].peersUp == 1)
  }

  @Test func statusIsWatched() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let alice = try overlay.start("alice")
    #expect(eventually { alice.status != nil })
    let process = Process()
    process.executableURL = Program.url
    process.arguments = ["status", "--watch", "--control", overlay.path("alice.sock")]
    let out = Pipe()
    process.standardOutput = out
    try process.run()
    Reaper.add(process.processIdentifier)
    let clear = "\u{1B}[H"
    var text = ""
    #expect(
      eventually {
        // What is there, if anything: reading would wait for more, without end.
        let handle = out.fileHandleForReading
        var readable = pollfd(fd: handle.fileDescriptor, events: Int16(POLLIN), revents: 0)
        if poll(&readable, 1, 0) > 0 { text += String(decoding: handle.availableData, as: UTF8.self) }
        return text.components(separatedBy: clear).count > 2
      }, "twice a screen: \(text)")
    // A test's threads block SIGTERM, and children inherit that.
    kill(process.processIdentifier, SIGKILL)
    process.waitUntilExit()
    Reaper.remove(process.processIdentifier)
    #expect(text.contains("overlay test on regtest") && text.contains("bob"))
  }

  @Test func theDemonstrationWithItsOptions() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-test-\(UUID().uuidString.prefix(8))")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let page = folder.appending(path: "report.html").path
    let blocks = ["898352", "426884"].map { TestOverlay.block($0) }
    let result = try Program.run(
      ["demo", "--relays", "2", "--delay", "5", "--loss", "10", "--report", page, "--json", "--block"] + blocks)
    #expect(result.status == 0, "\(result)")
    let outcome = try JSONSerialization.jsonObject(with: Data(result.out.utf8)) as? [String: Any]
    #expect(outcome?["completed"] as? Bool == true && outcome?["relays"] as? Int == 2)
    let rows = outcome?["blocks"] as? [[String: Any]] ?? []
    #expect(rows.count == 2)
    for row in rows {
      let hops = row["relays"] as? [[String: Any]] ?? []
      #expect(hops.count == 1 && (hops.first?["delivered_ms"] as? Double ?? 0) >= 5, "5 ms of way at least: \(row)")
    }
    let html = try String(contentsOfFile: page, encoding: .utf8)
    #expect(html.contains("alice") && html.contains("bob"))
    // A file that is no block is told by its name, before anything starts.
    let wrong = folder.appending(path: "wrong.raw").path
    try "no block".write(toFile: wrong, atomically: true, encoding: .utf8)
    let refusal = try Program.run(["demo", "--block", wrong])
    #expect(refusal.status == 2 && refusal.error.contains("wrong.raw"), "\(refusal)")
  }
}
