import Bitcoin
import Glibc

/// A table's home position for what it holds: keyed, because ids can be ground to collide and nobody must be able to
/// build long probe runs in a store they don't own.
struct TableKey {
  var a, b: UInt64

  @inline(__always) func hash(_ id: Hash256) -> UInt64 { mix(id.w0, id.w1) }

  @inline(__always) func hash(_ id: Hash256, output: UInt32) -> UInt64 {
    mix(id.w0 ^ UInt64(output) &* 0x9E37_79B9_7F4A_7C15, id.w1)
  }

  /// Multiply and fold (as in wyhash): both halves of the product depend on all bits of both factors.
  @inline(__always) private func mix(_ x: UInt64, _ y: UInt64) -> UInt64 {
    let product = (x ^ a).multipliedFullWidth(by: y ^ b)
    return product.high ^ product.low
  }
}

/// Zeroed memory whose pages cost nothing until they are touched.
func allocateZeroed<T: BitwiseCopyable>(_ type: T.Type, _ count: Int) -> UnsafeMutablePointer<T> {
  guard let memory = calloc(count, MemoryLayout<T>.stride) else {
    fatalError("out of memory for \(count) table cells")
  }
  return memory.bindMemory(to: T.self, capacity: count)
}

extension Int {
  /// The exponent of the least power of two that is at least `self`.
  var ceilingLog2: Int { self <= 1 ? 0 : Int.bitWidth - (self - 1).leadingZeroBitCount }
}

/// An open-addressing multimap of fixed size: cells are never 0, linear probing, removal by shifting back, no
/// tombstones. What a cell means, and whether it matches, is the caller's.
struct CellTable<Cell: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>: ~Copyable {
  let cells: UnsafeMutablePointer<Cell>
  let mask: Int
  private(set) var count = 0

  /// At most half full with `most` cells used.
  init(most: Int) {
    let size = 1 << (2 * Swift.max(most, 8)).ceilingLog2
    cells = allocateZeroed(Cell.self, size)
    mask = size - 1
  }

  deinit { free(cells) }

  @inline(__always) func home(_ hash: UInt64) -> Int { Int(truncatingIfNeeded: hash) & mask }

  /// Calls `visit` with each cell that may have this hash until it returns false.
  @inline(__always) func probe(_ hash: UInt64, _ visit: (Cell) -> Bool) {
    var at = home(hash)
    while cells[at] != 0 {
      if !visit(cells[at]) { return }
      at = (at + 1) & mask
    }
  }

  mutating func insert(_ cell: Cell, hash: UInt64) {
    precondition(cell != 0 && count < mask)
    var at = home(hash)
    while cells[at] != 0 { at = (at + 1) & mask }
    cells[at] = cell
    count += 1
  }

  /// Removes this very cell, if it is there; `hashOf` gives the hash of any cell of the table.
  mutating func remove(_ cell: Cell, hash: UInt64, hashOf: (Cell) -> UInt64) {
    var hole = home(hash)
    while cells[hole] != cell {
      if cells[hole] == 0 { return }
      hole = (hole + 1) & mask
    }
    var at = hole
    while true {
      at = (at + 1) & mask
      let moving = cells[at]
      if moving == 0 { break }
      // A cell may fill the hole unless its home lies after the hole (cyclically).
      if (at &- home(hashOf(moving))) & mask >= (at &- hole) & mask {
        cells[hole] = moving
        hole = at
      }
    }
    cells[hole] = 0
    count -= 1
  }
}
