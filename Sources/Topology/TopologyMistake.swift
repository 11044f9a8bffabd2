/// One mistake in a topology file: where, in which key, what, and what to do.
public struct TopologyMistake: Error, Hashable, Sendable, CustomStringConvertible {
  public enum Reason: Hashable, Sendable {
    /// The text is no TOML.
    case syntax(String)
    /// A key that this format doesn't have; the nearest one that it has, if there is one.
    case unknownKey(nearest: String?)
    /// A key or table that must be there isn't.
    case missing(String)
    case wrongType(expected: String, found: String)
    /// A number outside its range, or a text that is none of the allowed ones.
    case notAllowed(found: String, allowed: String)
    /// A public key that is no compressed secp256k1 point.
    case malformedKey(String)
    case malformedAddress(String)
    /// The same name, key, address or link as at another place.
    case duplicate(what: String, first: SourcePosition)
    /// A name that no relay of this file has.
    case unknownRelay(String)
    /// Relays that no chain of groups and links joins to the others.
    case unreachable(String)
    /// A delay below what light in a vacuum needs between the two positions.
    case fasterThanLight(delayMs: Double, boundMs: Double)
    /// Anything else; the text says what.
    case invalid(String)
  }
  public var position: SourcePosition
  /// The key, such as `relay[2].public_key`; empty for the whole file.
  public var path: String
  public var reason: Reason

  public init(_ position: SourcePosition, _ path: String, _ reason: Reason) {
    self.position = position
    self.path = path
    self.reason = reason
  }

  /// `LINE:COLUMN: PATH: what is wrong`.
  public var description: String { "\(position): \(path.isEmpty ? "" : path + ": ")\(explanation)" }

  public var explanation: String {
    switch reason {
    case .syntax(let text): "not TOML: \(text)"
    case .unknownKey(let nearest): "unknown key" + (nearest.map { "; did you mean '\($0)'?" } ?? "")
    case .missing(let text): text
    case .wrongType(let expected, let found): "needs \(expected), found \(found)"
    case .notAllowed(let found, let allowed): "\(found) is not allowed; needs \(allowed)"
    case .malformedKey(let text): "malformed public key: \(text)"
    case .malformedAddress(let text): "malformed address: \(text)"
    case .duplicate(let what, let first): "\(what) was already used at \(first)"
    case .unknownRelay(let name): "no relay is named '\(name)'"
    case .unreachable(let text): text
    case .fasterThanLight(let delay, let bound):
      "\(Self.ms(delay)) ms is faster than light: the positions are \(Self.ms(bound)) ms apart in a vacuum"
    case .invalid(let text): text
    }
  }

  static func ms(_ value: Double) -> String { "\((value * 1000).rounded() / 1000)" }
}

/// All mistakes of a file at once, in the order of the text.
public struct TopologyErrors: Error, Hashable, Sendable, CustomStringConvertible {
  public var mistakes: [TopologyMistake]
  public init(_ mistakes: [TopologyMistake]) {
    self.mistakes = mistakes.sorted { ($0.position, $0.path) < ($1.position, $1.path) }
  }
  /// One mistake a line.
  public var description: String { mistakes.map(\.description).joined(separator: "\n") }
}
