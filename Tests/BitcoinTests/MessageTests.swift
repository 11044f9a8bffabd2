import Bitcoin
import Ground
import Testing

/// Every frame in a stream, decoded.
func messages(in bytes: [UInt8], on network: Network, piece: Int = .max) throws -> [Message] {
  var stream = MessageStream(network: network)
  var list: [Message] = []
  var at = 0
  while at < bytes.count {
    let end = min(bytes.count, at + min(piece, bytes.count))
    stream.receive(bytes.span.bytes.extracting(at..<end))
    at = end
    while let next = try stream.next({ command, payload in Result { try Message(command, payload: payload) } }) {
      list.append(try next.get())
    }
  }
  #expect(stream.pending == 0)
  return list
}

@Suite struct MessageTests {
  /// Frames from python-bitcoinlib decode to the right command and encode again to the same bytes.
  @Test func independentFrames() throws {
    #expect(Expected.messages.count >= 14)
    for expected in Expected.messages {
      let frame = try #require(Hex.decode(expected.frame))
      let list = try messages(in: frame, on: .mainnet)
      #expect(list.count == 1 && list[0].command.description == expected.command)
      #expect(list[0].framed(on: .mainnet) == frame, "\(expected.command)")
    }
  }

  @Test func fieldsOfTheIndependentVersion() throws {
    let expected = try #require(Expected.messages.first { $0.command == "version" })
    let frame = try #require(Hex.decode(expected.frame))
    guard case .version(let version) = try messages(in: frame, on: .mainnet)[0] else {
      Issue.record("no version")
      return
    }
    #expect(version.version == 70_016 && version.time == 1_700_000_000 && version.startHeight == 868_000)
    #expect(version.services == [.network, .witness, .networkLimited])
    #expect(version.nonce == 0x1122_3344_5566_7788 && version.relay)
    #expect(String(decoding: version.userAgent, as: UTF8.self) == "/Expected:0.12/")
    #expect(version.receiver.address == PeerAddress(ipv4: 203, 0, 113, 7, port: 8333))
  }

  static let header = Network.regtest.genesis
  static let address = PeerAddress(ipv4: 10, 1, 2, 3, port: 18444)

  /// One or more of each message, with its payload where the specification lets it be written down by hand.
  static let samples: [(Message, String?)] = {
    let a = Hash256(w0: 1, w1: 0, w2: 0, w3: 0)
    let one = "01" + String(repeating: "00", count: 31)
    let zero = String(repeating: "00", count: 32)
    let transaction = TransactionParsingTests.witness.bytes
    var builder = BlockBuilder(height: 1, previous: header.hash, time: header.time + 1)
    try! builder.append(transaction.span.bytes)
    let block = builder.build()
    let parsed = { () -> ParsedBlock in
      var parsed = try! ParsedBlock(parsing: block.span.bytes)
      parsed.hashAll(in: block.span.bytes)
      return parsed
    }()
    var compact = ByteWriter()
    CompactBlock.encode(parsed, in: block.span.bytes, nonce: 5, to: &compact)
    let compactPayload = compact.bytes
    var answer = ByteWriter()
    try! BlockTransactions.encode(
      BlockTransactionsRequest(block: a, indexes: [1]), from: parsed, in: block.span.bytes, to: &answer)
    let answerPayload = answer.bytes
    return [
      (
        .version(
          Version(services: [.witness], time: -1, nonce: 1, userAgent: "/lightpath/", startHeight: 0, relay: false)),
        nil
      ),
      (.verack, ""), (.wtxidrelay, ""), (.sendaddrv2, ""), (.getaddr, ""), (.sendheaders, ""), (.mempool, ""),
      (.filterclear, ""), (.ping(nil), ""), (.ping(0x0102), "0201000000000000"), (.pong(1), "0100000000000000"),
      (
        .addr([TimedAddress(time: 1, node: NetworkAddress(services: .network, address: address))]),
        "01" + "01000000" + "0100000000000000" + "00000000000000000000ffff0a010203" + "480c"
      ),
      (
        .addrv2([
          AddressV2(time: 2, services: [.network, .witness], networkID: .ipv4, bytes: [1, 2, 3, 4], port: 8333),
          AddressV2(
            time: 3, services: [.networkLimited], networkID: .torV3, bytes: [UInt8](repeating: 9, count: 32), port: 1),
          AddressV2(time: 4, services: [], networkID: .init(rawValue: 200), bytes: [7], port: 0),
        ]),
        "03" + "02000000" + "09" + "01" + "0401020304" + "208d" + "03000000" + "fd0004" + "04" + "20"
          + String(repeating: "09", count: 32) + "0001" + "04000000" + "00" + "c8" + "0107" + "0000"
      ),
      (.inv([InventoryItem(.wtx, a)]), "01" + "05000000" + one),
      (.getdata([InventoryItem(.witnessBlock, a)]), "01" + "02000040" + one),
      (.notfound([InventoryItem(.compactBlock, a)]), "01" + "04000000" + one),
      (.getheaders(GetHeaders(locator: [a], stop: .zero)), "80110100" + "01" + one + zero),
      (.getblocks(GetHeaders(locator: [], stop: a)), "80110100" + "00" + one),
      (.headers([header]), "01" + Hex.encode(header.bytes) + "00"),
      (.block(block), Hex.encode(block)), (.tx(transaction), Hex.encode(transaction)),
      (.feefilter(1000), "e803000000000000"),
      (
        .merkleblock(MerkleBlock(header: header, transactionCount: 3, hashes: [a, a], flags: [0x1D])),
        Hex.encode(header.bytes) + "03000000" + "02" + one + one + "011d"
      ),
      (
        .filterload(FilterLoad(filter: [1, 2], functionCount: 50, tweak: 3, flags: 1)),
        "020102" + "32000000" + "03000000" + "01"
      ),
      (.filteradd([1, 2, 3]), "03010203"),
      (.sendcmpct(SendCompact(highBandwidth: true, version: 2)), "01" + "0200000000000000"),
      (.cmpctblock(try! CompactBlock(parsing: compactPayload.span.bytes), payload: compactPayload), nil),
      (.getblocktxn(BlockTransactionsRequest(block: a, indexes: [0, 1, 5])), one + "03" + "000003"),
      (.blocktxn(try! BlockTransactions(parsing: answerPayload.span.bytes), payload: answerPayload), nil),
    ]
  }()

  @Test func everyMessageBothWays() throws {
    var stream: [UInt8] = []
    for (message, hex) in MessageTests.samples {
      var writer = ByteWriter()
      message.writePayload(to: &writer)
      if let hex { #expect(Hex.encode(writer.bytes) == hex, "\(message.command)") }
      stream += message.framed(on: .regtest)
    }
    // Through a stream cut anywhere.
    for piece in [1, 7, 24, 1000, .max] {
      let list = try messages(in: stream, on: .regtest, piece: piece)
      #expect(list.map(\.command) == MessageTests.samples.map(\.0.command))
      #expect(list.flatMap { $0.framed(on: .regtest) } == stream)
    }
  }

  @Test func unknownCommandsAndRejectAreIgnored() throws {
    for command in [Command.reject, "alert", "protoconf"] {
      let frame = Framing.frame(command, payload: [1, 2, 3].span.bytes, on: .signet)
      guard case .ignored(let name) = try messages(in: frame, on: .signet)[0] else {
        Issue.record("\(command) was decoded")
        continue
      }
      #expect(name == command)
    }
  }

  @Test func brokenFrames() throws {
    func error(_ change: (inout [UInt8]) -> Void) -> FramingError? {
      var frame = Message.ping(1).framed(on: .mainnet)
      change(&frame)
      let bytes = frame
      var stream = MessageStream(network: .mainnet)
      stream.receive(bytes.span.bytes)
      return thrown { () throws(FramingError) in _ = try stream.next { _, _ in } }
    }
    #expect(error { _ in } == nil)
    #expect(error { $0[0] = 0xFA } == .magic(0xD9B4_BEFA))
    #expect(error { $0[8] = 0x07 }.map { if case .command = $0 { true } else { false } } == true)
    // A letter after the padding began.
    #expect(error { $0[12] = 0x61 }.map { if case .command = $0 { true } else { false } } == true)
    // Too long, known from the header alone.
    #expect(error { $0.replaceSubrange(16..., with: [0x01, 0x09, 0x3D, 0, 0, 0, 0, 0]) } == .length(4_000_001))
    #expect(error { $0.replaceSubrange(16..., with: [0x00, 0x09, 0x3D, 0, 0, 0, 0, 0]) } == nil)
    #expect(error { $0[20] ^= 1 } == .checksum(.ping))
    // A wrong checksum skips the message; the stream goes on.
    var frame = Message.ping(1).framed(on: .mainnet)
    frame[30] ^= 1
    let bytes = frame + Message.pong(2).framed(on: .mainnet)
    var stream = MessageStream(network: .mainnet)
    stream.receive(bytes.span.bytes)
    #expect(thrown { () throws(FramingError) in _ = try stream.next { _, _ in } } == .checksum(.ping))
    #expect(try stream.next { command, _ in command } == .pong)
    #expect(try stream.next { command, _ in command } == nil)
  }

  @Test func limitsOfEachMessage() throws {
    func refusal(_ command: Command, _ hex: String, padding: Int = 0) -> DecodeError? {
      let payload = Hex.decode(hex)! + [UInt8](repeating: 0, count: padding)
      return thrown { () throws(DecodeError) in _ = try Message(command, payload: payload.span.bytes) }
    }
    #expect(refusal(.inv, "fd51c3", padding: 60_000 * 36)?.reason == .outOfRange(value: 50_001, limit: 50_000))
    #expect(refusal(.inv, "fd50c3", padding: 50_000 * 36) == nil)
    #expect(refusal(.headers, "fdd107", padding: 2001 * 81)?.reason == .outOfRange(value: 2001, limit: 2000))
    #expect(refusal(.addr, "fde903", padding: 1001 * 30)?.reason == .outOfRange(value: 1001, limit: 1000))
    #expect(refusal(.getheaders, "8011010066", padding: 103 * 32)?.reason == .outOfRange(value: 102, limit: 101))
    #expect(refusal(.getheaders, "8011010065", padding: 102 * 32) == nil)
    #expect(refusal(.filterload, "fda18c", padding: 40_000)?.reason == .outOfRange(value: 36_001, limit: 36_000))
    #expect(refusal(.filterload, "00330000000000000000")?.reason == .outOfRange(value: 51, limit: 50))
    #expect(refusal(.filteradd, "fd0902", padding: 521)?.reason == .outOfRange(value: 521, limit: 520))
    #expect(refusal(.addrv2, "010000000000" + "010300000000")?.field == "addrv2.addr")
    #expect(refusal(.sendcmpct, "020200000000000000")?.field == "sendcmpct.announce")
    #expect(refusal(.headers, "01" + Hex.encode(MessageTests.header.bytes) + "01")?.field == "headers.txn_count")
    #expect(refusal(.pong, "010000000000000000")?.reason == .trailing(1))
    #expect(refusal(.pong, "0100")?.reason == .truncated(needed: 8, available: 2))
    #expect(refusal(.tx, Hex.encode(TransactionParsingTests.plain.bytes) + "00")?.reason == .trailing(1))
    // A user agent of 257 bytes.
    let start = "80110100" + String(repeating: "00", count: 8 + 8 + 26 + 26 + 8)
    #expect(refusal(.version, start + "fd0101", padding: 300)?.reason == .outOfRange(value: 257, limit: 256))
    #expect(refusal(.version, start + "00" + "00000000") == nil)
  }

  @Test func magicsAndPorts() {
    let table = Dictionary(uniqueKeysWithValues: Network.all.map { ($0.name, ($0.magic.value.byteSwapped, $0.port)) })
    #expect(table["main"]! == (0xF9BE_B4D9, 8333))
    #expect(table["test"]! == (0x0B11_0907, 18333))
    #expect(table["testnet4"]! == (0x1C16_3F28, 48333))
    #expect(table["signet"]! == (0x0A03_CF40, 38333))
    #expect(table["regtest"]! == (0xFABF_B5DA, 18444))
  }
}
