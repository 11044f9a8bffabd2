/// The rules for `nBits`: Bitcoin's retarget and the testnets' exceptions.
public enum Difficulty {
  /// What the rules say about one block of the chain.
  public struct Block: Hashable, Sendable {
    public var height: Int
    public var time: UInt32
    public var bits: UInt32
    public init(height: Int, time: UInt32, bits: UInt32) {
      self.height = height
      self.time = time
      self.bits = bits
    }
  }

  /// What a block's `nBits` must be.
  public enum Required: Hashable, Sendable {
    case exactly(UInt32)
    /// The history that decides isn't known; the target must lie in this range, ends included.
    case between(easiest: UInt256, hardest: UInt256)
  }

  /// What a block of `time` on top of `parent` must state. `ancestor` gives the block of a height on the same branch,
  /// down to where history is known.
  public static func required(
    after parent: Block, time: UInt32, on network: Network, ancestor: (_ height: Int) -> Block?
  ) -> Required {
    let limitBits = Target.bits(of: network.powLimit)
    let height = parent.height + 1
    if height % network.retargetInterval == 0 {
      if network.neverRetargets { return .exactly(parent.bits) }
      guard let first = ancestor(height - network.retargetInterval) else {
        return unknownRetarget(after: parent, network)
      }
      // BIP94: the period's first block can't be a minimum-difficulty one, so it carries the real difficulty.
      let base = network.enforcesBIP94 ? first.bits : parent.bits
      return .exactly(retarget(bits: base, first: first.time, last: parent.time, on: network))
    }
    guard network.allowsMinimumDifficulty else { return .exactly(parent.bits) }
    if Int64(time) > Int64(parent.time) + 2 * Int64(network.targetSpacing) { return .exactly(limitBits) }
    // The last block of the period that didn't use the exception.
    var block = parent
    while block.height > 0 && block.height % network.retargetInterval != 0 && block.bits == limitBits {
      guard let before = ancestor(block.height - 1) else {
        return .between(easiest: network.powLimit, hardest: UInt256(1))
      }
      block = before
    }
    return .exactly(block.bits)
  }

  /// The `nBits` after a period whose first and last blocks have these times. `bits` is what the change starts from.
  /// The period counts one block interval too few, as it always has.
  public static func retarget(bits: UInt32, first: UInt32, last: UInt32, on network: Network) -> UInt32 {
    let timespan = network.targetTimespan
    let actual = min(max(Int64(last) - Int64(first), timespan / 4), timespan * 4)
    return Target.bits(of: scaled(bits, by: actual, network))
  }

  /// At most four times easier or harder than before; testnets' minimum-difficulty blocks hide what was before.
  private static func unknownRetarget(after parent: Block, _ network: Network) -> Required {
    if network.allowsMinimumDifficulty { return .between(easiest: network.powLimit, hardest: UInt256(1)) }
    // Through the compact form, since that rounds.
    func rounded(_ timespan: Int64) -> UInt256 {
      Target.decode(Target.bits(of: scaled(parent.bits, by: timespan, network))).value
    }
    return .between(easiest: rounded(network.targetTimespan * 4), hardest: rounded(network.targetTimespan / 4))
  }

  private static func scaled(_ bits: UInt32, by timespan: Int64, _ network: Network) -> UInt256 {
    let target = Target.decode(bits).value
      .multipliedWrapping(by: UInt64(timespan)).divided(by: UInt64(network.targetTimespan))
    return min(target, network.powLimit)
  }
}
