import CKernels

extension Solver {
  /// `count` syndromes at `points`, one for each chunk-sized row; xors the unknown symbols onto `data`.
  mutating func solve(
    _ shape: ObjectShape, _ kernel: Kernel, _ coverage: borrowing Coverage, count: Int,
    points: UnsafePointer<UInt32>, syndromes: UnsafePointer<UInt8>, data: UnsafeMutablePointer<UInt8>
  ) {
    if !isPlanned { _ = plan(shape, coverage) }
    let cosets = cosetChanges(shape, count, points)
    var direct = 0
    for t in touched { direct += Int(t.last - t.first) * count }
    let transformed = shape.strips * ((cosets + 1) * (shape.transformBlocks + shape.points))
    let byTransform = !shape.isDirect && transformed < direct
    makeTerms(shape, count, points, cosets: cosets, cosetPower: byTransform ? 2 : 1)
    for i in 0..<count {
      if isScaled(i) {
        let row = scaled.base + i * shape.chunkSize
        kernel.ops.pointee.mul(row, row, shape.strips, field.exp[Int(pointTerm[i])])
      } else {
        _ = scaleRow(
          i, Int(points[i]), syndromes + i * shape.chunkSize, shape, kernel, extra: pointTerm[i])
      }
    }
    if byTransform {
      sumByTransforms(shape, kernel, count, points)
    } else {
      sumDirectly(shape, kernel, count, points)
    }
    writeUnknowns(shape, kernel, coverage, data)
    // The rows have their R in them now.
    forget()
  }

  /// No less than the number of cosets that the points lie in; equal when they are in order.
  private func cosetChanges(_ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>) -> Int {
    var changes = 1
    for i in 1..<max(1, count) where points[i] >> UInt32(shape.bits) != points[i - 1] >> UInt32(shape.bits) {
      changes += 1
    }
    return min(changes, 65_536 >> shape.bits)
  }

  /// The factors that depend on R, as logarithms below 65,535: pointTerm = -log(s_k(x_i)^cosetPower L_R'(x_i)),
  /// chunkTerm = log L_R(j).
  private mutating func makeTerms(
    _ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>, cosets: Int, cosetPower: Int
  ) {
    let log = field.log
    let order = UInt32(Field.order)
    pointTerm.removeAll(keepingCapacity: true)
    chunkTerm.removeAll(keepingCapacity: true)
    if cosets <= 6, count * (count + touched.count) > 100_000 {
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
    var done: Set<UInt32> = []
    for first in 0..<count {
      let coset = points[first] >> UInt32(shape.bits)
      if !done.insert(coset).inserted { continue }
      pointSums.reset(shape)
      for i in first..<count where points[i] >> UInt32(shape.bits) == coset { pointSums.insert(Int(points[i])) }
      let offset = Int(coset) << shape.bits
      for i in 0..<count { pointTerm[i] = (pointTerm[i] + pointSums.value(at: Int(points[i]) ^ offset)) % order }
      for t in touched.indices {
        chunkTerm[t] = (chunkTerm[t] + pointSums.value(at: Int(touched[t].chunk) ^ offset)) % order
      }
    }
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
    let (total, part) = (transform.base, transform.base + shape.points * 64)
    let order = (0..<count).sorted { points[$0] < points[$1] }
    for strip in 0..<shape.strips {
      var at = 0
      var isFirst = true
      while at < count {
        let offset = (points[order[at]] >> bits) << bits
        let lo = points[order[at]] - offset
        var end = at
        while end < count, points[order[end]] >> bits == offset >> bits { end += 1 }
        let hi = points[order[end - 1]] - offset + 1
        let rows = isFirst ? total : part
        if Int(hi - lo) > end - at {
          (rows + Int(lo) * 64).update(repeating: 0, count: Int(hi - lo) * 64)
        }
        for i in order[at..<end] {
          (rows + Int(points[i] - offset) * 64)
            .update(from: scaled.base + i * shape.chunkSize + strip * 64, count: 64)
        }
        kernel.ops.pointee.ifft(rows, bits, offset, lo, hi)
        if !isFirst { kernel.ops.pointee.add(total, part, shape.points) }
        isFirst = false
        at = end
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
