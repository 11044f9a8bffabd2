/// A TOML value with its path, such as `relay[1].addresses[0]`, and its place in the text.
struct TomlNode {
  indirect enum Value {
    case string(String)
    case integer(Int)
    case float(Double)
    case boolean(Bool)
    /// Dates and times: recognised, so that a wrong type can be named; no topology needs their value.
    case date
    case array([TomlNode])
    case table([String: TomlNode])
  }
  var value: Value
  var path: String
  /// Where the key (or the table's header) stands, and where the value.
  var key, position: SourcePosition

  var typeName: String {
    switch value {
    case .string: "a string"
    case .integer: "an integer"
    case .float: "a float"
    case .boolean: "a boolean"
    case .date: "a date or time"
    case .array: "an array"
    case .table: "a table"
    }
  }

  static func join(_ path: String, _ part: String) -> String { path.isEmpty ? part : path + "." + part }

  static func isBareKey(_ c: UInt8) -> Bool {
    switch c {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
      true
    default: false
    }
  }
}

/// A table while the document is being read: headers and dotted keys reopen it.
final class TomlTable {
  enum Kind {
    /// Made on the way by `[a.b]` for `a`: a header may still define it.
    case implicit
    /// Has had its header.
    case explicit
    /// Made by dotted keys: no header may reopen it.
    case dotted
    /// `{ … }`: closed.
    case inline
  }
  enum Entry {
    case value(TomlNode)
    case table(TomlTable)
    case tables([TomlTable])
  }
  var kind: Kind
  let path: String
  var position: SourcePosition
  var entries: [String: (entry: Entry, key: SourcePosition)] = [:]

  init(_ kind: Kind, path: String, at position: SourcePosition) {
    self.kind = kind
    self.path = path
    self.position = position
  }

  func node(key: SourcePosition) -> TomlNode {
    let content = entries.mapValues { item -> TomlNode in
      switch item.entry {
      case .value(let node): node
      case .table(let table): table.node(key: item.key)
      case .tables(let tables):
        TomlNode(
          value: .array(tables.map { $0.node(key: $0.position) }),
          path: String(tables[0].path.dropLast(3)), key: item.key, position: item.key)
      }
    }
    return TomlNode(value: .table(content), path: path, key: key, position: position)
  }
}
