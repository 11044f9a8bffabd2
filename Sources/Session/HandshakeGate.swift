import CLibsodium
import Ground
import Wire

/// Decides which handshake acts are worth elliptic-curve work: budgets by what the sender has shown about its address,
/// and WireGuard's cookies. Fixed memory whatever arrives.
struct HandshakeGate: ~Copyable {
  enum Verdict {
    case admitted
    /// Send a cookie, if the budget for those allows.
    case cookie
    case refused
  }

  /// Buckets for cookie holders, found by a keyed hash of the address: sharing one is possible, aiming at one isn't.
  private static let bucketCount = 1_024
  /// A cookie is good for one to two of these.
  static let cookieLifetime = Interval.seconds(120)

  private let settings: SessionSettings
  private let random: RandomSource
  private let buckets: UnsafeMutablePointer<Pacer>
  private var strangers = Pacer()
  private var cookied = Pacer()
  private var replies = Pacer()
  private var cookieSecret: Mac
  private var previousCookieSecret: Mac
  private var cookieSecretBorn = Instant.zero
  private let bucketKey: Mac
  private let replyKey: GuardedBytes

  init(identity: Identity, settings: SessionSettings, random: RandomSource) {
    self.settings = settings
    self.random = random
    buckets = .allocate(capacity: HandshakeGate.bucketCount)
    buckets.initialize(repeating: Pacer(), count: HandshakeGate.bucketCount)
    cookieSecret = Mac(random: random)
    previousCookieSecret = Mac(random: random)
    bucketKey = Mac(random: random)
    replyKey = GuardedBytes(count: 32)
    HandshakeGate.replyKey(of: identity.publicKey, into: replyKey.pointer)
  }

  deinit { buckets.deallocate() }

  /// Cookie replies are sealed with a hash of the replier's public key, as in WireGuard.
  static func replyKey(of key: PublicKey, into out: UnsafeMutableRawPointer) {
    var state = crypto_hash_sha256_state()
    let label: StaticString = "lightpath cookie reply"
    crypto_hash_sha256_init(&state)
    crypto_hash_sha256_update(&state, label.utf8Start, UInt64(label.utf8CodeUnitCount))
    key.withBytes { _ = crypto_hash_sha256_update(&state, $0, 33) }
    crypto_hash_sha256_final(&state, out.u8)
  }

  /// `act` carries the two MACs in its last 32 bytes, the first one already checked. `link` is the pacer of the link
  /// whose address `source` is.
  mutating func judge(
    _ act: UnsafeRawPointer, _ count: Int, from source: PeerAddress, link: UnsafeMutablePointer<LinkRecord>?,
    now: Instant
  ) -> Verdict {
    let second = act + (count - SessionFormat.macBytes)
    if !Mac.isZero(second) {
      refreshSecrets(now)
      let covered = count - SessionFormat.macBytes
      if cookie(for: source, cookieSecret).over(act, covered).matches(second)
        || cookie(for: source, previousCookieSecret).over(act, covered).matches(second)
      {
        if let link {
          let each = Interval.perSecond(settings.linkActsPerSecond)
          return link.pointee.acts.take(now: now, interval: each, burst: settings.linkActsPerSecond)
            ? .admitted : .refused
        }
        let bucket = Int(prefixHash(source) & UInt64(HandshakeGate.bucketCount - 1))
        let each = Interval.perSecond(settings.cookiedActsPerSecondAndAddress)
        if !buckets[bucket].take(now: now, interval: each, burst: settings.cookiedActsPerSecondAndAddress) {
          return .refused
        }
        let all = Interval.perSecond(settings.cookiedActsPerSecond)
        return cookied.take(now: now, interval: all, burst: settings.cookiedActsPerSecond) ? .admitted : .refused
      }
    }
    let each = Interval.perSecond(settings.strangerActsPerSecond)
    if strangers.take(now: now, interval: each, burst: max(settings.strangerActsPerSecond / 4, 1)) { return .admitted }
    if let link {
      // A reserve for configured addresses, so that a flood from all over can't keep a peer from its cookie.
      return link.pointee.cookies.take(now: now, interval: .perSecond(50), burst: 25) ? .cookie : .refused
    }
    let replyInterval = Interval.perSecond(settings.cookieRepliesPerSecond)
    return replies.take(now: now, interval: replyInterval, burst: 50) ? .cookie : .refused
  }

  /// Writes `SessionFormat.cookieReplyBytes` bytes answering `act`.
  mutating func writeCookieReply(
    to out: UnsafeMutableRawPointer, act: UnsafeRawPointer, _ count: Int, source: PeerAddress, now: Instant
  ) {
    refreshSecrets(now)
    out.put(SessionFormat.Kind.cookieReply, at: 0)
    out.put(act.get(SessionFormat.indexOffset, as: UInt32.self), at: SessionFormat.indexOffset)
    let nonce = out + SessionFormat.bodyOffset
    random.fill(nonce, SessionFormat.cookieNonceBytes)
    let sealed = nonce + SessionFormat.cookieNonceBytes
    cookie(for: source, cookieSecret).store(to: sealed)
    let firstMac = act + (count - 2 * SessionFormat.macBytes)
    _ = crypto_aead_xchacha20poly1305_ietf_encrypt(
      sealed.u8, nil, sealed.u8, UInt64(SessionFormat.macBytes), firstMac.u8, UInt64(SessionFormat.macBytes), nil,
      nonce.u8, replyKey.pointer.u8)
  }

  /// The initiator's side: the cookie in a reply from `responder` to an act whose first MAC was `firstMac`.
  static func openCookieReply(_ reply: UnsafeMutableRawPointer, firstMac: Mac, responder: PublicKey) -> Mac? {
    var key = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
    var mac = firstMac
    let nonce = reply + SessionFormat.bodyOffset
    let sealed = nonce + SessionFormat.cookieNonceBytes
    let status = withUnsafeMutableBytes(of: &key) { key in
      replyKey(of: responder, into: key.baseAddress!)
      return withUnsafeBytes(of: &mac) { mac in
        crypto_aead_xchacha20poly1305_ietf_decrypt(
          sealed.u8, nil, nil, sealed.u8, UInt64(SessionFormat.macBytes + SessionFormat.tagBytes),
          mac.baseAddress!.u8, UInt64(SessionFormat.macBytes), nonce.u8, key.baseAddress!.u8)
      }
    }
    return status == 0 ? Mac(loadingFrom: sealed) : nil
  }

  private mutating func refreshSecrets(_ now: Instant) {
    let age = now - cookieSecretBorn
    if cookieSecretBorn != .zero && age < HandshakeGate.cookieLifetime { return }
    let stale = age >= HandshakeGate.cookieLifetime * 2
    previousCookieSecret = stale ? Mac(random: random) : cookieSecret
    cookieSecret = Mac(random: random)
    cookieSecretBorn = max(now, Instant(nanoseconds: 1))
  }

  /// Address and port.
  private func cookie(for source: PeerAddress, _ secret: Mac) -> Mac {
    var bytes = (source.high, source.low, UInt64(source.port))
    return withUnsafeBytes(of: &bytes) { secret.over($0.baseAddress!, 24) }
  }

  /// By /64 for IPv6, whole address for IPv4: what one holder can easily change doesn't count.
  private func prefixHash(_ source: PeerAddress) -> UInt64 {
    var bytes = (source.high, source.isIPv4 ? source.low : 0)
    return withUnsafeBytes(of: &bytes) { bucketKey.over($0.baseAddress!, 16).a }
  }
}
