import Harness
import Testing

@Suite struct TurnTests {
  /// Neither the block's size nor what ran before is one system's alone.
  @Test(arguments: [(4, 4), (3, 4), (4, 3), (1, 4), (4, 1), (5, 2)])
  func everySystemComesFirstWithEverySize(_ sizes: Int, _ systems: Int) {
    for begin in [0, sizes * systems] {
      let turns = (begin..<begin + sizes * systems).map { Turn(round: $0, sizes: sizes, systems: systems) }
      #expect(Set(turns).count == sizes * systems)
      #expect(turns.allSatisfy { $0.size < sizes && $0.first < systems })
      #expect(turns.map(\.size) == (0..<sizes * systems).map { $0 % sizes }, "sizes in turn")
    }
  }
}
