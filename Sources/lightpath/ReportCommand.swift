import ArgumentParser
import Foundation
import Ground
import Measurement

struct ReportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report",
    abstract: "Tells how late blocks were after light, where the time went, and the lead over plain P2P.",
    discussion: """
      Reads the measurements that the site has stored, also while the relay runs. Every figure that compares two sites \
      carries the bounds of what their clocks leave open.

      Exit status: 0 done, 1 the file can't be read or written, 2 an option is wrong or the block is unknown.
      """)

  @Option(help: "The file of measurements; without it, that of the relay that runs here, or the only one there is.")
  var store: String?

  @OptionGroup var control: ControlOption

  @Option(help: "How far back from the newest record: a number with s, m, h or d.")
  var last = "24h"

  @Option(help: "One block, by its hash.")
  var block: String?

  @Option(help: "How much longer than the great circle the light bound's paths are taken to be.")
  var pathFactor = 1.0

  @Flag(help: "One JSON object.")
  var json = false

  @Flag(help: "One row a site, or with --block one a site's arrival.")
  var csv = false

  @Option(help: "One self-contained HTML page into this file.")
  var html: String?

  @Option(
    help: "Instead of a store: a simulated week on six continents from this seed, to see what a report looks like.")
  var simulatedWeek: UInt64?

  func validate() throws {
    if [json, csv, html != nil].filter({ $0 }).count > 1 {
      throw ValidationError("one of --json, --csv and --html")
    }
    if !(0.5...10 ~= pathFactor) { throw ValidationError("--path-factor is between 0.5 and 10") }
  }

  func run() throws {
    guard let span = ReportCommand.span(last) else {
      throw failure(Exit.input, "--last \(last): a number with s, m, h or d, such as 24h")
    }
    var wanted: BlockID?
    if let block {
      wanted = BlockID(block)
      if wanted == nil { throw failure(Exit.input, "--block: a hash has 64 hexadecimal digits") }
    }
    let file = simulatedWeek == nil ? try store ?? StorePath.find(control.control) : ""
    do {
      let report = try build(file, span, wanted)
      if wanted != nil && report.block == nil { throw failure(Exit.input, "no site told of block \(block!)") }
      if let html {
        try ReportPage.render(report).write(toFile: html, atomically: true, encoding: .utf8)
      } else {
        print(
          json ? report.json() : csv ? report.csv(ofBlock: wanted != nil) : report.text(), terminator: json ? "\n" : "")
      }
    } catch let error as StoreError {
      throw failure(Exit.failed, "\(file): \(error)")
    } catch let error as CocoaError {
      throw failure(Exit.failed, error.localizedDescription)
    }
  }

  private func build(_ file: String, _ span: Interval, _ wanted: BlockID?) throws -> Report {
    if let simulatedWeek {
      let directory = FileManager.default.temporaryDirectory.appendingPathComponent("lightpath-\(UUID().uuidString)")
      try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
      defer { try? FileManager.default.removeItem(at: directory) }
      let database = try JourneyStore(path: directory.appendingPathComponent("week.sqlite").path)
      // Midnight after the week that begins on 2026-11-15, so that one seed is one report.
      let end: Int64 = 1_795_305_600_000_000_000
      try SimulatedWeek.fill(database, seed: simulatedWeek, end: end)
      var builder = try ReportBuilder(
        store: database, range: end - SimulatedWeek.week.nanoseconds...end, block: wanted, pathFactor: pathFactor)
      builder.notes = ["Simulated week from seed \(simulatedWeek): a model, no measurement."]
      return try builder.build()
    }
    let database = try JourneyStore(path: file, readOnly: true)
    let newest = try database.newest() ?? Int64(clamping: SystemClock.realtime())
    return try ReportBuilder(
      store: database, range: newest &- span.nanoseconds...newest, block: wanted, pathFactor: pathFactor
    ).build()
  }

  /// "90m" and the like; up to ten years.
  static func span(_ text: String) -> Interval? {
    let units: [Character: Double] = ["s": 1, "m": 60, "h": 3_600, "d": 86_400]
    guard let unit = text.last.flatMap({ units[$0] }), let value = Double(text.dropLast()), value > 0 else {
      return nil
    }
    let seconds = value * unit
    return seconds <= 3_660 * 86_400 ? .milliseconds(seconds * 1e3) : nil
  }
}
