import CKernels

extension Solver {
  /// `count` syndromes at `points`, one for each chunk-sized row; xors the unknown symbols onto `data`. Returns the work
  /// done.
  mutating func solve(
    _ shape: ObjectShape, _ kernel: Kernel, _ coverage: borrowing Coverage, count: Int,
    points: UnsafePointer<UInt32>, syndromes: UnsafePointer<UInt8>, data: UnsafeMutablePointer<UInt8>
  ) -> Int {
    var work = isPlanned ? 0 : plan(shape, coverage)
    let cosets = cosetChanges(shape, count, points)
    var direct = 0
    for t in touched { direct += Int(t.last - t.first) * count }
    let transformed = shape.strips * ((cosets + 1) * (shape.transformBlocks + shape.points))
    let grouped = direct < Solver.directMost * shape.strips ? .max : planGroups(shape, count, points)
    let byTransform = !shape.isDirect && transformed < min(direct, grouped)
    let byGroups = !byTransform && grouped < direct
    let byConvolution = cosets <= 6 && count * (count + touched.count) > 100_000
    if byTransform || byConvolution { groupByCoset(bits: shape.bits, count, points) }
    makeTerms(shape, count, points, byConvolution: byConvolution, cosetPower: byTransform ? 2 : 1)
    for i in 0..<count {
      if isScaled(i) {
        let row = scaled.base + i * shape.chunkSize
        kernel.ops.pointee.mul(row, row, shape.strips, field.exp[Int(pointTerm[i])])
        work += shape.strips
      } else {
        work += scaleRow(
          i, Int(points[i]), syndromes + i * shape.chunkSize, shape, kernel, extra: pointTerm[i])
      }
    }
    if byTransform {
      sumByTransforms(shape, kernel, points)
    } else if byGroups {
      sumByGroups(shape, kernel, count, points)
    } else {
      for t in touched.indices { sumDirectly(t, shape, kernel, count, points) }
    }
    writeUnknowns(shape, kernel, coverage, data)
    // The rows have their R in them now.
    forget()
    // Factors by pairs of points cost about a quarter of a block each; then the sum, and two passes over the outputs.
    let factors = byConvolution ? shape.points * 16 : count * (count + touched.count) / 4
    return work + factors + (byTransform ? transformed : byGroups ? grouped : direct)
      + 2 * shape.strips * touched.count
  }

  /// Multiplications for each strip below which it isn't worth looking for a cheaper way than the direct one.
  private static let directMost = 2_048

  /// No less than the number of cosets that the points lie in; equal when they are in order.
  private func cosetChanges(_ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>) -> Int {
    var changes = 1
    for i in 1..<max(1, count) where points[i] >> UInt32(shape.bits) != points[i - 1] >> UInt32(shape.bits) {
      changes += 1
    }
    return min(changes, 65_536 >> shape.bits)
  }

  /// Fills `cosetRows` and `cosetRuns`.
  mutating func groupByCoset(bits: Int, _ count: Int, _ points: UnsafePointer<UInt32>) {
    let bits = UInt32(bits)
    cosetRuns.removeAll(keepingCapacity: true)
    Self.fill(&cosetRows, 0, count)
    // At most 2,048 of them.
    Self.fill(&cosetHead, -1, 65_536 >> Int(bits))
    Self.fill(&cosetNext, -1, count)
    for i in stride(from: count - 1, through: 0, by: -1) {
      let coset = Int(points[i] >> bits)
      cosetNext[i] = cosetHead[coset]
      cosetHead[coset] = Int32(i)
    }
    var filled = 0
    for coset in cosetHead.indices where cosetHead[coset] >= 0 {
      var run = CosetRun(offset: UInt32(coset) << bits, lo: .max, hi: 0, begin: filled, end: filled)
      var row = cosetHead[coset]
      while row >= 0 {
        let place = points[Int(row)] - run.offset
        run.lo = min(run.lo, place)
        run.hi = max(run.hi, place + 1)
        cosetRows[run.end] = row
        run.end += 1
        row = cosetNext[Int(row)]
      }
      filled = run.end
      cosetRuns.append(run)
    }
  }

  /// The factors that depend on R, as logarithms below 65,535: pointTerm = -log(s_k(x_i)^cosetPower L_R'(x_i)),
  /// chunkTerm = log L_R(j).
  private mutating func makeTerms(
    _ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>, byConvolution: Bool, cosetPower: Int
  ) {
    let log = field.log
    let order = UInt32(Field.order)
    pointTerm.removeAll(keepingCapacity: true)
    chunkTerm.removeAll(keepingCapacity: true)
    if byConvolution {
      makeTermsByConvolution(shape, count, points)
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

  /// One set of points for each coset that has any.
  private mutating func makeTermsByConvolution(
    _ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>
  ) {
    let order = UInt32(Field.order)
    pointTerm.append(contentsOf: repeatElement(0, count: count))
    chunkTerm.append(contentsOf: repeatElement(0, count: touched.count))
    for run in cosetRuns {
      pointSums.reset(shape)
      for row in cosetRows[run.begin..<run.end] { pointSums.insert(Int(points[Int(row)])) }
      let offset = Int(run.offset)
      for i in 0..<count { pointTerm[i] = (pointTerm[i] + pointSums.value(at: Int(points[i]) ^ offset)) % order }
      for t in touched.indices {
        chunkTerm[t] = (chunkTerm[t] + pointSums.value(at: Int(touched[t].chunk) ^ offset)) % order
      }
    }
  }

  // MARK: The Cauchy sum

  /// Of the touched chunk number `t`.
  mutating func sumDirectly(
    _ t: Int, _ shape: ObjectShape, _ kernel: Kernel, _ count: Int, _ points: UnsafePointer<UInt32>
  ) {
    let entry = touched[t]
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

  /// For the points of one coset of the K source points, sum c_i / (x_i + y) is, up to the coset's constant, the
  /// polynomial that takes the values c_i (zero where no chunk is held), evaluated at the source points y.
  private mutating func sumByTransforms(
    _ shape: ObjectShape, _ kernel: Kernel, _ points: UnsafePointer<UInt32>
  ) {
    let bits = UInt32(shape.bits)
    let (total, part) = (transform.base, transform.base + shape.points * 64)
    for strip in 0..<shape.strips {
      for (number, run) in cosetRuns.enumerated() {
        let rows = number == 0 ? total : part
        if Int(run.hi - run.lo) > run.end - run.begin {
          (rows + Int(run.lo) * 64).update(repeating: 0, count: Int(run.hi - run.lo) * 64)
        }
        for at in run.begin..<run.end {
          let row = Int(cosetRows[at])
          (rows + Int(points[row] - run.offset) * 64)
            .update(from: scaled.base + row * shape.chunkSize + strip * 64, count: 64)
        }
        kernel.ops.pointee.ifft(rows, bits, run.offset, run.lo, run.hi)
        if number > 0 { kernel.ops.pointee.add(total, part, shape.points) }
      }
      kernel.ops.pointee.fft(total, bits, 0, UInt32(touched.first!.chunk), UInt32(touched.last!.chunk) + 1)
      for (t, entry) in touched.enumerated() {
        (sums.base + t * shape.chunkSize + strip * 64).update(from: total + Int(entry.chunk) * 64, count: 64)
      }
    }
  }

  // MARK: The unknowns

  private mutating func writeUnknowns(
    _ shape: ObjectShape, _ kernel: Kernel, _ coverage: borrowing Coverage, _ data: UnsafeMutablePointer<UInt8>
  ) {
    let masks = row.bound(to: UInt64.self)
    let order = UInt32(Field.order)
    for (t, entry) in touched.enumerated() {
      let (first, blocks) = (Int(entry.first), Int(entry.last - entry.first))
      let start = sums.base + t * shape.chunkSize
      let outputs = Int(entry.out)..<Int(entry.out + entry.outCount)
      // L_R(j): into the factors of few segments, or else over the whole row.
      if outputs.count <= 8 {
        for i in outputs {
          outFactor[i] = field.exp[Int((UInt32(field.log[Int(outFactor[i])]) + chunkTerm[t]) % order)]
        }
      } else {
        kernel.ops.pointee.mul(start + first * 64, start + first * 64, blocks, field.exp[Int(chunkTerm[t])])
      }
      outBegin.withUnsafeBufferPointer { begin in
        outEnd.withUnsafeBufferPointer { end in
          outFactor.withUnsafeBufferPointer { factor in
            kernel.ops.pointee.scale_segments(
              start, start, outputs.count, begin.baseAddress! + outputs.lowerBound,
              end.baseAddress! + outputs.lowerBound, factor.baseAddress! + outputs.lowerBound)
          }
        }
      }
      for block in 0..<blocks {
        // Of a symbol that is half told, only the other half: should the told one be wrong, it is not hidden.
        masks[block] = ~coverage.told(block: Int(entry.chunk) * shape.strips + first + block)
      }
      kernel.ops.pointee.join(
        data + Int(entry.chunk) * shape.chunkSize + first * 64, start + first * 64, masks, blocks)
    }
  }
}
