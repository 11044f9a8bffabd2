import Ground

/// Statements that outlive a session: what a relay says may reach relays that have no session with it. Signatures are
/// BIP340's over secp256k1; a tagged hash (BIP340 again) keeps one purpose's signatures from passing for another's, and
/// all of them from having anything to do with the handshake's use of the same key. Not for the packet thread: a
/// signature or a check takes some 50 µs.
extension Identity {
  public static let signatureBytes = 64

  /// Signs `message` for `purpose`: 64 bytes.
  public func sign(_ message: RawSpan, for purpose: StaticString) -> [UInt8] {
    var signature = [UInt8](repeating: 0, count: Identity.signatureBytes)
    signature.withUnsafeMutableBytes { Curve.sign(message, tag: purpose, secret, into: $0.baseAddress!) }
    return signature
  }
}

extension PublicKey {
  /// True when this key's owner signed `message` for `purpose`; false for anything else, whatever its length.
  public func verifies(_ signature: RawSpan, of message: RawSpan, for purpose: StaticString) -> Bool {
    if signature.byteCount != Identity.signatureBytes { return false }
    return signature.withUnsafeBytes { signature in
      withBytes { Curve.verify(signature.baseAddress!, message, tag: purpose, key: $0) }
    }
  }
}
