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
}
