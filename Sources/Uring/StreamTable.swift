import CLiburing
import CRing
import Glibc
import Ground

/// TCP connections on the engine's ring. The core says what it wants (`EngineOutput`'s `StreamSink` side writes it down
/// here), the engine's pass puts the operations in and works on their completions. One receive and one send are in
/// flight a stream at most, so order needs no thought, and a stream's memory is let go only when none is.
///
/// Bounds: `capacity` streams; of each, `receiveBytes` for reading and at most `queueMax` waiting to be sent. Memory of
/// a stream that is not open is none.
struct StreamTable: ~Copyable {
  static let receiveBytes = 256 << 10
  static let listenersMax = 4

  enum State: UInt8 { case free, connecting, open, closing }

  struct Slot {
    var state = State.free
    var descriptor: Int32 = -1
    var wantsReading = true
    var isConnectPending = false
    var isConnectInFlight = false
    var isReceiveInFlight = false
    var isSendInFlight = false
    var wasQueued = false
    var error: Int32 = 0
    var address: UnsafeMutableRawPointer?
    var addressLength: socklen_t = 0
    var receiving: UnsafeMutableRawPointer?
    /// In the kernel's hands, and what waits behind it.
    var sending = Bytes()
    var sent = 0
    var waiting = Bytes()

    var isIdle: Bool { !isConnectInFlight && !isReceiveInFlight && !isSendInFlight }
    var queued: Int { sending.count - sent + waiting.count }
  }

  /// A growing buffer of its own.
  struct Bytes {
    var memory: UnsafeMutableRawPointer?
    var count = 0
    var capacity = 0

    mutating func grow(by more: Int) -> UnsafeMutableRawPointer {
      if count + more > capacity {
        let wanted = max(count + more, min(capacity * 2, 8 << 20), 16 << 10)
        memory = realloc(memory, wanted)
        precondition(memory != nil, "out of memory")
        capacity = wanted
      }
      defer { count += more }
      return memory! + count
    }

    mutating func release() {
      Glibc.free(memory)
      self = Bytes()
    }
  }

  struct Listener {
    var descriptor: Int32 = -1
    var address = PeerAddress(high: 0, low: 0, port: 0)
    var isArmed = false
  }

  let capacity: Int
  let queueMax: Int
  let slots: UnsafeMutablePointer<Slot>
  let listeners: UnsafeMutablePointer<Listener>
  var listenerCount = 0
  /// Slots at and above this were never used.
  var used = 0
  /// Something may have to be put into the ring.
  var isDirty = false
  /// Some stream is closing.
  var hasClosing = false

  init(capacity: Int, queueMax: Int) {
    self.capacity = capacity
    self.queueMax = queueMax
    slots = .allocate(capacity: max(capacity, 1))
    slots.initialize(repeating: Slot(), count: max(capacity, 1))
    listeners = .allocate(capacity: StreamTable.listenersMax)
    listeners.initialize(repeating: Listener(), count: StreamTable.listenersMax)
  }

  deinit {
    // The ring is gone: nothing is in flight any more.
    for index in 0..<used where slots[index].state != .free { release(index) }
    for index in 0..<listenerCount { Glibc.close(listeners[index].descriptor) }
    slots.deinitialize(count: max(capacity, 1))
    slots.deallocate()
    listeners.deallocate()
  }

  // MARK: What the core asks for

  mutating func connect(_ index: Int, to address: PeerAddress) -> Bool {
    guard index < capacity, slots[index].state == .free else { return false }
    let isIPv4 = address.isIPv4
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let descriptor = socket(isIPv4 ? AF_INET : AF_INET6, type, 0)
    if descriptor < 0 { return false }
    let memory = UnsafeMutableRawPointer.allocate(byteCount: SocketAddress.maxBytes, alignment: 8)
    let length = SocketAddress.write(address, ipv4Socket: isIPv4, to: memory)
    slots[index] = Slot()
    slots[index].addressLength = length
    slots[index].address = memory
    slots[index].state = .connecting
    slots[index].descriptor = descriptor
    slots[index].isConnectPending = true
    StreamTable.hurry(descriptor)
    used = max(used, index + 1)
    isDirty = true
    return true
  }

  mutating func listen(on address: PeerAddress, backlog: Int) -> Int32 {
    guard listenerCount < StreamTable.listenersMax else { return EMFILE }
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let descriptor = socket(address.isIPv4 ? AF_INET : AF_INET6, type, 0)
    if descriptor < 0 { return errno }
    var on: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
    let failed = withUnsafeTemporaryAllocation(byteCount: SocketAddress.maxBytes, alignment: 8) { memory in
      let length = SocketAddress.write(address, ipv4Socket: address.isIPv4, to: memory.baseAddress!)
      return bind(descriptor, memory.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) != 0
        || Glibc.listen(descriptor, Int32(clamping: backlog)) != 0
    }
    if failed {
      let error = errno
      Glibc.close(descriptor)
      return error
    }
    let bound = (try? UDPSocket.boundAddress(descriptor)) ?? address
    listeners[listenerCount] = Listener(descriptor: descriptor, address: bound, isArmed: false)
    listenerCount += 1
    isDirty = true
    return 0
  }

  /// Room for `count` bytes at the end of the queue; nil when there is none.
  mutating func reserve(_ index: Int, _ count: Int) -> UnsafeMutableRawPointer? {
    guard index < capacity, slots[index].state == .open, count > 0, slots[index].queued + count <= queueMax else {
      return nil
    }
    isDirty = true
    slots[index].wasQueued = true
    return slots[index].waiting.grow(by: count)
  }

  mutating func setReading(_ index: Int, _ reading: Bool) {
    guard index < capacity, slots[index].state != .free else { return }
    slots[index].wantsReading = reading
    isDirty = true
  }

  /// Ends the connection; what is in flight completes with an error and then the slot is free.
  mutating func close(_ index: Int, error: Int32 = 0) {
    guard index < capacity, slots[index].state != .free, slots[index].state != .closing else { return }
    slots[index].state = .closing
    slots[index].error = error
    slots[index].isConnectPending = false
    Glibc.shutdown(slots[index].descriptor, Int32(SHUT_RDWR))
    hasClosing = true
    isDirty = true
  }

  /// Takes over an accepted connection.
  mutating func adopt(_ index: Int, descriptor: Int32) -> Bool {
    guard index < capacity, slots[index].state == .free else { return false }
    slots[index] = Slot()
    slots[index].state = .open
    slots[index].descriptor = descriptor
    StreamTable.hurry(descriptor)
    used = max(used, index + 1)
    isDirty = true
    return true
  }

  /// Small messages leave at once.
  private static func hurry(_ descriptor: Int32) {
    var on: Int32 = 1
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
  }

  func release(_ index: Int) {
    if slots[index].descriptor >= 0 { Glibc.close(slots[index].descriptor) }
    slots[index].address?.deallocate()
    slots[index].receiving?.deallocate()
    slots[index].sending.release()
    slots[index].waiting.release()
    slots[index] = Slot()
  }

  // MARK: The ring

  /// Puts in what is wanted and not in flight.
  mutating func submit(_ ring: inout Ring) {
    guard isDirty else { return }
    isDirty = false
    for index in 0..<listenerCount where !listeners[index].isArmed {
      listeners[index].isArmed = ring.accept(listeners[index].descriptor, tag: EngineTag.accept.tag(index))
      if !listeners[index].isArmed { isDirty = true }
    }
    for index in 0..<used {
      switch slots[index].state {
      case .free: continue
      case .connecting:
        guard slots[index].isConnectPending, let address = slots[index].address else { continue }
        let put = ring.connect(
          slots[index].descriptor, to: address.assumingMemoryBound(to: sockaddr.self),
          length: slots[index].addressLength, tag: EngineTag.connect.tag(index))
        slots[index].isConnectPending = !put
        slots[index].isConnectInFlight = put
        if !put { isDirty = true }
      case .open:
        submitReceive(index, &ring)
        submitSend(index, &ring)
      case .closing:
        // `shutdown` ends receive and send; a connect that hangs must be cancelled.
        if slots[index].isConnectInFlight {
          ring.cancel(tagged: EngineTag.connect.tag(index), tag: EngineTag.cancel.tag(0))
        }
      }
    }
  }

  private mutating func submitReceive(_ index: Int, _ ring: inout Ring) {
    if slots[index].isReceiveInFlight || !slots[index].wantsReading { return }
    if slots[index].receiving == nil {
      slots[index].receiving = .allocate(byteCount: StreamTable.receiveBytes, alignment: 64)
    }
    slots[index].isReceiveInFlight = ring.receive(
      slots[index].descriptor, into: slots[index].receiving!, count: StreamTable.receiveBytes,
      tag: EngineTag.streamReceive.tag(index))
    if !slots[index].isReceiveInFlight { isDirty = true }
  }

  private mutating func submitSend(_ index: Int, _ ring: inout Ring) {
    if slots[index].isSendInFlight { return }
    if slots[index].sent == slots[index].sending.count {
      if slots[index].waiting.count == 0 { return }
      // What was sent becomes the next queue's memory, unless it is large.
      var old = slots[index].sending
      if old.capacity > 1 << 20 { old.release() }
      old.count = 0
      slots[index].sending = slots[index].waiting
      slots[index].waiting = old
      slots[index].sent = 0
    }
    slots[index].isSendInFlight = ring.send(
      slots[index].descriptor, slots[index].sending.memory! + slots[index].sent,
      count: slots[index].sending.count - slots[index].sent, all: true, tag: EngineTag.streamSend.tag(index))
    if !slots[index].isSendInFlight { isDirty = true }
  }
}

extension EngineOutput: StreamSink {
  @discardableResult
  mutating func connect(_ stream: StreamID, to address: PeerAddress) -> Bool {
    streams.connect(Int(stream.index), to: address)
  }

  mutating func listen(on address: PeerAddress, backlog: Int) -> Int32 { streams.listen(on: address, backlog: backlog) }

  @discardableResult
  mutating func write(_ stream: StreamID, count: Int, _ write: (inout MutableRawSpan) -> Void) -> Bool {
    guard let place = streams.reserve(Int(stream.index), count) else { return false }
    var span = unsafe MutableRawSpan(_unsafeStart: place, byteCount: count)
    write(&span)
    return true
  }

  func queued(_ stream: StreamID) -> Int {
    Int(stream.index) < streams.capacity ? streams.slots[Int(stream.index)].queued : 0
  }

  mutating func setReading(_ stream: StreamID, _ reading: Bool) { streams.setReading(Int(stream.index), reading) }

  mutating func close(_ stream: StreamID) { streams.close(Int(stream.index)) }
}
