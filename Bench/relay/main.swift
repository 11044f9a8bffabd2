import ArgumentParser
import Harness

for name in Options.parseOrExit().block {
  let block = try BenchBlock(name)
  try benchOrigin(block)
  try benchForward(block)
  try benchVerify(block)
  try benchMatch(block: name)
}
