@preconcurrency import CLibsecp256k1
import Ground

/// A relay's public key as text: 66 hexadecimal digits, a compressed secp256k1 point (SEC 1, section 2.3.3).
public enum PublicKeyText {
  public struct Malformed: Error, Hashable, Sendable {
    public var reason: String
  }

  /// 33 bytes that are a point of the curve.
  public static func parse(_ text: String) throws(Malformed) -> [UInt8] {
    if text.utf8.count != 66 {
      throw Malformed(reason: "\(text.utf8.count) characters; a compressed key has 66 hexadecimal digits")
    }
    guard let bytes = Hex.decode(text) else { throw Malformed(reason: "not hexadecimal") }
    if bytes[0] != 2 && bytes[0] != 3 { throw Malformed(reason: "a compressed key begins with 02 or 03") }
    var point = secp256k1_pubkey()
    if secp256k1_ec_pubkey_parse(secp256k1_context_static, &point, bytes, bytes.count) != 1 {
      throw Malformed(reason: "no point of secp256k1: a digit is wrong")
    }
    return bytes
  }
}
