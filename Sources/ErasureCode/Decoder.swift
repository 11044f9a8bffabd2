import CKernels

/// Rebuilds an object from known byte ranges, source chunks and repair chunks, in whatever order they come.
///
/// Every column of 16-bit symbols is a codeword of its own: with u symbols unknown in the worst column, u repair chunks
/// complete the object, however many chunks the unknown bytes touch. `work` keeps the repair chunks' syndromes up to
/// date between packets; `finish` then only solves what is left (CODE.md).
///
/// Memory: at most 8 × the object + 16 batches of 256 chunks + 0.5 MB, all of it set aside by `init` or a larger
/// `reset` and touched only as needed.
public struct Decoder: ~Copyable, @unchecked Sendable {
  public private(set) var shape: ObjectShape
  public let kernel: Kernel
  /// Told bytes in natural order; zero where not told, until solved.
  var data = AlignedBytes()
  /// So much of `data` is zero still: nothing was told since it was made or wiped.
  var wiped = 0
  var coverage: Coverage
  var spectrum: Spectrum
  /// Bytes told since the transform was begun.
  var late: LateRanges
  /// Blocks told since then, or that a withdrawal or a full list makes the transform miss.
  var lateBlocks = 0
  /// Blocks that the transform covers.
  var baseBlocks = 0
  /// Rows can't be brought up to date from the transform and the list: the transform must be made anew.
  var mustTransform = false
  var solved = false

  // Repair chunks in order of arrival.
  var raw = AlignedBytes()
  var syndromes = AlignedBytes()
  /// Points of the repair chunks held.
  var pointStore = AlignedBytes()
  /// For each: entries of `late` in its syndrome, -1 for no syndrome yet.
  var appliedStore = AlignedBytes()
  var heldBits = AlignedBytes(65_536 / 8)
  /// Repair chunks held.
  public internal(set) var repairsHeld = 0
  /// Some syndrome was made since the list was cleared.
  var anySyndrome = false
  var sourceBits = AlignedBytes(ObjectShape.maxSourceChunks / 8)
  var solver = Solver()
  /// The aligned group of 256 points whose batch rows are made from.
  var rowGroup = -1
  /// Of each such group, chunks that wait for a row; counted anew for each choice.
  let waiting = AlignedBytes(65_536 >> Spectrum.groupBits)
  /// Repair chunks added since the known bytes changed.
  var repairsSinceChange = 0
  /// Work done on this object, in the units of `Work`: what its calls cost, for who accounts for it. Telling known
  /// bytes is not in it: that costs by the byte.
  public internal(set) var workDone = 0
  /// The part of it that solved systems: a block costs less there, where few rows are gone over often.
  public internal(set) var workSolved = 0

  public init(_ shape: ObjectShape, kernel: Kernel = .best) {
    self.shape = shape
    self.kernel = kernel
    coverage = Coverage(shape)
    spectrum = Spectrum(shape, kernel: kernel)
    late = LateRanges()
    prepareMemory()
  }

  /// Starts on another object with the memory there is; allocates only for a larger one.
  public mutating func reset(_ shape: ObjectShape) {
    self.shape = shape
    coverage.reset(shape)
    spectrum.reset(shape)
    workDone = 0
    workSolved = 0
    awaitsKnown = false
    prepareMemory()
  }

  mutating func prepareMemory() {
    let bytes = shape.paddedByteCount
    if data.count < bytes { wiped = 0 }
    data.reserve(bytes)
    data.zero(min(wiped, bytes)..<bytes)
    wiped = max(wiped, bytes)
    raw.reserve(bytes)
    syndromes.reserve(bytes)
    pointStore.reserve(shape.sourceCount * 4)
    appliedStore.reserve(shape.sourceCount * 4)
    heldBits.zero(0..<heldBits.count)
    sourceBits.zero(0..<sourceBits.count)
    solver.reserve(shape)
    late.clear()
    lateBlocks = 0
    baseBlocks = 0
    mustTransform = false
    solved = false
    repairsHeld = 0
    repairsSinceChange = 0
    anySyndrome = false
    rowGroup = -1
    solver.forget()
  }

  var points: UnsafeMutablePointer<UInt32> { pointStore.bound(to: UInt32.self) }
  var applied: UnsafeMutablePointer<Int32> { appliedStore.bound(to: Int32.self) }

  /// Much of the object is about to be told. Until that is over, repair chunks are only kept: what is known now would have
  /// to be reckoned in again with what comes. A new object begins without.
  public var awaitsKnown = false

  // MARK: What is there

  /// How many more repair chunks, whichever they are, complete the object: exact.
  public var needed: Int {
    mutating get { solved ? 0 : max(0, coverage.mostUnknown() - repairsHeld) }
  }

  /// `needed` is 0. Cheaper to ask after every chunk: the fullest column has no less than the mean.
  public var isSolvable: Bool {
    mutating get { solved || coverage.unknownSymbols <= repairsHeld * shape.columns && needed == 0 }
  }

  /// The most unknown 16-bit symbols in any column: `needed` without the repair chunks held.
  public var mostUnknown: Int { mutating get { coverage.mostUnknown() } }

  /// The object is whole, all told or solved.
  public var isComplete: Bool { solved || coverage.unknownSymbols == 0 }

  /// All bytes of this source chunk are there.
  public func isPresent(chunk: Int) -> Bool {
    chunk >= 0 && chunk < shape.sourceCount && (solved || coverage.unknown(inChunk: chunk) == 0)
  }

  /// Is this repair chunk held?
  public func holdsRepair(_ index: Int) -> Bool {
    index >= 0 && index < shape.repairCount && heldBit(shape.points + index)
  }

  /// The object's bytes, `shape.byteCount` of them; zero where unknown, as long as it is not complete.
  public var bytes: RawSpan {
    @_lifetime(borrow self) borrowing get {
      let span = unsafe RawSpan(_unsafeStart: UnsafeRawPointer(data.base), byteCount: shape.byteCount)
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// A source chunk as sent on the wire, padded with zeros.
  /// - Throws: `ErasureError.indexOutOfRange`; `.incomplete` if a byte of it is missing.
  @_lifetime(borrow self)
  public borrowing func sourceChunk(_ index: Int) throws(ErasureError) -> RawSpan {
    guard index >= 0, index < shape.sourceCount else {
      throw .indexOutOfRange(index: index, limit: shape.sourceCount)
    }
    guard isPresent(chunk: index) else { throw .incomplete }
    let span = unsafe RawSpan(
      _unsafeStart: UnsafeRawPointer(data.base + index * shape.chunkSize), byteCount: shape.chunkSize)
    return unsafe _overrideLifetime(span, borrowing: self)
  }

  /// A held repair chunk, as received; `slot` counts from 0 to `repairsHeld` in order of arrival.
  @_lifetime(borrow self)
  public borrowing func heldRepair(_ slot: Int) -> RawSpan {
    precondition(slot >= 0 && slot < repairsHeld)
    let span = unsafe RawSpan(
      _unsafeStart: UnsafeRawPointer(raw.base + slot * shape.chunkSize), byteCount: shape.chunkSize)
    return unsafe _overrideLifetime(span, borrowing: self)
  }

  /// The index of the repair chunk in `slot`.
  public func heldRepairIndex(_ slot: Int) -> Int {
    precondition(slot >= 0 && slot < repairsHeld)
    return Int(points[slot]) - shape.points
  }

  // MARK: Data coming in

  /// Tells that the object has `bytes` at `range`. Bytes told before must agree, and so must solved ones: if it is the
  /// solution that is wrong, `withdraw` or `reopen` first.
  /// - Throws: `ErasureError.rangeOutOfBounds`; `.contradictsKnown`, and then nothing of the range is stored.
  public mutating func addKnown(_ range: Range<Int>, _ bytes: RawSpan) throws(ErasureError) {
    guard range.lowerBound >= 0, range.upperBound <= shape.byteCount, bytes.byteCount == range.count else {
      throw .rangeOutOfBounds(lower: range.lowerBound, upper: range.upperBound, limit: shape.byteCount)
    }
    if range.isEmpty { return }
    let conflict = bytes.withUnsafeBytes { store(range, $0.baseAddress!.assumingMemoryBound(to: UInt8.self)) }
    if let conflict { throw .contradictsKnown(byte: conflict) }
  }

  /// Tells that the object has the bytes at `range`, which `write` puts into the place it is given: one look at what is
  /// known for many pieces that lie side by side. False, and nothing is told, when some of it was told before.
  /// - Throws: `ErasureError.rangeOutOfBounds`.
  public mutating func addKnown(
    _ range: Range<Int>, by write: (UnsafeMutableRawBufferPointer) -> Void
  ) throws(ErasureError) -> Bool {
    guard range.lowerBound >= 0, range.upperBound <= shape.byteCount else {
      throw .rangeOutOfBounds(lower: range.lowerBound, upper: range.upperBound, limit: shape.byteCount)
    }
    if range.isEmpty { return true }
    if solved || coverage.overlaps(range) { return false }
    write(UnsafeMutableRawBufferPointer(start: data.base + range.lowerBound, count: range.count))
    told(range)
    return true
  }

  /// A source chunk from the network, `chunkSize` bytes; the last one padded with zeros, or only as long as its bytes.
  /// - Throws: `ErasureError.indexOutOfRange`, `.wrongSize`, `.paddingNotZero`, `.duplicateSource`,
  ///   `.contradictsKnown`.
  public mutating func addSource(_ index: Int, _ bytes: RawSpan) throws(ErasureError) {
    guard index >= 0, index < shape.sourceCount else {
      throw .indexOutOfRange(index: index, limit: shape.sourceCount)
    }
    let range = shape.range(ofChunk: index)
    guard bytes.byteCount == shape.chunkSize || bytes.byteCount == range.count else {
      throw .wrongSize(bytes: bytes.byteCount, expected: shape.chunkSize)
    }
    for i in range.count..<bytes.byteCount where unsafe bytes.unsafeLoad(fromByteOffset: i, as: UInt8.self) != 0 {
      throw .paddingNotZero(byte: i)
    }
    let wasThere = isPresent(chunk: index)
    // The next one's place, most likely: nothing has touched it for minutes, and packets leave time to fetch it.
    if index + 1 < shape.sourceCount { warm(data.base + (index + 1) * shape.chunkSize) }
    try addKnown(range, bytes.extracting(0..<range.count))
    sourceBits.base[index / 8] |= 1 << UInt8(index % 8)
    if wasThere { throw .duplicateSource(index: index) }
  }

  /// Part of a source chunk: `bytes` at byte `offset` of chunk `index`.
  /// - Throws: `ErasureError.indexOutOfRange`, `.rangeOutOfBounds`, `.contradictsKnown`.
  public mutating func addPartialSource(_ index: Int, at offset: Int, _ bytes: RawSpan) throws(ErasureError) {
    guard index >= 0, index < shape.sourceCount else {
      throw .indexOutOfRange(index: index, limit: shape.sourceCount)
    }
    let range = shape.range(ofChunk: index)
    guard offset >= 0, bytes.byteCount <= range.count, offset <= range.count - bytes.byteCount else {
      throw .rangeOutOfBounds(lower: offset, upper: offset &+ bytes.byteCount, limit: range.count)
    }
    let start = range.lowerBound + offset
    try addKnown(start..<start + bytes.byteCount, bytes)
    sourceBits.base[index / 8] |= 1 << UInt8(index % 8)
  }

  /// A repair chunk. Its syndrome is brought up to date at once if `work` has prepared for it.
  /// - Throws: `ErasureError.indexOutOfRange`, `.wrongSize`, `.duplicateRepair`, `.contradictsRepair`,
  ///   `.repairStoreFull`.
  public mutating func addRepair(_ index: Int, _ bytes: RawSpan) throws(ErasureError) {
    guard index >= 0, index < shape.repairCount else {
      throw .indexOutOfRange(index: index, limit: shape.repairCount)
    }
    guard bytes.byteCount == shape.chunkSize else {
      throw .wrongSize(bytes: bytes.byteCount, expected: shape.chunkSize)
    }
    let x = shape.points + index
    if heldBit(x) {
      if holdsSame(x, bytes) { throw .duplicateRepair(index: index) }
      throw .contradictsRepair(index: index)
    }
    guard repairsHeld < shape.sourceCount else { throw .repairStoreFull(limit: shape.sourceCount) }
    let slot = repairsHeld
    bytes.withUnsafeBytes {
      UnsafeMutableRawPointer(raw.base + slot * shape.chunkSize)
        .copyMemory(from: $0.baseAddress!, byteCount: shape.chunkSize)
    }
    points[slot] = UInt32(x)
    applied[slot] = -1
    heldBits.base[x / 8] |= 1 << UInt8(x % 8)
    repairsHeld += 1
    repairsSinceChange += 1
    if repairsHeld < shape.sourceCount { warm(raw.base + repairsHeld * shape.chunkSize) }
    if !awaitsKnown, canSync, canMakeRow(x), late.blocks <= Work.slice / 4 { workDone += sync(slot) }
  }

  /// Fetches a chunk's place to be written.
  @inline(__always) private func warm(_ place: UnsafePointer<UInt8>) {
    for line in stride(from: 0, to: shape.chunkSize, by: 64) { lp_prefetch_write(place + line) }
  }

  func heldBit(_ x: Int) -> Bool { heldBits.base[x / 8] >> UInt8(x % 8) & 1 == 1 }

  func holdsSame(_ x: Int, _ bytes: RawSpan) -> Bool {
    var slot = 0
    while points[slot] != UInt32(x) { slot += 1 }
    let held = UnsafeRawBufferPointer(start: raw.base + slot * shape.chunkSize, count: shape.chunkSize)
    return bytes.withUnsafeBytes { $0.elementsEqual(held) }
  }

  /// Takes back what was told about `range`: its bytes are unknown again. An object that was solved is not any more.
  /// - Throws: `ErasureError.rangeOutOfBounds`.
  public mutating func withdraw(_ range: Range<Int>) throws(ErasureError) {
    guard range.lowerBound >= 0, range.upperBound <= shape.byteCount else {
      throw .rangeOutOfBounds(lower: range.lowerBound, upper: range.upperBound, limit: shape.byteCount)
    }
    reopen()
    if range.isEmpty || !coverage.overlaps(range) { return }
    coverage.remove(range)
    solver.forget()
    repairsSinceChange = 0
    data.zero(range)
    // Syndromes, list and transform hold bytes that are gone: make them anew from what is left.
    late.clear()
    spectrum.clear()
    forgetSyndromes()
    baseBlocks = 0
    lateBlocks = (shape.sourceCount * shape.columns - coverage.unknownSymbols) / 32
    mustTransform = !shape.isDirect
  }

  /// Forgets the solution, when it proved wrong; what was told and held stays.
  public mutating func reopen() {
    if !solved { return }
    solved = false
    eachUntoldRun { decoder, range in decoder.data.zero(range) }
  }

  mutating func eachUntoldRun(_ body: (inout Decoder, Range<Int>) -> Void) {
    for chunk in 0..<shape.sourceCount where coverage.unknown(inChunk: chunk) > 0 {
      let range = shape.range(ofChunk: chunk)
      var at = range.lowerBound
      while at < range.upperBound {
        let run = coverage.run(from: at, limit: range.upperBound)
        if !run.told { body(&self, run.range) }
        at = run.range.upperBound
      }
    }
  }

  /// Stores bytes not told before; the first one that contradicts, in which case nothing is stored.
  mutating func store(_ range: Range<Int>, _ bytes: UnsafePointer<UInt8>) -> Int? {
    if solved {
      for i in range where data.base[i] != bytes[i - range.lowerBound] { return i }
      return nil
    }
    if !coverage.overlaps(range) {
      storeNew(range, bytes)
      return nil
    }
    var at = range.lowerBound
    var hasNew = false
    while at < range.upperBound {
      let run = coverage.run(from: at, limit: range.upperBound)
      if run.told {
        for i in run.range where data.base[i] != bytes[i - range.lowerBound] { return i }
      } else {
        hasNew = true
      }
      at = run.range.upperBound
    }
    if !hasNew { return nil }
    at = range.lowerBound
    while at < range.upperBound {
      let run = coverage.run(from: at, limit: range.upperBound)
      if !run.told { storeNew(run.range, bytes + (run.range.lowerBound - range.lowerBound)) }
      at = run.range.upperBound
    }
    return nil
  }

  mutating func storeNew(_ range: Range<Int>, _ bytes: UnsafePointer<UInt8>) {
    (data.base + range.lowerBound).update(from: bytes, count: range.count)
    told(range)
  }

  /// Bytes not told before are in their place.
  private mutating func told(_ range: Range<Int>) {
    wiped = 0
    coverage.insert(range)
    solver.forget()
    repairsSinceChange = 0
    // Strips that a running transform has yet to reach will include the bytes.
    let limit = spectrum.state == .building ? spectrum.strip * 64 : shape.chunkSize
    if shape.isDirect && !anySyndrome { return }
    var at = range.lowerBound
    while at < range.upperBound {
      let chunk = at / shape.chunkSize
      let start = chunk * shape.chunkSize
      let from = at - start
      at = min(range.upperBound, start + shape.chunkSize)
      let to = min(at - start, limit)
      if from >= to { continue }
      lateBlocks += (to + 63) / 64 - from / 64
      if mustTransform || late.append(chunk: chunk, from: from, to: to) { continue }
      late.clear()
      forgetSyndromes()
      mustTransform = !shape.isDirect
    }
  }
}
