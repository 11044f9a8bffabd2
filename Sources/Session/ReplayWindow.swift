/// Which packet counters have been opened: RFC 6479's ring of words, so that sliding never shifts. A view of
/// `wordCount` words; the highest counter is kept by the owner.
package struct ReplayWindow {
  /// 16,384 bits. One word is always being cleared, so the window is `reach` counters behind the highest.
  package static let wordCount = 256
  package static let reach = UInt64((wordCount - 1) * 64)

  let words: UnsafeMutablePointer<UInt64>
  @inline(__always) package init(_ words: UnsafeMutablePointer<UInt64>) { self.words = words }

  package func clear() { words.update(repeating: 0, count: ReplayWindow.wordCount) }

  @inline(__always) private func slot(_ counter: UInt64) -> Int {
    Int(truncatingIfNeeded: counter >> 6) & (ReplayWindow.wordCount - 1)
  }

  /// `next` is one more than the highest counter accepted so far, 0 before the first.
  @inline(__always) package func isFresh(_ counter: UInt64, next: UInt64) -> Bool {
    if counter >= next { return counter != .max }
    if next - 1 - counter >= ReplayWindow.reach { return false }
    return words[slot(counter)] & (1 << (counter & 63)) == 0
  }

  /// Marks a counter that `isFresh` and is authentic; moves `next` on.
  @inline(__always) package func mark(_ counter: UInt64, next: inout UInt64) {
    if counter >= next {
      // Clear the words between the last highest's and this one's; all of them when it jumps far.
      let last = next == 0 ? 0 : (next - 1) >> 6
      let steps = min(counter >> 6 &- last, UInt64(ReplayWindow.wordCount))
      for i in 0..<steps { words[Int(truncatingIfNeeded: last &+ 1 &+ i) & (ReplayWindow.wordCount - 1)] = 0 }
      next = counter + 1
    }
    words[slot(counter)] |= 1 << (counter & 63)
  }
}
