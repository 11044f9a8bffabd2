import CKernels

/// Solves the columns' systems of a decoder that has enough repair chunks.
///
/// In a column with unknown rows U and syndromes S at points R, |R| >= |U|, the unknowns are
///
///     e_j = L_R(j) / L_U'(j) * sum over i in R of c_i / (x_i + j),   c_i = S_i L_U(x_i) / (s_k(x_i) L_R'(x_i))
///
/// with L_U and L_R the polynomials that vanish on U and R (CODE.md has the proof). R is the same in all columns. U
/// changes only where a missing range begins or ends, so the columns fall into segments, and the factors with U in them
/// differ from segment to segment. These are known before R is: `plan` prepares them and `scaleRow` applies them to each
/// syndrome as it comes. What `solve` does after the last one is the factors with R and the Cauchy sum over whole rows,
/// directly or, when that is cheaper, by transforms.
struct Solver: ~Copyable {
  /// One chunk's worth of scratch.
  private(set) var row = AlignedBytes(ObjectShape.chunkSizes.upperBound)
  /// c_i without the parts that depend on R, until `solve`.
  var scaled = AlignedBytes()
  var sums = AlignedBytes()
  var transform = AlignedBytes()
  /// 1 for each row of `scaled` that is made.
  private var rowStates = AlignedBytes()
  private(set) var isPlanned = false

  // Grown to their size on the first solutions, then reused.
  var touched: [Touched] = []
  private var events: [Event] = []
  private var eventHead: [Int32] = []
  /// Segments with unknown chunks, in order: columns, and where their steps end.
  private var segmentBegin: [UInt16] = []
  private var segmentEnd: [UInt16] = []
  private var segmentSteps: [Int32] = []
  /// What changes in U from segment to segment: chunk, or ~chunk where it leaves.
  private var steps: [Int32] = []
  private var segmentFactor: [UInt16] = []
  /// Segments of each touched chunk, and in them 1 / L_U'(j).
  var out: [Output] = []
  var outBegin: [UInt16] = []
  var outEnd: [UInt16] = []
  var outFactor: [UInt16] = []
  private var outStart: [Int32] = []
  private var active: [Int32] = []
  private var place: [Int32] = []
  /// Sum of the logarithms of the factors of L_U'(j), per touched chunk.
  private var unknownAtChunk: [UInt32] = []
  /// Logarithms of 1 / (s_k(x_i) L_R'(x_i)) and L_R(j), below 65,535.
  var pointTerm: [UInt32] = []
  var chunkTerm: [UInt32] = []
  private var unknownSums = LogarithmSums()
  var pointSums = LogarithmSums()
  /// Rows by the coset of the K source points that their point lies in, and the cosets that have any.
  var cosetRows: [Int32] = []
  var cosetRuns: [CosetRun] = []
  var cosetHead: [Int32] = []
  var cosetNext: [Int32] = []
  /// Groups of touched chunks whose sums come cheaper by transforms, in order.
  var chunkGroups: [ChunkGroup] = []
  /// The first segment has so many unknown chunks that their logarithms are summed by convolution.
  private var isBulk = false

  /// A chunk with unknown symbols, the blocks they span, and where its outputs begin.
  struct Touched {
    var chunk: Int32
    var first: Int32
    var last: Int32
    var out: Int32 = 0
    var outCount: Int32 = 0
  }

  /// The points of one coset: rows `cosetRows[begin..<end]`, at offset + (lo ..< hi).
  struct CosetRun {
    var offset: UInt32
    var lo: UInt32
    var hi: UInt32
    var begin: Int
    var end: Int
  }

  /// Output of a touched chunk in a segment, in order of segments.
  struct Output {
    var touched: Int32
    var segment: Int32
    var factor: UInt16
  }

  /// Touched chunk `chunk` becomes unknown, or known again, from a column on.
  private struct Event {
    var next: Int32
    var chunk: Int32
    var begins: Bool
  }

  var field: Field { Field.shared }

  mutating func reserve(_ shape: ObjectShape) {
    scaled.reserve(shape.paddedByteCount)
    sums.reserve(shape.paddedByteCount)
    rowStates.reserve(shape.sourceCount)
    if !shape.isDirect { transform.reserve(2 * shape.points * 64) }
    forget()
  }

  /// What is unknown has changed.
  mutating func forget() { isPlanned = false }

  func isScaled(_ slot: Int) -> Bool { isPlanned && rowStates.base[slot] == 1 }

  // MARK: Segments

  /// Finds the segments and the factors that need only U. Returns the work done.
  mutating func plan(_ shape: ObjectShape, _ coverage: borrowing Coverage) -> Int {
    findEvents(shape, coverage)
    segmentBegin.removeAll(keepingCapacity: true)
    segmentEnd.removeAll(keepingCapacity: true)
    segmentSteps.removeAll(keepingCapacity: true)
    steps.removeAll(keepingCapacity: true)
    out.removeAll(keepingCapacity: true)
    active.removeAll(keepingCapacity: true)
    Self.fill(&place, -1, touched.count)
    Self.fill(&unknownAtChunk, 0, touched.count)
    unknownSums.reset(shape)
    isBulk = false

    var column = 0
    var work = touched.count * shape.strips / 8
    while column < shape.columns {
      work += enterAndLeave(column)
      var end = column + 1
      while end < shape.columns, eventHead[end] < 0 { end += 1 }
      if !active.isEmpty { addSegment(column, end) }
      column = end
    }
    sortOutputs()
    Self.fill(&segmentFactor, 0, segmentBegin.count)
    rowStates.zero(0..<shape.sourceCount)
    isPlanned = true
    return work / 2 + out.count * 2
  }

  static func fill<T>(_ array: inout [T], _ value: T, _ count: Int) {
    array.removeAll(keepingCapacity: true)
    array.append(contentsOf: repeatElement(value, count: count))
  }

  private mutating func findEvents(_ shape: ObjectShape, _ coverage: borrowing Coverage) {
    touched.removeAll(keepingCapacity: true)
    events.removeAll(keepingCapacity: true)
    Self.fill(&eventHead, -1, shape.columns + 1)
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

  private mutating func enterAndLeave(_ column: Int) -> Int {
    var at = eventHead[column]
    var (entering, work) = (0, 0)
    while at >= 0 {
      let event = events[Int(at)]
      if event.begins { entering += 1 } else { leave(event.chunk) }
      work += active.count
      at = event.next
    }
    at = eventHead[column]
    if entering > 300, segmentBegin.isEmpty {
      enterTogether(at)
      return entering
    }
    while at >= 0 {
      let event = events[Int(at)]
      if event.begins { enter(event.chunk) }
      at = event.next
    }
    return work + entering * active.count
  }

  private mutating func enter(_ t: Int32) {
    let chunk = touched[Int(t)].chunk
    let log = field.log
    var own: UInt32 = 0
    for other in active {
      let term = UInt32(log[Int(chunk ^ touched[Int(other)].chunk)])
      unknownAtChunk[Int(other)] &+= term
      own &+= term
    }
    unknownAtChunk[Int(t)] = own
    place[Int(t)] = Int32(active.count)
    active.append(t)
    steps.append(chunk)
  }

  private mutating func leave(_ t: Int32) {
    let chunk = touched[Int(t)].chunk
    let log = field.log
    let last = active.removeLast()
    if last != t {
      let hole = place[Int(t)]
      active[Int(hole)] = last
      place[Int(last)] = hole
    }
    place[Int(t)] = -1
    for other in active { unknownAtChunk[Int(other)] &-= UInt32(log[Int(chunk ^ touched[Int(other)].chunk)]) }
    steps.append(~chunk)
  }

  /// Very many chunks at once, from none: their sums by convolution, and no steps.
  private mutating func enterTogether(_ head: Int32) {
    var at = head
    while at >= 0 {
      let event = events[Int(at)]
      if event.begins {
        unknownSums.insert(Int(touched[Int(event.chunk)].chunk))
        place[Int(event.chunk)] = Int32(active.count)
        active.append(event.chunk)
      }
      at = event.next
    }
    steps.removeAll(keepingCapacity: true)
    isBulk = true
    // Later events add and subtract logarithms: start so high that the sums can't go below zero.
    for t in active {
      unknownAtChunk[Int(t)] = unknownSums.value(at: Int(touched[Int(t)].chunk)) + LogarithmSums.margin
    }
  }

  private mutating func addSegment(_ begin: Int, _ end: Int) {
    let order = UInt32(Field.order)
    segmentBegin.append(UInt16(begin))
    segmentEnd.append(UInt16(end))
    segmentSteps.append(Int32(steps.count))
    let segment = Int32(segmentBegin.count - 1)
    for t in active {
      let factor = field.exp[Int(order - unknownAtChunk[Int(t)] % order)]
      out.append(Output(touched: t, segment: segment, factor: factor))
      touched[Int(t)].outCount += 1
    }
  }

  /// Outputs by chunk, for each in order of columns.
  private mutating func sortOutputs() {
    Self.fill(&outStart, 0, touched.count)
    Self.fill(&outBegin, 0, out.count)
    Self.fill(&outEnd, 0, out.count)
    Self.fill(&outFactor, 0, out.count)
    var start: Int32 = 0
    for t in touched.indices {
      touched[t].out = start
      outStart[t] = start
      start += touched[t].outCount
    }
    for output in out {
      let at = Int(outStart[Int(output.touched)])
      outStart[Int(output.touched)] += 1
      outBegin[at] = segmentBegin[Int(output.segment)]
      outEnd[at] = segmentEnd[Int(output.segment)]
      outFactor[at] = output.factor
    }
  }

  // MARK: Rows

  /// Multiplies the syndrome of `slot`, at point `x`, by L_U(x) segment by segment, and by the element whose logarithm
  /// is `extra`. Returns the work done.
  mutating func scaleRow(
    _ slot: Int, _ x: Int, _ syndrome: UnsafePointer<UInt8>, _ shape: ObjectShape, _ kernel: Kernel, extra: UInt32 = 0
  ) -> Int {
    let order = UInt32(Field.order)
    let log = field.log
    let exp = field.exp
    var sum = isBulk ? unknownSums.value(at: x) + LogarithmSums.margin : 0
    var at = 0
    for segment in segmentBegin.indices {
      let end = Int(segmentSteps[segment])
      while at < end {
        let step = steps[at]
        if step >= 0 { sum &+= UInt32(log[x ^ Int(step)]) } else { sum &-= UInt32(log[x ^ Int(~step)]) }
        at += 1
      }
      segmentFactor[segment] = exp[Int(sum % order + extra)]
    }
    kernel.ops.pointee.scale_segments(
      scaled.base + slot * shape.chunkSize, syndrome, segmentBegin.count, segmentBegin, segmentEnd, segmentFactor)
    rowStates.base[slot] = 1
    return steps.count / 2 + segmentBegin.count * 4 + shape.strips
  }
}
