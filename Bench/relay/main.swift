import Harness

for name in Harness.options("block").isEmpty ? ["702861"] : Harness.options("block") {
  let block = try BenchBlock(name)
  try benchOrigin(block)
  try benchForward(block)
  try benchVerify(block)
  try benchMatch(block: name)
}
