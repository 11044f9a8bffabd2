import Ground
import Wire

/// An epoch of the overlay secret as told to a peer: its number, and eight bytes that show that the secret is the same
/// without telling it.
struct EpochCheck: Hashable, Sendable {
  var number: UInt32 = 0
  var check: UInt64 = 0
}

/// What the encrypted part of acts two and three carries. Fixed size; trivial.
struct Hello: Sendable {
  static let maxEpochs = 4

  /// Drawn at start-up: tells a restart from a rekey.
  var instance: UInt64
  /// Act three: the session index by which the initiator wants to be addressed. Act two: 0.
  var index: UInt32
  var offer: SessionOffer
  var epochCount: Int = 0
  var epochs: InlineArray<4, EpochCheck> = .init(repeating: EpochCheck())

  init(instance: UInt64, index: UInt32, offer: SessionOffer) {
    self.instance = instance
    self.index = index
    self.offer = offer
  }

  /// Writes `SessionFormat.helloBytes` bytes.
  func write(to out: UnsafeMutableRawPointer) {
    out.initializeMemory(as: UInt8.self, repeating: 0, count: SessionFormat.helloBytes)
    out.put(instance, at: 0)
    out.put(index, at: 8)
    out.put(offer.versions.lowerBound, at: 16)
    out.put(offer.versions.upperBound, at: 18)
    out.put(offer.chunkBytes, at: 20)
    out.put(offer.maxMessageBytes, at: 22)
    out.put(offer.features, at: 24)
    out.put(offer.requiredFeatures, at: 32)
    out.put(offer.codeProfiles, at: 40)
    out.put(offer.maxObjectBytes, at: 48)
    out.put(offer.suites, at: 52)
    out.put(UInt8(epochCount), at: 53)
    for i in 0..<epochCount {
      out.put(epochs[i].number, at: 56 + 12 * i)
      out.put(epochs[i].check, at: 60 + 12 * i)
    }
  }

  /// Reads `SessionFormat.helloBytes` bytes of an authenticated but perhaps rogue peer; `nil` when they make no sense.
  init?(_ bytes: UnsafeRawPointer) {
    let low: UInt16 = bytes.get(16)
    let high: UInt16 = bytes.get(18)
    let count = Int(bytes.get(53) as UInt8)
    guard low <= high, count <= Hello.maxEpochs else { return nil }
    instance = bytes.get(0)
    index = bytes.get(8)
    // Built field by field: the initialiser would trim the peer's suites to what this CPU has.
    offer = SessionOffer(versions: low...high)
    offer.chunkBytes = bytes.get(20)
    offer.maxMessageBytes = bytes.get(22)
    offer.features = bytes.get(24)
    offer.requiredFeatures = bytes.get(32)
    offer.codeProfiles = bytes.get(40)
    offer.maxObjectBytes = bytes.get(48)
    offer.suites = bytes.get(52)
    epochCount = count
    for i in 0..<count { epochs[i] = EpochCheck(number: bytes.get(56 + 12 * i), check: bytes.get(60 + 12 * i)) }
  }
}

extension UnsafeRawPointer {
  /// Little-endian, any alignment.
  @inline(__always)
  func get<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, as type: T.Type = T.self) -> T {
    T(littleEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
  }
}

extension UnsafeMutableRawPointer {
  @inline(__always)
  func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
    storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
  }

  @inline(__always) var u8: UnsafeMutablePointer<UInt8> { assumingMemoryBound(to: UInt8.self) }
}

extension UnsafeRawPointer {
  @inline(__always) var u8: UnsafePointer<UInt8> { assumingMemoryBound(to: UInt8.self) }
}
