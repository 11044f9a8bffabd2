/// Takes the keys of one table, notes every mistake with its position, and at the end names the keys nobody asked for.
struct TableReader {
  let node: TomlNode
  private let table: [String: TomlNode]
  private var known: Set<String> = []

  /// An empty table (and a mistake noted) if the node is no table.
  init(_ node: TomlNode, _ mistakes: inout [TopologyMistake]) {
    self.node = node
    if case .table(let table) = node.value {
      self.table = table
    } else {
      table = [:]
      mistakes.append(
        TopologyMistake(node.position, node.path, .wrongType(expected: "a table", found: node.typeName)))
    }
  }

  func path(_ key: String) -> String { TomlNode.join(node.path, key) }

  /// The key's node, or nil. Every key asked for counts as known.
  mutating func optional(_ key: String) -> TomlNode? {
    known.insert(key)
    return table[key]
  }

  /// Notes what is missing, at the table's own position.
  func missing(_ key: String, _ text: String, _ mistakes: inout [TopologyMistake]) {
    mistakes.append(TopologyMistake(node.key, path(key), .missing(text)))
  }

  mutating func string(_ key: String, required: String? = nil, _ mistakes: inout [TopologyMistake]) -> (
    text: String, node: TomlNode
  )? {
    guard let node = optional(key) else {
      if let required { missing(key, required, &mistakes) }
      return nil
    }
    guard case .string(let text) = node.value else {
      mistakes.append(
        TopologyMistake(node.position, node.path, .wrongType(expected: "a string", found: node.typeName)))
      return nil
    }
    if text.isEmpty {
      mistakes.append(TopologyMistake(node.position, node.path, .invalid("is empty")))
      return nil
    }
    return (text, node)
  }

  /// A name: letters, digits, `-`, `_` and `.`, at most 64 of them, so that it is safe in metrics, logs and shells.
  mutating func name(_ key: String, required: String, _ mistakes: inout [TopologyMistake]) -> (
    text: String, node: TomlNode
  )? {
    guard let (text, node) = string(key, required: required, &mistakes) else { return nil }
    let isSafe = text.utf8.allSatisfy { TomlNode.isBareKey($0) || $0 == UInt8(ascii: ".") }
    if !isSafe || text.utf8.count > 64 {
      mistakes.append(
        TopologyMistake(
          node.position, node.path,
          .notAllowed(found: "'\(text.prefix(80))'", allowed: "1 to 64 letters, digits, '-', '_' or '.'")))
      return nil
    }
    return (text, node)
  }

  /// A number within a range; integers are fine where floats are.
  mutating func number(_ key: String, _ range: ClosedRange<Double>, _ mistakes: inout [TopologyMistake]) -> (
    value: Double, node: TomlNode
  )? {
    guard let node = optional(key) else { return nil }
    guard let value = Self.number(node, range, &mistakes) else { return nil }
    return (value, node)
  }

  static func number(_ node: TomlNode, _ range: ClosedRange<Double>, _ mistakes: inout [TopologyMistake]) -> Double? {
    let value: Double
    switch node.value {
    case .integer(let n): value = Double(n)
    case .float(let x): value = x
    default:
      mistakes.append(
        TopologyMistake(node.position, node.path, .wrongType(expected: "a number", found: node.typeName)))
      return nil
    }
    if !range.contains(value) {
      mistakes.append(
        TopologyMistake(
          node.position, node.path,
          .notAllowed(found: "\(value)", allowed: "\(range.lowerBound) to \(range.upperBound)")))
      return nil
    }
    return value
  }

  mutating func boolean(_ key: String, _ mistakes: inout [TopologyMistake]) -> Bool? {
    guard let node = optional(key) else { return nil }
    guard case .boolean(let value) = node.value else {
      mistakes.append(
        TopologyMistake(node.position, node.path, .wrongType(expected: "true or false", found: node.typeName)))
      return nil
    }
    return value
  }

  mutating func array(_ key: String, _ mistakes: inout [TopologyMistake]) -> (elements: [TomlNode], node: TomlNode)? {
    guard let node = optional(key) else { return nil }
    guard case .array(let elements) = node.value else {
      mistakes.append(
        TopologyMistake(node.position, node.path, .wrongType(expected: "an array", found: node.typeName)))
      return nil
    }
    return (elements, node)
  }

  mutating func strings(_ key: String, _ mistakes: inout [TopologyMistake]) -> [(text: String, node: TomlNode)]? {
    guard let (elements, _) = array(key, &mistakes) else { return nil }
    var result: [(String, TomlNode)] = []
    for element in elements {
      guard case .string(let text) = element.value else {
        mistakes.append(
          TopologyMistake(element.position, element.path, .wrongType(expected: "a string", found: element.typeName)))
        continue
      }
      result.append((text, element))
    }
    return result
  }

  /// One of an enumeration's raw values.
  mutating func choice<T: RawRepresentable & CaseIterable>(
    _ key: String, _ type: T.Type, _ mistakes: inout [TopologyMistake]
  ) -> T? where T.RawValue == String {
    guard let (text, node) = string(key, &mistakes) else { return nil }
    return Self.choice(text, node, type, &mistakes)
  }

  static func choice<T: RawRepresentable & CaseIterable>(
    _ text: String, _ node: TomlNode, _ type: T.Type, _ mistakes: inout [TopologyMistake]
  ) -> T? where T.RawValue == String {
    if let value = T(rawValue: text) { return value }
    let allowed = T.allCases.map { "'\($0.rawValue)'" }.joined(separator: ", ")
    mistakes.append(
      TopologyMistake(node.position, node.path, .notAllowed(found: "'\(text)'", allowed: "one of \(allowed)")))
    return nil
  }

  /// Notes every key of the table that was never asked for.
  func finish(_ mistakes: inout [TopologyMistake]) {
    for (key, value) in table where !known.contains(key) {
      let nearest = known.map { ($0, Self.editDistance($0, key)) }.filter { $0.1 <= max(2, $0.0.count / 3) }
        .min { ($0.1, $0.0) < ($1.1, $1.0) }?.0
      mistakes.append(TopologyMistake(value.key, value.path, .unknownKey(nearest: nearest)))
    }
  }

  /// Levenshtein's distance; keys longer than 64 bytes resemble nothing.
  static func editDistance(_ a: String, _ b: String) -> Int {
    let a = Array(a.utf8)
    let b = Array(b.utf8)
    if a.count > 64 || b.count > 64 { return .max }
    var row = Array(0...b.count)
    for i in 0..<a.count {
      var diagonal = row[0]
      row[0] = i + 1
      for j in 0..<b.count {
        let substituted = diagonal + (a[i] == b[j] ? 0 : 1)
        diagonal = row[j + 1]
        row[j + 1] = min(substituted, row[j] + 1, row[j + 1] + 1)
      }
    }
    return row[b.count]
  }
}
