import Bitcoin
import Ground
import Session

/// One neighbour as the core sees it. Trivial.
struct LinkState {
  var isConfigured = false
  /// A session is established.
  var isUp = false
  /// First four bytes of SHA-256 of the neighbour's key.
  var key4: UInt32 = 0
  var rate = LinkRate.unlimited
  var expectedDelay = Interval.milliseconds(50 as Int64)
  var epoch: UInt32 = 0
  var chunkBytes = 1_152
  /// Blocks (slots) with something due to this neighbour.
  var due: UInt64 = 0
  var malformed: UInt64 = 0
  /// Smoothed, once measured.
  var roundTrip: Interval?
  var generation: UInt32 = 0
  /// Body chunks that the last block found here was worth to it.
  var lastBudget: Int32 = 0
  var lastClock: ClockSample?
  /// Of what comes from it, and of what goes to it as its STATUS says.
  var order = OrderMeter()
  var reorderedTo: UInt32 = 0
  /// Sealed for it and dropped from the driver's queue; and what it says of itself. Since the session began.
  var withdrawn: UInt64 = 0
  var withdrawnByPeer: UInt32 = 0
  /// JOURNEY messages that it may still tell.
  var journeys = Pacer()
  /// What is told of its malformed and refused messages.
  var complaints = Pacer()

  /// The measured round trip, else twice the configured delay.
  var roundTripOrGuess: Interval { roundTrip ?? expectedDelay * 2 }
}

/// A relay's short name on the wire: the first four bytes of SHA-256 of its compressed public key.
public func key4(of key: PublicKey) -> UInt32 {
  let digest = SHA256.hash(key.array.span.bytes)
  return UInt32(truncatingIfNeeded: digest.w0)
}
