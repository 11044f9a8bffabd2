/// Reads TOML 1.0 (toml.io) into `TomlNode`s that know their place. Throws at the first thing that is no TOML; never
/// traps, whatever the text.
///
/// Why not a library: the one at hand (TOMLKit 0.6, on toml++) forgets where values stood, reports wrong types as
/// missing keys, never frees a document, and aborts the process on some malformed texts through an assertion. A daemon
/// that rereads this file while it runs can't have that.
struct TomlParser {
  private let text: [UInt8]
  private var at = 0
  private var line = 1
  private var lineStart = 0

  /// Deeper nesting of arrays and inline tables is refused, and a key of more parts, each of which is a table in a table:
  /// recursion stays bounded, here and where the tree is read and freed.
  static let maxDepth = 32

  private init(_ text: String) { self.text = Array(text.utf8) }

  /// The root table.
  static func parse(_ text: String) throws(TopologyMistake) -> TomlNode {
    var parser = TomlParser(text)
    return try parser.document()
  }

  // MARK: Bytes

  private func peek(_ ahead: Int = 0) -> UInt8? { at + ahead < text.count ? text[at + ahead] : nil }
  private func sees(_ c: Unicode.Scalar, _ ahead: Int = 0) -> Bool { peek(ahead) == UInt8(ascii: c) }

  private var here: SourcePosition {
    var column = 1
    for i in lineStart..<min(at, text.count) where text[i] & 0xC0 != 0x80 { column += 1 }
    return SourcePosition(line: line, column: column)
  }

  private func fail(_ what: String, at place: SourcePosition? = nil) -> TopologyMistake {
    TopologyMistake(place ?? here, "", .syntax(what))
  }

  private func shown(_ c: UInt8?) -> String {
    guard let c else { return "the end of the file" }
    if c == UInt8(ascii: "\n") || c == UInt8(ascii: "\r") { return "the end of the line" }
    return c > 0x20 && c < 0x7F ? "'\(Character(Unicode.Scalar(c)))'" : "byte \(c)"
  }

  private mutating func newline() {
    at += 1
    line += 1
    lineStart = at
  }

  private mutating func skipBlanks() {
    while sees(" ") || sees("\t") { at += 1 }
  }

  /// Blanks, a comment, and the line's end or the file's.
  private mutating func endLine() throws(TopologyMistake) {
    skipBlanks()
    if sees("#") { try comment() }
    if sees("\r") && sees("\n", 1) { at += 1 }
    if sees("\n") {
      newline()
    } else if peek() != nil {
      throw fail("expected the end of the line, found \(shown(peek()))")
    }
  }

  private mutating func comment() throws(TopologyMistake) {
    while let c = peek(), c != UInt8(ascii: "\n"), !(c == UInt8(ascii: "\r") && sees("\n", 1)) {
      if (c < 0x20 && c != 9) || c == 0x7F { throw fail("a control character in a comment") }
      at += 1
    }
  }

  private mutating func skipBlankLines() throws(TopologyMistake) {
    while true {
      skipBlanks()
      if sees("#") { try comment() }
      if sees("\r") && sees("\n", 1) { at += 1 }
      if !sees("\n") { return }
      newline()
    }
  }

  // MARK: Tables

  private mutating func document() throws(TopologyMistake) -> TomlNode {
    let start = here
    let root = TomlTable(.explicit, path: "", at: start)
    var table = root
    while true {
      try skipBlankLines()
      if peek() == nil { return root.node(key: start) }
      if sees("[") {
        table = try header(root)
      } else {
        try pair(table, depth: 0)
      }
      try endLine()
    }
  }

  private mutating func header(_ root: TomlTable) throws(TopologyMistake) -> TomlTable {
    let place = here
    at += 1
    let isArray = sees("[")
    if isArray { at += 1 }
    let parts = try key()
    for _ in 0..<(isArray ? 2 : 1) {
      if !sees("]") { throw fail("expected ']' after the table's name, found \(shown(peek()))") }
      at += 1
    }
    var table = root
    for part in parts.dropLast() { table = try descend(table, part, place) }
    let last = parts[parts.count - 1]
    let path = TomlNode.join(table.path, last.name)
    let existing = table.entries[last.name]
    if isArray {
      switch existing?.entry {
      case nil:
        let new = TomlTable(.explicit, path: path + "[0]", at: place)
        table.entries[last.name] = (.tables([new]), place)
        return new
      case .tables(let tables):
        let new = TomlTable(.explicit, path: "\(path)[\(tables.count)]", at: place)
        table.entries[last.name]?.entry = .tables(tables + [new])
        return new
      default: throw already(path, existing?.key, place)
      }
    }
    switch existing?.entry {
    case nil:
      let new = TomlTable(.explicit, path: path, at: place)
      table.entries[last.name] = (.table(new), place)
      return new
    case .table(let found) where found.kind == .implicit:
      found.kind = .explicit
      found.position = place
      table.entries[last.name]?.key = place
      return found
    default: throw already(path, existing?.key, place)
    }
  }

  private func already(_ path: String, _ first: SourcePosition?, _ place: SourcePosition) -> TopologyMistake {
    TopologyMistake(place, path, .duplicate(what: "'\(path)'", first: first ?? place))
  }

  /// One step of a header's path.
  private func descend(
    _ table: TomlTable, _ part: (name: String, place: SourcePosition), _ place: SourcePosition
  ) throws(TopologyMistake) -> TomlTable {
    let path = TomlNode.join(table.path, part.name)
    switch table.entries[part.name]?.entry {
    case nil:
      let new = TomlTable(.implicit, path: path, at: place)
      table.entries[part.name] = (.table(new), part.place)
      return new
    case .table(let found) where found.kind != .inline: return found
    case .tables(let found): return found[found.count - 1]
    default: throw fail("'\(path)' is no table that could be added to", at: part.place)
    }
  }

  private mutating func pair(_ table: TomlTable, depth: Int) throws(TopologyMistake) {
    let parts = try key()
    if !sees("=") { throw fail("expected '=' after the key, found \(shown(peek()))") }
    at += 1
    skipBlanks()
    var table = table
    for part in parts.dropLast() {
      let path = TomlNode.join(table.path, part.name)
      switch table.entries[part.name]?.entry {
      case nil:
        let new = TomlTable(.dotted, path: path, at: part.place)
        table.entries[part.name] = (.table(new), part.place)
        table = new
      case .table(let found) where found.kind == .dotted: table = found
      default: throw fail("'\(path)' is no table that could be added to", at: part.place)
      }
    }
    let last = parts[parts.count - 1]
    let path = TomlNode.join(table.path, last.name)
    if let first = table.entries[last.name] { throw already(path, first.key, last.place) }
    table.entries[last.name] = (.value(try value(path, key: last.place, depth: depth)), last.place)
  }

  /// A dotted key, never empty; blanks around it are skipped.
  private mutating func key() throws(TopologyMistake) -> [(name: String, place: SourcePosition)] {
    var parts: [(name: String, place: SourcePosition)] = []
    while true {
      skipBlanks()
      let place = here
      if sees("\"") || sees("'") {
        if sees("\"", 1) && sees("\"", 2) || sees("'", 1) && sees("'", 2) {
          throw fail("a key can't be a multi-line string")
        }
        parts.append((try string(), place))
      } else {
        let start = at
        while let c = peek(), TomlNode.isBareKey(c) { at += 1 }
        if at == start { throw fail("expected a key, found \(shown(peek()))") }
        parts.append((String(decoding: text[start..<at], as: UTF8.self), place))
      }
      if parts.count > Self.maxDepth { throw fail("a key of more than \(Self.maxDepth) parts", at: place) }
      skipBlanks()
      if !sees(".") { return parts }
      at += 1
    }
  }

  // MARK: Values

  private mutating func value(_ path: String, key: SourcePosition, depth: Int) throws(TopologyMistake) -> TomlNode {
    let place = here
    if depth > Self.maxDepth { throw fail("nested deeper than \(Self.maxDepth)") }
    let content: TomlNode.Value
    switch peek() {
    case UInt8(ascii: "\""), UInt8(ascii: "'"): content = .string(try string())
    case UInt8(ascii: "["): content = .array(try array(path, depth: depth))
    case UInt8(ascii: "{"): return try inlineTable(path, key: key, depth: depth)
    default: content = try scalar()
    }
    return TomlNode(value: content, path: path, key: key, position: place)
  }

  private mutating func array(_ path: String, depth: Int) throws(TopologyMistake) -> [TomlNode] {
    at += 1
    var elements: [TomlNode] = []
    while true {
      try skipBlankLines()
      if sees("]") { break }
      elements.append(try value("\(path)[\(elements.count)]", key: here, depth: depth + 1))
      try skipBlankLines()
      if sees("]") { break }
      if !sees(",") { throw fail("expected ',' or ']' in the array, found \(shown(peek()))") }
      at += 1
    }
    at += 1
    return elements
  }

  private mutating func inlineTable(
    _ path: String, key: SourcePosition, depth: Int
  ) throws(TopologyMistake) -> TomlNode {
    let table = TomlTable(.inline, path: path, at: here)
    at += 1
    skipBlanks()
    if !sees("}") {
      while true {
        try pair(table, depth: depth + 1)
        skipBlanks()
        if sees("}") { break }
        if !sees(",") { throw fail("expected ',' or '}' in the inline table, found \(shown(peek()))") }
        at += 1
      }
    }
    at += 1
    return table.node(key: key)
  }

  private mutating func string() throws(TopologyMistake) -> String {
    let place = here
    let quote = text[at]
    let isBasic = quote == UInt8(ascii: "\"")
    let isLong = peek(1) == quote && peek(2) == quote
    at += isLong ? 3 : 1
    if isLong {
      // A line's end right after the quotes doesn't count.
      if sees("\r") && sees("\n", 1) { at += 1 }
      if sees("\n") { newline() }
    }
    var bytes: [UInt8] = []
    while let c = peek() {
      if c == quote {
        if !isLong {
          at += 1
          return String(decoding: bytes, as: UTF8.self)
        }
        if peek(1) == quote && peek(2) == quote {
          at += 3
          // Up to two quotes may stand right before the closing ones.
          for _ in 0..<2 where peek() == quote {
            bytes.append(quote)
            at += 1
          }
          return String(decoding: bytes, as: UTF8.self)
        }
        bytes.append(c)
        at += 1
      } else if c == UInt8(ascii: "\n") || (c == UInt8(ascii: "\r") && sees("\n", 1)) {
        if !isLong { throw fail("the string that begins here does not end on its line", at: place) }
        if c == UInt8(ascii: "\r") { at += 1 }
        bytes.append(UInt8(ascii: "\n"))
        newline()
      } else if c == UInt8(ascii: "\\") && isBasic {
        try escape(isLong: isLong, &bytes)
      } else if (c < 0x20 && c != 9) || c == 0x7F {
        throw fail("a control character in a string")
      } else {
        bytes.append(c)
        at += 1
      }
    }
    throw fail("the string that begins here does not end", at: place)
  }

  private mutating func escape(isLong: Bool, _ bytes: inout [UInt8]) throws(TopologyMistake) {
    let place = here
    at += 1
    guard let c = peek() else { throw fail("the file ends within an escape") }
    let simple: [UInt8: UInt8] = [
      UInt8(ascii: "b"): 8, UInt8(ascii: "t"): 9, UInt8(ascii: "n"): 10, UInt8(ascii: "f"): 12, UInt8(ascii: "r"): 13,
      UInt8(ascii: "\""): UInt8(ascii: "\""), UInt8(ascii: "\\"): UInt8(ascii: "\\"),
    ]
    if let byte = simple[c] {
      bytes.append(byte)
      at += 1
    } else if c == UInt8(ascii: "u") || c == UInt8(ascii: "U") {
      let digits = c == UInt8(ascii: "u") ? 4 : 8
      at += 1
      guard at + digits <= text.count,
        let number = UInt32(String(decoding: text[at..<at + digits], as: UTF8.self), radix: 16),
        text[at] != UInt8(ascii: "+"), text[at] != UInt8(ascii: "-"), let scalar = Unicode.Scalar(number)
      else { throw fail("not a Unicode escape", at: place) }
      bytes.append(contentsOf: String(Character(scalar)).utf8)
      at += digits
    } else if isLong, c == UInt8(ascii: "\n") || c == UInt8(ascii: "\r") || c == UInt8(ascii: " ") || c == 9 {
      // A backslash at a line's end eats all white space up to the next text.
      skipBlanks()
      if !sees("\n") && !(sees("\r") && sees("\n", 1)) { throw fail("not an escape", at: place) }
      while let c = peek(), c == UInt8(ascii: "\n") || c == UInt8(ascii: "\r") || c == UInt8(ascii: " ") || c == 9 {
        if c == UInt8(ascii: "\n") { newline() } else { at += 1 }
      }
    } else {
      throw fail("'\\\(Character(Unicode.Scalar(c)))' is no escape", at: place)
    }
  }

  /// Booleans, numbers, dates.
  private mutating func scalar() throws(TopologyMistake) -> TomlNode.Value {
    let place = here
    let start = at
    while let c = peek(),
      TomlNode.isBareKey(c) || c == UInt8(ascii: "+") || c == UInt8(ascii: ".") || c == UInt8(ascii: ":")
    { at += 1 }
    let word = String(decoding: text[start..<at], as: UTF8.self)
    if word.isEmpty { throw fail("expected a value, found \(shown(peek()))") }
    switch word {
    case "true": return .boolean(true)
    case "false": return .boolean(false)
    case "inf", "+inf": return .float(.infinity)
    case "-inf": return .float(-.infinity)
    case "nan", "+nan", "-nan": return .float(.nan)
    default: break
    }
    if isDate(word) {
      // A blank may stand between date and time.
      if sees(" "), let c = peek(1), (0x30...0x39).contains(c) {
        at += 1
        while let c = peek(),
          TomlNode.isBareKey(c) || c == UInt8(ascii: ":") || c == UInt8(ascii: ".") || c == UInt8(ascii: "+")
        { at += 1 }
      }
      return .date
    }
    if let number = Self.number(word) { return number }
    throw fail("'\(word)' is no value; text needs quotes", at: place)
  }

  private func isDate(_ word: String) -> Bool {
    let u = Array(word.utf8)
    func digits(_ range: Range<Int>) -> Bool { range.allSatisfy { $0 < u.count && (0x30...0x39).contains(u[$0]) } }
    return u.count >= 10 && digits(0..<4) && u[4] == UInt8(ascii: "-") && digits(5..<7) && u[7] == UInt8(ascii: "-")
      && digits(8..<10)
      || u.count >= 8 && digits(0..<2) && u[2] == UInt8(ascii: ":") && digits(3..<5) && u[5] == UInt8(ascii: ":")
        && digits(6..<8)
  }

  /// Underscores only between digits; no leading zeros; 0x, 0o, 0b; floats with digits around the point.
  static func number(_ word: String) -> TomlNode.Value? {
    let u = Array(word.utf8)
    for (i, c) in u.enumerated() where c == UInt8(ascii: "_") {
      if i == 0 || i + 1 == u.count || !isAlphanumeric(u[i - 1]) || !isAlphanumeric(u[i + 1]) { return nil }
    }
    let plain = word.filter { $0 != "_" }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] where plain.hasPrefix(prefix) {
      let digits = plain.dropFirst(2)
      if digits.first.map({ $0 == "+" || $0 == "-" }) ?? true { return nil }
      return Int(digits, radix: radix).map { .integer($0) }
    }
    let unsigned = plain.first == "+" || plain.first == "-" ? plain.dropFirst() : plain[...]
    let whole = unsigned.prefix { $0.isASCII && $0.isNumber }
    if whole.isEmpty || (whole.count > 1 && whole.first == "0") { return nil }
    if whole.count == unsigned.count { return Int(plain).map { .integer($0) } }
    var rest = unsigned.dropFirst(whole.count)
    if rest.first == "." {
      let fraction = rest.dropFirst().prefix { $0.isASCII && $0.isNumber }
      if fraction.isEmpty { return nil }
      rest = rest.dropFirst(1 + fraction.count)
    }
    if rest.first == "e" || rest.first == "E" {
      rest = rest.dropFirst()
      if rest.first == "+" || rest.first == "-" { rest = rest.dropFirst() }
      let exponent = rest.prefix { $0.isASCII && $0.isNumber }
      if exponent.isEmpty { return nil }
      rest = rest.dropFirst(exponent.count)
    }
    return rest.isEmpty ? Double(plain).map { .float($0) } : nil
  }

  private static func isAlphanumeric(_ c: UInt8) -> Bool { TomlNode.isBareKey(c) && c != 0x5F && c != 0x2D }
}
