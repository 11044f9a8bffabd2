/// Budgets of incremental work, counted in multiplications of one 64-byte block by a field element: about 2.5 ns on an
/// AVX2 core, 1 ns with GFNI, 20 ns with the portable kernel. No clock is read.
public enum Work {
  /// At most 100 µs on an AVX2 core for any shape.
  public static let slice = 25_000
  public static let unlimited = Int.max
}

/// Whether an incremental call has left something to do.
public enum WorkStatus: Hashable, Sendable {
  /// Call again when there is time.
  case more
  /// Nothing to do until new data comes.
  case idle
}
