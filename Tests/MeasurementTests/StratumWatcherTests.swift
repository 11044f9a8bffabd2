import Foundation
import Ground
import Measurement
import Testing

@Suite struct StratumWatcherTests {
  private let t = Instant(nanoseconds: 5_000_000_000)

  /// The genesis block's hash as a pool writes it: words of the wire order, each reversed.
  private let genesis = "0a8ce26f72b3f1b646a2a6c14ff763ae65831e939c085ae10019d66800000000"
  private let genesisText = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"

  private func notify(_ previous: String, job: String = "bf") -> [UInt8] {
    Array(
      """
      {"params": ["\(job)", "\(previous)", "01", "02", [], "00000002", "1c2ac4af", "504e86b9", false], "id": null, \
      "method": "mining.notify"}\n
      """.utf8)
  }

  @Test func aSessionWithAPool() throws {
    var watcher = StratumWatcher(worker: "acct\".watch", password: "x")
    let lines = String(decoding: watcher.connected(), as: UTF8.self).split(separator: "\n")
    #expect(lines[0] == #"{"id":1,"method":"mining.subscribe","params":["lightpath/1"]}"#)
    #expect(lines[1] == #"{"id":2,"method":"mining.authorize","params":["acct\".watch","x"]}"#)

    #expect(
      try watcher.receive(#"{"id":1,"result":[[["mining.notify","ae68"]],"08000002",4],"error":null}"#.utf8, at: t)
        .isEmpty)
    #expect(try watcher.receive("\r\n".utf8, at: t) == [.subscribed])
    #expect(try watcher.receive(#"{"id":2,"result":true,"error":null}"#.utf8.map { $0 } + [10], at: t) == [.authorised])

    let block = BlockID(genesisText)!
    #expect(block.description == genesisText)
    // In pieces of every size the job is one event, at the time of its last byte.
    #expect(
      try watcher.receive(notify(genesis), at: t) == [.newBlock(previous: block, at: t, isFirst: true)])
    #expect(try watcher.receive(notify(genesis, job: "c0"), at: t).isEmpty)
    let next = String(repeating: "00000001", count: 8)
    let later = t + .microseconds(5)
    var events: [StratumWatcher.Event] = []
    for byte in notify(next) { events += try watcher.receive([byte], at: byte == 10 ? later : t) }
    #expect(events.count == 1)
    guard case .newBlock(_, later, false) = events[0] else {
      Issue.record("\(events)")
      return
    }
    #expect(watcher.jobs == 3 && watcher.malformed == 0)
    _ = watcher.connected()
    #expect(
      try watcher.receive(notify(next), at: t).first.map { if case .newBlock(_, _, true) = $0 { true } else { false } }
        == true)
  }

  @Test func aRefusedWorkerIsTold() throws {
    var watcher = StratumWatcher()
    _ = watcher.connected()
    let events = try watcher.receive(
      #"{"id":2,"result":null,"error":[24,"Unauthorized worker",null]}"#.utf8.map { $0 } + [10], at: t)
    guard case .refused(let why) = events.first else {
      Issue.record("\(events)")
      return
    }
    #expect(why.contains("Unauthorized worker"))
  }

  @Test func hostileLines() throws {
    var watcher = StratumWatcher()
    _ = watcher.connected()
    let lines = [
      "nonsense", "[]", "{}", "null", #"{"method":"mining.notify"}"#, #"{"method":"mining.notify","params":[]}"#,
      #"{"method":"mining.notify","params":["a","zz"]}"#, #"{"method":"mining.notify","params":["a",5]}"#,
      #"{"method":"mining.notify","params":{"a":1}}"#, #"{"id":"1","result":{}}"#, #"{"id":1e400}"#,
      #"{"method":7,"id":2.5}"#, String(repeating: "[", count: 20_000), String(repeating: #"{"a":"#, count: 5_000),
      #"{"method":"mining.notify","params":["a",""# + String(repeating: "g", count: 64) + #""]}"#, "\u{0}\u{1}",
    ]
    for line in lines { #expect(try watcher.receive(line.utf8.map { $0 } + [10], at: t).isEmpty, "\(line.prefix(60))") }
    #expect(watcher.malformed >= 10)
    #expect(watcher.jobs == 0)

    // Too long a line ends the connection; the next one starts clean.
    #expect(throws: StratumWatcher.Failure.lineTooLong) {
      try watcher.receive([UInt8](repeating: 0x20, count: StratumWatcher.longestLine + 1), at: t)
    }
    _ = watcher.connected()
    let second = t + .seconds(1)
    #expect(try watcher.receive(notify(genesis), at: second).count == 1)

    // A flood costs a bounded number of parses a second.
    for index in 0..<1_000 {
      _ = try watcher.receive(notify(index % 2 == 0 ? genesis : String(repeating: "0", count: 64)), at: second)
    }
    #expect(watcher.jobs == StratumWatcher.longestBurst)
    #expect(watcher.skipped == 1_001 - StratumWatcher.longestBurst)
    #expect(try watcher.receive(notify(String(repeating: "1", count: 64)), at: second + .seconds(1)).count == 1)
  }

  @Test func mutatedSessionsNeverCrash() {
    var random = SeededRandom(seed: 6)
    var watcher = StratumWatcher()
    for round in 0..<3_000 {
      var bytes = notify(genesis)
      for _ in 0..<(1 + random.below(6)) { bytes[random.below(bytes.count)] = UInt8(random.below(256)) }
      if (try? watcher.receive(bytes, at: Instant(nanoseconds: UInt64(round) * 100_000_000))) == nil {
        _ = watcher.connected()
      }
    }
    #expect(watcher.malformed > 100)
  }
}
