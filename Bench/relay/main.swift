import Harness

for name in Harness.options("block").isEmpty ? ["702861"] : Harness.options("block") { try benchMatch(block: name) }
