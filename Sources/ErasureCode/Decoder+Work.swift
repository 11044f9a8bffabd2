import CKernels

extension Decoder {
  // MARK: Work between packets

  mutating func forgetSyndromes() {
    for slot in 0..<repairsHeld { applied[slot] = -1 }
    anySyndrome = false
    solver.forget()
  }

  /// Nothing stands in the way of making syndromes but rows of the transform.
  var canSync: Bool { !mustTransform && spectrum.state != .building }

  func canMakeRow(_ x: Int) -> Bool {
    shape.isDirect || spectrum.state == .empty || spectrum.isReady(x)
  }

  /// Multiplications to make the transform and the rows that are held or to come.
  mutating func transformCost() -> Int {
    let rows = repairsHeld + needed
    return shape.strips * (shape.groupTransformBlocks + shape.sourceCount * (1 + rows / 128) + rows * 4)
  }

  /// Is the transform out of date by so much that making it anew is cheaper than adding the late ranges row by row?
  mutating func isTransformOutdated() -> Bool {
    if shape.isDirect { return false }
    return mustTransform || lateBlocks * (repairsHeld + needed) > transformCost()
  }

  /// Should it be made now? Not while so much more is to come that it would be outdated again soon: what is left to
  /// come must be cheap to add row by row, or else be less than what the new transform adds, so that the number of
  /// transforms stays logarithmic.
  mutating func isTransformDue() -> Bool {
    guard isTransformOutdated() else { return false }
    let rows = repairsHeld + needed
    let unknownBlocks = coverage.unknownSymbols / 32
    return needed * rows * shape.strips <= transformCost() || lateBlocks >= max(baseBlocks, unknownBlocks)
  }

  mutating func beginTransform() {
    baseBlocks = (shape.sourceCount * shape.columns - coverage.unknownSymbols) / 32
    spectrum.begin()
    late.clear()
    lateBlocks = 0
    mustTransform = false
    forgetSyndromes()
  }

  /// Keeps the syndromes up to date, as far as `budget` goes: at least one step, at most one short step more than the
  /// budget (a step of the transform is begun only within it).
  /// Call it between packets, and once the known ranges are told.
  public mutating func work(_ budget: Int = Work.slice) -> WorkStatus {
    if isComplete { return .idle }
    var left = budget
    defer { workDone += budget - left }
    while left > 0 {
      if spectrum.state == .building {
        if left < shape.groupTransformBlocks, left < budget { return .more }
        left -= spectrum.step(data.base)
      } else if isTransformDue() {
        beginTransform()
      } else if isTransformOutdated() {
        return .idle
      } else if let cost = syncOne() {
        left -= cost
      } else if let cost = prefetch() {
        left -= cost
      } else if let cost = scaleOne() {
        left -= cost
      } else {
        return .idle
      }
    }
    return .more
  }

  /// Brings one syndrome up to date, or works on the batch it needs; the work done, or nil if there is nothing to do now.
  mutating func syncOne() -> Int? {
    guard let slot = nextSlot() else { return nil }
    let x = Int(points[slot])
    if applied[slot] < 0, !canMakeRow(x) {
      rowGroup = x >> Spectrum.groupBits
      return spectrum.evaluate(x, large: repairsHeld + needed > 128)
    }
    return sync(slot, limit: Work.slice / 2)
  }

  /// So many chunks wait before a batch that made room for another is made again; near the end, no more than are to come.
  private static let rowsWorthABatch = 16

  /// The chunk whose syndrome is to be brought up to date next; nil when all are, or wait.
  ///
  /// Chunks may come from more runs of indexes at once than there are batches. So all rows that are held of a batch are
  /// made before another's, and a batch that had to make room is not made again for a single row: each costs nearly the
  /// same as all 256.
  private mutating func nextSlot() -> Int? {
    let whole = Int32(late.count)
    var slot = 0
    while slot < repairsHeld, applied[slot] == whole { slot += 1 }
    if slot == repairsHeld { return nil }
    let least = max(1, min(Decoder.rowsWorthABatch, needed))
    waiting.zero(0..<waiting.count)
    var first: Int?
    while slot < repairsHeld {
      defer { slot += 1 }
      if applied[slot] == whole { continue }
      // Nothing but late ranges is wanting, or no batch is needed.
      if applied[slot] >= 0 || shape.isDirect || spectrum.state == .empty { return first ?? slot }
      let x = Int(points[slot])
      let group = x >> Spectrum.groupBits
      if group == rowGroup, spectrum.holds(x) { return slot }
      if first != nil { continue }
      if spectrum.wasDropped(x) {
        waiting.base[group] += 1
        if waiting.base[group] < least { continue }
      }
      first = slot
    }
    return first
  }

  /// Makes the syndrome, the known data's row at the chunk's point xored onto the chunk, and adds late ranges until
  /// all are in it or `limit` blocks are. Returns the work done.
  @discardableResult mutating func sync(_ slot: Int, limit: Int = Work.unlimited) -> Int {
    let x = Int(points[slot])
    let row = syndromes.base + slot * shape.chunkSize
    anySyndrome = true
    var work = shape.strips
    if applied[slot] < 0 {
      row.update(from: raw.base + slot * shape.chunkSize, count: shape.chunkSize)
      if shape.isDirect {
        addKnownDirectly(x, to: row)
        applied[slot] = Int32(late.count)
        return work * (1 + shape.sourceCount)
      }
      if spectrum.state == .ready { spectrum.add(x, to: row) }
      applied[slot] = 0
    }
    let (next, blocks) = late.add(
      from: Int(applied[slot]), data.base, shape, kernel, x: x, to: row, limit: limit)
    applied[slot] = Int32(next)
    work += blocks
    return work
  }

  func addKnownDirectly(_ x: Int, to row: UnsafeMutablePointer<UInt8>) {
    let generator = Generator(bits: shape.bits)
    for chunk in 0..<shape.sourceCount {
      kernel.ops.pointee.split(solver.row.base, 64, data.base + chunk * shape.chunkSize, 64, shape.strips)
      kernel.ops.pointee.muladd(row, solver.row.base, shape.strips, generator.entry(x, chunk))
    }
  }

  /// Works on the batch of the indexes that follow the last one, before they come.
  mutating func prefetch() -> Int? {
    guard !shape.isDirect, spectrum.state == .ready, repairsHeld > 0, needed > 0 else { return nil }
    let last = Int(points[repairsHeld - 1])
    let near = last + 1
    if near < 65_536, canPrefetch(near) { return spectrum.evaluate(near) }
    let far = last + min(8, needed)
    if far < 65_536, canPrefetch(far) { return spectrum.evaluate(far) }
    return nil
  }

  /// Not what had to make room: it would push out what others need.
  private func canPrefetch(_ x: Int) -> Bool { !spectrum.isReady(x) && !spectrum.wasDropped(x) }

  /// Makes the solver's plan or scales one syndrome by it: the part of the solution that needs no more chunks. Only for
  /// few unknowns, and when what is known seems to stay, since each change of it begins this anew.
  mutating func scaleOne() -> Int? {
    let most = coverage.mostUnknown()
    guard most <= 256, repairsSinceChange >= 2 else { return nil }
    if !solver.isPlanned { return solver.plan(shape, coverage) }
    for slot in 0..<min(repairsHeld, most) where !solver.isScaled(slot) && applied[slot] == Int32(late.count) {
      return solver.scaleRow(slot, Int(points[slot]), syndromes.base + slot * shape.chunkSize, shape, kernel)
    }
    return nil
  }

  // MARK: The end

  /// Completes the object. After the last packet needed, with `work` having kept up, only the small systems are left.
  /// - Throws: `ErasureError.needsMore`.
  public mutating func finish() throws(ErasureError) {
    if isComplete { return }
    let missing = needed
    guard missing == 0 else { throw .needsMore(missing) }
    if spectrum.state != .building, isTransformOutdated() { beginTransform() }
    while spectrum.state == .building { workDone += spectrum.step(data.base) }
    if mustTransform {
      beginTransform()
      while spectrum.state == .building { workDone += spectrum.step(data.base) }
    }
    let count = coverage.mostUnknown()
    syncAll(count)
    let work = solver.solve(
      shape, kernel, coverage, count: count, points: points, syndromes: syndromes.base, data: data.base)
    workDone += work
    workSolved += work
    solved = true
    wiped = 0
  }

  /// Brings the first `count` syndromes up to date: those whose rows are there, then the others batch by batch. In order
  /// of arrival, chunks of more runs of indexes than there are batches would take a batch each.
  private mutating func syncAll(_ count: Int) {
    var isLeft = false
    for slot in 0..<count where applied[slot] != Int32(late.count) {
      if applied[slot] >= 0 || canMakeRow(Int(points[slot])) {
        workDone += sync(slot)
      } else {
        isLeft = true
      }
    }
    if !isLeft { return }
    solver.groupByCoset(bits: Spectrum.groupBits, count, points)
    for at in 0..<count {
      let slot = Int(solver.cosetRows[at])
      if applied[slot] == Int32(late.count) { continue }
      let x = Int(points[slot])
      while !canMakeRow(x) { workDone += spectrum.evaluate(x, large: count > 128) }
      workDone += sync(slot)
    }
  }

  /// Makes transform and list cover the solved bytes too, for the encoder that takes them over.
  mutating func closeTransform() {
    if shape.isDirect { return }
    var fits = !mustTransform && spectrum.state != .building
    if fits, solved {
      let size = shape.chunkSize
      eachUntoldRun { decoder, range in
        let chunk = range.lowerBound / size
        let from = range.lowerBound - chunk * size
        fits = fits && decoder.late.append(chunk: chunk, from: from, to: from + range.count)
      }
    }
    if !fits || late.blocks > 32 * shape.strips {
      late.clear()
      spectrum.begin()
    }
  }
}
