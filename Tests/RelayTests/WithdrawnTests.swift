import Ground
import Relay
import Testing
import Wire

@Suite struct WithdrawnTests {
  /// What a neighbour's queue still held of a block when it heard HAVE is dropped there, sealed as it is: the gap that this
  /// leaves in its counters is no loss, and must not make its next budgets larger.
  @Test func whatWasDroppedAfterHaveIsNotReportedAsLost() throws {
    let chain = try Regtest(blocks: 8, transactions: 200)
    let net = TestNet([[1], [0]], on: chain, delay: .milliseconds(2 as Int64))
    net.start()
    net.fill(1, chain.source.parsed, chain.source.bytes, missing: 0)
    net.run(.seconds(3))
    net.bytesPerMillisecond = 1_250
    var haveAt = Instant.never
    var withdrawn = 0
    net.filter = { net, from, _, bytes in
      if from == 1 && bytes.count == HaveMessage.encodedBytes + 32 { haveAt = min(haveAt, net.now) }
      if from == 1 || bytes.count < 1_000 { return bytes }
      // HAVE takes 2 ms; what the queue holds then was sealed within 1 ms before.
      if haveAt == .never || net.now < haveAt + .milliseconds(1 as Int64) { return bytes }
      withdrawn += 1
      return nil
    }
    for block in chain.blocks {
      haveAt = .never
      try net.submit(block)
      #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
      net.run(.seconds(2))
    }
    #expect(withdrawn > 4, "\(withdrawn)")
    let loss = try #require(net.with(1) { core, _, _ in core.status(of: LinkID(0))?.lossFrom })
    #expect(loss.rate == 0, "\(loss)")
    #expect(loss.observed > 80, "\(loss)")
    let told = try #require(net.with(0) { core, _, _ in core.status(of: LinkID(1))?.lossTo })
    #expect(told.rate == 0, "\(told)")
  }
}
