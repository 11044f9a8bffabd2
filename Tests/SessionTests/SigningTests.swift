import Ground
import Session
import Testing

@Suite struct SigningTests {
  @Test func onlyTheOwnersSignatureOfTheseBytesForThisPurposeHolds() {
    let (alice, bob) = (
      Identity(generatedFrom: .predictable(seed: 1)), Identity(generatedFrom: .predictable(seed: 2))
    )
    var random = SeededRandom(seed: 3)
    for length in [0, 1, 32, 200, 1_100] {
      let message = random.bytes(length)
      let signature = alice.sign(message.span.bytes, for: "lightpath test")
      #expect(signature.count == 64)
      func holds(_ key: PublicKey, _ signature: [UInt8], _ message: [UInt8], _ purpose: StaticString) -> Bool {
        key.verifies(signature.span.bytes, of: message.span.bytes, for: purpose)
      }
      #expect(holds(alice.publicKey, signature, message, "lightpath test"))
      #expect(!holds(bob.publicKey, signature, message, "lightpath test"))
      #expect(!holds(alice.publicKey, signature, message, "lightpath tests"))
      #expect(!holds(alice.publicKey, signature, message + [0], "lightpath test"))
      for bit in stride(from: 0, to: 512, by: 37) {
        var wrong = signature
        wrong[bit / 8] ^= 1 << UInt8(bit % 8)
        #expect(!holds(alice.publicKey, wrong, message, "lightpath test"))
      }
      for wrong in [[], [0], Array(signature.dropLast()), signature + [0], [UInt8](repeating: 0xFF, count: 64)] {
        #expect(!holds(alice.publicKey, wrong, message, "lightpath test"))
      }
    }
  }

  /// Two signatures of one message differ: fresh auxiliary randomness against fault attacks.
  @Test func signaturesAreFresh() {
    let alice = Identity(generatedFrom: .predictable(seed: 1))
    let message: [UInt8] = [1, 2, 3]
    let both = (0..<2).map { _ in alice.sign(message.span.bytes, for: "lightpath test") }
    #expect(both[0] != both[1])
    #expect(both.allSatisfy { alice.publicKey.verifies($0.span.bytes, of: message.span.bytes, for: "lightpath test") })
  }
}
