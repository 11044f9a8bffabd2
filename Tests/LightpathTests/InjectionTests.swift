import Bitcoin
import Foundation
import Ground
import RegtestNode
import Testing

/// A solved block that a pool's software hands to the relay, and what the relay tells others of it.
@Suite(.serialized) struct InjectionTests {
  /// An overlay of two without nodes; HTTP on alice.
  private final class Pair {
    let overlay: TestOverlay
    let port: UInt16
    let alice: RelayProcess
    let bob: RelayProcess

    init(_ extra: [String] = []) throws {
      let overlay = try TestOverlay(["alice", "bob"])
      let port = TestOverlay.freePorts(1)[0]
      (self.overlay, self.port) = (overlay, port)
      func arguments(_ name: String) -> [String] {
        [
          "relay", "--topology", overlay.topology, "--as", name, "--key", overlay.path("\(name).key"), "--overlay-key",
          overlay.path("overlay.key"), "--control", overlay.path("\(name).sock"), "--http",
          name == "alice" ? "127.0.0.1:\(port)" : "off",
        ]
      }
      alice = try RelayProcess(arguments("alice") + extra, socket: overlay.path("alice.sock"))
      bob = try RelayProcess(arguments("bob"), socket: overlay.path("bob.sock"))
      let (alice, bob) = (alice, bob)
      guard eventually({ alice.peersUp == 1 && bob.peersUp == 1 }) else {
        throw RelayProcess.Failure(text: alice.log + bob.log)
      }
    }

    deinit {
      alice.kill()
      bob.kill()
    }

    func submit(_ file: String, input: [UInt8]? = nil) throws -> (status: Int32, out: String, error: String) {
      let arguments = ["submit-block", file, "--control", overlay.path("alice.sock")]
      guard let input else { return try Program.run(arguments) }
      let path = overlay.path("input")
      try Data(input).write(to: URL(filePath: path))
      return try Program.run(arguments, input: path)
    }

    func post(_ body: [UInt8], _ headers: String = "") -> String {
      let head = "POST /block HTTP/1.1\r\nHost: 127.0.0.1:\(port)\r\nContent-Length: \(body.count)\r\n\(headers)\r\n"
      return http(port, Array(head.utf8) + body)
    }
  }

  /// The next block of a chain of its own on regtest's genesis.
  private func next(
    _ chain: inout HeaderChain, extraNonce: UInt64 = 1, transactions: Int = 0, height: Int? = nil
  ) throws -> (bytes: [UInt8], hash: String) {
    var builder = BlockBuilder(on: chain.tip)
    builder.extraNonce = extraNonce
    if let height { builder.height = height }
    for number in 0..<transactions { try builder.append(segwitTransaction(number).span.bytes) }
    let bytes = builder.build()
    let header = try BlockHeader(parsing: bytes.span.bytes)
    try chain.accept(header, now: UInt32(time(nil)))
    return (bytes, "\(header.hash)")
  }

  /// One input, one output, one witness item of 32 bytes.
  private func segwitTransaction(_ number: Int) -> [UInt8] {
    var raw = ByteWriter()
    raw.append([2, 0, 0, 0, 0, 1, 1] + [UInt8](repeating: 7, count: 32))
    raw.integer(UInt32(number))
    raw.append([0, 255, 255, 255, 255, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x51, 1, 32])
    raw.append([UInt8](repeating: 9, count: 32) + [0, 0, 0, 0])
    return raw.bytes
  }

  private func withHeader(_ header: BlockHeader, _ bytes: [UInt8]) -> [UInt8] {
    var writer = ByteWriter()
    header.write(to: &writer)
    return writer.bytes + bytes.dropFirst(BlockHeader.byteCount)
  }

  /// From a file, from standard input and over HTTP, raw and in hexadecimal: it reaches the neighbour.
  @Test func submittedBlocksReachTheNeighbour() throws {
    let pair = try Pair()
    let mode = try FileManager.default.attributesOfItem(atPath: pair.overlay.path("alice.sock"))[.posixPermissions]
    #expect(mode as? Int == 0o600)
    var chain = HeaderChain(network: .regtest)
    let file = pair.overlay.path("block")
    for way in 0..<5 {
      let (bytes, hash) = try next(&chain)
      let hex = Array((Hex.encode(bytes) + "\n").utf8)
      switch way {
      case 0, 1:
        try Data(way == 0 ? bytes : hex).write(to: URL(filePath: file))
        let result = try pair.submit(file)
        #expect(result.status == 0 && result.out == hash + "\n", "\(result)")
      case 2:
        let result = try pair.submit("-", input: hex)
        #expect(result.status == 0 && result.out == hash + "\n", "\(result)")
      default:
        let answer = pair.post(way == 3 ? bytes : hex)
        #expect(answer.hasPrefix("HTTP/1.1 200") && answer.contains(hash), "\(answer)")
      }
      #expect(eventually { pair.bob.blocks.contains(hash) }, "way \(way): \(pair.alice.log) \(pair.bob.log)")
    }
    #expect(try pair.submit(pair.overlay.path("nothing")).status == 2)
    // A page of the web must not do it, nor anyone who calls this machine by another name.
    let (bytes, _) = try next(&chain)
    #expect(pair.post(bytes, "Origin: http://127.0.0.1\r\n").hasPrefix("HTTP/1.1 403"))
    #expect(pair.post(bytes, "Host: pool.example\r\n").hasPrefix("HTTP/1.1 400"))
    #expect(pair.post([]).hasPrefix("HTTP/1.1 411"))
  }

  /// Each check that the relay makes itself is named in the refusal, by both doors, and the neighbour hears of nothing.
  @Test func badBlocksAreRefusedWithTheCause() throws {
    let pair = try Pair()
    var chain = HeaderChain(network: .regtest)
    let (good, hash) = try next(&chain, transactions: 2)

    // On regtest every other nonce is good.
    var header = try BlockHeader(parsing: good.span.bytes)
    repeat { header.nonce &+= 1 } while header.hasProofOfWork(limit: Network.regtest.powLimit)
    let weak = withHeader(header, good)
    // Work enough for the target that it states; but that is easier than the network allows.
    header.bits = 0x2100_FFFF
    let easy = withHeader(header, good)

    var other = HeaderChain(network: .regtest)
    _ = try next(&other, extraNonce: 9)
    let (orphan, _) = try next(&other)

    // The transactions are not the header's: the coinbase's version.
    var damaged = good
    damaged[81] ^= 1

    // All txids are right; one byte of one witness isn't.
    let parsed = try ParsedBlock(parsing: good.span.bytes)
    var otherWitness = good
    otherWitness[parsed.transactions[1].end - 5] ^= 1

    // With an odd number of leaves the last one may stand there twice: the Merkle root stays the same, and so does the
    // witness commitment.
    var twice = good
    twice[BlockHeader.byteCount] += 1
    twice += good[parsed.transactions[2].offset...]

    // Whole and untampered, and its coinbase states another height.
    var beside = HeaderChain(network: .regtest)
    let (wrongHeight, _) = try next(&beside, extraNonce: 4, height: 7)

    let cases: [(name: String, bytes: [UInt8], cause: String)] = [
      ("proof of work", weak, "header is refused"), ("parent", orphan, "parent"), ("Merkle root", damaged, "Merkle"),
      ("target", easy, "header is refused"), ("witness commitment", otherWitness, "witness commitment"),
      ("transactions twice", twice, "CVE-2012-2459"), ("height", wrongHeight, "rule of consensus"),
      ("truncated", Array(good.dropLast(5)), "no block"),
    ]
    for (name, bytes, cause) in cases {
      let file = pair.overlay.path("bad")
      try Data(bytes).write(to: URL(filePath: file))
      let result = try pair.submit(file)
      #expect(result.status == 1 && result.error.contains(cause), "\(name): \(result)")
      let answer = pair.post(bytes)
      #expect(answer.hasPrefix("HTTP/1.1 422") && answer.contains(cause), "\(name): \(answer)")
    }
    #expect(pair.bob.blocks.isEmpty && pair.alice.blocks.isEmpty)
    // The damaged bodies have said nothing about the hash.
    #expect(pair.post(good).hasPrefix("HTTP/1.1 200"))
    #expect(eventually { pair.bob.blocks.contains(hash) }, "\(pair.alice.log)")
  }

  /// Subscribers and the command hear of the header first, marked as not validated, then of the block.
  @Test func headersAreToldEarly() throws {
    let folder = FileManager.default.temporaryDirectory.appending(
      path: "lightpath-header-\(UUID().uuidString.prefix(8))")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let told = folder.appending(path: "told").path
    let pair = try Pair([
      "--on-header", "echo $LIGHTPATH_EVENT $LIGHTPATH_VALIDATED $LIGHTPATH_HASH $LIGHTPATH_HEADER >> '\(told)'",
    ])
    let subscriber = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(subscriber) }
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    setsockopt(subscriber, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(pair.overlay.path("alice.sock").utf8)) }
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(subscriber, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(connected == 0)
    let request = Array("{\"command\":\"subscribe\"}\n".utf8)
    #expect(send(subscriber, request, request.count, 0) == request.count)
    usleep(200_000)
    var chain = HeaderChain(network: .regtest)
    let (bytes, hash) = try next(&chain)
    #expect(pair.post(bytes).hasPrefix("HTTP/1.1 200"))
    var text = ""
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while text.split(separator: "\n").count < 2 {
      let n = recv(subscriber, &buffer, buffer.count, 0)
      try #require(n > 0, "\(text)")
      text += String(decoding: buffer[..<n], as: UTF8.self)
    }
    let notices = text.split(separator: "\n").map {
      (try? JSONSerialization.jsonObject(with: Data($0.utf8))) as? [String: Any] ?? [:]
    }
    #expect(notices.map { $0["event"] as? String } == ["header", "block"])
    #expect(notices.map { $0["validated"] as? Bool } == [false, true])
    #expect(notices.allSatisfy { $0["hash"] as? String == hash })
    let header = Hex.encode(Array(bytes[..<80]))
    #expect(notices[0]["header"] as? String == header)
    #expect(eventually { (try? String(contentsOfFile: told, encoding: .utf8)) == "header 0 \(hash) \(header)\n" })
  }

  private static var nodes: [(RegtestNode.Kind, String)] {
    let environment = ProcessInfo.processInfo.environment
    let pairs: [(RegtestNode.Kind, String?)] = [
      (.core, environment["BITCOIND"]), (.bitcoinSV, environment["LIGHTPATH_SV_NODE"]),
    ]
    return pairs.compactMap { kind, path in path.flatMap { $0.isEmpty ? nil : (kind, $0) } }
  }

  /// A node whose P2P port can't be reached gets the block by `submitblock`, where the topology says how.
  @Test(arguments: InjectionTests.nodes.indices)
  func submitblockIsTheLastResort(_ number: Int) throws {
    let (kind, binary) = InjectionTests.nodes[number]
    let folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-node-\(UUID().uuidString)")
    let node = try RegtestNode(
      binary: binary, kind: kind, folder: folder, p2pPort: RegtestNode.freePort(), rpcPort: RegtestNode.freePort())
    defer { node.remove() }
    let overlay = try TestOverlay(["alice", "bob"])
    let text = try String(contentsOfFile: overlay.topology, encoding: .utf8)
    let table = """
      [[relay.node]]
      p2p = "127.0.0.1:1"
      rpc = "127.0.0.1:\(node.rpcPort)"
      rpc_cookie_file = "\(node.folder.appending(path: "regtest/.cookie").path)"

      """
    // Before the second relay: the first one's.
    var parts = text.components(separatedBy: "[[relay]]\nname = \"bob\"")
    try #require(parts.count == 2)
    parts[0] += table
    try parts.joined(separator: "[[relay]]\nname = \"bob\"")
      .write(toFile: overlay.topology, atomically: true, encoding: .utf8)
    let alice = try RelayProcess(
      [
        "relay", "--topology", overlay.topology, "--as", "alice", "--key", overlay.path("alice.key"), "--overlay-key",
        overlay.path("overlay.key"), "--control", overlay.path("alice.sock"), "--http", "off",
      ], socket: overlay.path("alice.sock"))
    defer { alice.kill() }
    try #require(eventually { alice.status != nil }, "\(alice.log)")
    // Another node of the kind mines the block: one without witnesses wants blocks without them.
    let miner = try RegtestNode(
      binary: binary, kind: kind, folder: URL(filePath: folder.path + "-miner"), p2pPort: RegtestNode.freePort(),
      rpcPort: RegtestNode.freePort())
    defer { miner.remove() }
    let hash = try miner.mine(1, to: try miner.miningAddress())[0]
    let bytes = Hex.decode(try miner.rpc.call("getblock", [hash, 0]) as? String ?? "") ?? []
    let file = overlay.path("block")
    try Data(bytes).write(to: URL(filePath: file))
    let result = try Program.run(["submit-block", file, "--control", overlay.path("alice.sock")])
    #expect(result.status == 0, "\(result)")
    #expect(node.waitForTip(hash), "\(alice.log)")
    #expect(eventually { alice.log.contains("submitblock: accepted") }, "\(alice.log)")
  }
}
