import CKernels

/// Makes repair chunks of an object it holds a copy of.
///
/// The first use transforms the object (for a block 0.1 ms with AVX-512, 0.5 ms with SSSE3; `prepare` does it in slices), after which repair
/// chunks come in batches of 64 and, where indexes go on, 256. Sixteen batches are kept, so that as many runs of
/// indexes, one a peer say, advance side by side at the price of one. Objects of up to 40 chunks need no preparation.
/// Memory: at most 3 × the object + 16 batches of 256 chunks.
public struct Encoder: ~Copyable, @unchecked Sendable {
  public private(set) var shape: ObjectShape
  let kernel: Kernel
  /// Source rows in natural order, padded.
  var source: AlignedBytes
  var spectrum: Spectrum
  /// Ranges of `source` that the transform lacks, when made from a decoder.
  var late: LateRanges
  /// Planar source rows of a small object.
  private var planar = AlignedBytes()
  /// Work done since it was made, in the units of `Work`: what its calls cost, for who accounts for it.
  public private(set) var workDone = 0

  /// - Throws: `ErasureError.wrongSize` unless `object` has exactly `shape.byteCount` bytes.
  public init(_ object: RawSpan, shape: ObjectShape, kernel: Kernel = .best) throws(ErasureError) {
    guard object.byteCount == shape.byteCount else {
      throw .wrongSize(bytes: object.byteCount, expected: shape.byteCount)
    }
    self.shape = shape
    self.kernel = kernel
    source = AlignedBytes()
    spectrum = Spectrum(shape, kernel: kernel)
    late = LateRanges()
    load(object)
  }

  /// Starts on another object with the memory there is; allocates only for a larger one.
  /// - Throws: `ErasureError.wrongSize` unless `object` has exactly `shape.byteCount` bytes.
  public mutating func reset(_ object: RawSpan, shape: ObjectShape) throws(ErasureError) {
    guard object.byteCount == shape.byteCount else {
      throw .wrongSize(bytes: object.byteCount, expected: shape.byteCount)
    }
    self.shape = shape
    spectrum.reset(shape)
    load(object)
  }

  private mutating func load(_ object: RawSpan) {
    source.reserve(shape.paddedByteCount)
    let memory = UnsafeMutableRawPointer(source.base)
    object.withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    source.zero(shape.byteCount..<shape.paddedByteCount)
    late.clear()
    if shape.isDirect { makePlanar() } else { spectrum.begin() }
  }

  /// Takes over a finished decoder with the transform it has made of what it knew: no need to start over.
  /// - Throws: `ErasureError.incomplete` unless the decoder is complete.
  public init(_ decoder: consuming Decoder) throws(ErasureError) {
    guard decoder.isComplete else { throw .incomplete }
    decoder.closeTransform()
    shape = decoder.shape
    kernel = decoder.kernel
    source = decoder.data
    spectrum = decoder.spectrum
    late = decoder.late
    if shape.isDirect { makePlanar() }
  }

  private mutating func makePlanar() {
    planar.reserve(shape.paddedByteCount)
    kernel.ops.pointee.split(planar.base, 64, source.base, 64, shape.paddedByteCount / 64)
  }

  /// The object.
  public var object: RawSpan {
    @_lifetime(borrow self) borrowing get {
      let span = unsafe RawSpan(_unsafeStart: UnsafeRawPointer(source.base), byteCount: shape.byteCount)
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// Source chunk `index` as sent on the wire, padded with zeros.
  /// - Throws: `ErasureError.indexOutOfRange`.
  @_lifetime(borrow self)
  public borrowing func sourceChunk(_ index: Int) throws(ErasureError) -> RawSpan {
    guard index >= 0, index < shape.sourceCount else {
      throw .indexOutOfRange(index: index, limit: shape.sourceCount)
    }
    let span = unsafe RawSpan(
      _unsafeStart: UnsafeRawPointer(source.base + index * shape.chunkSize), byteCount: shape.chunkSize)
    return unsafe _overrideLifetime(span, borrowing: self)
  }

  /// A step of the transform is made within the budget or as the first thing; never for a budget of 0, which only asks.
  private func canStep(_ left: Int, of budget: Int) -> Bool {
    left > 0 && (left >= shape.groupTransformBlocks || left == budget)
  }

  /// Transforms the object, as far as `budget` goes: at least one step, and no other that exceeds the budget.
  public mutating func prepare(_ budget: Int = Work.slice) -> WorkStatus {
    var left = budget
    while spectrum.state == .building {
      guard canStep(left, of: budget) else {
        workDone += budget - left
        return .more
      }
      left -= spectrum.step(source.base)
    }
    workDone += budget - left
    return .idle
  }

  /// Makes repair chunks `indexes` ready (and before them the transform), as far as `budget` goes. Only the first
  /// few thousand of a long range stay ready. `large`: in batches of 256 from the start, for who needs most of one.
  /// - Throws: `ErasureError.indexOutOfRange`.
  public mutating func prepare(
    _ indexes: Range<Int>, budget: Int = Work.slice, large: Bool = false
  ) throws(ErasureError) -> WorkStatus {
    if indexes.isEmpty { return .idle }
    try check(indexes.lowerBound)
    try check(indexes.upperBound - 1)
    if shape.isDirect { return .idle }
    var left = budget
    defer { workDone += budget - left }
    while spectrum.state == .building {
      guard canStep(left, of: budget) else { return .more }
      left -= spectrum.step(source.base)
    }
    var x = shape.points + indexes.lowerBound
    let end = min(shape.points + indexes.upperBound, x + Spectrum.slots << Spectrum.smallBatchBits)
    while x < end {
      if spectrum.isReady(x) {
        x = (x >> Spectrum.smallBatchBits + 1) << Spectrum.smallBatchBits
        continue
      }
      if left <= 0 { return .more }
      left -= spectrum.evaluate(x, large: large)
    }
    return .idle
  }

  /// Writes repair chunk `index`. Does first what preparation is missing, all of it in this call.
  /// - Throws: `ErasureError.indexOutOfRange`; `.wrongSize` unless `out` has exactly `shape.chunkSize` bytes.
  @_lifetime(out: copy out)
  public mutating func writeRepair(_ index: Int, into out: inout MutableRawSpan) throws(ErasureError) {
    try check(index)
    guard out.byteCount == shape.chunkSize else {
      throw .wrongSize(bytes: out.byteCount, expected: shape.chunkSize)
    }
    out.withUnsafeMutableBytes { bytes in
      write(index, bytes.baseAddress!.assumingMemoryBound(to: UInt8.self))
    }
  }

  /// Repair chunk `index` as a new array; for tests and tools.
  public mutating func repair(_ index: Int) throws(ErasureError) -> [UInt8] {
    try check(index)
    return [UInt8](unsafeUninitializedCapacity: shape.chunkSize) { buffer, count in
      write(index, buffer.baseAddress!)
      count = shape.chunkSize
    }
  }

  private func check(_ index: Int) throws(ErasureError) {
    guard index >= 0, index < shape.repairCount else {
      throw .indexOutOfRange(index: index, limit: shape.repairCount)
    }
  }

  private mutating func write(_ index: Int, _ out: UnsafeMutablePointer<UInt8>) {
    let x = shape.points + index
    if shape.isDirect {
      let generator = Generator(bits: shape.bits)
      let blocks = shape.strips
      workDone += blocks * shape.sourceCount
      kernel.ops.pointee.mul(out, planar.base, blocks, generator.entry(x, 0))
      for j in 1..<max(1, shape.sourceCount) {
        kernel.ops.pointee.muladd(out, planar.base + j * shape.chunkSize, blocks, generator.entry(x, j))
      }
      return
    }
    while spectrum.state == .building { workDone += spectrum.step(source.base) }
    if spectrum.state == .empty {
      out.update(repeating: 0, count: shape.chunkSize)
    } else {
      while !spectrum.isReady(x) { workDone += spectrum.evaluate(x) }
      spectrum.copy(x, to: out)
    }
    workDone += late.add(from: 0, source.base, shape, kernel, x: x, to: out).blocks
  }
}
