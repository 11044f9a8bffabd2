import Foundation

/// The real blocks that tests and benches run on; `blocks/README.md` says what each is.
public enum RealBlocks {
  public static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "blocks")

  /// Full blocks, network serialisation.
  public static let names = [
    "413567", "426884", "482683", "702861", "mainnet-0021868c2c", "898352", "928831",
  ]

  /// A file of the folder, `702861` or `compact426884`, without `.raw`.
  public static func bytes(_ name: String) throws -> [UInt8] {
    [UInt8](try Data(contentsOf: folder.appending(path: name + ".raw")))
  }

  /// A serialised transaction, its bytes real but for the txids it spends, which are random: another transaction of the
  /// same size that conflicts with none. `inputCount` is where its input count lies (after marker and flag).
  public static func withFreshInputs(
    _ transaction: ArraySlice<UInt8>, inputCount: Int, using random: inout some RandomNumberGenerator
  ) -> [UInt8] {
    var bytes = Array(transaction)
    var at = inputCount - transaction.startIndex
    func compactSize() -> Int {
      let first = bytes[at]
      let size = first < 0xFD ? 0 : 2 << Int(first - 0xFD)
      at += 1 + size
      return size == 0 ? Int(first) : (0..<size).reduce(0) { $0 | Int(bytes[at - size + $1]) << (8 * $1) }
    }
    for _ in 0..<compactSize() {
      for offset in 0..<32 { bytes[at + offset] = UInt8.random(in: 0...255, using: &random) }
      at += 36
      let script = compactSize()
      at += script + 4
    }
    return bytes
  }
}
