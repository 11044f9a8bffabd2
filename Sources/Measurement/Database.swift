import CLibsqlite3
import Glibc

/// What SQLite said no to.
public struct StoreError: Error, Hashable, Sendable, CustomStringConvertible {
  /// SQLite's primary result code.
  public var code: Int32
  public var message: String
  public init(code: Int32, message: String) {
    self.code = code
    self.message = message
  }
  public var isFull: Bool { code == SQLITE_FULL }
  public var description: String { "\(message) (SQLite error \(code))" }
}

/// A value on its way into or out of a row.
enum Value: Hashable, Sendable {
  case null
  case integer(Int64)
  case real(Double)
  case text(String)
  case blob([UInt8])

  init(_ value: Int64?) { self = value.map(Value.integer) ?? .null }
  init(_ value: Double?) { self = value.map(Value.real) ?? .null }
  init(_ value: String?) { self = value.map(Value.text) ?? .null }

  var integer: Int64? { if case .integer(let value) = self { value } else { nil } }
  var real: Double? {
    switch self {
    case .real(let value): value
    case .integer(let value): Double(value)
    default: nil
    }
  }
  var text: String? { if case .text(let value) = self { value } else { nil } }
  var blob: [UInt8]? { if case .blob(let value) = self { value } else { nil } }
}

/// One connection. One thread at a time.
final class Database {
  private var handle: OpaquePointer?
  private var statements: [String: OpaquePointer] = [:]

  init(path: String, readOnly: Bool) throws(StoreError) {
    let flags = (readOnly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) | SQLITE_OPEN_NOMUTEX
    let result = sqlite3_open_v2(path, &handle, flags, nil)
    if result != SQLITE_OK {
      let error = failure(result)
      sqlite3_close_v2(handle)
      handle = nil
      throw error
    }
    sqlite3_extended_result_codes(handle, 0)
    sqlite3_busy_timeout(handle, 2_000)
  }

  deinit {
    for statement in statements.values { sqlite3_finalize(statement) }
    sqlite3_close_v2(handle)
  }

  private func failure(_ code: Int32) -> StoreError {
    let message = handle.flatMap { sqlite3_errmsg($0) }.map { String(cString: $0) } ?? "out of memory"
    return StoreError(code: code & 0xFF, message: message)
  }

  /// Runs one statement to its end; `row` gets each row's columns. Statements are kept prepared by their text, which is
  /// always the program's own: values come in by binding only.
  func run(_ sql: String, _ values: [Value] = [], row: (([Value]) -> Void)? = nil) throws(StoreError) {
    let statement = try prepare(sql)
    defer {
      sqlite3_reset(statement)
      sqlite3_clear_bindings(statement)
    }
    for (index, value) in values.enumerated() {
      let place = Int32(index + 1)
      let result =
        switch value {
        case .null: sqlite3_bind_null(statement, place)
        case .integer(let value): sqlite3_bind_int64(statement, place, value)
        case .real(let value): sqlite3_bind_double(statement, place, value)
        case .text(let value):
          value.utf8CString.withUnsafeBufferPointer {
            lightpath_bind_text(statement, place, $0.baseAddress, Int32($0.count - 1))
          }
        case .blob(let value):
          value.withUnsafeBytes { lightpath_bind_blob(statement, place, $0.baseAddress, Int32($0.count)) }
        }
      if result != SQLITE_OK { throw failure(result) }
    }
    while true {
      let result = sqlite3_step(statement)
      if result == SQLITE_DONE { return }
      if result != SQLITE_ROW { throw failure(result) }
      guard let row else { continue }
      row((0..<sqlite3_column_count(statement)).map { Database.column(statement, $0) })
    }
  }

  private func prepare(_ sql: String) throws(StoreError) -> OpaquePointer {
    if let known = statements[sql] { return known }
    var statement: OpaquePointer?
    let result = sqlite3_prepare_v2(handle, sql, -1, &statement, nil)
    guard result == SQLITE_OK, let statement else { throw failure(result) }
    statements[sql] = statement
    return statement
  }

  private static func column(_ statement: OpaquePointer, _ index: Int32) -> Value {
    switch sqlite3_column_type(statement, index) {
    case SQLITE_INTEGER: return .integer(sqlite3_column_int64(statement, index))
    case SQLITE_FLOAT: return .real(sqlite3_column_double(statement, index))
    case SQLITE_TEXT:
      guard let text = sqlite3_column_text(statement, index) else { return .null }
      let count = Int(sqlite3_column_bytes(statement, index))
      return .text(String(decoding: UnsafeBufferPointer(start: text, count: count), as: UTF8.self))
    case SQLITE_BLOB:
      let count = Int(sqlite3_column_bytes(statement, index))
      guard count > 0, let blob = sqlite3_column_blob(statement, index) else { return .blob([]) }
      return .blob([UInt8](UnsafeRawBufferPointer(start: blob, count: count)))
    default: return .null
    }
  }

  func integer(_ sql: String, _ values: [Value] = []) throws(StoreError) -> Int64? {
    var answer: Int64?
    try run(sql, values) { answer = $0.first?.integer }
    return answer
  }

  /// All or nothing.
  func transaction(_ body: () throws(StoreError) -> Void) throws(StoreError) {
    try run("BEGIN IMMEDIATE")
    do throws(StoreError) {
      try body()
      try run("COMMIT")
    } catch {
      // SQLite may have rolled back itself (a full disk); then this one fails and means nothing.
      try? run("ROLLBACK")
      throw error
    }
  }
}
