import ErasureCode
import Ground
import Wire

/// One object of a block (a sketch, the body, a list of ids) on its way in, out, or both: its chunks as they came, the
/// decoder that they feed, the encoder once it is whole, and a lane for each neighbour.
struct ObjectState: ~Copyable {
  /// Repair indexes are handed to neighbours in runs, so that neighbours get different ones and a receiver's syndromes
  /// lie side by side (ErasureCode works on aligned batches).
  static let runLength: UInt32 = 32

  let kind: ObjectKind
  /// Tells sketches of one block apart; 0 for other kinds.
  let sketchID: UInt32
  /// Of the overlay secret that keys a sketch's short ids: sites may differ in it while secrets rotate.
  let epoch: UInt32
  let shape: ObjectShape
  let lanes = Lanes()
  var log: ChunkLog
  /// While incomplete.
  var decoder: Decoder?
  /// Once whole.
  var encoder: Encoder?
  /// Neighbours that have sent chunks of it or announced it.
  var sources = LinkSet.none
  /// The neighbour whose packet was the first of it.
  var creator = RelayEvent.noLink
  /// It was put together wrong once.
  var isSuspect = false
  /// Source chunks that are there without a gap.
  var sourcesFromStart = 0
  /// Only this neighbour's chunks go into the decoder; `noLink`: nobody's.
  var only: LinkID?
  /// Neighbours whose chunks in the log were judged by themselves (sketches).
  var tried = LinkSet.none
  /// When this fails too, it is given up.
  var isLastTry = false
  /// Runs handed out, counted from the relay's own starting point.
  private var runs: UInt32 = 0
  private let firstRun: UInt32

  /// Incoming: ready for chunks.
  init(
    kind: ObjectKind, sketchID: UInt32 = 0, epoch: UInt32 = 0, shape: ObjectShape, decoder: consuming Decoder,
    ownKey: UInt32
  ) {
    self.kind = kind
    self.sketchID = sketchID
    self.epoch = epoch
    self.shape = shape
    log = ChunkLog(capacity: 2 * shape.sourceCount + 64)
    self.decoder = consume decoder
    encoder = nil
    firstRun = ObjectState.firstRun(shape, ownKey)
  }

  /// Whole, but its encoder is yet to be made.
  init(kind: ObjectKind, shape: ObjectShape, ownKey: UInt32) {
    self.kind = kind
    sketchID = 0
    epoch = 0
    self.shape = shape
    log = ChunkLog(capacity: 1)
    decoder = nil
    encoder = nil
    firstRun = ObjectState.firstRun(shape, ownKey)
  }

  /// Whole from the start.
  init(
    kind: ObjectKind, sketchID: UInt32 = 0, epoch: UInt32 = 0, shape: ObjectShape, encoder: consuming Encoder,
    ownKey: UInt32
  ) {
    self.kind = kind
    self.sketchID = sketchID
    self.epoch = epoch
    self.shape = shape
    log = ChunkLog(capacity: 1)
    decoder = nil
    self.encoder = consume encoder
    firstRun = ObjectState.firstRun(shape, ownKey)
  }

  /// Where a relay's own repair indexes begin: drawn from its key, aligned to the eight runs of a large batch.
  private static func firstRun(_ shape: ObjectShape, _ key: UInt32) -> UInt32 {
    let runs = UInt32(shape.repairCount) / runLength
    let mixed = UInt64(key) &* 0x9E37_79B9_7F4A_7C15
    return UInt32(truncatingIfNeeded: (mixed >> 32).multipliedFullWidth(by: UInt64(runs) << 32).high) & ~7
  }

  /// The object's bytes as they lie in its encoder or decoder (zeros where unknown); valid until either changes hands.
  var bytes: UnsafeRawBufferPointer {
    switch encoder {
    case .some(let encoder): return encoder.object.withUnsafeBytes { $0 }
    case .none: break
    }
    switch decoder {
    case .some(let decoder): return decoder.bytes.withUnsafeBytes { $0 }
    case .none: return UnsafeRawBufferPointer(start: nil, count: 0)
    }
  }

  /// How many bytes are there from the first on, in whole source chunks.
  mutating func sourceBytesFromStart() -> Int {
    guard decoder != nil else { return encoder == nil ? 0 : shape.byteCount }
    while sourcesFromStart < sourceCount && decoder!.isPresent(chunk: sourcesFromStart) { sourcesFromStart += 1 }
    return sourcesFromStart * shape.chunkSize
  }

  /// Source chunk `index` of a whole object, padded, where it lies; valid like `bytes`.
  func sourceChunk(_ index: Int) -> UnsafeRawPointer? {
    switch encoder {
    case .some(let encoder): return try? encoder.sourceChunk(index).withUnsafeBytes { $0.baseAddress }
    case .none: return nil
    }
  }

  /// Work that its encoder, or its decoder, has done so far.
  var workDone: Int {
    switch encoder {
    case .some(let encoder): return encoder.workDone
    case .none: break
    }
    switch decoder {
    case .some(let decoder): return decoder.workDone
    case .none: return 0
    }
  }

  /// Of its decoder's work, the solving at the end.
  var workSolved: Int {
    switch decoder {
    case .some(let decoder): return decoder.workSolved
    case .none: return 0
    }
  }

  var isWhole: Bool { encoder != nil }
  var sourceCount: Int { shape.sourceCount }

  /// The next repair index for a neighbour, from its run or a fresh one.
  mutating func takeRepair(for lane: UnsafeMutablePointer<Lane>) -> Int {
    if lane.pointee.nextRepair == lane.pointee.repairEnd { startRun(lane) }
    let index = lane.pointee.nextRepair
    lane.pointee.nextRepair += 1
    return Int(index)
  }

  /// The index that `takeRepair` will give.
  mutating func peekRepair(for lane: UnsafeMutablePointer<Lane>) -> Int {
    if lane.pointee.nextRepair == lane.pointee.repairEnd { startRun(lane) }
    return unsafe Int(lane.pointee.nextRepair)
  }

  private mutating func startRun(_ lane: UnsafeMutablePointer<Lane>) {
    let all = UInt32(shape.repairCount) / ObjectState.runLength
    let run = (firstRun &+ runs) % max(all, 1)
    runs &+= 1
    lane.pointee.nextRepair = run * ObjectState.runLength
    lane.pointee.repairEnd = lane.pointee.nextRepair + ObjectState.runLength
  }
}
