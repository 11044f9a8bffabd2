/// Who is measured when, where several systems take blocks of several sizes one round after the other: every system comes
/// first with every size equally often, so that neither what ran before nor the size is one system's alone.
public struct Turn: Hashable, Sendable {
  /// Which size it is.
  public let size: Int
  /// The system that comes first; the others follow in their order.
  public let first: Int

  /// In sizes × systems rounds each pair occurs once.
  public init(round: Int, sizes: Int, systems: Int) {
    size = round % sizes
    first = (round % sizes + round / sizes) % systems
  }
}
