import Foundation
import RealBlocks
import Testing

/// The program as operators meet it: processes, signals, files, sockets.
@Suite(.serialized) struct ProcessTests {
  @Test func killedWhileABlockIsInFlight() throws {
    let overlay = try TestOverlay()
    // Slow links: the block is on its way for longer than this test may be held up.
    let relays = try overlay.startAll(["--impair", "all:0.02:500"])
    let hash = try #require(relays[0].mine(0))
    #expect(!relays[2].blocks.contains(hash), "the block was there before the kill: nothing tested")
    relays[2].kill()
    #expect(eventually { relays[1].blocks.contains(hash) }, "the others complete")
    let again = try overlay.start("carol")
    #expect(eventually(seconds: 25) { again.blocks.contains(hash) }, "catches up: \(again.log)")
    // And the overlay goes on as before.
    let next = try #require(relays[1].mine(1))
    #expect(eventually { relays[0].blocks.contains(next) && again.blocks.contains(next) })
  }

  @Test func terminatesUnderLoad() throws {
    let overlay = try TestOverlay()
    let relays = try overlay.startAll(["--impair", "all:0.02:20"])
    for block in [0, 1, 0, 1, 0] { _ = relays[0].mine(block) }
    relays[0].signal(SIGTERM)
    #expect(eventually(seconds: 5) { !relays[0].process.isRunning })
    #expect(relays[0].process.terminationStatus == 0, "\(relays[0].log)")
    #expect(!FileManager.default.fileExists(atPath: overlay.path("alice.sock")))
    // The neighbours were told, rather than having to miss it.
    #expect(eventually(seconds: 5) { relays[1].log.contains("link down peer=alice reason=closed") })
    #expect(relays[1].process.isRunning && relays[2].process.isRunning)
  }

  @Test func reloadRemovesAndAddsALink() throws {
    let overlay = try TestOverlay()
    let relays = try overlay.startAll()
    func bobsRow() -> [String: Any]? { relays[0].peers.first { $0["name"] as? String == "bob" } }
    let before = try #require(bobsRow()?["received_packets"] as? Int)
    try overlay.writeTopology(links: [("alice", "bob"), ("bob", "carol")])
    for relay in relays { relay.signal(SIGHUP) }
    #expect(eventually { relays[0].peers.count == 1 && relays[2].peers.count == 1 })
    // The link to bob is the same session: its packet count goes on.
    #expect(bobsRow()?["up"] as? Bool == true)
    #expect((bobsRow()?["received_packets"] as? Int ?? 0) >= before)
    #expect(!relays[0].log.contains("link down peer=bob"))
    // Over two hops.
    let hash = try #require(relays[0].mine(0))
    #expect(eventually { relays[2].blocks.contains(hash) })
    // A mistake changes nothing and says where it is.
    try "[overlay]\nname = 3\n".write(toFile: overlay.topology, atomically: true, encoding: .utf8)
    let refusal = try Program.run(["reload", "--control", overlay.path("alice.sock")])
    #expect(refusal.status == 1 && refusal.error.contains(":2:"), "\(refusal)")
    #expect(relays[0].peersUp == 1)
    // Nor can the network change; after a signal only the log can say so.
    try overlay.writeTopology(links: overlay.pairs)
    let text = try String(contentsOfFile: overlay.topology, encoding: .utf8)
    try text.replacingOccurrences(of: "regtest", with: "signet").write(
      toFile: overlay.topology, atomically: true, encoding: .utf8)
    relays[0].signal(SIGHUP)
    #expect(eventually { relays[0].log.contains("the network can't change while the relay runs") })
    #expect(relays[0].peersUp == 1)
    try overlay.writeTopology(links: overlay.pairs)
    for name in overlay.names {
      #expect(try Program.run(["reload", "--control", overlay.path("\(name).sock")]).status == 0)
    }
    #expect(eventually { relays.allSatisfy { $0.peersUp == 2 } })
    #expect(!relays[0].log.contains("link down peer=bob"))
  }

  @Test func diskFullForLogs() throws {
    let overlay = try TestOverlay()
    let relays = try overlay.startAll(["--log", "/dev/full"])
    let hash = try #require(relays[0].mine(1))
    #expect(eventually { relays[2].blocks.contains(hash) })
    #expect(relays[0].status?["log_lines_lost"] as? Int ?? 0 > 0)
    #expect(relays[0].log.contains("the log can't be written to /dev/full"))
  }

  /// As above, and standard error on the same full disk: nobody is told, and the relay goes on.
  @Test func diskFullForLogsAndStandardError() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let alice = try RelayProcess(
      overlay.arguments("alice") + ["--log", "/dev/full"], socket: overlay.path("alice.sock"),
      standardError: "/dev/full")
    defer { alice.kill() }
    #expect(eventually { alice.status?["log_lines_lost"] as? Int ?? 0 > 0 })
    // Nor does a command that complains there end by a signal.
    let process = Process()
    process.executableURL = Program.url
    process.arguments = ["check", overlay.path("none.toml")]
    process.standardError = FileHandle(forWritingAtPath: "/dev/full")
    try process.run()
    process.waitUntilExit()
    #expect(process.terminationReason == .exit && process.terminationStatus == 2)
    #expect(alice.process.isRunning)
  }

  @Test func wrongKey() throws {
    let overlay = try TestOverlay()
    var arguments = overlay.arguments("alice")
    arguments[arguments.firstIndex(of: overlay.path("alice.key"))!] = overlay.path("bob.key")
    let wrong = try Program.run(arguments)
    #expect(wrong.status == 3 && wrong.error.contains("the key of 'bob'"), "\(wrong)")
    chmod(overlay.path("alice.key"), 0o644)
    let exposed = try Program.run(overlay.arguments("alice"))
    #expect(exposed.status == 3 && exposed.error.contains("chmod 600"), "\(exposed)")
    // A relay with another overlay secret gets no session, and both say why.
    chmod(overlay.path("alice.key"), 0o600)
    #expect(try Program.run(["keygen", "--overlay", overlay.path("other.key")]).status == 0)
    var stranger = overlay.arguments("carol")
    stranger[stranger.firstIndex(of: overlay.path("overlay.key"))!] = overlay.path("other.key")
    let alice = try overlay.start("alice")
    let carol = try RelayProcess(stranger, socket: overlay.path("carol.sock"))
    defer { carol.kill() }
    #expect(eventually { alice.log.contains("the overlay secrets differ") && carol.log.contains("secrets differ") })
    #expect(alice.peersUp == 0)
    // Said once, however often it is tried.
    func steps() -> Int { (alice.status?["session"] as? [String: Any])?["curveSteps"] as? Int ?? 0 }
    let before = steps()
    #expect(eventually(seconds: 30) { steps() >= before + 6 })
    #expect(alice.log.components(separatedBy: "no session possible").count == 2, "\(alice.log)")
  }

  @Test func noEpochAfterTheLast() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let line = "epoch 4294967295 \(String(repeating: "ab", count: 32))\n"
    try line.write(toFile: overlay.path("overlay.key"), atomically: true, encoding: .utf8)
    chmod(overlay.path("overlay.key"), 0o600)
    let result = try Program.run(["keygen", "--overlay", "--rotate", overlay.path("overlay.key")])
    #expect(result.status == 3 && result.error.contains("no epoch comes after 4294967295"), "\(result)")
  }

  @Test func wrongClock() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let alice = try overlay.start("alice")
    // Twenty years slow: the chain's times lie in this clock's future.
    let bob = try overlay.start("bob", ["--clock-offset=-631152000"])
    #expect(eventually { alice.peersUp == 1 && bob.peersUp == 1 })
    _ = try #require(alice.mine(1))
    #expect(eventually { bob.log.contains("is this machine's clock right") }, "\(bob.log)")
    #expect(bob.process.isRunning && bob.peersUp == 1)
  }

  @Test func portInUse() throws {
    let overlay = try TestOverlay()
    let (descriptor, _) = TestOverlay.bindUDP(overlay.ports[0])
    defer { close(descriptor) }
    let result = try Program.run(overlay.arguments("alice"))
    #expect(result.status == 4 && result.error.contains("127.0.0.1:\(overlay.ports[0]) is in use"), "\(result)")
    #expect(!FileManager.default.fileExists(atPath: overlay.path("alice.sock")))
  }

  @Test func twoRelaysWithOneKey() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let alice = try overlay.start("alice")
    let bob = try overlay.start("bob")
    #expect(eventually { alice.peersUp == 1 && bob.peersUp == 1 })
    // On the same machine with the same file: refused.
    let second = try Program.run(overlay.arguments("alice") + ["--listen", "127.0.0.1:0"])
    #expect(second.status == 3 && second.error.contains("in use by a relay that runs already"), "\(second)")
    // With a copy of the file, as on another machine: no harm to the other relay, and it tells.
    try FileManager.default.copyItem(atPath: overlay.path("alice.key"), toPath: overlay.path("copy.key"))
    var arguments = overlay.arguments("alice")
    arguments[arguments.firstIndex(of: overlay.path("alice.key"))!] = overlay.path("copy.key")
    arguments[arguments.firstIndex(of: overlay.path("alice.sock"))!] = overlay.path("copy.sock")
    let copy = try RelayProcess(arguments + ["--listen", "127.0.0.1:0"], socket: overlay.path("copy.sock"))
    defer { copy.kill() }
    #expect(eventually { bob.log.contains("do two relays use one key?") }, "\(bob.log)")
    #expect(bob.process.isRunning && bob.status != nil)
    copy.kill()
    let hash = try #require(alice.mine(1))
    #expect(eventually { bob.blocks.contains(hash) }, "\(bob.log)")
  }

  @Test func checkTellsEveryMistakeWithItsPlace() throws {
    let overlay = try TestOverlay()
    #expect(try Program.run(["check", overlay.topology]).status == 0)
    var text = try String(contentsOfFile: overlay.topology, encoding: .utf8)
    text = text.replacingOccurrences(of: "uplink_mbit", with: "uplink_mbits")
      .replacingOccurrences(of: "name = \"bob\"", with: "name = \"alice\"")
    try text.write(toFile: overlay.topology, atomically: true, encoding: .utf8)
    let result = try Program.run(["check", overlay.topology])
    #expect(result.status == 2)
    #expect(result.error.contains("topology.toml:6:1: "), "\(result.error)")
    #expect(result.error.contains("did you mean 'uplink_mbit'?"), "\(result.error)")
    #expect(result.error.contains("was already used at"), "\(result.error)")
  }

  /// A request that comes byte by byte holds one of the few connections for a while, not for ever.
  @Test func aRequestThatDripsIsGivenUp() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let alice = try overlay.start("alice")
    #expect(eventually { alice.status != nil })
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(overlay.path("alice.sock").utf8)) }
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    #expect(connected == 0)
    var byte = UInt8(ascii: " ")
    #expect(
      eventually(seconds: 60) {
        usleep(200_000)
        return send(descriptor, &byte, 1, Int32(MSG_NOSIGNAL)) < 0
      })
    #expect(alice.status != nil)
  }

  @Test func httpOnLoopbackRefusesWebPages() throws {
    let overlay = try TestOverlay(["alice", "bob"])
    let port = TestOverlay.freePorts(1)[0]
    var arguments = overlay.arguments("alice")
    arguments[arguments.firstIndex(of: "off")!] = "127.0.0.1:\(port)"
    let alice = try RelayProcess(arguments, socket: overlay.path("alice.sock"))
    defer { alice.kill() }
    #expect(eventually { alice.status != nil })
    func ask(_ request: String) -> String { http(port, Array(request.utf8)) }
    let metrics = ask("GET /metrics HTTP/1.1\r\nHost: localhost:\(port)\r\n\r\n")
    #expect(metrics.hasPrefix("HTTP/1.1 200") && metrics.contains("lightpath_peer_up{peer=\"bob\"} 0"))
    #expect(ask("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n").hasPrefix("HTTP/1.1 403"))
    for host in ["127.0.0.2:\(port)", "127.0.0.1", "LOCALHOST"] {
      #expect(ask("GET /metrics HTTP/1.1\r\nHost: \(host)\r\n\r\n").hasPrefix("HTTP/1.1 200"), "\(host)")
    }
    for host in ["127.0.0.1.evil.example", "127.1:\(port)", "126.0.0.1", "[::1]", "127.0.0.1:1:2", ""] {
      #expect(ask("GET /metrics HTTP/1.1\r\nHost: \(host)\r\n\r\n").hasPrefix("HTTP/1.1 403"), "\(host)")
    }
    let page = "POST /block HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nContent-Length: 3\r\n\r\nabc"
    #expect(ask(page).hasPrefix("HTTP/1.1 403"))
    let nonsense = "POST /block HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc"
    #expect(ask(nonsense).hasPrefix("HTTP/1.1 422"))
    #expect(alice.process.isRunning)
  }
}
