import CKernels

/// The transform of an object, and batches of repair rows evaluated from it. Encoder and decoder share it.
///
/// Each aligned group of 256 source rows is interpolated on its own: its coefficients in the novel polynomial basis
/// (Lin, Al-Naffouri, Han, Chung 2016). At the points of a batch, which are an aligned group of at most 256 too, a
/// group's share of the repair rows is its polynomial times a constant (CODE.md), so a batch adds the groups'
/// coefficients up, each times its constant, and evaluates the sum: one multiplication per source row, and the batch's
/// own small transform. A transform over all K points would cost more to make and no less to evaluate.
///
/// Everything lies strip by strip: for each 64-byte block of the chunks' width, all rows of one block. A strip of 1,280
/// rows is 80 KB, so its transform runs in the second-level cache, and work stops and resumes between strips.
package struct Spectrum: ~Copyable {
  enum State { case empty, building, ready }

  struct Batch {
    /// First point, a multiple of the row count; negative when the slot is free.
    var start = -1
    var bits = 0
    /// Strips evaluated; the batch is ready when all are.
    var strips = 0
    var used: UInt64 = 0
  }

  static let slots = 16
  /// Rows of a group of source rows, and of a large batch.
  static let groupBits = 8
  static let smallBatchBits = 6

  let kernel: Kernel
  private(set) var shape: ObjectShape
  private(set) var state = State.empty
  /// Strips transformed so far, while building.
  private(set) var strip = 0
  private var coefficients = AlignedBytes()
  private var batchRows = AlignedBytes()
  private var multipliers = AlignedBytes()
  private var batches = [Batch](repeating: Batch(), count: Spectrum.slots)
  /// Aligned groups of 256 points whose last batch of this transform made room for another.
  private var dropped = [Bool](repeating: false, count: 65_536 >> Spectrum.groupBits)
  private var clock: UInt64 = 0

  init(_ shape: ObjectShape, kernel: Kernel) {
    self.kernel = kernel
    self.shape = shape
    reset(shape)
  }

  mutating func reset(_ shape: ObjectShape) {
    self.shape = shape
    clear()
    if shape.isDirect { return }
    coefficients.reserve(rows * shape.chunkSize)
    batchRows.reserve(Self.slots * slotBytes)
    multipliers.reserve(Self.slots * slotMultipliers * 2)
  }

  /// Back to the transform of nothing but zeros.
  mutating func clear() {
    state = .empty
    strip = 0
    forgetBatches()
  }

  mutating func forgetBatches() {
    for slot in 0..<Self.slots { batches[slot] = Batch() }
    for group in dropped.indices { dropped[group] = false }
  }

  private var largestBits: Int { min(Self.groupBits, shape.bits) }
  /// Source rows rounded up to whole groups.
  private var rows: Int { ((shape.sourceCount + (1 << largestBits) - 1) >> largestBits) << largestBits }
  private var slotBytes: Int { shape.chunkSize << largestBits }
  private var slotMultipliers: Int { rows >> min(Self.smallBatchBits, shape.bits) }

  // MARK: Coefficients

  mutating func begin() {
    clear()
    state = .building
  }

  /// Transforms one strip of the source rows. Returns the work done.
  mutating func step(_ source: UnsafePointer<UInt8>) -> Int {
    let base = coefficients.base + strip * rows * 64
    if strip + 1 < shape.strips {
      // A strip is one line of each row: no pattern that the processor fetches ahead by itself.
      for row in 0..<shape.sourceCount { lp_prefetch(source + (strip + 1) * 64 + row * shape.chunkSize) }
    }
    kernel.ops.pointee.split(base, 64, source + strip * 64, shape.chunkSize, shape.sourceCount)
    let size = 1 << largestBits
    for group in stride(from: 0, to: shape.sourceCount, by: size) {
      kernel.ops.pointee.ifft(
        base + group * 64, UInt32(largestBits), UInt32(group), 0, UInt32(min(size, shape.sourceCount - group)))
    }
    strip += 1
    if strip == shape.strips { state = .ready }
    return shape.groupTransformBlocks
  }

  // MARK: Batches

  /// The slot whose batch holds point `x`, finished or not.
  private func find(_ x: Int) -> Int? {
    for slot in 0..<Self.slots {
      let batch = batches[slot]
      if batch.start >= 0, x >> batch.bits == batch.start >> batch.bits { return slot }
    }
    return nil
  }

  /// Is the row at point `x` there to be copied?
  func isReady(_ x: Int) -> Bool {
    guard let slot = find(x) else { return false }
    return batches[slot].strips == shape.strips
  }

  /// Is a batch that holds point `x` there, finished or not?
  func holds(_ x: Int) -> Bool { find(x) != nil }

  /// Did the last batch around point `x` make room for another?
  func wasDropped(_ x: Int) -> Bool { dropped[x >> Self.groupBits] }

  /// Works on the batch that holds point `x`: one strip. Returns the work done.
  ///
  /// The first batch of a run of indexes is small, to be there soon; where the run goes on, batches are large, which
  /// cost 0.3 to 0.4 times as much per row. A run is known by its preceding point being in a batch already.
  mutating func evaluate(_ x: Int, large: Bool = false) -> Int {
    let slot: Int
    if let found = find(x) {
      slot = found
    } else {
      let continues = large || (x > shape.points && find(x - 1) != nil)
      slot = open(x, bits: continues ? largestBits : min(Self.smallBatchBits, largestBits))
    }
    clock += 1
    batches[slot].used = clock
    let batch = batches[slot]
    if batch.strips == shape.strips { return 0 }
    let count = 1 << batch.bits
    let out = batchRows.base + slot * slotBytes + batch.strips * count * 64
    let from = coefficients.base + batch.strips * rows * 64
    let by = multipliers.bound(to: UInt16.self) + slot * slotMultipliers
    kernel.ops.pointee.mul(out, from, count, by[0])
    for part in 1..<max(rows >> batch.bits, 1) {
      kernel.ops.pointee.muladd(out, from + part * count * 64, count, by[part])
    }
    kernel.ops.pointee.fft(out, UInt32(batch.bits), UInt32(batch.start), 0, UInt32(count))
    batches[slot].strips += 1
    return rows + count / 2 * batch.bits
  }

  private mutating func open(_ x: Int, bits: Int) -> Int {
    var slot = 0
    for other in 1..<Self.slots where batches[other].used < batches[slot].used { slot = other }
    let before = batches[slot].start
    batches[slot] = Batch(start: (x >> bits) << bits, bits: bits, strips: 0, used: clock)
    if before >= 0 {
      let group = before >> Self.groupBits
      dropped[group] = !batches.contains { $0.start >= 0 && $0.start >> Self.groupBits == group }
    }
    dropped[x >> Self.groupBits] = false
    let by = multipliers.bound(to: UInt16.self) + slot * slotMultipliers
    let field = Field.shared
    let foldings = 1 << (largestBits - bits)
    for group in 0..<rows >> largestBits {
      // s_k(x) / s_8(x + group): the l-th subspace polynomial at point x is the point x >> l.
      let share = field.product(x >> shape.bits, Int(field.inverse[(x >> largestBits) ^ group]))
      by[group * foldings] = UInt16(share)
    }
    // A batch smaller than a group folds the group's coefficients: on it, the higher basis polynomials are constant.
    for group in 0..<rows >> largestBits {
      let part = by + group * foldings
      for level in bits..<max(largestBits, bits) {
        let half = 1 << (level - bits)
        for low in 0..<half { part[half + low] = UInt16(field.product(Int(part[low]), x >> level)) }
      }
    }
    return slot
  }

  /// Copies the row at `x`, which must be ready.
  func copy(_ x: Int, to row: UnsafeMutablePointer<UInt8>) {
    let (from, pitch) = rowAddress(x, in: find(x)!)
    for strip in 0..<shape.strips { (row + strip * 64).update(from: from + strip * pitch, count: 64) }
  }

  /// Xors the row at `x`, which must be ready, onto `row`. Its batch is in use: others make room before it.
  mutating func add(_ x: Int, to row: UnsafeMutablePointer<UInt8>) {
    let slot = find(x)!
    clock += 1
    batches[slot].used = clock
    let (from, pitch) = rowAddress(x, in: slot)
    for strip in 0..<shape.strips { kernel.ops.pointee.add(row + strip * 64, from + strip * pitch, 1) }
  }

  private func rowAddress(_ x: Int, in slot: Int) -> (UnsafeMutablePointer<UInt8>, pitch: Int) {
    let batch = batches[slot]
    return (batchRows.base + slot * slotBytes + (x - batch.start) * 64, 64 << batch.bits)
  }
}
