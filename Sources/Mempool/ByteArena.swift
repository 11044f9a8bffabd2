import Glibc

/// Where a transaction's bytes lie in a `ByteArena`: a segment's number and an offset in steps of eight bytes.
struct ArenaLocation: Hashable, BitwiseCopyable {
  var raw: UInt32
  init(segment: Int, offset: Int) { raw = UInt32(segment) << 15 | UInt32(offset >> 3) }
  var segment: Int { Int(raw >> 15) }
  var offset: Int { Int(raw & 0x7FFF) << 3 }
}

/// Bytes of many transactions in 256-KiB segments that are only appended to. Freed bytes stay dead until their segment
/// is evacuated: the one with the least alive is emptied into the newest whenever more than an eighth of all bytes, and
/// more than two segments' worth, are dead. So the memory held is bounded by 8/7 of the bytes alive plus three
/// segments, whatever the sequence of insertions and removals; a heap with size classes has no such bound.
///
/// Records larger than a quarter segment have a segment of their own size, which goes back to the system with them.
/// Evacuating one segment moves at most 256 KiB: some 50 µs.
struct ByteArena: ~Copyable {
  static let segmentBytes = 1 << 18
  private static let largeBytes = segmentBytes / 4
  /// Before each record: the owner's slot and the record's length.
  private static let headerBytes = 8

  private struct Segment {
    var base: UnsafeMutableRawPointer?
    var capacity = 0
    /// Appended so far, dead or alive, headers and padding included.
    var used = 0
    var alive = 0
    /// One large record's own, which may have the common size: no part of the counts of closed segments.
    var isOwn = false
  }

  static let segmentsMax = 1 << 17

  private var segments: [Segment] = []
  /// Each segment's memory, by number: one load on the way to a record.
  let bases = allocateZeroed(UInt.self, ByteArena.segmentsMax)
  private var freeNumbers: [Int] = []
  /// Empty segments of the common size, kept for the next need; at most two.
  private var spare: [UnsafeMutableRawPointer] = []
  /// The one that is appended to.
  private var open = -1
  /// Over shared segments except the open one.
  private(set) var closedUsed = 0
  private(set) var closedAlive = 0
  /// Bytes asked from the system.
  private(set) var heldBytes = 0

  deinit {
    for segment in segments { free(segment.base) }
    for base in spare { free(base) }
    free(bases)
  }

  private static func footprint(_ length: Int) -> Int { (headerBytes + length + 7) & ~7 }

  /// The record's bytes; valid until the next `allocate`.
  @inline(__always) func pointer(_ location: ArenaLocation) -> UnsafeMutableRawPointer {
    ByteArena.pointer(location, bases)
  }

  @inline(__always) static func pointer(
    _ location: ArenaLocation, _ bases: UnsafeMutablePointer<UInt>
  ) -> UnsafeMutableRawPointer {
    UnsafeMutableRawPointer(bitPattern: bases[location.segment])! + location.offset + headerBytes
  }

  /// Room for a record of `length` bytes that belongs to `slot`. May move other records: `moved` is told the new place
  /// of each, and must say whether a slot's record is still the one at a place.
  mutating func allocate(
    _ length: Int, for slot: UInt32, isAt: (UInt32, ArenaLocation) -> Bool, moved: (UInt32, ArenaLocation) -> Void
  ) -> ArenaLocation {
    let size = ByteArena.footprint(length)
    if size > ByteArena.largeBytes {
      let number = addSegment(size, isOwn: true)
      return append(length, size, slot, to: number)
    }
    if !fits(size) {
      openNext()
      // Reopening may have brought fresh dead bytes over the line: empty the worst segment into the new one.
      if isTooDead { evacuateWorst(isAt: isAt, moved: moved) }
      if !fits(size) { openNext() }
    }
    return append(length, size, slot, to: open)
  }

  mutating func release(_ location: ArenaLocation, length: Int) {
    let number = location.segment
    let size = ByteArena.footprint(length)
    segments[number].alive -= size
    if segments[number].isOwn {
      dropSegment(number)
    } else if number != open {
      closedAlive -= size
      if segments[number].alive == 0 {
        closedUsed -= segments[number].used
        dropSegment(number)
      }
    }
  }

  private func fits(_ size: Int) -> Bool { open >= 0 && segments[open].used + size <= ByteArena.segmentBytes }

  private var isTooDead: Bool {
    let dead = closedUsed - closedAlive
    return dead > 2 * ByteArena.segmentBytes && dead > closedUsed / 8
  }

  private mutating func append(_ length: Int, _ size: Int, _ slot: UInt32, to number: Int) -> ArenaLocation {
    let offset = segments[number].used
    let base = segments[number].base! + offset
    base.storeBytes(of: slot, as: UInt32.self)
    base.storeBytes(of: UInt32(length), toByteOffset: 4, as: UInt32.self)
    segments[number].used += size
    segments[number].alive += size
    return ArenaLocation(segment: number, offset: offset)
  }

  private mutating func openNext() {
    if open >= 0 {
      let last = segments[open]
      closedUsed += last.used
      closedAlive += last.alive
      if last.alive == 0 {
        closedUsed -= last.used
        dropSegment(open)
      }
    }
    open = addSegment(ByteArena.segmentBytes)
  }

  private mutating func addSegment(_ bytes: Int, isOwn: Bool = false) -> Int {
    let base: UnsafeMutableRawPointer
    if bytes == ByteArena.segmentBytes, let kept = spare.popLast() {
      base = kept
    } else {
      guard let fresh = malloc(bytes) else { fatalError("out of memory for \(bytes) bytes of transactions") }
      base = fresh
      heldBytes += bytes
    }
    let segment = Segment(base: base, capacity: bytes, isOwn: isOwn)
    let number: Int
    if let free = freeNumbers.popLast() {
      number = free
      segments[number] = segment
    } else {
      number = segments.count
      precondition(number < ByteArena.segmentsMax)
      segments.append(segment)
    }
    bases[number] = UInt(bitPattern: base)
    return number
  }

  private mutating func dropSegment(_ number: Int) {
    let segment = segments[number]
    if segment.capacity == ByteArena.segmentBytes && spare.count < 2 {
      spare.append(segment.base!)
    } else {
      free(segment.base)
      heldBytes -= segment.capacity
    }
    segments[number] = Segment()
    bases[number] = 0
    freeNumbers.append(number)
  }

  /// Moves what lives in the closed segment with the fewest bytes alive into the open one (which is fresh, so it fits).
  private mutating func evacuateWorst(
    isAt: (UInt32, ArenaLocation) -> Bool, moved: (UInt32, ArenaLocation) -> Void
  ) {
    var worst = -1
    for (number, segment) in segments.enumerated()
    where number != open && segment.base != nil && !segment.isOwn {
      if worst < 0 || segment.alive < segments[worst].alive { worst = number }
    }
    if worst < 0 { return }
    let source = segments[worst]
    var offset = 0
    while offset < source.used {
      let base = source.base! + offset
      let slot = base.load(as: UInt32.self)
      let length = Int(base.load(fromByteOffset: 4, as: UInt32.self))
      let size = ByteArena.footprint(length)
      if isAt(slot, ArenaLocation(segment: worst, offset: offset)) {
        let place = append(length, size, slot, to: open)
        (segments[open].base! + place.offset + ByteArena.headerBytes)
          .copyMemory(from: base + ByteArena.headerBytes, byteCount: length)
        moved(slot, place)
      }
      offset += size
    }
    closedUsed -= source.used
    closedAlive -= source.alive
    dropSegment(worst)
  }
}
