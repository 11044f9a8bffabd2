import Foundation
import Ground
import Session
import Testing

struct SecretFileTests {
  /// A fresh folder for each test.
  private let folder: String = {
    let path = NSTemporaryDirectory() + "lightpath-secret-\(UInt64.random(in: 0 ... .max))"
    try! FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    return path
  }()

  private func mode(_ path: String) throws -> Int {
    try #require(FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
  }
  private func write(_ text: String, mode: Int = 0o600) throws -> String {
    let path = folder + "/file"
    try? FileManager.default.removeItem(atPath: path)
    #expect(
      FileManager.default.createFile(atPath: path, contents: Data(text.utf8), attributes: [.posixPermissions: mode]))
    return path
  }

  private func expectInvalid(_ path: String, _ line: Int, _ body: () throws(SecretFileError) -> Void) {
    do throws(SecretFileError) {
      try body()
      Issue.record("accepted what should be refused at line \(line)")
    } catch {
      guard case .invalid(let file, let number, _) = error else {
        Issue.record("\(error)")
        return
      }
      #expect(file == path && number == line)
    }
  }

  @Test func keyFileRoundTrips() throws {
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = folder + "/key"
    let old = umask(0)
    defer { umask(old) }
    let identity = Identity()
    try identity.write(to: path)
    #expect(try mode(path) == 0o600)
    #expect(try Identity(contentsOf: path).publicKey == identity.publicKey)
    // An existing key is never overwritten.
    #expect(throws: SecretFileError.system(call: "open", path: path, errno: EEXIST)) { try Identity().write(to: path) }
    #expect(try Identity(contentsOf: path).publicKey == identity.publicKey)
  }

  @Test(arguments: [0o640, 0o604, 0o660, 0o644, 0o601, 0o610])
  func fileThatOthersCanTouchIsRefused(_ bits: Int) throws {
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = try write(String(repeating: "11", count: 32) + "\n", mode: bits)
    try FileManager.default.setAttributes([.posixPermissions: bits], ofItemAtPath: path)
    #expect(throws: SecretFileError.exposed(path: path, mode: UInt32(bits))) { try Identity(contentsOf: path) }
    #expect(throws: SecretFileError.exposed(path: path, mode: UInt32(bits))) { try OverlaySecret(contentsOf: path) }
  }

  @Test func whatIsNoKeyIsRefusedWithItsLine() throws {
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let good = String(repeating: "11", count: 32)
    for (text, line) in [
      ("", 1), ("# only a remark\n", 1), ("11\n", 1), (good + "1", 1), ("#\n\n" + good + "\n" + good + "\n", 4),
      (String(repeating: "0", count: 64), 1), (String(repeating: "f", count: 64), 1),
      (String(repeating: "x", count: 64), 1), (String(repeating: "1", count: 5_000), 1),
    ] {
      let path = try write(text)
      expectInvalid(path, line) { () throws(SecretFileError) in _ = try Identity(contentsOf: path) }
    }
    #expect(throws: SecretFileError.notAFile(path: folder)) { try Identity(contentsOf: folder) }
    #expect(throws: SecretFileError.system(call: "open", path: folder + "/none", errno: ENOENT)) {
      try Identity(contentsOf: folder + "/none")
    }
    // No message tells the secret.
    let path = try write(good.uppercased() + "1")
    do { _ = try Identity(contentsOf: path) } catch { #expect(!"\(error)".contains("1111")) }
  }

  @Test func overlayFileRoundTripsAndRotates() throws {
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = folder + "/overlay"
    let first = OverlaySecret()
    try first.write(to: path)
    #expect(try mode(path) == 0o600)
    #expect(throws: SecretFileError.self) { try first.rotated().write(to: path) }
    var secret = try OverlaySecret(contentsOf: path)
    #expect(secret.derive("short ids", epoch: 1) == first.derive("short ids", epoch: 1))
    for _ in 0..<5 {
      secret = secret.rotated()
      try secret.write(to: path, replacing: true)
      #expect(try mode(path) == 0o600)
    }
    let last = try OverlaySecret(contentsOf: path)
    #expect(last.epochs == [3, 4, 5, 6])
    #expect(last.derive("a", epoch: 6) == secret.derive("a", epoch: 6))
    #expect(last.derive("a", epoch: 6) != last.derive("b", epoch: 6))
  }

  /// The last number there is is taken; there is none after it.
  @Test func theLastEpochHasNoNext() throws {
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let line = { (epoch: UInt32) in "epoch \(epoch) \(String(repeating: "ab", count: 32))\n" }
    #expect(try !OverlaySecret(contentsOf: write(line(.max))).canRotate)
    let last = try OverlaySecret(contentsOf: write(line(.max - 1)))
    #expect(last.canRotate && last.rotated().epochs == [.max - 1, .max])
  }

  @Test func whatIsNoOverlaySecretIsRefused() throws {
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let good = String(repeating: "ab", count: 32)
    for (text, line) in [
      ("", 1), (good, 1), ("epoch 0 \(good)", 1), ("epoch x \(good)", 1), ("epoch 1 \(good)\nepoch 1 \(good)", 2),
      ("epoch 2 \(good)\nepoch 1 \(good)", 2), ("epoch 1 \(good)0", 1), ("epoch 1  \(good)", 1),
      ((1...5).map { "epoch \($0) \(good)\n" }.joined(), 5), ("epoch 4294967296 \(good)", 1),
    ] {
      let path = try write(text)
      expectInvalid(path, line) { () throws(SecretFileError) in _ = try OverlaySecret(contentsOf: path) }
    }
  }

  @Test func publicKeysAreCheckedPoints() {
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let key = Identity().publicKey
    #expect(PublicKey(hex: key.description) == key)
    #expect(PublicKey(hex: "02" + String(repeating: "0", count: 64)) == nil)
    #expect(PublicKey(hex: "04" + key.description.dropFirst(2)) == nil)
    #expect(PublicKey(hex: String(key.description.dropLast(2))) == nil)
    #expect(PublicKey(Array("x".utf8)) == nil)
  }
}
