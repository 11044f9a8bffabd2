import Glibc
import Ground
import Testing
import Uring

/// The ring by itself, as the TCP side of the house uses it.
@Suite(.serialized) struct RingTests {
  /// Waits for the completion of `tag`.
  func complete(_ ring: inout Ring, _ tag: UInt64) -> Completion? {
    for _ in 0..<200 {
      ring.wait(.milliseconds(Int64(50)))
      for i in 0..<ring.take() where ring.completion(i).tag == tag { return ring.completion(i) }
    }
    return nil
  }

  @Test(arguments: RingMode.allCases)
  func tcpThereAndBack(_ mode: RingMode) throws {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer {
      close(listener)
      close(client)
    }
    let name = UnsafeMutableRawPointer.allocate(byteCount: SocketAddress.maxBytes, alignment: 8)
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: 100_000, alignment: 8)
    let back = UnsafeMutableRawPointer.allocate(byteCount: 100_000, alignment: 8)
    defer {
      name.deallocate()
      bytes.deallocate()
      back.deallocate()
    }
    for i in 0..<100_000 {
      bytes.storeBytes(of: UInt8(truncatingIfNeeded: i &* 31 >> 3), toByteOffset: i, as: UInt8.self)
    }
    var length = SocketAddress.write(.loopbackIPv4, ipv4Socket: true, to: name)
    let address = name.assumingMemoryBound(to: sockaddr.self)
    try #require(bind(listener, address, length) == 0 && listen(listener, 4) == 0)
    try #require(getsockname(listener, address, &length) == 0)

    var ring = try Ring(entries: 8, mode: mode)
    let got = ring.mode
    #expect(got == mode)
    try ring.activate()
    ring.accept(listener, tag: 1)
    ring.connect(client, to: address, length: length, tag: 2)
    var served: Int32 = -1
    var connected: Int32 = -1
    for _ in 0..<100 where served < 0 || connected < 0 {
      ring.wait(.milliseconds(Int64(50)))
      for i in 0..<ring.take() {
        let completion = ring.completion(i)
        if completion.tag == 1 {
          served = completion.result
          #expect(completion.hasMore, "accepting goes on")
        } else if completion.tag == 2 {
          connected = completion.result
        }
      }
    }
    try #require(served >= 0 && connected == 0)
    ring.send(client, bytes, count: 100_000, tag: 3)
    var arrived = 0
    var sent: Int32?
    ring.receive(served, into: back, count: 100_000, tag: 4)
    while arrived < 100_000 {
      ring.wait(.milliseconds(Int64(500)))
      let taken = ring.take()
      try #require(taken > 0)
      for i in 0..<taken {
        let completion = ring.completion(i)
        if completion.tag == 3 { sent = completion.result }
        if completion.tag == 4 {
          try #require(completion.result > 0)
          arrived += Int(completion.result)
          if arrived < 100_000 { ring.receive(served, into: back + arrived, count: 100_000 - arrived, tag: 4) }
        }
      }
    }
    if sent == nil { sent = complete(&ring, 3)?.result }
    #expect(sent == 100_000)
    #expect(memcmp(bytes, back, 100_000) == 0)

    // A receive that waits is cancelled by its tag.
    ring.receive(served, into: back, count: 10, tag: 5)
    ring.cancel(tagged: 5, tag: 6)
    let cancelled = complete(&ring, 5)
    #expect(cancelled?.result == -ECANCELED)
    ring.shutdown(served, tag: 7)
    ring.close(served, tag: 8)
    let closed = complete(&ring, 8)
    #expect(closed?.result == 0)
  }

  /// An older kernel answers EINVAL to flags it doesn't know: the next mode is tried. Anything else is no matter of age.
  @Test func stepsDownOnOlderKernels() {
    func take(_ answers: [Int32]) -> (modes: [RingMode], mode: RingMode?, error: Int32) {
      var asked: [RingMode] = []
      let (mode, error) = Ring.stepDown(RingMode.allCases) { candidate in
        asked.append(candidate)
        return answers[asked.count - 1]
      }
      return (asked, mode, error)
    }
    #expect(take([0]).mode == .deferred)
    #expect(take([-EINVAL, 0]).mode == .cooperative)
    let oldest = take([-EINVAL, -EINVAL, 0])
    #expect(oldest.mode == .interrupting && oldest.modes == RingMode.allCases)
    let none = take([-EINVAL, -EINVAL, -EINVAL])
    #expect(none.mode == nil && none.error == -EINVAL)
    let forbidden = take([-EPERM])
    #expect(forbidden.mode == nil && forbidden.error == -EPERM && forbidden.modes == [.deferred])
  }

  @Test func tooOldNamesTheLowestKernel() throws {
    let ring = try Ring()
    let has = ring.hasMultishotReceive
    #expect(has, "the other tests ran")
    let text = RingError.kernelTooOld(missing: "multishot recvmsg", release: "5.15.0-9-amd64").description
    #expect(text.contains("6.0") && text.contains("5.15.0-9-amd64") && text.contains("multishot recvmsg"))
  }

  @Test func timeoutsAreKept() throws {
    var ring = try Ring()
    try ring.activate()
    let begin = SystemClock.now()
    ring.wait(.milliseconds(Int64(5)))
    #expect(SystemClock.now() - begin >= .milliseconds(Int64(5)))
    let taken = ring.take()
    #expect(taken == 0)
  }

  @Test func addressesAsTheKernelSpellsThem() {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: SocketAddress.maxBytes, alignment: 8)
    defer { memory.deallocate() }
    for text in ["127.0.0.1:8335", "[2001:db8::7]:1", "[fe80::1%3]:65535"] {
      let address = PeerAddress(text)!
      let length = Int(SocketAddress.write(address, ipv4Socket: false, to: memory))
      #expect(SocketAddress.read(memory, length: length) == address)
      #expect(SocketAddress.read(memory, length: length - 1) == nil)
      let short = SocketAddress.write(address, ipv4Socket: true, to: memory)
      if address.isIPv4 {
        #expect(SocketAddress.read(memory, length: Int(short)) == address)
      } else {
        #expect(short == 0)
      }
    }
    #expect(SocketAddress.read(memory, length: 0) == nil)
  }
}
