import ArgumentParser
import Foundation

/// What is asked over a relay's control socket: one JSON object a line; `bytes` more bytes follow a `submit`.
struct ControlRequest: Codable, Sendable {
  var command: String
  var bytes: Int?
  var block: Int?
}

/// The answer: one JSON object a line.
struct ControlReply: Codable, Sendable {
  var ok: Bool
  var error: String?
  var hash: String?
  var message: String?
  var status: StatusReport?
}

/// Where the control socket of a relay is, for those who name none.
enum ControlPath {
  static func standard(_ relay: String?) -> String {
    let name = relay.map { "\($0).sock" } ?? "relay.sock"
    for folder in ["/run/lightpath", ProcessInfo.processInfo.environment["XDG_RUNTIME_DIR"].map { $0 + "/lightpath" }] {
      guard let folder else { continue }
      if access(folder, W_OK | X_OK) == 0 { return "\(folder)/\(name)" }
    }
    return "/tmp/lightpath-\(getuid())/\(name)"
  }

  /// The only relay's socket where there is one.
  static func find(_ stated: String?) throws -> String {
    if let stated { return stated }
    let folder = (standard(nil) as NSString).deletingLastPathComponent
    let sockets = ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [])
      .filter { $0.hasSuffix(".sock") }.sorted()
    if sockets.count == 1 { return "\(folder)/\(sockets[0])" }
    if sockets.isEmpty {
      throw failure(Exit.noRelay, "no relay's control socket in \(folder): is one running? Else say --control PATH")
    }
    throw failure(
      Exit.noRelay, "several relays run here (\(sockets.joined(separator: ", ")) in \(folder)): say --control PATH")
  }
}

enum ControlClient {
  static func ask(_ request: ControlRequest, body: [UInt8] = [], at path: String, seconds: Int = 10) throws
    -> ControlReply
  {
    let socket = try LocalSocket.connect(path, seconds: seconds)
    defer { socket.end() }
    try socket.write(json(request) + "\n")
    if !body.isEmpty { try socket.write(body) }
    var rest: [UInt8] = []
    let line = try socket.read(until: [0x0A], limit: 8 << 20, rest: &rest)
    return try JSONDecoder().decode(ControlReply.self, from: Data(line))
  }

  /// For commands: complains and throws an exit code.
  static func command(_ request: ControlRequest, body: [UInt8] = [], control: String?) throws -> ControlReply {
    let path = try ControlPath.find(control)
    let reply: ControlReply
    do {
      reply = try ask(request, body: body, at: path)
    } catch {
      throw failure(Exit.noRelay, "no relay answers at \(path): \(error)")
    }
    if !reply.ok { throw failure(Exit.failed, reply.error ?? "refused") }
    return reply
  }
}

struct ControlOption: ParsableArguments {
  @Option(help: "The relay's control socket; needed only when several relays run on this machine.")
  var control: String?
}

struct SubmitBlock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "submit-block",
    abstract: "Hands a serialised block to the running relay, which checks it and sends it to everyone.",
    discussion: """
      The block's parent must be known to the relay. Hexadecimal, as `bitcoin-cli getblock HASH 0` prints it, and raw \
      bytes are both taken.

      Exit status: 0 it is on its way (or was known already), 1 the relay refuses it, 2 the file can't be read, 5 no relay runs.
      """)

  @Argument(help: "The block's file, or - for standard input.", completion: .file())
  var file: String

  @OptionGroup var control: ControlOption

  @Flag(help: "One JSON object.")
  var json = false

  func run() throws {
    let data: Data
    if file == "-" {
      data = FileHandle.standardInput.readDataToEndOfFile()
    } else {
      guard let content = FileManager.default.contents(atPath: file) else {
        throw failure(Exit.input, "\(file): can't be read")
      }
      data = content
    }
    let bytes = BlockFile.decode([UInt8](data))
    if bytes.count < 81 || bytes.count > 4_000_000 {
      throw failure(Exit.input, "\(file): \(bytes.count) bytes are no block")
    }
    let reply = try ControlClient.command(
      ControlRequest(command: "submit", bytes: bytes.count), body: bytes, control: control.control)
    print(json ? lightpath.json(reply) : reply.hash ?? "")
  }
}

struct Reload: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Makes the running relay read its topology file again (as SIGHUP does).",
    discussion: """
      Links that are the same go on undisturbed. A file with mistakes changes nothing. What a relay listens on and its \
      own nodes change with a restart only; the answer says so.

      Exit status: 0 done, 1 the file is wrong: the old topology stays, 5 no relay runs.
      """)

  @OptionGroup var control: ControlOption

  @Flag(help: "One JSON object.")
  var json = false

  func run() throws {
    let reply = try ControlClient.command(ControlRequest(command: "reload"), control: control.control)
    print(json ? lightpath.json(reply) : reply.message ?? "done")
  }
}
