/// Budgets of incremental work, counted in multiplications of one 64-byte block by a field element. No clock is read.
/// One took 1.6 ns with AVX2 (3 ns in a transform, with its additions and memory), 0.4 to 0.8 ns with GFNI, 4.5 ns with
/// SSSE3 and 40 ns with the portable kernel where it was measured.
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
