/// The outer datagrams of a session: what an observer sees. `Sources/Session/WIRE-FORMAT.md` is the full description.
///
/// Every datagram begins with its type in one byte and three zero bytes. All numbers are little-endian.
public enum SessionFormat {
  /// The first four bytes of a datagram, read as one little-endian number.
  public enum Kind {
    public static let actOne: UInt32 = 1
    public static let actTwo: UInt32 = 2
    public static let actThree: UInt32 = 3
    public static let cookieReply: UInt32 = 4
    public static let unknownSession: UInt32 = 5
    /// A sealed message of the relay.
    public static let message: UInt32 = 16
    /// A sealed message of the session layer itself.
    public static let control: UInt32 = 17
  }

  /// Type, zeros and a session index.
  public static let indexOffset = 4
  public static let bodyOffset = 8
  public static let macBytes = 16
  public static let tagBytes = 16
  public static let publicKeyBytes = 33

  /// What acts two and three carry inside the encrypted part.
  public static let helloBytes = 104
  /// Zeros sealed into act one, so that act two is no larger than the act one it answers.
  public static let actOnePadding = 256
  /// Version, ephemeral key, sealed padding.
  public static let noiseActOneBytes = 1 + publicKeyBytes + actOnePadding + tagBytes
  /// Version, ephemeral key, sealed hello.
  public static let noiseActTwoBytes = 1 + publicKeyBytes + helloBytes + tagBytes
  /// Version, sealed static key, sealed hello.
  public static let noiseActThreeBytes = 1 + publicKeyBytes + tagBytes + helloBytes + tagBytes
  /// The responder's state between acts one and three, sealed with a key that only the responder has.
  public static let ticketStateBytes = 144
  /// Serial number, sealed state.
  public static let ticketBytes = 8 + ticketStateBytes + tagBytes

  public static let actOneBytes = bodyOffset + noiseActOneBytes + 2 * macBytes
  public static let actTwoBytes = bodyOffset + noiseActTwoBytes + ticketBytes + macBytes
  public static let actThreeBytes = bodyOffset + ticketBytes + noiseActThreeBytes + 2 * macBytes
  public static let cookieNonceBytes = 24
  public static let cookieReplyBytes = bodyOffset + cookieNonceBytes + macBytes + tagBytes
  public static let unknownSessionBytes = bodyOffset + 8 + macBytes

  /// Transport: type, the receiver's session index, the 64-bit counter.
  public static let counterOffset = 8
  public static let transportHeaderBytes = 16
  /// What sealing adds to a message.
  public static let transportOverheadBytes = transportHeaderBytes + tagBytes

  /// First byte of a control message's plaintext.
  public enum Control {
    public static let ping: UInt8 = 1
    public static let pong: UInt8 = 2
    public static let confirm: UInt8 = 3
    public static let close: UInt8 = 4
    public static let rekey: UInt8 = 5
  }
  public static let pingBytes = 9
  public static let pongBytes = 41
  public static let confirmBytes = 5
  public static let closeBytes = 2
  public static let rekeyBytes = 1
}
