import CKernels

/// The transform of an object: its coefficients in the novel polynomial basis (Lin, Al-Naffouri, Han, Chung 2016), and
/// batches of repair rows evaluated from them. Encoder and decoder share it.
///
/// Everything lies strip by strip: for each 64-byte block of the chunks' width, K rows of one block. A strip of 2,048
/// rows is 128 KB, so a whole transform runs in the second-level cache, and work stops and resumes between strips.
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
  static let largestBatchBits = 8
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
    coefficients.reserve(shape.points * shape.chunkSize)
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
  }

  private var largestBits: Int { min(Self.largestBatchBits, shape.bits) }
  private var slotBytes: Int { shape.chunkSize << largestBits }
  private var slotMultipliers: Int { max(1, shape.points >> Self.smallBatchBits) }

  // MARK: Coefficients

  mutating func begin() {
    clear()
    state = .building
  }

  /// Transforms one strip of the source rows. Returns the work done.
  mutating func step(_ source: UnsafePointer<UInt8>) -> Int {
    let rows = coefficients.base + strip * shape.points * 64
    kernel.ops.pointee.split(rows, 64, source + strip * 64, shape.chunkSize, shape.sourceCount)
    kernel.ops.pointee.ifft(rows, UInt32(shape.bits), 0, 0, UInt32(shape.sourceCount))
    strip += 1
    if strip == shape.strips { state = .ready }
    return shape.transformBlocks
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

  /// Works on the batch that holds point `x`: one strip, more only if `whole`. Returns the work done.
  ///
  /// The first batch of a run of indexes is small, to be there soon; where the run goes on, batches are large, which
  /// cost a third per row. A run is known by its preceding point being in a batch already.
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
    let from = coefficients.base + batch.strips * shape.points * 64
    let by = multipliers.bound(to: UInt16.self) + slot * slotMultipliers
    // Fold the K coefficients to `count`: at the batch's points, each higher basis polynomial is constant.
    let parts = shape.points >> batch.bits
    out.update(from: from, count: count * 64)
    for part in 1..<max(parts, 1) {
      kernel.ops.pointee.muladd(out, from + part * count * 64, count, by[part])
    }
    kernel.ops.pointee.fft(out, UInt32(batch.bits), UInt32(batch.start), 0, UInt32(count))
    batches[slot].strips += 1
    return shape.points - count + count / 2 * batch.bits
  }

  private mutating func open(_ x: Int, bits: Int) -> Int {
    var slot = 0
    for other in 1..<Self.slots where batches[other].used < batches[slot].used { slot = other }
    batches[slot] = Batch(start: (x >> bits) << bits, bits: bits, strips: 0, used: clock)
    // The l-th subspace polynomial at point x is the point x >> l (CODE.md); bit l of `part` stands for it.
    let by = multipliers.bound(to: UInt16.self) + slot * slotMultipliers
    by[0] = 1
    for level in bits..<max(shape.bits, bits) {
      let half = 1 << (level - bits)
      for part in 0..<half {
        by[half + part] = UInt16(Field.shared.product(Int(by[part]), x >> level))
      }
    }
    return slot
  }

  /// Copies the row at `x`, which must be ready.
  func copy(_ x: Int, to row: UnsafeMutablePointer<UInt8>) {
    let (from, pitch) = rowAddress(x)
    for strip in 0..<shape.strips { (row + strip * 64).update(from: from + strip * pitch, count: 64) }
  }

  /// Xors the row at `x`, which must be ready, onto `row`.
  func add(_ x: Int, to row: UnsafeMutablePointer<UInt8>) {
    let (from, pitch) = rowAddress(x)
    for strip in 0..<shape.strips { kernel.ops.pointee.add(row + strip * 64, from + strip * pitch, 1) }
  }

  private func rowAddress(_ x: Int) -> (UnsafeMutablePointer<UInt8>, pitch: Int) {
    let slot = find(x)!
    let batch = batches[slot]
    return (batchRows.base + slot * slotBytes + (x - batch.start) * 64, 64 << batch.bits)
  }
}
