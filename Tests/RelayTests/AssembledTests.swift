import Bitcoin
import Ground
import Relay
import Testing

/// A block may be had when it is put together, before its Merkle root is worked out.
@Suite struct AssembledTests {
  /// What a relay lends of the block at its first `assembled`, and whether it holds the block as complete then.
  private final class Watch {
    var lent: [UInt8]?
    var ids: [Hash256] = []
    var wasComplete = false
    var steps: [RelayEvent.Kind] = []
  }

  /// Runs until `node` has the block, looking at every event as it comes.
  private func watch(_ net: TestNet, _ node: Int, _ block: TestBlock) -> Watch {
    let watch = Watch()
    var seen = 0
    net.run(.seconds(20)) {
      for event in net.events[node][seen...] where event.block == block.hash {
        if [.assembled, .failedChecks, .verified].contains(event.kind) { watch.steps.append(event.kind) }
        guard event.kind == .assembled, watch.lent == nil else { continue }
        watch.wasComplete = net.isComplete(node, block.hash)
        net.with(node) { core, _, _ in
          _ = core.withAssembledBlock(block.hash) { parsed, bytes in
            watch.lent = bytes.withUnsafeBytes { [UInt8]($0) }
            watch.ids = parsed.wtxids
          }
        }
      }
      seen = net.events[node].count
      return net.isComplete(node, block.hash)
    }
    return watch
  }

  @Test(arguments: [0, 0.01, 1]) func itIsLentWhileItIsChecked(missing: Double) throws {
    let block = try TestBlock("702861")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    try net.begin(block, missing: missing)
    let watch = watch(net, 2, block)
    #expect(watch.steps == [.assembled, .verified])
    #expect(watch.lent == block.bytes && watch.ids == block.parsed.wtxids && !watch.wasComplete)
    // Nothing is lent of a block that is checked, or that was found here.
    for node in 0...2 {
      net.with(node) { core, _, _ in #expect(core.withAssembledBlock(block.hash) { _, _ in true } == nil) }
    }
    #expect(net.events(0, .assembled).isEmpty)
  }

  /// Some of it came from a neighbour that is not trusted: it may be anything.
  @Test func notWhatIsNotTrusted() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0]], block: block.bytes, height: block.height, trust: { a, b in (a, b) != (1, 0) })
    try net.begin(block)
    #expect(watch(net, 1, block).steps == [.verified])
  }

  /// The first body is wrong: it was lent, is withdrawn with `failedChecks`, and what is put together after that waits for
  /// its checks.
  @Test func whatHasFailedOnceIsNotLentAgain() throws {
    let block = try TestBlock("413567")
    let net = TestNet([[1], [0, 2], [1]], block: block.bytes, height: block.height)
    net.start()
    for index in 1..<block.parsed.transactions.count where !(100...110).contains(index) {
      try net.learn(1, index, of: block)
    }
    net.run(.seconds(4))
    var bad = block.bytes
    for index in 100...110 { bad[block.parsed.transactions[index].end - 6] ^= 0x55 }
    net.with(0) { core, sink, now in
      _ = try? core.submit(
        bad.span.bytes, parsed: block.parsed, isChecked: true, arrival: now, now: now, into: &sink)
    }
    net.run(.milliseconds(2 as Int64))
    try net.submit(block, at: 2)
    let watch = watch(net, 1, block)
    #expect(watch.steps.prefix(2) == [.assembled, .failedChecks] && watch.steps.last == .verified)
    #expect(watch.steps.filter { $0 == .assembled }.count == 1)
    #expect(watch.lent == bad)
    #expect(net.holds(1, block))
  }
}
