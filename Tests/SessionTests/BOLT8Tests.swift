import Ground
import Session
import Testing

/// The handshake vectors published in Lightning's BOLT 8, appendix A: every one of them, with its prologue `lightning`,
/// empty payloads and given ephemeral keys. (Its message vectors are of its stream transport, which is not ours.)
struct BOLT8Tests {
  private static let actOne =
    "00036360e856310ce5d294e8be33fc807077dc56ac80d95d9cd4ddbd21325eff73f70df6086551151f58b8afe6c195782c6a"
  private static let actTwo =
    "0002466d7fcae563e5cb09a0d1870bb580344804617879a14949cf22285f1bae3f276e2470b93aac583c9ef6eafca3f730ae"
  private static let actThree =
    "00b9e3a702e93e3a9948c2ed6e5fd7590a6e1c3a0344cfc9d5b57357049aa22355361aa02e55a8fc28fef5bd6d71ad0c38228dc68b1c466263b47"
    + "fdf31e560e139ba"
  private static let toResponder = "969ab31b4d288cedf6218839b27a3e2140827047f2c0f01bf5c04435d43511a9"
  private static let toInitiator = "bb9020b8965f4df047e07f955f3c4b88418984aadc5cdb35096b9ea8fa5c3442"
  private static let responderKey = "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7"
  private static let initiatorKey = "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa"

  private static let actTwoFaults: [(String, ActError)] = [
    (replaced(actTwo, last: ""), ActError.length),
    (replaced(actTwo, first: "01"), .version(1)),
    (replaced(actTwo, first: "0004"), .publicKey),
    (replaced(actTwo, last: "af"), .tag),
  ]
  private static let actOneFaults: [(String, ActError)] = [
    (replaced(actOne, last: ""), ActError.length),
    (replaced(actOne, first: "01"), .version(1)),
    (replaced(actOne, first: "0004"), .publicKey),
    (replaced(actOne, last: "6b"), .tag),
  ]
  private static let actThreeFaults: [(String, ActError)] = [
    (replaced(actThree, last: ""), ActError.length),
    (replaced(actThree, first: "01"), .version(1)),
    (replaced(actThree, first: "00c9"), .ciphertext),
    // A sealed static key that is no point of the curve.
    (
      "00bfe3a702e93e3a9948c2ed6e5fd7590a6e1c3a0344cfc9d5b57357049aa2235536ad09a8ee351870c2bb7f78b754a26c6cef79a98d25139c"
        + "856d7efd252c2ae73c", .publicKey
    ),
    (replaced(actThree, last: "bb"), .tag),
  ]
  private static func replaced(_ act: String, first: String) -> String { first + String(act.dropFirst(first.count)) }
  private static func replaced(_ act: String, last: String) -> String { String(act.dropLast(2)) + last }

  /// One side of a handshake with the vectors' keys.
  private final class Side {
    let memory = GuardedBytes(count: NoiseXK.byteCount)
    let identity: Identity
    let ephemeral: UInt8
    var noise: NoiseXK { NoiseXK(memory.pointer) }

    init(secret: UInt8, ephemeral: UInt8) {
      identity = [UInt8](repeating: secret, count: 32).withUnsafeBytes { Identity(secret: $0)! }
      self.ephemeral = ephemeral
      noise.begin(prologue: Array("lightning".utf8), responder: PublicKey(hex: BOLT8Tests.responderKey)!)
    }
    static func initiator() -> Side { Side(secret: 0x11, ephemeral: 0x12) }
    static func responder() -> Side { Side(secret: 0x21, ephemeral: 0x22) }

    func write(_ count: Int, _ body: (UnsafeMutableRawPointer) throws(ActError) -> Void) throws(ActError) -> String {
      let out = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 1)
      defer { out.deallocate() }
      try body(out)
      return Hex.encode(UnsafeRawBufferPointer(start: out, count: count))
    }
    func read(_ hex: String, _ body: (UnsafeMutableRawBufferPointer) throws(ActError) -> Void) throws(ActError) {
      let bytes = Hex.decode(hex)!
      let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
      defer { copy.deallocate() }
      copy.copyBytes(from: bytes)
      try body(copy)
    }
    func generate(_ out: UnsafeMutableRawPointer) {
      out.initializeMemory(as: UInt8.self, repeating: ephemeral, count: 32)
    }

    func writeActOne() throws(ActError) -> String {
      try write(50) { out throws(ActError) in
        try noise.writeActOne(
          to: out, responder: PublicKey(hex: BOLT8Tests.responderKey)!, payload: Side.empty, ephemeral: generate)
      }
    }
    func readActOne(_ hex: String) throws(ActError) {
      try read(hex) { act throws(ActError) in try noise.readActOne(act, payloadBytes: 0, identity: identity) }
    }
    func writeActTwo() throws(ActError) -> String {
      try write(50) { out throws(ActError) in
        try noise.writeActTwo(to: out, payload: Side.empty, ephemeral: generate)
      }
    }
    func readActTwo(_ hex: String) throws(ActError) {
      try read(hex) { act throws(ActError) in try noise.readActTwo(act, payloadBytes: 0) }
    }
    func writeActThree() throws(ActError) -> String {
      try write(66) { out throws(ActError) in
        try noise.writeActThree(to: out, payload: Side.empty, identity: identity)
      }
    }
    @discardableResult
    func readActThree(_ hex: String) throws(ActError) -> String {
      var peer = ""
      try read(hex) { act throws(ActError) in
        peer = try noise.readStaticKey(act, payloadBytes: 0).description
        try noise.readActThree(act, payloadBytes: 0)
      }
      return peer
    }
    func keys() -> [String] {
      var keys: [String] = []
      noise.split { a, b in
        keys = [a, b].map { Hex.encode(UnsafeRawBufferPointer(start: $0, count: 32)) }
      }
      return keys
    }
    static var empty: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }
  }

  @Test func initiatorSucceeds() throws {
    let side = Side.initiator()
    #expect(side.identity.publicKey.description == Self.initiatorKey)
    #expect(try side.writeActOne() == Self.actOne)
    try side.readActTwo(Self.actTwo)
    #expect(try side.writeActThree() == Self.actThree)
    #expect(side.keys() == [Self.toResponder, Self.toInitiator])
  }

  @Test func responderSucceeds() throws {
    let side = Side.responder()
    #expect(side.identity.publicKey.description == Self.responderKey)
    try side.readActOne(Self.actOne)
    #expect(try side.writeActTwo() == Self.actTwo)
    #expect(try side.readActThree(Self.actThree) == Self.initiatorKey)
    #expect(side.keys() == [Self.toResponder, Self.toInitiator])
  }

  @Test(arguments: actTwoFaults)
  func initiatorRefusesActTwo(_ act: String, _ error: ActError) throws {
    let side = Side.initiator()
    _ = try side.writeActOne()
    #expect(throws: error) { try side.readActTwo(act) }
  }

  @Test(arguments: actOneFaults)
  func responderRefusesActOne(_ act: String, _ error: ActError) {
    let side = Side.responder()
    #expect(throws: error) { try side.readActOne(act) }
  }

  @Test(arguments: actThreeFaults)
  func responderRefusesActThree(_ act: String, _ error: ActError) throws {
    let side = Side.responder()
    try side.readActOne(Self.actOne)
    _ = try side.writeActTwo()
    #expect(throws: error) { try side.readActThree(act) }
  }

  @Test func anotherPrologueIsAnotherProtocol() throws {
    let initiator = Side.initiator()
    let responder = Side.responder()
    responder.noise.begin(prologue: Array("lightnin".utf8), responder: responder.identity.publicKey)
    let act = try initiator.writeActOne()
    #expect(throws: ActError.tag) { try responder.readActOne(act) }
  }
}
