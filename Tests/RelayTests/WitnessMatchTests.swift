import Bitcoin
import Ground
import Mempool
import Relay
import Session
import Testing

/// A false match that the list of txids can't show: the same transaction with another witness.
@Suite struct WitnessMatchTests {
  /// Another serialisation of a transaction, as long, with the same txid and the same `bits` low bits of the short id.
  private func twin(of index: Int, in block: TestBlock, _ key: OverlayIDKey, bits: UInt64) throws -> [UInt8] {
    let layout = block.parsed.transactions[index]
    var bytes = Array(block.bytes[layout.offset..<layout.end])
    let sip = SipHash(k0: key.k0, k1: key.k1)
    let mask: UInt64 = 1 << bits - 1
    let wanted = sip.hash(block.parsed.wtxids[index]) & mask
    // Within the last witness item, a public key: 33 bytes before the lock time.
    let at = bytes.count - 4 - 20
    for number in 1...UInt32(100) << UInt32(bits) {
      withUnsafeBytes(of: number.littleEndian) { for (k, byte) in $0.enumerated() { bytes[at + k] = byte } }
      if sip.hash(SHA256.double(bytes.span.bytes)) & mask == wanted { return bytes }
    }
    throw CancellationError()
  }

  @Test func aTransactionWithAnotherWitnessIsWithdrawn() throws {
    let block = try TestBlock("702861")
    let bits: UInt64 = 15
    let secret = OverlaySecret(generatedFrom: .predictable(seed: 1))
    let key = shortIDKey(secret, epoch: 1, parent: block.parsed.header.previous)
    // Paid from a plain witness key: signature and public key.
    let index = try #require(
      block.parsed.transactions.indices.dropFirst().first {
        let layout = block.parsed.transactions[$0]
        return layout.hasWitness && layout.inputCount == 1 && block.bytes[layout.end - 4 - 34] == 33
      })
    let other = try twin(of: index, in: block, key, bits: bits)
    let net = TestNet(
      [[1], [0]], block: block.bytes, height: block.height,
      configure: { node, configuration in
        configuration.overlay = secret
        if node == 1 { configuration.shortIDBits = Int(bits) }
      })
    net.start()
    try net.with(1) { core, _, _ in
      let handle = try core.withMempool { store in
        for position in block.parsed.transactions.indices.dropFirst() where position != index {
          _ = try? store.insert(
            block.parsed.transactions[position], in: block.bytes.span.bytes, txid: block.parsed.txids[position],
            wtxid: block.parsed.wtxids[position], as: .node)
        }
        return Result { try store.insert(other.span.bytes, as: .node).handle }
      }.get()
      #expect(handle != nil)
      let txid = core.withMempool { store in store.slot(handle!).map { store.txid($0) } }
      #expect(txid == block.parsed.txids[index])
    }
    net.run(.seconds(4))
    try net.submit(block)
    #expect(net.run(.seconds(5)) { net.isComplete(1, block.hash) })
    #expect(net.holds(1, block))
    // The txids agree; the wtxids show the one, and nothing else is given up.
    #expect(net.events(1, .falseMatches).map(\.a) == [1])
    let asked = Set(net.events(1, .asked).map(\.b))
    #expect(asked.isSuperset(of: [2, 3]))
    #expect(net.report(1, block).failedChecks == 1)
    #expect(net.events(1, .wrongChunk).isEmpty && net.events(1, .demoted).isEmpty)
    net.run(.seconds(1))
    #expect(net.with(1) { core, _, _ in core.counters.falseMatches } == 1)
  }
}
