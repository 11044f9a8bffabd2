import ArgumentParser
import Bitcoin
import BridgeSite
import Foundation
import Ground
import Harness
import NodeBridge
import RegtestNode
import Synchronization

// Three real nodes on loopback: A mines blocks of about 2,500 transactions; B hears of them only through two bridges, C
// is connected to A directly and gets compact blocks as nodes do among themselves. The blocks go to B and to C in turn:
// while one is timed the other one is held up, because three nodes on two cores would time each other. All mempools are
// equally warm. The overlay's place is taken by a hand-over in memory: its own cost is `bench relay`'s.
//
// The near bridge's mirror holds 150,000 transactions. The block's own have come evenly spread among them, and then the
// node has listed them as those that pay best, and 4,000 others have come since: so it is in service. Or it has not been
// listed, so that all must be looked through; or the block's own are the newest.

let options = Options.parseOrExit()
guard RegtestNode.binary(.core) != nil else {
  print("{\"bench\":\"bridge\",\"skipped\":\"set BITCOIND to a Bitcoin Core bitcoind\"}")
  exit(0)
}
let (blocks, count, mirror) = (options.blocks, options.transactions, options.mirror)
/// Of the transactions made up for the mirror: with 150,000 about 75 MB.
let fillBytes = 500

// Whatever ends this, the nodes end with it: their processes are `Children`, and the kernel kills them with the thread that
// starts them, which is the first one.
let folder = FileManager.default.temporaryDirectory.appending(path: "lightpath-bench-\(UUID().uuidString)")
Children.keep(folder)
Children.watch("bridge", limit: options.limit)
func say(_ text: String) { FileHandle.standardError.write(Data("bridge: \(text)\n".utf8)) }
@MainActor func leave(_ message: String) -> Never {
  Children.end()
  Harness.fail("bridge: \(message)")
}
/// Where the block's transactions are in the near mirror.
enum Place: CaseIterable { case listed, unranked, recent }

func wtxid(_ raw: [UInt8]) throws -> Hash256 {
  let layout = try TransactionLayout(parsing: raw.span.bytes)
  return layout.hashes(in: raw.span.bytes).wtxid
}

do { try run() } catch { leave("\(error)") }

@MainActor func run() throws {
  func start(_ debug: [String]) throws -> RegtestNode {
    let node = try RegtestNode.temporary(.core, debug.map { "-debug=\($0)" }, in: folder, endsWithThread: true)
    if let pid = node.processID { Children.add(pid) }
    return node
  }
  let (a, b, c) = (try start(["net"]), try start(["bench", "cmpctblock"]), try start(["bench", "cmpctblock"]))
  let nodes = [a, b, c]
  say("making \(count) coins")
  var coins = try a.makeCoins(count)
  for node in [b, c] { try node.copyChain(of: a) }
  try c.rpc.call("addnode", ["127.0.0.1:\(a.p2pPort)", "add"])
  func configuration(_ node: RegtestNode) -> NodeConfiguration {
    NodeConfiguration(name: "node", address: PeerAddress("127.0.0.1:\(node.p2pPort)")!)
  }
  // A list of the node's would sweep out what is only in the mirror.
  let siteA = try Site(
    network: .regtest, nodes: [configuration(a)], confirmsAfter: .milliseconds(100),
    reconciliationInterval: .seconds(36_000))
  let siteB = try Site(network: .regtest, nodes: [configuration(b)], confirmsAfter: .milliseconds(100))
  /// Blocks go on to the far bridge at once, on the near one's thread.
  let isBridged = Flag()
  let logB = siteB.log
  let wakeB = siteB.waker
  siteA.log.onBlock.withLock {
    $0 = { [isBridged, logB, wakeB] block in
      if isBridged.value.load(ordering: .acquiring) {
        logB.write { $0.orders.append(.relay(block)) }
        wakeB.signal()
      }
    }
  }
  let feeds = try nodes.map { try NodeFeed(port: $0.p2pPort, network: .regtest) }
  let logs = nodes.map { NodeLog($0.log) }

  var bridgedStages = Stages(names: [
    "announce_to_read_ms", "announce_to_core_ms", "handover_ms", "core_to_node_write_ms", "write_to_seen_ms",
    "seen_to_rebuilt_ms", "rebuilt_to_tip_ms",
  ])
  var directStages = Stages(names: ["announce_to_seen_ms", "seen_to_rebuilt_ms", "rebuilt_to_tip_ms"])
  var announced: [Place: [Double]] = [:]
  var direct: [Double] = []
  var bridged: [Double] = []
  /// Until the receiving node has the block whole: without the time that it takes to connect it, which is many times
  /// longer, the same in both cases, and differs by ten milliseconds from block to block.
  var rebuilt: (bridged: [Double], direct: [Double]) = ([], [])
  var bytes = 0
  /// What the near mirror held at most.
  var mirrorBytes = 0.0

  /// Fills all mempools, and the near mirror up to `mirror`.
  func fill(_ raws: [[UInt8]], _ place: Place) throws {
    siteA.order(.reset)
    guard eventually({ siteA.log.read { $0.mempool } == 0 }) else { leave("the mirror was not emptied") }
    // Those that come after a list.
    let late = place == .listed ? min(4_000, mirror - count) : 0
    let others = mirror - count - late
    let pieces = place == .recent ? 1 : 5
    for piece in 0..<pieces {
      siteA.order(.fill(count: others / pieces, bytes: fillBytes))
      let mine = Array(raws[count * piece / pieces..<count * (piece + 1) / pieces])
      let filled = others / pieces * (piece + 1)
      if place != .recent {
        try feeds[0].send(mine)
        guard eventually(seconds: 30, { siteA.log.read { $0.mempool } == filled + count * (piece + 1) / pieces }) else {
          leave("the mirror did not fill: \(siteA.log.read { $0.mempool })")
        }
      }
    }
    switch place {
    case .recent: try feeds[0].send(raws)
    case .unranked: break
    case .listed:
      let listings = siteA.log.read { $0.listings }
      siteA.order(.list(first: try raws.map(wtxid)))
      guard eventually({ siteA.log.read { $0.listings } > listings }) else { leave("the mirror was not listed") }
      siteA.order(.fill(count: late, bytes: fillBytes))
    }
    try feeds[1].send(raws)
    try feeds[2].send(raws)
    let whole = others / pieces * pieces + count + late
    let ready = eventually(seconds: 60) {
      siteA.log.read { $0.mempool } == whole && siteB.log.read { $0.mempool } == count
        && nodes.allSatisfy { (try? $0.mempoolCount()) == count }
    }
    if !ready {
      leave(
        "the mempools did not fill: \(siteA.log.read { $0.mempool }) and \(siteB.log.read { $0.mempool }) mirrored, "
          + "\(nodes.map { (try? $0.mempoolCount()) ?? -1 }) at the nodes")
    }
  }

  // The first to each only makes the nodes select their peers.
  for round in 0..<2 * (blocks + 1) {
    let (toB, isMeasured) = (round % 2 == 0, round >= 2)
    let place = Place.allCases[round / 2 % 3]
    say("block \(round + 1) of \(2 * (blocks + 1)), \(toB ? "bridged" : "direct"), \(place)")
    let spends = coins.map { a.spend($0, bytes: 350) }
    coins = spends.map(\.next)
    try fill(spends.map(\.raw), place)
    siteA.order(.ignoreBlocks(!toB))
    isBridged.value.store(toB, ordering: .releasing)
    mirrorBytes = max(mirrorBytes, Double(siteA.log.read { $0.heldBytes }))
    // Whatever the mempools' filling has left to do.
    Thread.sleep(forTimeInterval: 0.3)
    if toB { c.pause() }
    let clocks = Int(SystemClock.realtime()) - Int(SystemClock.now().nanoseconds)
    let hash = try a.mine(1, to: try a.miningAddress())[0]
    let target = toB ? b : c
    guard target.waitForTip(hash) else {
      leave(
        "block \(hash) did not arrive: \(siteA.log.read { $0.events.suffix(4) }) \(siteB.log.read { $0.events.suffix(4) })"
      )
    }
    if toB { c.resume() }
    // The other one catches up.
    let block = try a.rpc.call("getblock", [hash, 0]) as? String ?? ""
    bytes = block.count / 2
    if toB {
      guard c.waitForTip(hash) else { leave("block \(hash) did not arrive at the third node") }
    } else {
      siteA.order(.hold(Hex.decode(block)!))
      siteB.order(.deliver(Hex.decode(block)!))
      guard b.waitForTip(hash) else { leave("block \(hash) did not arrive at the second node") }
    }
    for log in logs { log.read() }
    guard isMeasured else { continue }
    let told = logs[0].time("sending header-and-ids \(hash)")
    let far = logs[toB ? 1 : 2]
    let (seen, whole) = (
      far.time("Saw new cmpctblock header hash=\(hash)"), far.time("Successfully reconstructed block \(hash)")
    )
    let tip = far.time("UpdateTip: new best=\(hash)")
    guard let told, let tip else { leave("block \(hash) is not in the nodes' logs") }
    func ms(_ from: Double?, _ to: Double?) -> Double? { if let from, let to { (to - from) / 1e3 } else { nil } }
    if toB {
      func stamp(_ value: borrowing Atomic<Int>) -> Double { Double(value.load(ordering: .acquiring) + clocks) / 1e3 }
      let read = stamp(siteA.times.read)
      let handed = stamp(siteA.times.handed)
      let (completed, written) = (stamp(siteB.times.completed), stamp(siteB.times.written))
      announced[place, default: []].append((handed - read) / 1e3)
      bridgedStages.add([
        ms(told, read), ms(read, handed), ms(handed, completed), ms(completed, written), ms(written, seen),
        ms(seen, whole), ms(whole, tip),
      ])
      bridged.append((tip - told) / 1e3)
      if let time = ms(told, whole) { rebuilt.bridged.append(time) }
    } else {
      directStages.add([ms(told, seen), ms(seen, whole), ms(whole, tip)])
      direct.append((tip - told) / 1e3)
      if let time = ms(told, whole) { rebuilt.direct.append(time) }
    }
  }
  siteA.stop()
  siteB.stop()
  Children.end()

  func report(_ name: String, _ values: [Double]) {
    if !values.isEmpty { Harness.report("bridge", name, Harness.median(values.sorted()), "ms") }
  }
  Harness.report("bridge", "block_bytes", Double(bytes), "bytes")
  Harness.report("bridge", "mirror_mb", mirrorBytes / 1e6, "MB")
  report("announce_to_core_ms", announced[.listed] ?? [])
  report("announce_to_core_unranked_ms", announced[.unranked] ?? [])
  report("announce_to_core_recent_ms", announced[.recent] ?? [])
  report("core_to_node_write_ms", bridgedStages["core_to_node_write_ms"])
  for name in bridgedStages.names where name != "announce_to_core_ms" && name != "core_to_node_write_ms" {
    report("bridged_\(name)", bridgedStages[name])
  }
  for name in directStages.names { report("direct_\(name)", directStages[name]) }
  report("tip_after_announcement_bridged_ms", bridged)
  report("tip_after_announcement_direct_ms", direct)
  report("rebuilt_after_announcement_bridged_ms", rebuilt.bridged)
  report("rebuilt_after_announcement_direct_ms", rebuilt.direct)
  func ratio(_ name: String, _ values: [Double], _ base: [Double]) {
    if values.isEmpty || base.isEmpty { return }
    Harness.report("bridge", name, Harness.median(values.sorted()) / Harness.median(base.sorted()), "ratio")
  }
  ratio("rebuilt_vs_direct_ratio", rebuilt.bridged, rebuilt.direct)
  ratio("tip_vs_direct_ratio", bridged, direct)
}
