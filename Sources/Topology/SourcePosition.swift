/// A place in a text: both from 1; columns count Unicode scalars, as editors do for plain text.
public struct SourcePosition: Hashable, Comparable, Sendable, CustomStringConvertible {
  public var line, column: Int
  public init(line: Int, column: Int) {
    self.line = line
    self.column = column
  }
  public static func < (a: SourcePosition, b: SourcePosition) -> Bool { (a.line, a.column) < (b.line, b.column) }
  public var description: String { "\(line):\(column)" }
}
