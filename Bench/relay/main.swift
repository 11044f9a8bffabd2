import ArgumentParser
import Harness
import Uring

// As `lightpath relay` does.
ProcessHeap.keepPages()
for name in Options.parseOrExit().block {
  let block = try BenchBlock(name)
  try benchOrigin(block)
  try benchForward(block)
  try benchVerify(block)
  try benchMatch(block: name)
}
