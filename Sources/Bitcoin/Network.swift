import Ground

/// A Bitcoin network: how to talk on it, and the consensus rules that headers and bodies need. Values as in Bitcoin
/// Core v30's `kernel/chainparams.cpp`.
public struct Network: Hashable, Sendable {
  /// As in `-chain=` and configuration files.
  public var name: String
  /// The four bytes that start each P2P message, in wire order.
  public var magic: Magic
  /// Where nodes listen by default.
  public var port: UInt16
  public var genesis: BlockHeader

  /// The easiest target allowed.
  public var powLimit: UInt256
  /// Seconds between blocks that difficulty aims at.
  public var targetSpacing: UInt32 = 600
  /// Blocks between difficulty changes; 2016, or 144 on regtest.
  public var retargetInterval: Int = 2016
  /// Testnets: a block more than 20 minutes after its parent may have the easiest target.
  public var allowsMinimumDifficulty = false
  /// Regtest: difficulty never changes.
  public var neverRetargets = false
  /// BIP94 (testnet4): retarget from the period's first block, and no time warp.
  public var enforcesBIP94 = false

  /// First heights at which a block's version must be 2 (BIP34, and the height is in the coinbase), 3 (BIP66) and 4
  /// (BIP65), and at which witness commitments count.
  public var bip34Height: Int
  public var bip66Height: Int
  public var bip65Height: Int
  public var segwitHeight: Int

  public struct Magic: Hashable, Sendable {
    /// The bytes as a little-endian number.
    public var value: UInt32
    public init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
      value = UInt32(a) | UInt32(b) << 8 | UInt32(c) << 16 | UInt32(d) << 24
    }
  }

  /// Seconds that a difficulty period should take.
  public var targetTimespan: Int64 { Int64(retargetInterval) * Int64(targetSpacing) }

  /// The body rules for a block at `height`.
  public func bodyRules(height: Int) -> BodyRules {
    BodyRules(statedHeight: height >= bip34Height ? height : nil, segwit: height >= segwitHeight)
  }
}

extension Network {
  public static let mainnet = Network(
    name: "main", magic: Magic(0xF9, 0xBE, 0xB4, 0xD9), port: 8333,
    genesis: genesis(time: 1_231_006_505, nonce: 2_083_236_893, bits: 0x1D00_FFFF),
    powLimit: ~UInt256.zero >> 32, bip34Height: 227_931, bip66Height: 363_725, bip65Height: 388_381,
    segwitHeight: 481_824)

  public static let testnet3 = Network(
    name: "test", magic: Magic(0x0B, 0x11, 0x09, 0x07), port: 18333,
    genesis: genesis(time: 1_296_688_602, nonce: 414_098_458, bits: 0x1D00_FFFF),
    powLimit: ~UInt256.zero >> 32, allowsMinimumDifficulty: true, bip34Height: 21_111, bip66Height: 330_776,
    bip65Height: 581_885, segwitHeight: 834_624)

  public static let testnet4 = Network(
    name: "testnet4", magic: Magic(0x1C, 0x16, 0x3F, 0x28), port: 48333,
    genesis: genesis(
      time: 1_714_777_860, nonce: 393_743_547, bits: 0x1D00_FFFF,
      merkleRoot: "7aa0a7ae1e223414cb807e40cd57e667b718e42aaf9306db9102fe28912b7b4e"),
    powLimit: ~UInt256.zero >> 32, allowsMinimumDifficulty: true, enforcesBIP94: true, bip34Height: 1, bip66Height: 1,
    bip65Height: 1, segwitHeight: 1)

  /// The default signet. A custom one has a magic of its own: `signet(challenge:)`.
  public static let signet = Network(
    name: "signet", magic: Magic(0x0A, 0x03, 0xCF, 0x40), port: 38333,
    genesis: genesis(time: 1_598_918_400, nonce: 52_613_770, bits: 0x1E03_77AE),
    powLimit: UInt256(0x377AE) << 216, bip34Height: 1, bip66Height: 1, bip65Height: 1, segwitHeight: 1)

  public static let regtest = Network(
    name: "regtest", magic: Magic(0xFA, 0xBF, 0xB5, 0xDA), port: 18444,
    genesis: genesis(time: 1_296_688_602, nonce: 2, bits: 0x207F_FFFF),
    powLimit: ~UInt256.zero >> 1, retargetInterval: 144, allowsMinimumDifficulty: true, neverRetargets: true,
    bip34Height: 1, bip66Height: 1, bip65Height: 1, segwitHeight: 0)

  public static let all: [Network] = [.mainnet, .testnet3, .testnet4, .signet, .regtest]

  /// By the name that Bitcoin Core's `-chain=` takes; `mainnet` and `testnet3` too.
  public init?(named name: String) {
    let aliases = ["mainnet": "main", "testnet": "test", "testnet3": "test"]
    guard let network = Network.all.first(where: { $0.name == aliases[name] ?? name }) else { return nil }
    self = network
  }

  /// BIP325: a signet with a block challenge of its own. Its magic is the first four bytes of the double SHA-256 of the
  /// challenge script with its length.
  public static func signet(challenge: [UInt8]) -> Network {
    var writer = ByteWriter()
    writer.compactSize(challenge.count)
    writer.append(challenge)
    let id = SHA256.double(writer.bytes.span.bytes).bytes
    var network = Network.signet
    network.magic = Magic(id[0], id[1], id[2], id[3])
    return network
  }

  private static func genesis(
    time: UInt32, nonce: UInt32, bits: UInt32,
    merkleRoot: String = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
  ) -> BlockHeader {
    BlockHeader(
      version: 1, previous: .zero, merkleRoot: Hash256(merkleRoot)!, time: time, bits: bits, nonce: nonce)
  }
}
