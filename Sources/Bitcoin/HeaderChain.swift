import Ground

/// Why a header was refused.
public enum HeaderRejection: Error, Hashable, Sendable {
  /// The parent is not in the chain: ask for headers.
  case unknownParent(Hash256)
  /// The parent was marked invalid, or this header was.
  case invalidated
  /// `nBits` states no target, or one above the network's limit.
  case target(bits: UInt32)
  /// The hash is above the target.
  case proofOfWork
  /// `nBits` is not what the network's rule asks for.
  case difficulty(stated: UInt32, required: Difficulty.Required)
  /// Not after the median of the last 11 blocks' times.
  case timeTooOld(median: UInt32)
  /// More than two hours ahead of the clock.
  case timeTooNew(limit: UInt32)
  /// BIP94: more than ten minutes before the parent at the start of a period.
  case timeWarp
  /// Below what BIP34, BIP66 or BIP65 ask for.
  case version(Int32, required: Int32)
  /// So far below the tip that the branch could never matter, and its parent's history may be gone.
  case tooDeep(height: Int)
}

/// The known headers as a tree, and its branch of most work. Pure: the caller says what time it is.
///
/// It starts from the genesis block or from a trusted `Anchor`. Below the anchor nothing is known, so its descendants
/// are checked as far as history reaches:
/// - Proof of work, limits, the clock and version: always.
/// - Time: against the highest median that is certain while fewer than 11 blocks are known, and never below the anchor's
///   own median (medians never fall). So nothing is refused that the whole history would allow.
/// - Difficulty: exact where the deciding ancestor is known, which on networks without the testnet exception is every
///   height but the first retarget after the anchor. There any change within the consensus limits of ÷4 and ×4 is
///   accepted; with the testnet exception, any target within the network's limit. Such an entry and its descendants say
///   `isDifficultyVerified = false`, unless the caller vouches for the header (it came from the site's own node).
///
/// Memory is bounded by `capacity` entries of about 200 bytes. When full, the chain forgets all below the last `depth`
/// blocks of the best branch, and of side branches all but the newest quarter of the capacity; what it keeps was
/// checked before, so it goes on as from an anchor that it made itself.
public struct HeaderChain: Sendable {
  /// A block that is taken for granted.
  public struct Anchor: Hashable, Sendable {
    public var hash: Hash256
    public var height: Int
    public var bits: UInt32
    public var time: UInt32
    /// Of the block and its ten ancestors.
    public var medianTimePast: UInt32
    public init(hash: Hash256, height: Int, bits: UInt32, time: UInt32, medianTimePast: UInt32) {
      self.hash = hash
      self.height = height
      self.bits = bits
      self.time = time
      self.medianTimePast = medianTimePast
    }
  }

  /// A block of the tree.
  public struct Entry: Hashable, Sendable {
    public let hash: Hash256
    public let height: Int
    /// `nil` for an anchor, whose other fields nobody told.
    public let header: BlockHeader?
    public let time: UInt32
    public let bits: UInt32
    /// Of this block and its ancestors down to the first anchor.
    public let chainWork: UInt256
    /// The median time of this block and its ten ancestors; the next block must be later.
    public let medianTimePast: UInt32
    /// False when `nBits`, or an ancestor's, could only be checked against limits and nobody vouched for it.
    public internal(set) var isDifficultyVerified: Bool
    public internal(set) var isInvalid: Bool
    var parent: Int32
    /// The median of the branch's lowest known block: medians of descendants never fall below it.
    var floor: UInt32

    /// The same block in the same standing, whichever chain knows it.
    public static func == (a: Entry, b: Entry) -> Bool {
      a.hash == b.hash && a.height == b.height && a.chainWork == b.chainWork && a.isInvalid == b.isInvalid
        && a.isDifficultyVerified == b.isDifficultyVerified
    }
    public func hash(into hasher: inout Hasher) { hasher.combine(hash) }
  }

  /// What an accepted header changed.
  public struct Acceptance: Hashable, Sendable {
    public var entry: Entry
    /// False when the header was known before.
    public var isNew: Bool
    /// The header is the new tip.
    public var isTip: Bool
    /// Blocks of the old best branch that the new one leaves out; 0 when it extends the tip.
    public var disconnected: Int
  }

  public let network: Network
  public let capacity: Int
  /// Blocks of the best branch that are kept when the table is full: at least two difficulty periods.
  public let depth: Int

  private(set) var entries: [Entry] = []
  private var indexes: [Hash256: Int32] = [:]
  /// The best branch, from `baseHeight` up.
  private var best: [Int32] = []
  private var baseHeight: Int

  /// From the network's genesis block.
  public init(network: Network, capacity: Int = 16_384) {
    let genesis = network.genesis
    self.init(
      network: network, capacity: capacity,
      root: Entry(
        hash: genesis.hash, height: 0, header: genesis, time: genesis.time, bits: genesis.bits,
        chainWork: Target.work(of: genesis.bits), medianTimePast: genesis.time, isDifficultyVerified: true,
        isInvalid: false, parent: -1, floor: 0))
  }

  /// From a trusted block.
  public init(network: Network, anchor: Anchor, capacity: Int = 16_384) {
    self.init(
      network: network, capacity: capacity,
      root: Entry(
        hash: anchor.hash, height: anchor.height, header: nil, time: anchor.time, bits: anchor.bits,
        chainWork: Target.work(of: anchor.bits), medianTimePast: anchor.medianTimePast, isDifficultyVerified: true,
        isInvalid: false, parent: -1, floor: anchor.medianTimePast))
  }

  private init(network: Network, capacity: Int, root: Entry) {
    self.network = network
    depth = 2 * network.retargetInterval + 16
    self.capacity = max(capacity, 2 * depth)
    baseHeight = root.height
    entries = [root]
    indexes = [root.hash: 0]
    best = [0]
  }

  // MARK: Looking

  /// The block of most work; the first one seen among equals.
  public var tip: Entry { entries[Int(best[best.count - 1])] }
  public var count: Int { entries.count }
  /// The lowest height known on the best branch.
  public var lowestHeight: Int { baseHeight }

  public func entry(_ hash: Hash256) -> Entry? { indexes[hash].map { entries[Int($0)] } }

  /// On the best branch.
  public func entry(atHeight height: Int) -> Entry? {
    let index = height - baseHeight
    return best.indices.contains(index) ? entries[Int(best[index])] : nil
  }

  /// The headers that were accepted last, on whatever branch, the newest last.
  public func recent(_ count: Int) -> ArraySlice<Entry> { entries.suffix(count) }

  public func isOnBestBranch(_ hash: Hash256) -> Bool {
    guard let entry = entry(hash) else { return false }
    return self.entry(atHeight: entry.height)?.hash == hash
  }

  /// The highest block that both branches share, or `nil` when that lies below what is known.
  public func lastCommonAncestor(_ a: Hash256, _ b: Hash256) -> Entry? {
    guard var i = indexes[a], var j = indexes[b] else { return nil }
    while i != j {
      if entries[Int(i)].height >= entries[Int(j)].height {
        i = entries[Int(i)].parent
      } else {
        j = entries[Int(j)].parent
      }
      if i < 0 || j < 0 { return nil }
    }
    return entries[Int(i)]
  }

  /// Hashes for a `getheaders` from the tip: ten in a row, then ever larger steps, the lowest known last; at most 101.
  public func locator() -> [Hash256] { locator(from: tip.hash) }

  /// The same from another block; empty when it is unknown.
  public func locator(from hash: Hash256) -> [Hash256] {
    guard var index = indexes[hash] else { return [] }
    var result: [Hash256] = []
    var step = 1
    while true {
      let entry = entries[Int(index)]
      result.append(entry.hash)
      if entry.parent < 0 || result.count == GetHeaders.maxLocator { return result }
      if result.count >= 10 { step *= 2 }
      index = ancestor(of: index, atHeight: max(entry.height - step, baseHeight)) ?? root(of: index)
    }
  }

  /// What to answer to a `getheaders`: up to 2,000 headers of the best branch after the first locator hash on it. Without a locator, the
  /// header of `stop`.
  public func headers(after locator: [Hash256], stop: Hash256) -> [BlockHeader] {
    if locator.isEmpty { return entry(stop)?.header.map { [$0] } ?? [] }
    var result: [BlockHeader] = []
    let shared = locator.first(where: isOnBestBranch).flatMap { entry($0)?.height }
    // Everyone shares the genesis block; with a peer that doesn't know the anchor nothing is shared.
    guard var height = shared ?? (baseHeight == 0 ? 0 : nil) else { return [] }
    height += 1
    while result.count < Headers.maxCount, let entry = entry(atHeight: height) {
      if let header = entry.header { result.append(header) }
      if entry.hash == stop { break }
      height += 1
    }
    return result
  }

  // MARK: Adding

  /// Checks a header and adds it. `now` is the clock in seconds since 1970. `vouched`: it came from the site's own node,
  /// whose word stands where history is too short to check the difficulty.
  @discardableResult
  public mutating func accept(_ header: BlockHeader, now: UInt32, vouched: Bool = false) throws(HeaderRejection)
    -> Acceptance
  {
    let hash = header.hash
    if let known = indexes[hash] {
      if entries[Int(known)].isInvalid { throw .invalidated }
      if vouched { entries[Int(known)].isDifficultyVerified = true }
      let entry = entries[Int(known)]
      return Acceptance(entry: entry, isNew: false, isTip: tip.hash == hash, disconnected: 0)
    }
    let entry = try check(header, hash: hash, now: now)
    if entries.count >= capacity { forget() }
    // Forgetting moves entries: find the parent again.
    guard let parent = indexes[header.previous] else { throw .tooDeep(height: entry.height) }
    var added = entry
    added.parent = parent
    added.isDifficultyVerified = added.isDifficultyVerified || vouched
    let index = Int32(entries.count)
    entries.append(added)
    indexes[hash] = index
    if added.chainWork > tip.chainWork {
      let disconnected = switchBest(to: index)
      return Acceptance(entry: added, isNew: true, isTip: true, disconnected: disconnected)
    }
    return Acceptance(entry: added, isNew: true, isTip: false, disconnected: 0)
  }

  /// Adds the headers of a `headers` message in order; stops at the first bad one, and those before it stay. Returns the
  /// last header's acceptance, or `nil` for none.
  @discardableResult
  public mutating func accept(
    _ headers: [BlockHeader], now: UInt32, vouched: Bool = false
  ) throws(HeaderRejection) -> Acceptance? {
    let oldTip = tip.hash
    var last: Acceptance?
    for header in headers { last = try accept(header, now: now, vouched: vouched) }
    if var result = last, result.isTip, tip.hash != oldTip {
      // Several headers may have switched branches between them.
      let shared = lastCommonAncestor(oldTip, tip.hash)
      result.disconnected = (entry(oldTip)?.height ?? baseHeight) - (shared?.height ?? baseHeight)
      last = result
    }
    return last
  }

  /// Everything that `accept` checks, without adding: the entry as it would be. For a header that is about to be
  /// relayed before its block is whole.
  public func check(_ header: BlockHeader, now: UInt32) throws(HeaderRejection) -> Entry {
    try check(header, hash: header.hash, now: now)
  }

  private func check(_ header: BlockHeader, hash: Hash256, now: UInt32) throws(HeaderRejection) -> Entry {
    // Proof of work first: it is what makes every other answer expensive to ask for.
    guard let target = Target.value(of: header.bits, limit: network.powLimit) else {
      throw .target(bits: header.bits)
    }
    if UInt256(hash) > target { throw .proofOfWork }
    guard let parentIndex = indexes[header.previous] else { throw .unknownParent(header.previous) }
    let parent = entries[Int(parentIndex)]
    if parent.isInvalid { throw .invalidated }
    let height = parent.height + 1
    if height <= tip.height - depth { throw .tooDeep(height: height) }

    let required = Difficulty.required(
      after: parent.difficultyBlock, time: header.time, on: network,
      ancestor: { height in ancestor(of: parentIndex, atHeight: height).map { entries[Int($0)].difficultyBlock } })
    let isVerified: Bool
    switch required {
    case .exactly(let bits):
      if header.bits != bits { throw .difficulty(stated: header.bits, required: required) }
      isVerified = parent.isDifficultyVerified
    case .between(let easiest, let hardest):
      if target > easiest || target < hardest { throw .difficulty(stated: header.bits, required: required) }
      isVerified = false
    }

    if header.time <= parent.medianTimePast { throw .timeTooOld(median: parent.medianTimePast) }
    if network.enforcesBIP94 && height % network.retargetInterval == 0
      && Int64(header.time) < Int64(parent.time) - HeaderChain.maxTimeWarp
    {
      throw .timeWarp
    }
    let latest = now.addingReportingOverflow(HeaderChain.maxFuture)
    let limit = latest.overflow ? UInt32.max : latest.partialValue
    if header.time > limit { throw .timeTooNew(limit: limit) }
    let least: Int32 =
      height >= network.bip65Height
      ? 4 : height >= network.bip66Height ? 3 : height >= network.bip34Height ? 2 : .min
    if header.version < least { throw .version(header.version, required: least) }

    return Entry(
      hash: hash, height: height, header: header, time: header.time, bits: header.bits,
      chainWork: parent.chainWork + Target.work(of: header.bits),
      medianTimePast: median(of: header.time, after: parentIndex), isDifficultyVerified: isVerified, isInvalid: false,
      parent: parentIndex, floor: parent.floor)
  }

  /// Seconds that a header may be ahead of the clock.
  public static let maxFuture: UInt32 = 2 * 60 * 60
  /// BIP94, seconds.
  public static let maxTimeWarp: Int64 = 600

  /// The median of the last 11 times, or the most that it is sure to be when the history is shorter than that.
  private func median(of time: UInt32, after parent: Int32) -> UInt32 {
    var times = [time]
    var index = parent
    var lowest = parent
    while index >= 0 && times.count < 11 {
      times.append(entries[Int(index)].time)
      lowest = index
      index = entries[Int(index)].parent
    }
    times.sort()
    if times.count == 11 || entries[Int(lowest)].height == 0 { return times[times.count / 2] }
    // The unknown times may be the smallest of the 11.
    let sure = times.count - 6
    return max(sure >= 0 ? times[sure] : 0, entries[Int(parent)].floor)
  }

  // MARK: Branches

  /// Marks a block and its descendants as bad for good, and moves the tip to the best branch that is left. False when
  /// the block is unknown or the root.
  @discardableResult
  public mutating func invalidate(_ hash: Hash256) -> Bool {
    guard let bad = indexes[hash], entries[Int(bad)].parent >= 0 else { return false }
    entries[Int(bad)].isInvalid = true
    // Parents come before their children.
    for index in Int(bad) + 1..<max(entries.count, Int(bad) + 1) {
      let parent = entries[index].parent
      if parent >= 0 && entries[Int(parent)].isInvalid { entries[index].isInvalid = true }
    }
    if tip.isInvalid {
      var choice: Int32 = 0
      for index in entries.indices
      where !entries[index].isInvalid && entries[index].chainWork > entries[Int(choice)].chainWork {
        choice = Int32(index)
      }
      switchBest(to: choice)
    }
    return true
  }

  /// Makes the branch that ends at `index` the best; returns how many blocks of the old one are left out.
  @discardableResult
  private mutating func switchBest(to index: Int32) -> Int {
    let oldTip = baseHeight + best.count - 1
    var added: [Int32] = []
    var at = index
    while at >= 0 {
      let height = entries[Int(at)].height - baseHeight
      if best.indices.contains(height) && best[height] == at { break }
      added.append(at)
      at = entries[Int(at)].parent
    }
    let shared = at >= 0 ? entries[Int(at)].height : baseHeight - 1
    best.removeLast(best.count - (shared - baseHeight + 1))
    if best.isEmpty, let first = added.last { baseHeight = entries[Int(first)].height }
    best.append(contentsOf: added.reversed())
    return oldTip - shared
  }

  private func ancestor(of index: Int32, atHeight height: Int) -> Int32? {
    if height < 0 { return nil }
    var at = index
    while at >= 0 && entries[Int(at)].height > height {
      // On the best branch the rest of the way is a table look-up.
      let known = entries[Int(at)].height - baseHeight
      if best.indices.contains(known) && best[known] == at {
        return height >= baseHeight ? best[height - baseHeight] : nil
      }
      at = entries[Int(at)].parent
    }
    return at >= 0 && entries[Int(at)].height == height ? at : nil
  }

  private func root(of index: Int32) -> Int32 {
    var at = index
    while entries[Int(at)].parent >= 0 { at = entries[Int(at)].parent }
    return at
  }

  /// Makes room: see the type's description.
  private mutating func forget() {
    let lowest = max(tip.height - depth + 1, baseHeight)
    var keep = Array(repeating: false, count: entries.count)
    for index in best where entries[Int(index)].height >= lowest { keep[Int(index)] = true }
    var side = 0
    for index in entries.indices.reversed() where !keep[index] && side < capacity / 4 {
      if entries[index].height > lowest {
        keep[index] = true
        side += 1
      }
    }
    // A side branch that lost its foot is dropped with all above it: parents come before their children.
    var moved = Array(repeating: Int32(-1), count: entries.count)
    var kept: [Entry] = []
    kept.reserveCapacity(capacity)
    for index in entries.indices where keep[index] {
      var entry = entries[index]
      let parent = entry.parent >= 0 ? moved[Int(entry.parent)] : -1
      if parent < 0 {
        if entry.height != lowest { continue }
        entry.floor = entry.medianTimePast
      }
      entry.parent = parent
      moved[index] = Int32(kept.count)
      kept.append(entry)
    }
    best = best.compactMap { moved[Int($0)] >= 0 ? moved[Int($0)] : nil }
    entries = kept
    baseHeight = entries[Int(best[0])].height
    indexes = Dictionary(uniqueKeysWithValues: kept.enumerated().map { ($1.hash, Int32($0)) })
  }
}

extension HeaderChain.Entry {
  var difficultyBlock: Difficulty.Block { Difficulty.Block(height: height, time: time, bits: bits) }
}
