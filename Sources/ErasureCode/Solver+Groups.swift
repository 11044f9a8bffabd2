import CKernels

/// The Cauchy sum by small transforms, where unknown chunks lie close together, as a large transaction leaves them.
///
/// For the points x of one aligned group of 32 and the chunks y of another, sum c_x / (x + y) is P(y) / s_5(x + y): P is
/// the polynomial of degree below 32 that takes the values c_x at the group's points (zero where no chunk is held), and
/// s_5, which vanishes on the first 32 points, is one constant for the two groups (CODE.md). So each group of points is
/// interpolated once, and a group of chunks adds the polynomials up, each times its constant, and evaluates the sum:
/// 32 multiplications for each group of points, however many of its 32 chunks are unknown, in place of one for each pair
/// of chunk and point.
extension Solver {
  static let groupBits = 5

  /// Touched chunks of one aligned group, and the strips that they span.
  struct ChunkGroup {
    var begin: Int
    var end: Int
    var first: Int32
    var last: Int32
  }

  /// Finds the groups of chunks that come cheaper by transforms, and returns the work of the whole sum with them; `.max`
  /// when there are none. Leaves the points grouped.
  mutating func planGroups(_ shape: ObjectShape, _ count: Int, _ points: UnsafePointer<UInt32>) -> Int {
    chunkGroups.removeAll(keepingCapacity: true)
    let size = 1 << Solver.groupBits
    if shape.isDirect || shape.bits <= Solver.groupBits || count < size { return .max }
    groupByCoset(bits: Solver.groupBits, count, points)
    let groups = cosetRuns.count
    if (groups + 1) * size > 2 * shape.points { return .max }
    var work = 0
    var (first, last) = (Int32.max, Int32(0))
    var begin = 0
    while begin < touched.count {
      let number = touched[begin].chunk >> Int32(Solver.groupBits)
      var group = ChunkGroup(begin: begin, end: begin, first: .max, last: 0)
      var direct = 0
      while group.end < touched.count, touched[group.end].chunk >> Int32(Solver.groupBits) == number {
        let entry = touched[group.end]
        direct += Int(entry.last - entry.first) * count
        group.first = min(group.first, entry.first)
        group.last = max(group.last, entry.last)
        group.end += 1
      }
      let transformed = Int(group.last - group.first) * (groups * size + Solver.transformWork)
      if transformed < direct {
        chunkGroups.append(group)
        (first, last) = (min(first, group.first), max(last, group.last))
      }
      work += min(direct, transformed)
      begin = group.end
    }
    return chunkGroups.isEmpty ? .max : work + Int(last - first) * (groups * Solver.transformWork + count / 4)
  }

  /// Of one group's transform: half a multiplication for each row and level.
  private static let transformWork = groupBits << (groupBits - 1)

  /// The groups that `planGroups` found by transforms, the other chunks directly.
  mutating func sumByGroups(
    _ shape: ObjectShape, _ kernel: Kernel, _ count: Int, _ points: UnsafePointer<UInt32>
  ) {
    groupByCoset(bits: Solver.groupBits, count, points)
    var next = 0
    for group in chunkGroups {
      for t in next..<group.begin { sumDirectly(t, shape, kernel, count, points) }
      next = group.end
    }
    for t in next..<touched.count { sumDirectly(t, shape, kernel, count, points) }

    let size = 1 << Solver.groupBits
    let out = transform.base + cosetRuns.count * size * 64
    for strip in 0..<Int32(shape.strips) where chunkGroups.contains(where: { $0.first <= strip && strip < $0.last }) {
      for (number, run) in cosetRuns.enumerated() {
        interpolate(run, strip, shape, kernel, points, into: transform.base + number * size * 64)
      }
      for group in chunkGroups where group.first <= strip && strip < group.last {
        let base = touched[group.begin].chunk >> Int32(Solver.groupBits)
        for (number, run) in cosetRuns.enumerated() {
          let factor = field.inverse[Int(run.offset >> UInt32(Solver.groupBits)) ^ Int(base)]
          let from = transform.base + number * size * 64
          if number == 0 {
            kernel.ops.pointee.mul(out, from, size, factor)
          } else {
            kernel.ops.pointee.muladd(out, from, size, factor)
          }
        }
        let offset = base << Int32(Solver.groupBits)
        kernel.ops.pointee.fft(
          out, UInt32(Solver.groupBits), UInt32(offset), UInt32(touched[group.begin].chunk - offset),
          UInt32(touched[group.end - 1].chunk - offset) + 1)
        for t in group.begin..<group.end where touched[t].first <= strip && strip < touched[t].last {
          (sums.base + t * shape.chunkSize + Int(strip) * 64)
            .update(from: out + Int(touched[t].chunk - offset) * 64, count: 64)
        }
      }
    }
  }

  /// The coefficients of the polynomial that takes one strip of a group of points' rows as its values.
  private func interpolate(
    _ run: CosetRun, _ strip: Int32, _ shape: ObjectShape, _ kernel: Kernel, _ points: UnsafePointer<UInt32>,
    into rows: UnsafeMutablePointer<UInt8>
  ) {
    if Int(run.hi - run.lo) > run.end - run.begin {
      (rows + Int(run.lo) * 64).update(repeating: 0, count: Int(run.hi - run.lo) * 64)
    }
    for at in run.begin..<run.end {
      let row = Int(cosetRows[at])
      (rows + Int(points[row] - run.offset) * 64)
        .update(from: scaled.base + row * shape.chunkSize + Int(strip) * 64, count: 64)
    }
    kernel.ops.pointee.ifft(rows, UInt32(Solver.groupBits), run.offset, run.lo, run.hi)
  }
}
