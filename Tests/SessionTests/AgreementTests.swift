import Ground
import Session
import Testing

struct AgreementTests {
  private func comeUp(
    _ offers: (SessionOffer, SessionOffer), _ overlays: (OverlaySecret?, OverlaySecret?) = (nil, nil)
  ) -> (Relay, Relay) {
    let network = Network(seed: 1)
    let (a, b) = pair(network, secondKnows: false, offers: offers, overlays: overlays)
    network.run(for: .seconds(3))
    return (a, b)
  }

  @Test func theCommonGroundIsAgreedTheSameOnBothSides() {
    var one = SessionOffer(
      versions: 1...4, features: 0b1011, requiredFeatures: 0b1000, chunkBytes: 1_152, codeProfiles: 0b0111,
      maxObjectBytes: 5_000_000, maxMessageBytes: 1_400)
    var other = SessionOffer(
      versions: 2...3, features: 0b1110, chunkBytes: 1_024, codeProfiles: 0b1010, maxObjectBytes: 4_100_000,
      maxMessageBytes: 1_420)
    for suites: UInt8 in [0b01, 0b11] {
      (one.suites, other.suites) = (suites, SessionOffer.bestSuites)
      for offers in [(one, other), (other, one)] {
        let (a, b) = comeUp(offers)
        let agreed = SessionParameters(
          version: 3, features: 0b1010, chunkBytes: 1_024, codeProfile: 1, maxObjectBytes: 4_100_000,
          maxMessageBytes: 1_400,
          suite: suites & SessionOffer.bestSuites == 0b11 ? .aes256GCM : .chaCha20Poly1305, overlayEpoch: 0)
        #expect(a.status.parameters == agreed && b.status.parameters == agreed)
        #expect(a.count { $0 == .established(LinkID(0), agreed) } == 1)
        #expect(a.send([UInt8](repeating: 0, count: 1_400)) && !a.send([UInt8](repeating: 0, count: 1_401)))
      }
    }
  }

  @Test(arguments: [
    (SessionOffer(versions: 2...3), Incompatibility.version),
    (SessionOffer(requiredFeatures: 1 << 40), .features),
    (SessionOffer(codeProfiles: 1 << 9), .codeProfile),
  ])
  func withoutCommonGroundBothSidesAreTold(_ offer: SessionOffer, _ reason: Incompatibility) {
    for offers in [(offer, SessionOffer()), (SessionOffer(), offer)] {
      let (a, b) = comeUp(offers)
      #expect(!a.isUp() && !b.isUp())
      #expect(a.count { $0 == .incompatible(LinkID(0), reason) } == 1)
      #expect(b.count { $0 == .incompatible(LinkID(0), reason) } == 1)
    }
  }

  @Test func overlayEpochIsTheHighestThatBothHold() {
    let one = OverlaySecret(generatedFrom: .predictable(seed: 1))
    let two = one.rotated(from: .predictable(seed: 2))
    let three = two.rotated(from: .predictable(seed: 3))
    #expect(one.epochs == [1] && two.epochs == [1, 2] && three.epochs == [1, 2, 3])
    #expect(three.derive("x", epoch: 1) == one.derive("x", epoch: 1))
    #expect(three.derive("x", epoch: 2) != three.derive("x", epoch: 3) && one.derive("x", epoch: 2) == nil)
    #expect(comeUp((SessionOffer(), SessionOffer()), (one, three)).0.status.parameters?.overlayEpoch == 1)
    #expect(comeUp((SessionOffer(), SessionOffer()), (three, two)).1.status.parameters?.overlayEpoch == 2)
    // The same number with another secret, or a secret on one side only, is no agreement.
    let stranger = OverlaySecret(generatedFrom: .predictable(seed: 9))
    for overlays in [(one, stranger), (one, nil), (nil, two)] as [(OverlaySecret?, OverlaySecret?)] {
      let (a, b) = comeUp((SessionOffer(), SessionOffer()), overlays)
      #expect(!a.isUp() && !b.isUp())
      #expect(a.count { $0 == .incompatible(LinkID(0), .overlaySecret) } == 1)
      #expect(b.count { $0 == .incompatible(LinkID(0), .overlaySecret) } == 1)
    }
  }

  /// A rotation site by site, then the old epoch's removal: the session never breaks, nothing sent is lost, and each step
  /// takes effect within two seconds, whichever side can begin a handshake.
  @Test(arguments: [true, false])
  func overlayRotatesWithoutAGap(_ firstKnows: Bool) {
    let network = Network(seed: 2)
    let one = OverlaySecret(generatedFrom: .predictable(seed: 1))
    let both = one.rotated(from: .predictable(seed: 2))
    let (a, b) = pair(network, firstKnows: firstKnows, secondKnows: !firstKnows, overlays: (one, one))
    network.run(for: .seconds(1))
    var sent = 0
    func traffic(_ count: Int) {
      for _ in 0..<count {
        #expect(a.send([1]) && b.send([1]))
        sent += 1
        network.run(for: .milliseconds(10 as Int64))
      }
    }
    traffic(50)
    a.table.setOverlay(both, now: network.now, into: &a.outbox)
    traffic(200)
    #expect(a.status.parameters?.overlayEpoch == 1)
    b.table.setOverlay(both, now: network.now, into: &b.outbox)
    traffic(200)
    #expect(a.status.parameters?.overlayEpoch == 2 && b.status.parameters?.overlayEpoch == 2)
    network.run(for: .seconds(1))
    #expect(a.received == sent && b.received == sent)
    #expect(a.count { if case .lost = $0 { true } else { false } } == 0)
  }

  /// A side that can't begin handshakes asks for one; that is asked again when it is lost.
  @Test func aLostRequestForNewKeysIsRepeated() {
    let network = Network(seed: 3)
    let one = OverlaySecret(generatedFrom: .predictable(seed: 1))
    let both = one.rotated(from: .predictable(seed: 2))
    let (a, b) = pair(network, secondKnows: false, overlays: (both, one))
    network.run(for: .seconds(5))
    #expect(a.status.parameters?.overlayEpoch == 1)
    b.table.setOverlay(both, now: network.now, into: &b.outbox)
    #expect(b.outbox.datagrams.count == 1)
    b.outbox.datagrams = []
    network.run(for: .seconds(3))
    #expect(a.status.parameters?.overlayEpoch == 2 && b.status.parameters?.overlayEpoch == 2)
  }
}
