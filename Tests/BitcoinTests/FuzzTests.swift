import Bitcoin
import Ground
import RealBlocks
import Testing

/// Hostile bytes for every decoder: truncations, bit flips, huge counts, splices. Seeded and bounded; a failure names
/// the seed and the round. Nothing may crash, and nothing may need more memory than a few times the input, which
/// `count(itemBytes:)` sees to; the sizes of what comes out are checked against it.
@Suite struct FuzzTests {
  /// What decodes must make sense: sizes within the input, and the same bytes on the way back where that is defined.
  static func decodeAll(_ command: Command, _ bytes: [UInt8]) {
    let span = bytes.span.bytes
    if let message = try? Message(command, payload: span) {
      var writer = ByteWriter()
      message.writePayload(to: &writer)
      switch message {
      case .ignored: break
      case .version:
        // Optional fields come back as their defaults, and what follows them is dropped.
        #expect(writer.count <= bytes.count + 1)
      default:
        #expect(writer.bytes == bytes, "\(command) changed on its way back")
      }
    }
    if let block = try? ParsedBlock(parsing: span) {
      #expect(block.transactions.count * TransactionLayout.leastByteCount <= bytes.count)
      #expect(block.transactions.allSatisfy { $0.end <= bytes.count && $0.strippedByteCount <= $0.byteCount })
      var check = BodyCheck(block, rules: BodyRules(statedHeight: 1))
      while check.verdict == nil { check.advance(in: span, budget: 5000) }
    }
    let layout = try? TransactionLayout(parsing: span)
    let whole = try? Transaction(parsing: span)
    #expect((layout == nil) == (whole == nil), "layout and values disagree about what is a transaction")
    if let whole {
      #expect(whole.bytes == bytes)
      #expect(layout?.hasWitness == whole.hasWitness)
    }
    if let compact = try? CompactBlock(parsing: span) {
      #expect(6 * compact.shortIDs.count <= bytes.count && compact.transactionCount <= CompactBlock.maxTransactions)
      #expect(compact.prefilled.allSatisfy { $0.index < compact.transactionCount })
    }
    if let answer = try? BlockTransactions(parsing: span) {
      #expect(answer.transactions.allSatisfy { $0.end <= bytes.count })
    }
    if let header = try? BlockHeader(parsing: span) {
      _ = header.hasProofOfWork(limit: Network.mainnet.powLimit)
      _ = Target.work(of: header.bits)
    }
  }

  static let seeds: [(Command, [UInt8])] = {
    var list: [(Command, [UInt8])] = MessageTests.samples.map { message, _ in
      var writer = ByteWriter()
      message.writePayload(to: &writer)
      return (message.command, writer.bytes)
    }
    for name in ["482683", "898352"] { list.append((.block, Real.blocks[name]!.bytes)) }
    for name in ["compact426884", "compact898352"] { list.append((.cmpctblock, try! RealBlocks.bytes(name))) }
    let real = Real.blocks["702861"]!
    for index in [0, 3, 700, 2100] {
      list.append(
        (.tx, [UInt8](real.bytes[real.parsed.transactions[index].offset..<real.parsed.transactions[index].end])))
    }
    return list
  }()

  static func mutate(_ bytes: [UInt8], _ random: inout SeededRandom) -> [UInt8] {
    var bytes = bytes
    for _ in 0...random.below(3) {
      if bytes.isEmpty { return random.bytes(random.below(40)) }
      let at = random.below(bytes.count)
      switch random.below(8) {
      case 0: bytes.removeSubrange(at...)
      case 1, 2: bytes[at] ^= 1 << UInt8(random.below(8))
      case 3: bytes[at] = [0, 1, 0x7F, 0x80, 0xFC, 0xFD, 0xFE, 0xFF][random.below(8)]
      case 4:
        // A huge count, canonical or not.
        let count: [UInt8] = [0xFF] + (0..<8).map { _ in random.chance(0.5) ? 0xFF : UInt8(random.below(256)) }
        bytes.replaceSubrange(at..<min(at + 1 + random.below(9), bytes.count), with: count)
      case 5: bytes.replaceSubrange(at..<at, with: random.bytes(random.below(9)))
      case 6: bytes.removeSubrange(at..<min(bytes.count, at + 1 + random.below(40)))
      default:
        // A splice of itself.
        let from = random.below(bytes.count)
        let part = bytes[from..<min(bytes.count, from + random.below(100))]
        bytes.replaceSubrange(at..<min(bytes.count, at + part.count), with: part)
      }
    }
    return bytes
  }

  @Test(arguments: 0..<8)
  func mutations(seed: Int) {
    var random = SeededRandom(seed: UInt64(seed))
    for _ in 0..<15_000 {
      let (command, bytes) = FuzzTests.seeds[random.below(FuzzTests.seeds.count)]
      FuzzTests.decodeAll(command, FuzzTests.mutate(bytes, &random))
    }
  }

  @Test func everyPrefixOfEveryMessage() {
    for (command, bytes) in FuzzTests.seeds where bytes.count < 1000 {
      for length in 0..<bytes.count { FuzzTests.decodeAll(command, [UInt8](bytes[..<length])) }
    }
  }

  @Test func noise() {
    var random = SeededRandom(seed: 99)
    for _ in 0..<5000 {
      let (command, _) = FuzzTests.seeds[random.below(FuzzTests.seeds.count)]
      FuzzTests.decodeAll(command, random.bytes(random.below(200)))
    }
  }

  /// Streams of broken frames in pieces: each error is typed, and a stream never holds more than it was given.
  @Test func streams() {
    var random = SeededRandom(seed: 7)
    let frames = MessageTests.samples.map { $0.0.framed(on: .mainnet) }
    for _ in 0..<500 {
      var bytes: [UInt8] = []
      for _ in 0..<5 { bytes += frames[random.below(frames.count)] }
      let broken = FuzzTests.mutate(bytes, &random)
      var stream = MessageStream(network: .mainnet)
      var at = 0
      reading: while at < broken.count {
        let end = min(broken.count, at + 1 + random.below(600))
        stream.receive(broken.span.bytes.extracting(at..<end))
        at = end
        while true {
          do throws(FramingError) {
            guard try stream.next({ command, payload in _ = try? Message(command, payload: payload) }) != nil else {
              break
            }
          } catch {
            if case .checksum = error { continue }
            break reading
          }
        }
        #expect(stream.pending <= broken.count)
      }
    }
  }

  /// Claims of billions of items in a handful of bytes are refused without reserving room for them.
  @Test(arguments: [
    Command.addr, .addrv2, .inv, .getdata, .notfound, .headers, .getheaders, .getblocks, .block, .tx, .merkleblock,
    .filterload, .filteradd, .cmpctblock, .getblocktxn, .blocktxn,
  ])
  func hugeCounts(command: Command) {
    for prefix in 0..<130 {
      for size: [UInt8] in [[0xFE, 0xFF, 0xFF, 0xFF, 0xFF], [UInt8](repeating: 0xFF, count: 9), [0xFD, 0xFF, 0xFF]] {
        let bytes = [UInt8](repeating: 0, count: prefix) + size + [0, 0, 0]
        FuzzTests.decodeAll(command, bytes)
      }
    }
  }
}
