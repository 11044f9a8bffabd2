import CKernels

/// Solves the columns' systems of a decoder that has enough repair chunks.
///
/// In a column with unknown rows U and syndromes S at points R, |R| >= |U|, the unknowns are
///
///     e_j = v_j * sum over i in R of c_i / (x_i + j),   c_i = S_i * w_i,
///     w_i = L_U(x_i) / (s_k(x_i) L_R'(x_i)),            v_j = L_R(j) / L_U'(j)
///
/// with L_U and L_R the polynomials that vanish on U and R (CODE.md has the proof). R is the same everywhere, U changes
/// only where a missing range begins or ends: the columns fall into segments. So the weights are made and applied
/// segment by segment, and the Cauchy sum runs over whole rows, directly or, when that is cheaper, by transforms.
struct Solver: ~Copyable {
  /// One chunk's worth of scratch.
  private(set) var row = AlignedBytes(ObjectShape.chunkSizes.upperBound)
  private var scaled = AlignedBytes()
  private var sums = AlignedBytes()
  private var transform = AlignedBytes()
  // Grown to their size on the first solutions, then reused.
  private var touched: [Touched] = []
  private var events: [Event] = []
  private var eventHead: [Int32] = []
  private var segments: [Segment] = []
  private var outIndex: [UInt32] = []
  private var outFactor: [UInt16] = []
  private var active: [UInt32] = []
  private var place: [Int32] = []
  private var rowFactor: [UInt16] = []
  /// Sums of logarithms of L_U(x_i), L_U'(j); and of L_R parts, reduced.
  private var unknownAtPoint: [UInt32] = []
  private var unknownAtChunk: [UInt32] = []
  private var pointTerm: [UInt32] = []
  private var chunkTerm: [UInt32] = []
  private var walsh: [Int32] = []
  private var walshLog: [Int32] = []
  private var walshLogBits = -1

  /// A chunk with unknown symbols, and the blocks they span.
  private struct Touched {
    var chunk: Int32
    var first: Int32
    var last: Int32
  }

  /// Touched chunk `chunk` becomes unknown, or known again, from a column on.
  private struct Event {
    var next: Int32
    var chunk: Int32
    var begins: Bool
  }

  /// Columns with the same unknown chunks; its output factors are those from `out` on.
  private struct Segment {
    var columns: Range<Int32>
    var out: Int32
    var count: Int32
  }

  mutating func reserve(_ shape: ObjectShape) {
    scaled.reserve(shape.paddedByteCount)
    sums.reserve(shape.paddedByteCount)
    if !shape.isDirect { transform.reserve(2 * shape.points * 64) }
  }

  private var field: Field { Field.shared }

  /// `count` syndromes at `points`, one for each chunk-sized row; writes the unknown symbols into `data`, xoring.
  mutating func solve(
    _ shape: ObjectShape, _ kernel: Kernel, _ coverage: borrowing Coverage, count: Int,
    points: UnsafePointer<UInt32>, syndromes: UnsafePointer<UInt8>, data: UnsafeMutablePointer<UInt8>
  ) {
    findEvents(shape, coverage)
    let cosets = countCosets(shape, count, points)
    var direct = 0
    for t in touched { direct += Int(t.last - t.first) * count }
    let transformed = shape.strips * ((cosets + 1) * (shape.transformBlocks + shape.points))
    let byTransform = !shape.isDirect && transformed < direct
    makeTerms(shape, count, points, cosetPower: byTransform ? 2 : 1)
    scaleSyndromes(shape, kernel, count, points, syndromes)
    if byTransform {
      sumByTransforms(shape, kernel, count, points)
    } else {
      sumDirectly(shape, kernel, count, points)
    }
    writeUnknowns(shape, kernel, coverage, data)
  }

  // MARK: Segments

  private mutating func findEvents(_ shape: ObjectShape, _ coverage: borrowing Coverage) {
    touched.removeAll(keepingCapacity: true)
    events.removeAll(keepingCapacity: true)
    eventHead.removeAll(keepingCapacity: true)
    eventHead.append(contentsOf: repeatElement(-1, count: shape.columns + 1))
    for chunk in 0..<shape.sourceCount where coverage.unknown(inChunk: chunk) > 0 {
      let t = Int32(touched.count)
      var entry = Touched(chunk: Int32(chunk), first: Int32(shape.strips), last: 0)
      var before = false
      for strip in 0..<shape.strips {
        let unknown = coverage.unknown(block: chunk * shape.strips + strip)
        if unknown != 0 {
          entry.first = min(entry.first, Int32(strip))
          entry.last = Int32(strip) + 1
        }
        // Bit 2s is set where symbol s differs from the one before.
        var changes = (unknown ^ (unknown << 2 | (before ? 1 : 0))) & 0x5555_5555_5555_5555
        before = unknown >> 62 & 1 == 1
        while changes != 0 {
          let bit = changes.trailingZeroBitCount
          addEvent(strip * 32 + bit / 2, t, begins: unknown >> UInt64(bit) & 1 == 1)
          changes &= changes - 1
        }
      }
      if before { addEvent(shape.columns, t, begins: false) }
      touched.append(entry)
    }
  }

  private mutating func addEvent(_ column: Int, _ chunk: Int32, begins: Bool) {
    events.append(Event(next: eventHead[column], chunk: chunk, begins: begins))
    eventHead[column] = Int32(events.count - 1)
  }

  // MARK: Weights

  private func countCosets(_ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>) -> Int {
    var changes = 1
    for i in 1..<max(1, count) where points[i] >> UInt32(shape.bits) != points[i - 1] >> UInt32(shape.bits) {
      changes += 1
    }
    return min(changes, 65_536 >> shape.bits)
  }

  /// The parts of the weights that do not change from segment to segment, as logarithms below 65,535:
  /// pointTerm = -log(s_k(x_i)^cosetPower L_R'(x_i)), chunkTerm = log L_R(j).
  private mutating func makeTerms(
    _ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>, cosetPower: Int
  ) {
    pointTerm.removeAll(keepingCapacity: true)
    chunkTerm.removeAll(keepingCapacity: true)
    let log = field.log
    let order = UInt32(Field.order)
    if count * (count + touched.count) > 400_000 {
      let domain = walshDomain(count, points)
      walsh.removeAll(keepingCapacity: true)
      walsh.append(contentsOf: repeatElement(0, count: 1 << domain))
      for i in 0..<count { walsh[Int(points[i])] = 1 }
      sumLogarithms(domain)
      for i in 0..<count { pointTerm.append(UInt32(walsh[Int(points[i])])) }
      for t in touched { chunkTerm.append(UInt32(walsh[Int(t.chunk)])) }
    } else {
      for i in 0..<count {
        var sum: UInt32 = 0
        for other in 0..<count { sum &+= UInt32(log[Int(points[i] ^ points[other])]) }
        pointTerm.append(sum % order)
      }
      for t in touched {
        var sum: UInt32 = 0
        for i in 0..<count { sum &+= UInt32(log[Int(points[i] ^ UInt32(t.chunk))]) }
        chunkTerm.append(sum % order)
      }
    }
    for i in 0..<count {
      let coset = UInt32(log[Int(points[i]) >> shape.bits]) * UInt32(cosetPower)
      pointTerm[i] = (3 * order - pointTerm[i] - coset) % order
    }
  }

  private func walshDomain(_ count: Int, _ points: UnsafePointer<UInt32>) -> Int {
    var largest: UInt32 = 1
    for i in 0..<count { largest = max(largest, points[i]) }
    return 32 - largest.leadingZeroBitCount
  }

  /// walsh[y] = sum of log(x ^ y) over the points x whose walsh[x] is 1, modulo 65,535: a convolution.
  private mutating func sumLogarithms(_ bits: Int) {
    if walshLogBits != bits {
      walshLog = (0..<1 << bits).map { Int32(field.log[$0]) }
      gf16_walsh(&walshLog, UInt32(bits))
      walshLogBits = bits
    }
    gf16_walsh(&walsh, UInt32(bits))
    gf16_walsh_multiply(&walsh, walshLog, 1 << bits, 1)
    gf16_walsh(&walsh, UInt32(bits))
    // 2^16 is 1 modulo 65,535, so 2^(16 - bits) divides by 2^bits.
    for i in walsh.indices {
      let value = Int(walsh[i]) % Field.order
      walsh[i] = Int32((value + Field.order) << (16 - bits) % Field.order)
    }
  }

  /// scaled = w_i * syndrome, segment by segment; keeps v_j of each for the end.
  private mutating func scaleSyndromes(
    _ shape: ObjectShape, _ kernel: Kernel, _ count: Int, _ points: UnsafePointer<UInt32>,
    _ syndromes: UnsafePointer<UInt8>
  ) {
    unknownAtPoint.removeAll(keepingCapacity: true)
    unknownAtPoint.append(contentsOf: repeatElement(0, count: count))
    unknownAtChunk.removeAll(keepingCapacity: true)
    unknownAtChunk.append(contentsOf: repeatElement(0, count: touched.count))
    place.removeAll(keepingCapacity: true)
    place.append(contentsOf: repeatElement(-1, count: touched.count))
    rowFactor.removeAll(keepingCapacity: true)
    rowFactor.append(contentsOf: repeatElement(0, count: count))
    active.removeAll(keepingCapacity: true)
    segments.removeAll(keepingCapacity: true)
    outIndex.removeAll(keepingCapacity: true)
    outFactor.removeAll(keepingCapacity: true)

    let order = UInt32(Field.order)
    var column = 0
    while column < shape.columns {
      enterAndLeave(column, count, points)
      var end = column + 1
      while end < shape.columns, eventHead[end] < 0 { end += 1 }
      if !active.isEmpty {
        for i in 0..<count { rowFactor[i] = field.exp[Int((unknownAtPoint[i] % order) + pointTerm[i])] }
        scale(kernel, Int32(column)..<Int32(end), scaled.base, syndromes, shape.chunkSize, count, nil, rowFactor)
        segments.append(
          Segment(
            columns: Int32(column)..<Int32(end), out: Int32(outIndex.count), count: Int32(active.count)))
        for t in active {
          outIndex.append(t)
          outFactor.append(field.exp[Int(chunkTerm[Int(t)] + order - unknownAtChunk[Int(t)] % order)])
        }
      }
      column = end
    }
  }

  private mutating func enterAndLeave(_ column: Int, _ count: Int, _ points: UnsafePointer<UInt32>) {
    var at = eventHead[column]
    var entering = 0
    while at >= 0 {
      let event = events[Int(at)]
      if event.begins { entering += 1 } else { leave(event.chunk, count, points) }
      at = event.next
    }
    if entering * (count + entering) > 400_000, active.isEmpty {
      enterTogether(column, count, points)
      return
    }
    at = eventHead[column]
    while at >= 0 {
      let event = events[Int(at)]
      if event.begins { enter(event.chunk, count, points) }
      at = event.next
    }
  }

  private mutating func enter(_ t: Int32, _ count: Int, _ points: UnsafePointer<UInt32>) {
    let chunk = UInt32(touched[Int(t)].chunk)
    let log = field.log
    for i in 0..<count { unknownAtPoint[i] &+= UInt32(log[Int(points[i] ^ chunk)]) }
    var own: UInt32 = 0
    for other in active {
      let term = UInt32(log[Int(chunk ^ UInt32(touched[Int(other)].chunk))])
      unknownAtChunk[Int(other)] &+= term
      own &+= term
    }
    unknownAtChunk[Int(t)] = own
    place[Int(t)] = Int32(active.count)
    active.append(UInt32(t))
  }

  private mutating func leave(_ t: Int32, _ count: Int, _ points: UnsafePointer<UInt32>) {
    let chunk = UInt32(touched[Int(t)].chunk)
    let log = field.log
    for i in 0..<count { unknownAtPoint[i] &-= UInt32(log[Int(points[i] ^ chunk)]) }
    let last = active.removeLast()
    if last != UInt32(t) {
      let hole = place[Int(t)]
      active[Int(hole)] = last
      place[Int(last)] = hole
    }
    place[Int(t)] = -1
    for other in active {
      unknownAtChunk[Int(other)] &-= UInt32(log[Int(chunk ^ UInt32(touched[Int(other)].chunk))])
    }
  }

  /// Very many chunks at once, from none: the sums by convolution.
  private mutating func enterTogether(_ column: Int, _ count: Int, _ points: UnsafePointer<UInt32>) {
    let domain = walshDomain(count, points)
    walsh.removeAll(keepingCapacity: true)
    walsh.append(contentsOf: repeatElement(0, count: 1 << domain))
    var at = eventHead[column]
    while at >= 0 {
      let event = events[Int(at)]
      if event.begins {
        walsh[Int(touched[Int(event.chunk)].chunk)] = 1
        place[Int(event.chunk)] = Int32(active.count)
        active.append(UInt32(event.chunk))
      }
      at = event.next
    }
    sumLogarithms(domain)
    // Later events add and subtract logarithms: start high enough that the sums can't go below zero.
    let margin = UInt32(Field.order) * UInt32(ObjectShape.maxSourceChunks)
    for i in 0..<count { unknownAtPoint[i] = UInt32(walsh[Int(points[i])]) + margin }
    for t in active { unknownAtChunk[Int(t)] = UInt32(walsh[Int(touched[Int(t)].chunk)]) + margin }
  }

  private func scale(
    _ kernel: Kernel, _ columns: Range<Int32>, _ out: UnsafeMutablePointer<UInt8>, _ from: UnsafePointer<UInt8>,
    _ stride: Int, _ count: Int, _ index: UnsafePointer<UInt32>?, _ factors: UnsafePointer<UInt16>
  ) {
    let first = Int(columns.lowerBound) / 32
    let last = (Int(columns.upperBound) + 31) / 32
    let firstMask = UInt32.max << UInt32(columns.lowerBound % 32)
    let used = UInt32(columns.upperBound % 32)
    let lastMask = used == 0 ? UInt32.max : ~(UInt32.max << used)
    kernel.ops.pointee.scale_rows(
      out, stride, from, stride, count, index, factors, first, last, firstMask, lastMask)
  }

  // MARK: The Cauchy sum

  private mutating func sumDirectly(
    _ shape: ObjectShape, _ kernel: Kernel, _ count: Int, _ points: UnsafePointer<UInt32>
  ) {
    for (t, entry) in touched.enumerated() {
      let offset = Int(entry.first) * 64
      let blocks = Int(entry.last - entry.first)
      let out = sums.base + t * shape.chunkSize + offset
      for i in 0..<count {
        let factor = field.inverse[Int(points[i]) ^ Int(entry.chunk)]
        let from = scaled.base + i * shape.chunkSize + offset
        if i == 0 {
          kernel.ops.pointee.mul(out, from, blocks, factor)
        } else {
          kernel.ops.pointee.muladd(out, from, blocks, factor)
        }
      }
    }
  }

  /// For the points of one coset of the K source points, sum c_i / (x_i + y) is, up to the coset's constant, the
  /// polynomial that takes the values c_i (zero where no chunk is held), evaluated at the source points y.
  private mutating func sumByTransforms(
    _ shape: ObjectShape, _ kernel: Kernel, _ count: Int, _ points: UnsafePointer<UInt32>
  ) {
    let bits = UInt32(shape.bits)
    let size = shape.points * 64
    let (total, part) = (transform.base, transform.base + size)
    let order = (0..<count).sorted { points[$0] < points[$1] }
    for strip in 0..<shape.strips {
      var at = 0
      var isFirst = true
      while at < count {
        let coset = points[order[at]] >> bits
        let offset = coset << bits
        let lo = points[order[at]] - offset
        var end = at
        while end < count, points[order[end]] >> bits == coset { end += 1 }
        let hi = points[order[end - 1]] - offset + 1
        let rows = isFirst ? total : part
        (rows + Int(lo) * 64).update(repeating: 0, count: Int(hi - lo) * 64)
        for i in order[at..<end] {
          (rows + Int(points[i] - offset) * 64)
            .update(from: scaled.base + i * shape.chunkSize + strip * 64, count: 64)
        }
        kernel.ops.pointee.ifft(rows, bits, offset, lo, hi)
        if !isFirst { kernel.ops.pointee.add(total, part, shape.points) }
        isFirst = false
        at = end
      }
      let first = UInt32(touched.first!.chunk)
      let last = UInt32(touched.last!.chunk)
      kernel.ops.pointee.fft(total, bits, 0, first, last + 1)
      for (t, entry) in touched.enumerated() {
        (sums.base + t * shape.chunkSize + strip * 64).update(from: total + Int(entry.chunk) * 64, count: 64)
      }
    }
  }

  // MARK: The unknowns

  private mutating func writeUnknowns(
    _ shape: ObjectShape, _ kernel: Kernel, _ coverage: borrowing Coverage, _ data: UnsafeMutablePointer<UInt8>
  ) {
    outIndex.withUnsafeBufferPointer { index in
      outFactor.withUnsafeBufferPointer { factor in
        for segment in segments {
          scale(
            kernel, segment.columns, sums.base, sums.base, shape.chunkSize, Int(segment.count),
            index.baseAddress! + Int(segment.out), factor.baseAddress! + Int(segment.out))
        }
      }
    }
    let masks = row.bound(to: UInt64.self)
    for (t, entry) in touched.enumerated() {
      let (first, last) = (Int(entry.first), Int(entry.last))
      for strip in first..<last {
        // Of a symbol that is half told, only the other half: should the told one be wrong, it is not hidden.
        masks[strip - first] = ~coverage.told(block: Int(entry.chunk) * shape.strips + strip)
      }
      kernel.ops.pointee.join(
        data + Int(entry.chunk) * shape.chunkSize + first * 64, sums.base + t * shape.chunkSize + first * 64,
        masks, last - first)
    }
  }
}
