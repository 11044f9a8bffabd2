import Ground

/// How datagrams of a session are sealed. Raw values are bit numbers on the wire.
public enum CipherSuite: UInt8, Sendable, CaseIterable {
  /// ChaCha20-Poly1305 (RFC 8439): every relay has it.
  case chaCha20Poly1305 = 0
  /// AES-256-GCM, where both CPUs have the instructions; measured at less than half the cost.
  case aes256GCM = 1
}

/// What this relay can do and wants, told to each peer inside the encrypted part of the handshake.
public struct SessionOffer: Hashable, Sendable {
  /// Protocol versions spoken; the highest common one is agreed.
  public var versions: ClosedRange<UInt16>
  /// Optional abilities, one bit each; the common ones are agreed.
  public var features: UInt64
  /// Abilities that a peer must have too, or there is no session.
  public var requiredFeatures: UInt64
  /// Bytes a chunk; the smaller is agreed.
  public var chunkBytes: UInt16
  /// Erasure code profiles spoken, bit n for profile n; the highest common one is agreed.
  public var codeProfiles: UInt64
  /// The largest object that will be taken, in bytes; the smaller is agreed.
  public var maxObjectBytes: UInt32
  /// The longest plaintext that will be taken in one datagram, in bytes; the smaller is agreed.
  public var maxMessageBytes: UInt16
  /// Suites in use here, bit n for the suite with raw value n; ChaCha20-Poly1305 is always added.
  public var suites: UInt8

  public init(
    versions: ClosedRange<UInt16> = 1...1, features: UInt64 = 0, requiredFeatures: UInt64 = 0,
    chunkBytes: UInt16 = 1_152, codeProfiles: UInt64 = 1, maxObjectBytes: UInt32 = 4_000_000 + 65_536,
    maxMessageBytes: UInt16 = 1_420, suites: UInt8 = SessionOffer.bestSuites
  ) {
    self.versions = versions
    self.features = features | requiredFeatures
    self.requiredFeatures = requiredFeatures
    self.chunkBytes = chunkBytes
    self.codeProfiles = codeProfiles
    self.maxObjectBytes = maxObjectBytes
    self.maxMessageBytes = maxMessageBytes
    self.suites = (suites | 1) & SessionOffer.bestSuites
  }

  /// All that this CPU can do.
  public static let bestSuites: UInt8 = Sodium.hasAES ? 0b11 : 0b01
}

/// What two relays agreed on: the same on both sides, computed by each from both offers.
public struct SessionParameters: Hashable, Sendable {
  public var version: UInt16
  public var features: UInt64
  public var chunkBytes: UInt16
  /// The erasure code's profile number.
  public var codeProfile: UInt8
  public var maxObjectBytes: UInt32
  /// Bytes of plaintext in one datagram.
  public var maxMessageBytes: UInt16
  public var suite: CipherSuite
  /// The overlay secret's epoch; 0 when neither side has an overlay secret.
  public var overlayEpoch: UInt32

  public init(
    version: UInt16, features: UInt64, chunkBytes: UInt16, codeProfile: UInt8, maxObjectBytes: UInt32,
    maxMessageBytes: UInt16, suite: CipherSuite, overlayEpoch: UInt32
  ) {
    self.version = version
    self.features = features
    self.chunkBytes = chunkBytes
    self.codeProfile = codeProfile
    self.maxObjectBytes = maxObjectBytes
    self.maxMessageBytes = maxMessageBytes
    self.suite = suite
    self.overlayEpoch = overlayEpoch
  }
}

/// Why two authenticated relays can't have a session.
public enum Incompatibility: UInt8, Error, Hashable, Sendable {
  /// No common protocol version.
  case version = 1
  /// One side lacks a feature that the other requires.
  case features = 2
  /// No common erasure code profile.
  case codeProfile = 3
  /// No epoch of the overlay secret that both have, with the same secret.
  case overlaySecret = 4
}

extension SessionParameters {
  /// The agreement of two hellos; symmetrical, so both sides come to the same.
  static func agree(_ a: Hello, _ b: Hello) throws(Incompatibility) -> SessionParameters {
    let low = max(a.offer.versions.lowerBound, b.offer.versions.lowerBound)
    let high = min(a.offer.versions.upperBound, b.offer.versions.upperBound)
    guard low <= high else { throw .version }
    let features = a.offer.features & b.offer.features
    guard (a.offer.requiredFeatures | b.offer.requiredFeatures) & ~features == 0 else { throw .features }
    let profiles = a.offer.codeProfiles & b.offer.codeProfiles
    guard profiles != 0 else { throw .codeProfile }
    var epoch: UInt32 = 0
    if a.epochCount != 0 || b.epochCount != 0 {
      for i in 0..<a.epochCount {
        for j in 0..<b.epochCount where a.epochs[i] == b.epochs[j] && a.epochs[i].number > epoch {
          epoch = a.epochs[i].number
        }
      }
      guard epoch != 0 else { throw .overlaySecret }
    }
    let suite: CipherSuite = a.offer.suites & b.offer.suites & 0b10 != 0 ? .aes256GCM : .chaCha20Poly1305
    return SessionParameters(
      version: high, features: features, chunkBytes: min(a.offer.chunkBytes, b.offer.chunkBytes),
      codeProfile: UInt8(63 - profiles.leadingZeroBitCount),
      maxObjectBytes: min(a.offer.maxObjectBytes, b.offer.maxObjectBytes),
      maxMessageBytes: min(a.offer.maxMessageBytes, b.offer.maxMessageBytes), suite: suite, overlayEpoch: epoch)
  }
}
