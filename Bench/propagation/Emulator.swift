import CNamespace
import Foundation
import Glibc
import Ground
import Synchronization

/// One direction between two sites.
struct Path: Sendable {
  /// One way, without the time that the link's rate takes.
  var delay: Interval
  var bitsPerSecond: Double
  /// Share of packets lost.
  var loss = 0.0
  /// Mean length of a run of lost packets. Losses are independent at 1 / (1 - loss), which is the least.
  var meanBurst = 1.0
}

/// A wide-area network between network namespaces, in this process: every site has a TUN device, and one thread carries
/// the packets between them with each link's delay, rate, queue and loss. The kernel needs no netem.
///
/// Loss is a Gilbert–Elliott chain: in the bad state every packet is lost, in the good state none is. Packets of one
/// direction stay in order. A queue holds 200 ms of its link's rate; what does not fit is dropped at its tail.
final class Emulator: @unchecked Sendable {
  static let mtu = 1_500
  private static let queue = Interval.milliseconds(200 as Int64)
  private static let poolSlots = 16_384
  /// Ethernet around an IP packet: header, check sequence, preamble, gap.
  private static let frameBytes = 38

  private struct Direction {
    var path: Path
    var isBad = false
    var freeAt = Instant.zero
    /// Slots on their way, in order of their due times.
    var head = 0
    var tail = 0
    let ring: UnsafeMutablePointer<(slot: Int32, length: Int32, due: Instant)>
  }

  struct Site {
    let namespace: Int32
    let tun: Int32
  }

  let sites: [Site]
  private let count: Int
  /// count × count; only the thread looks at them once it runs, and takes changes from `wanted`.
  private let directions: UnsafeMutablePointer<Direction?>
  private let pool: UnsafeMutableRawPointer
  private var free: [Int32]
  private let wanted = Mutex<[(from: Int, to: Int, path: Path?)]>([])
  private let changed = Atomic<Bool>(false)
  private let stopping = Atomic<Bool>(false)
  private let lateness = Mutex<[UInt32]>([])
  private let figures = Mutex(Figures())
  private var random = SeededRandom(seed: 20)
  private let finished = DispatchSemaphore(value: 0)

  struct Figures {
    var carried: UInt64 = 0
    var lost: UInt64 = 0
    /// At the tail of a queue, or with no slot left, or refused by the device.
    var dropped: UInt64 = 0
  }

  /// Makes the namespaces. Throws errno.
  init(sites count: Int) throws {
    self.count = count
    var made: [Site] = []
    for index in 0..<count {
      var (namespace, tun): (Int32, Int32) = (-1, -1)
      let code = cn_make_site("wan0", Emulator.address(index), 24, Int32(Emulator.mtu), &namespace, &tun)
      if code < 0 { throw POSIXError(POSIXErrorCode(rawValue: -code) ?? .EIO) }
      made.append(Site(namespace: namespace, tun: tun))
    }
    sites = made
    directions = .allocate(capacity: count * count)
    directions.initialize(repeating: nil, count: count * count)
    pool = .allocate(byteCount: Emulator.poolSlots * Emulator.mtu, alignment: 64)
    free = (0..<Int32(Emulator.poolSlots)).reversed()
  }

  deinit {
    for index in 0..<count * count { directions[index]?.ring.deallocate() }
    directions.deallocate()
    pool.deallocate()
  }

  /// 10.77.0.1 and on.
  static func address(_ site: Int) -> UInt32 { 0x0A4D_0001 + UInt32(site) }
  static func text(_ site: Int) -> String { "10.77.0.\(site + 1)" }

  /// Sets both directions of a link, or removes it. Takes effect within a fifth of a second.
  func set(_ a: Int, _ b: Int, _ path: Path?) {
    wanted.withLock { $0 += [(a, b, path), (b, a, path)] }
    changed.store(true, ordering: .releasing)
  }

  /// How late packets were handed on since the last call, in microseconds, sorted: what the emulator itself adds.
  func takeLateness() -> [Double] {
    lateness.withLock { values in
      defer { values = [] }
      return values.map { Double($0) / 1e3 }.sorted()
    }
  }
  func total() -> Figures { figures.withLock { $0 } }

  func start() {
    let thread = Thread { [self] in
      // Fails without the capability; then timers are up to 50 µs later, as the figures show.
      _ = cn_realtime(80)
      run()
      finished.signal()
    }
    thread.stackSize = 1 << 20
    thread.start()
  }

  func stop() {
    stopping.store(true, ordering: .releasing)
    finished.wait()
    for site in sites {
      close(site.tun)
      close(site.namespace)
    }
  }

  // MARK: The thread

  private func run() {
    var polls = sites.map { pollfd(fd: $0.tun, events: Int16(POLLIN), revents: 0) }
    while !stopping.load(ordering: .acquiring) {
      if changed.exchange(false, ordering: .acquiring) { adopt() }
      let next = deliver(now: SystemClock.now())
      let wait = min(max((next - SystemClock.now()).nanoseconds, 0), 200_000_000)
      if cn_wait(&polls, Int32(count), wait) > 0 {
        for site in 0..<count where polls[site].revents != 0 { take(from: site) }
      }
    }
  }

  private func adopt() {
    let changes = wanted.withLock { list in
      defer { list = [] }
      return list
    }
    for change in changes {
      let index = change.from * count + change.to
      if let path = change.path {
        if directions[index] == nil {
          directions[index] = Direction(path: path, ring: .allocate(capacity: Emulator.poolSlots))
        }
        directions[index]!.path = path
      } else if let old = directions[index] {
        for place in old.head..<old.tail { free.append(old.ring[place & (Emulator.poolSlots - 1)].slot) }
        old.ring.deallocate()
        directions[index] = nil
      }
    }
  }

  /// Hands on what is due; returns when the next packet is.
  private func deliver(now start: Instant) -> Instant {
    var next = Instant.never
    var late: [UInt32] = []
    var (carried, dropped): (UInt64, UInt64) = (0, 0)
    for index in 0..<count * count where directions[index] != nil {
      while directions[index]!.head < directions[index]!.tail {
        let entry = directions[index]!.ring[directions[index]!.head & (Emulator.poolSlots - 1)]
        let now = SystemClock.now()
        if entry.due > now {
          next = min(next, entry.due)
          break
        }
        directions[index]!.head += 1
        let bytes = pool + Int(entry.slot) * Emulator.mtu
        if write(sites[index % count].tun, bytes, Int(entry.length)) == Int(entry.length) {
          carried += 1
        } else {
          dropped += 1
        }
        free.append(entry.slot)
        late.append(UInt32(clamping: (now - entry.due).nanoseconds))
      }
    }
    if carried + dropped > 0 {
      lateness.withLock { if $0.count < 4_000_000 { $0 += late } }
      figures.withLock {
        $0.carried += carried
        $0.dropped += dropped
      }
    }
    return next
  }

  /// Reads what a site sends, at most 64 packets at a time, so that what is due elsewhere does not wait.
  private func take(from site: Int) {
    var (lost, dropped): (UInt64, UInt64) = (0, 0)
    for _ in 0..<64 {
      guard let slot = free.popLast() else { break }
      let bytes = pool + Int(slot) * Emulator.mtu
      let length = Glibc.read(sites[site].tun, bytes, Emulator.mtu)
      if length <= 0 {
        free.append(slot)
        break
      }
      let now = SystemClock.now()
      guard length >= 20, bytes.load(as: UInt8.self) >> 4 == 4 else {
        free.append(slot)  // IPv6 neighbour discovery and the like
        continue
      }
      let target = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt32.self))
      let to = Int(Int64(target) - Int64(Emulator.address(0)))
      guard (0..<count).contains(to), directions[site * count + to] != nil else {
        free.append(slot)
        continue
      }
      switch admit(length, to: &directions[site * count + to]!, slot: slot, now: now) {
      case .carried: break
      case .lost:
        lost += 1
        free.append(slot)
      case .dropped:
        dropped += 1
        free.append(slot)
      }
    }
    if lost + dropped > 0 {
      figures.withLock {
        $0.lost += lost
        $0.dropped += dropped
      }
    }
  }

  private enum Fate { case carried, lost, dropped }

  private func admit(_ length: Int, to direction: inout Direction, slot: Int32, now: Instant) -> Fate {
    let path = direction.path
    if path.loss > 0 {
      // The chain's stationary share of bad states is `loss`, and a bad run lasts `burst` packets in the mean.
      let burst = max(path.meanBurst, 1 / (1 - path.loss))
      let toBad = path.loss / (burst * (1 - path.loss))
      direction.isBad = random.chance(direction.isBad ? 1 - 1 / burst : toBad)
      if direction.isBad { return .lost }
    }
    let begin = max(now, direction.freeAt)
    if begin - now > Emulator.queue || direction.tail - direction.head >= Emulator.poolSlots { return .dropped }
    let wire = Interval(nanoseconds: Int64(Double((length + Emulator.frameBytes) * 8) / path.bitsPerSecond * 1e9))
    direction.freeAt = begin + wire
    direction.ring[direction.tail & (Emulator.poolSlots - 1)] = (slot, Int32(length), begin + wire + path.delay)
    direction.tail += 1
    return .carried
  }
}
