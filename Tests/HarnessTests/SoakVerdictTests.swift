import Harness
import Testing

@Suite struct SoakVerdictTests {
  @Test func aSoakIsJudged() {
    var verdict = SoakVerdict()
    verdict.descriptorGrowth = -1
    verdict.memoryGrowth = 50
    #expect(verdict.faults(mostGrowth: 50).isEmpty)
    verdict.memoryGrowth = nil
    #expect(verdict.faults(mostGrowth: 50).isEmpty)
    verdict.memoryGrowth = 50.5
    #expect(verdict.faults(mostGrowth: 50).count == 1)
    verdict.descriptorGrowth = 1
    verdict.missed = 2
    verdict.died = ["bob", "carol"]
    #expect(verdict.faults(mostGrowth: 50).count == 5)
  }
}
