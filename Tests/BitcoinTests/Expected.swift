import Bitcoin
import Foundation
import Ground
import RealBlocks

/// Data made by other implementations; `Expected/make_expected.py` says how.
enum Expected {
  struct Block: Decodable {
    var hash, merkleRoot: String
    var commitment: String?
    var bytes, weight: Int
    var txids: [String]
    var wtxids: [String?]
    var weights: [Int]
  }
  struct Frame: Decodable {
    var command, frame: String
  }
  struct Chain: Decodable {
    var times, bits: [UInt32]
  }

  static let blocks: [String: Block] = load("blocks.json")
  static let messages: [Frame] = load("messages.json")
  static let difficulty: [String: Chain] = load("difficulty.json")

  /// Headers of 80 bytes each.
  static func headers(_ name: String) throws -> [BlockHeader] {
    let bytes = [UInt8](try Data(contentsOf: folder.appending(path: name)))
    var reader = ByteReader(bytes.span.bytes)
    var headers: [BlockHeader] = []
    while !reader.isAtEnd { headers.append(try BlockHeader(from: &reader)) }
    return headers
  }

  private static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Expected")

  private static func load<T: Decodable>(_ name: String) -> T {
    try! JSONDecoder().decode(T.self, from: Data(contentsOf: folder.appending(path: name)))
  }
}

/// Real blocks, read and parsed once for all tests.
enum Real {
  struct Block: Sendable {
    var bytes: [UInt8]
    var parsed: ParsedBlock
  }

  static let blocks: [String: Block] = Dictionary(
    uniqueKeysWithValues: RealBlocks.names.map { name in
      let bytes = try! RealBlocks.bytes(name)
      var parsed = try! ParsedBlock(parsing: bytes.span.bytes)
      parsed.hashAll(in: bytes.span.bytes)
      return (name, Block(bytes: bytes, parsed: parsed))
    })

  /// The body rules of each block: those of its network at its height, where that is known.
  static func rules(_ name: String) -> BodyRules {
    switch name {
    case "898352", "928831": Network.testnet3.bodyRules(height: Int(name)!)
    case "mainnet-0021868c2c": BodyRules(statedHeight: nil)
    default: Network.mainnet.bodyRules(height: Int(name)!)
    }
  }
}

/// What `body` throws, or `nil`.
func thrown<E: Error>(_ body: () throws(E) -> Void) -> E? {
  do throws(E) {
    try body()
    return nil
  } catch {
    return error
  }
}

func parse(_ block: [UInt8]) throws(DecodeError) -> ParsedBlock { try ParsedBlock(parsing: block.span.bytes) }

func ids(_ transaction: [UInt8]) throws(DecodeError) -> (txid: Hash256, wtxid: Hash256) {
  let layout = try TransactionLayout(parsing: transaction.span.bytes)
  return layout.hashes(in: transaction.span.bytes)
}
