import CLiburing
import CRing
import Glibc
import Ground

extension UDPEngine {
  /// A connect that came through or failed.
  mutating func connected<Core: DatagramCore & ~Copyable>(
    _ completion: Completion, _ index: Int, _ core: inout Core
  ) {
    output.streams.slots[index].isConnectInFlight = false
    output.streams.isDirty = true
    guard output.streams.slots[index].state == .connecting else { return }
    if completion.result < 0 {
      output.streams.close(index, error: -completion.result)
      return
    }
    output.streams.slots[index].state = .open
    if !isDraining { core.streamOpened(StreamID(UInt16(index)), now: now, into: &output) }
  }

  /// A new connection on a listening address.
  mutating func accepted<Core: DatagramCore & ~Copyable>(
    _ completion: Completion, _ index: Int, _ core: inout Core
  ) {
    if !completion.hasMore {
      output.streams.listeners[index].isArmed = false
      output.streams.isDirty = !isDraining
    }
    guard completion.result >= 0 else { return }
    let descriptor = completion.result
    if !isDraining, let peer = SocketAddress.peer(of: descriptor),
      let stream = core.streamAccepted(
        from: peer, on: output.streams.listeners[index].address, now: now, into: &output),
      output.streams.adopt(Int(stream.index), descriptor: descriptor)
    {
      return
    }
    Glibc.close(descriptor)
  }

  mutating func streamReceived<Core: DatagramCore & ~Copyable>(
    _ completion: Completion, _ index: Int, _ core: inout Core
  ) {
    output.streams.slots[index].isReceiveInFlight = false
    output.streams.isDirty = true
    guard output.streams.slots[index].state == .open else { return }
    if completion.result <= 0 {
      // 0 is the other side's orderly end.
      output.streams.close(index, error: -completion.result)
      return
    }
    guard !isDraining, let memory = output.streams.slots[index].receiving else { return }
    tick()
    let bytes = unsafe RawSpan(_unsafeStart: memory, byteCount: Int(completion.result))
    core.streamReceived(bytes, on: StreamID(UInt16(index)), now: now, into: &output)
    // What this caused to be said must not wait for the end of a long batch.
    output.streams.submit(&ring)
    tick()
    flushIfDue()
  }

  mutating func streamSent<Core: DatagramCore & ~Copyable>(
    _ completion: Completion, _ index: Int, _ core: inout Core
  ) {
    output.streams.slots[index].isSendInFlight = false
    output.streams.isDirty = true
    guard output.streams.slots[index].state == .open else { return }
    if completion.result < 0 {
      output.streams.close(index, error: -completion.result)
      return
    }
    output.streams.slots[index].sent += Int(completion.result)
    if output.streams.slots[index].queued == 0, output.streams.slots[index].wasQueued, !isDraining {
      output.streams.slots[index].wasQueued = false
      core.streamDrained(StreamID(UInt16(index)), now: now, into: &output)
    }
  }

  /// The core's turn; then frees streams that are closing and have nothing in flight, and tells the core; then puts in what is wanted.
  mutating func serviceStreams<Core: DatagramCore & ~Copyable>(_ core: inout Core) {
    core.streamsTurn(now: now, into: &output)
    while output.streams.hasClosing {
      output.streams.hasClosing = false
      var left = false
      for index in 0..<output.streams.used where output.streams.slots[index].state == .closing {
        if !output.streams.slots[index].isIdle {
          left = true
          continue
        }
        let error = output.streams.slots[index].error
        output.streams.release(index)
        // The core may open this or another stream at once.
        if !isDraining {
          core.streamClosed(StreamID(UInt16(index)), error: error, now: now, into: &output)
        }
      }
      if left && !output.streams.hasClosing {
        output.streams.hasClosing = true
        break
      }
    }
    output.streams.submit(&ring)
  }

  /// Ends all streams.
  mutating func closeStreams() {
    for index in 0..<output.streams.used { output.streams.close(index) }
    output.streams.submit(&ring)
  }

  /// A stream's completion after the end.
  mutating func finishStream(_ kind: EngineTag, _ completion: Completion, _ index: Int) {
    switch kind {
    case .connect: output.streams.slots[index].isConnectInFlight = false
    case .streamReceive: output.streams.slots[index].isReceiveInFlight = false
    case .streamSend: output.streams.slots[index].isSendInFlight = false
    case .accept:
      if completion.result >= 0 { Glibc.close(completion.result) }
      if !completion.hasMore { output.streams.listeners[index].isArmed = false }
    default: break
    }
  }

  var isAnyStreamArmed: Bool {
    for index in 0..<output.streams.used where !output.streams.slots[index].isIdle { return true }
    for index in 0..<output.streams.listenerCount where output.streams.listeners[index].isArmed { return true }
    return false
  }
}

extension SocketAddress {
  /// Who is at the other end of a connected socket.
  static func peer(of descriptor: Int32) -> PeerAddress? {
    withUnsafeTemporaryAllocation(byteCount: maxBytes, alignment: 8) { memory in
      var length = socklen_t(maxBytes)
      guard getpeername(descriptor, memory.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length) == 0 else {
        return nil
      }
      return read(memory.baseAddress!, length: Int(length))
    }
  }
}
