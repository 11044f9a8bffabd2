import Bitcoin
import ErasureCode
import Ground
import Wire

/// A block in hand: coming in, complete and being sent on, or kept to serve those who missed it.
struct BlockState: ~Copyable {
  /// How far it has come. Each stage's work is done in slices (`RelayCore.runSlice`).
  enum Stage: UInt8 {
    /// Waiting for the sketch.
    case collecting
    /// The sketch is decoded: look its ids up.
    case matching
    /// Telling the body decoder what the mempool knows.
    case filling
    /// Waiting for body chunks; the decoder keeps its sums up to date.
    case gathering
    /// The body is there: parse the transactions that were missing, then check all.
    case checking
    /// Submitted here: check it before anything is sent.
    case submitted
    /// Whole and checked.
    case complete
    /// Refused for good.
    case refused
  }

  /// Object slots: up to three sketches of one block (sites that submit the same block may sketch it differently).
  static let sketchSlots = 3
  static let bodySlot = 3
  static let txidsSlot = 4
  static let wtxidsSlot = 5
  static let objectSlots = 6

  let hash: Hash256
  let id8: UInt64
  let headerBytes: HeaderBytes
  let header: BlockHeader
  let height: Int
  let chainWork: UInt256
  let bodyBytes: Int
  let transactionCount: Int
  let chunkBytes: Int
  /// Counts blocks in order of arrival.
  let serial: UInt64
  var stage: Stage
  /// key4 of the relay that made the first packet; a block submitted here has this relay's own.
  var maker: UInt32
  var report = BlockReport()
  var assembly = Assembly()
  var repair = RepairState()

  private let objects: UnsafeMutablePointer<ObjectState>
  private var present: UInt8 = 0
  /// The sketch that is sent on: the first announced, then the one decoded here; -1 for none.
  var sketchSent = -1
  /// The sketch that was decoded, or made here; -1 for none.
  var sketchDecoded = -1

  /// Neighbours that say they have the whole block (by a flag or HAVE), and those that said HAVE.
  var wholes = LinkSet.none
  var has = LinkSet.none
  /// Neighbours that told these very sizes as those that have the whole block.
  var sized = LinkSet.none
  /// Neighbours whose lanes are open.
  var opened = LinkSet.none
  /// Neighbours that were sent something of it.
  var reached = LinkSet.none
  /// Neighbours that were asked for more.
  var askedLinks = LinkSet.none
  var nextAsk = Instant.never
  var asks = 0
  /// When neighbours that are not heard of are sent another packet, and how often they were.
  var nextTail = Instant.never
  var tails = 0
  /// When a chunk last brought an object further.
  var progressed = Instant.zero
  /// Since when nothing but the kept bytes is held.
  var isSettled = false
  /// The kept bytes of a settled block.
  var kept: [UInt8] = []
  /// Bytes charged for it in the store of complete blocks.
  var completeAt = Instant.never
  /// Asked for by this relay's catch-up: comes and is sent as background.
  var isCatchUp = false
  /// Transactions that were neither in the mempool nor explicit, by size.
  var missing = SizeClassCounts()
  /// The sizes of its transactions, for budgets; once they are known.
  var profile: BlockProfile?
  /// A submitted block's bytes until its body's encoder has them.
  var submitted: [UInt8] = []
  /// Its sketch went out before it was submitted: until when it is waited for; else never.
  var awaitedUntil = Instant.never
  /// A submitted block's structure.
  var parsed: ParsedBlock?
  /// Transactions that its submitter wants inline.
  var explicit: [Int] = []
  /// Bytes of the sketch that its layout was looked for in.
  var layoutTried = 0
  /// Transactions of it that the mempool store has been told.
  var learned = 0
  /// A slice of work is due.
  var hasWork = false
  /// A chunk of it came from a verified-only neighbour.
  var hasUntrusted = false
  /// The owner was told that it is put together (`RelayEvent.Kind.assembled`).
  var isAssembled = false
  /// Whole and handed over; what makes this relay a source of it is due.
  var isToServe = false
  /// Found here, its sketch going out; neither HAVE nor the body has been seen to yet.
  var isFresh = false
  /// Found here, the first of it going out; how much each neighbour gets is reckoned after that.
  var isFirstWave = false

  init(
    hash: Hash256, headerBytes: HeaderBytes, header: BlockHeader, height: Int, chainWork: UInt256, bodyBytes: Int,
    transactionCount: Int, chunkBytes: Int, serial: UInt64, stage: Stage, maker: UInt32
  ) {
    self.hash = hash
    id8 = hash.w0
    self.headerBytes = headerBytes
    self.header = header
    self.height = height
    self.chainWork = chainWork
    self.bodyBytes = bodyBytes
    self.transactionCount = transactionCount
    self.chunkBytes = chunkBytes
    self.serial = serial
    self.stage = stage
    self.maker = maker
    objects = .allocate(capacity: BlockState.objectSlots)
    report.hash = hash
    report.height = height
    report.bodyBytes = bodyBytes
    report.transactionCount = transactionCount
    report.maker = maker
  }

  deinit {
    for slot in 0..<BlockState.objectSlots where present & (1 << UInt8(slot)) != 0 {
      (objects + slot).deinitialize(count: 1)
    }
    objects.deallocate()
  }

  @inline(__always)
  func has(_ slot: Int) -> Bool { slot >= 0 && present & (1 << UInt8(slot)) != 0 }

  /// The object in a slot that is taken.
  @inline(__always)
  func object(_ slot: Int) -> UnsafeMutablePointer<ObjectState> {
    precondition(has(slot))
    return objects + slot
  }

  mutating func put(_ object: consuming ObjectState, in slot: Int) {
    precondition(!has(slot))
    (objects + slot).initialize(to: object)
    present |= 1 << UInt8(slot)
  }

  /// Gives the object's log back to the pool and frees the rest.
  mutating func drop(_ slot: Int, _ pool: inout ChunkPool) {
    guard has(slot) else { return }
    objects[slot].log.clear(into: &pool)
    (objects + slot).deinitialize(count: 1)
    present &= ~(1 << UInt8(slot))
  }

  mutating func dropAll(_ pool: inout ChunkPool) {
    for slot in 0..<BlockState.objectSlots { drop(slot, &pool) }
  }

  /// The slot of a sketch, or nil.
  func sketch(_ id: UInt32, epoch: UInt32, bytes: Int) -> Int? {
    for slot in 0..<BlockState.sketchSlots where has(slot) {
      let isIt = objects[slot].sketchID == id && objects[slot].epoch == epoch && objects[slot].shape.byteCount == bytes
      if isIt { return slot }
    }
    return nil
  }

  /// The slot of an object by kind; of sketches the one that `link` sends, else the one sent on.
  func slot(of kind: ObjectKind, with link: LinkID) -> Int? {
    switch kind {
    case .sketch:
      for slot in 0..<BlockState.sketchSlots where has(slot) {
        if objects[slot].sources.contains(link) { return slot }
      }
      return has(sketchSent) ? sketchSent : nil
    case .body: return has(BlockState.bodySlot) ? BlockState.bodySlot : nil
    case .txids: return has(BlockState.txidsSlot) ? BlockState.txidsSlot : nil
    case .wtxids: return has(BlockState.wtxidsSlot) ? BlockState.wtxidsSlot : nil
    }
  }

  var isComplete: Bool { stage == .complete }
  var isIncoming: Bool { stage.rawValue < Stage.submitted.rawValue }
}
