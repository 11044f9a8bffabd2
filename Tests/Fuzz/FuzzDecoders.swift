import Bitcoin
import Ground

// libFuzzer's entry: `Tests/Fuzz/run` builds and runs it. The first byte picks the decoder; what decodes must encode
// back to the same bytes.

private let commands: [Command] = [
  .version, .verack, .addr, .addrv2, .ping, .pong, .inv, .getdata, .notfound, .getheaders, .headers, .getblocks, .block,
  .tx, .feefilter, .merkleblock, .filterload, .filteradd, .sendcmpct, .cmpctblock, .getblocktxn, .blocktxn,
]

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard let start, count > 0 else { return 0 }
  // A copy of its own, so that the sanitizer sees a read past the end.
  let input = [UInt8](UnsafeBufferPointer(start: start + 1, count: count - 1))
  let choice = Int(start[0])
  let span = input.span.bytes
  if choice < commands.count {
    if let message = try? Message(commands[choice], payload: span) {
      var writer = ByteWriter()
      message.writePayload(to: &writer)
      if commands[choice] != .version { precondition(writer.bytes == input || commands[choice] == .verack) }
    }
  } else if choice % 3 == 0 {
    if let block = try? ParsedBlock(parsing: span) {
      var check = BodyCheck(block, rules: BodyRules(statedHeight: 1, segwit: choice % 2 == 0))
      while check.verdict == nil { check.advance(in: span, budget: 1000) }
    }
  } else if choice % 3 == 1 {
    let layout = try? TransactionLayout(parsing: span)
    let transaction = try? Transaction(parsing: span)
    precondition((layout == nil) == (transaction == nil))
    if let transaction { precondition(transaction.bytes == input) }
  } else {
    var stream = MessageStream(network: .regtest)
    var at = 0
    while at < input.count {
      let end = min(input.count, at + choice)
      stream.receive(span.extracting(at..<end))
      at = end
      do { while try stream.next({ _ = try? Message($0, payload: $1) }) != nil {} } catch { break }
    }
  }
  return 0
}
