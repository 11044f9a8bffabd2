import Foundation
import Ground

/// One node's queue to another: what the engine keeps for a link.
struct SimulatedLink {
  var isAssigned = false
  /// -1: the address belongs to no node; datagrams vanish.
  var destination: Int32 = -1
  var rate = LinkRate.unlimited
  /// By urgency.
  var queues: (SlotList, SlotList, SlotList, SlotList) = (SlotList(), SlotList(), SlotList(), SlotList())
  var queuedBytes = 0
  var queuedCount = 0
  /// When the last datagram's last bit has left.
  var freeAt: UInt64 = 0
  /// The core was told that there is no room: it wants to hear when there is.
  var owesRoom = false

  subscript(_ urgency: Int) -> SlotList {
    get {
      switch urgency {
      case 0: queues.0
      case 1: queues.1
      case 2: queues.2
      default: queues.3
      }
    }
    set {
      switch urgency {
      case 0: queues.0 = newValue
      case 1: queues.1 = newValue
      case 2: queues.2 = newValue
      default: queues.3 = newValue
      }
    }
  }
}

/// What a node's driver counted.
public struct NodeCounters: Hashable, Sendable {
  public var received: UInt64 = 0
  public var sent: UInt64 = 0
  /// `send` refused: unknown link or full queue.
  public var refused: UInt64 = 0
  /// Arrived at a full receive buffer.
  public var overflowed: UInt64 = 0
  /// Dropped from queues by flow, or because the link went away.
  public var dropped: UInt64 = 0
  public var repliesRefused: UInt64 = 0
  /// Sent to an address that no node has.
  public var nowhere: UInt64 = 0
  /// Virtual CPU time.
  public var busyNanoseconds: UInt64 = 0
  /// Most datagrams that ever waited in the receive buffer.
  public var deepestInbox: UInt64 = 0
  public init() {}
}

struct SimulatedNode {
  var address: UInt32
  var uplink: LinkRate
  var clock: ClockModel
  var isUp = false
  /// `maxLinks` links, and behind them the queue of replies.
  var links: UnsafeMutablePointer<SimulatedLink>
  /// Bit sets over `links`: something queued; room to be announced.
  var queued: (UInt64, UInt64, UInt64) = (0, 0, 0)
  var roomDue: (UInt64, UInt64) = (0, 0)
  var nextLink = 0
  var uplinkFreeAt: UInt64 = 0
  var pumpAt = UInt64.max
  var inbox = SlotList()
  var runAt = UInt64.max
  /// Until when the run of number `run` keeps the node busy.
  var busyUntil: UInt64 = 0
  var run: UInt32 = 0
  /// Datagrams handed over in the present run, for their CPU time.
  var sentInRun: UInt64 = 0
  var isWoken = false
  var replySecond: UInt64 = 0
  var repliesInSecond = 0
  var counters = NodeCounters()
}

struct SimulatedPath {
  var model: PathModel
  var toGood, toBad: Double
  var random: SeededRandom
  var isBad = false
  var isCut = false
  var lastArrival: UInt64 = 0
  var counters = PathCounters()
}

/// The network's state, apart from the cores. Lives behind one pointer that the simulation and its sinks share; a run is
/// single-threaded.
struct NetworkState: ~Copyable {
  let model: NetworkModel
  var now: UInt64 = 0
  var heap = EventHeap()
  var pool: DatagramPool
  var nodes: [SimulatedNode] = []
  /// From × to, `nodes.count` wide once the run has begun.
  var paths: [SimulatedPath] = []
  /// Source addresses by number; a node's own is among them.
  var addresses: [PeerAddress] = []
  var nodeOfAddress: [PeerAddress: Int32] = [:]
  /// FNV-1a over every arrival and loss: two runs with one trace went the same way.
  var trace: UInt64 = 0xCBF2_9CE4_8422_2325

  init(model: NetworkModel) {
    self.model = model
    pool = DatagramPool(slotBytes: model.maxDatagram)
  }

  deinit { for node in nodes { node.links.deallocate() } }

  @inline(__always)
  mutating func note(_ value: UInt64) { trace = (trace ^ value) &* 0x0000_0100_0000_01B3 }

  // MARK: Scheduling

  /// Has `node` run at `time`, or earlier if that was arranged already.
  mutating func schedule(run node: Int, at time: UInt64) {
    let time = max(time, now)
    if nodes[node].runAt <= time { return }
    nodes[node].runAt = time
    heap.push(.run, at: time, node: node)
  }

  mutating func schedule(pump node: Int, at time: UInt64) {
    let time = max(time, now)
    if nodes[node].pumpAt <= time { return }
    nodes[node].pumpAt = time
    heap.push(.pump, at: time, node: node)
  }

  // MARK: Queues

  func queueTarget(_ rate: LinkRate) -> Int {
    if rate.bitsPerSecond == 0 { return model.unlimitedQueueBytes }
    let bytes = Double(rate.bitsPerSecond) / 8 * model.queueTarget.seconds
    return max(model.leastQueueBytes, Int(min(bytes, 1e9)))
  }

  mutating func enqueue(
    _ node: Int, _ link: Int, urgency: Int, flow: UInt64, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    let limit = model.maxQueued
    guard capacity <= pool.slotBytes, nodes[node].links[link].isAssigned, nodes[node].links[link].queuedCount < limit
    else {
      nodes[node].counters.refused += 1
      return false
    }
    let slot = pool.take()
    let start = pool.bytes(slot)
    let buffer = UnsafeMutableRawBufferPointer(start: start, count: capacity)
    var span = buffer.mutableBytes
    let length = write(&span)
    precondition(length >= 0 && length <= capacity, "a datagram longer than its capacity")
    if length == 0 {
      pool.give(slot)
      return true
    }
    pool.slots[slot].length = Int32(length)
    pool.slots[slot].flow = flow
    pool.slots[slot].source = nodes[node].address
    pool.slots[slot].run = nodes[node].run
    pool.slots[slot].destination = nodes[node].links[link].destination
    nodes[node].links[link][urgency].append(slot, pool.slots)
    nodes[node].links[link].queuedBytes += length
    nodes[node].links[link].queuedCount += 1
    if nodes[node].links[link].queuedBytes >= queueTarget(nodes[node].links[link].rate) {
      nodes[node].links[link].owesRoom = true
    }
    setQueued(node, link, true)
    nodes[node].sentInRun += 1
    return true
  }

  private mutating func setQueued(_ node: Int, _ link: Int, _ isQueued: Bool) {
    let bit = UInt64(1) << UInt64(link & 63)
    switch link >> 6 {
    case 0: nodes[node].queued.0 = isQueued ? nodes[node].queued.0 | bit : nodes[node].queued.0 & ~bit
    case 1: nodes[node].queued.1 = isQueued ? nodes[node].queued.1 | bit : nodes[node].queued.1 & ~bit
    default: nodes[node].queued.2 = isQueued ? nodes[node].queued.2 | bit : nodes[node].queued.2 & ~bit
    }
  }

  mutating func drop(flow: UInt64?, _ node: Int, _ link: Int) -> Int {
    var bytes = 0
    var dropped = 0
    for urgency in 0..<4 {
      if nodes[node].links[link][urgency].isEmpty { continue }
      var list = nodes[node].links[link][urgency]
      let slots = pool.slots
      var unwanted = SlotList()
      var kept = SlotList()
      while let slot = list.popFirst(slots) {
        if flow == nil || slots[slot].flow == flow { unwanted.append(slot, slots) } else { kept.append(slot, slots) }
      }
      while let slot = unwanted.popFirst(slots) {
        bytes += Int(slots[slot].length)
        dropped += 1
        pool.give(slot)
      }
      nodes[node].links[link][urgency] = kept
    }
    if dropped > 0 {
      nodes[node].links[link].queuedBytes -= bytes
      nodes[node].links[link].queuedCount -= dropped
      nodes[node].counters.dropped += UInt64(dropped)
      if nodes[node].links[link].queuedCount == 0 { setQueued(node, link, false) }
      announceRoom(node, link)
    }
    return dropped
  }

  /// Notes that a link has room again, if its core was waiting for that.
  private mutating func announceRoom(_ node: Int, _ link: Int) {
    guard link < model.maxLinks, nodes[node].links[link].owesRoom,
      nodes[node].links[link].queuedBytes <= queueTarget(nodes[node].links[link].rate) / 2
    else { return }
    nodes[node].links[link].owesRoom = false
    if link < 64 {
      nodes[node].roomDue.0 |= 1 << UInt64(link)
    } else {
      nodes[node].roomDue.1 |= 1 << UInt64(link - 64)
    }
    schedule(run: node, at: max(now, nodes[node].busyUntil))
  }

  // MARK: The wire

  /// Bits on the wire: payload, UDP header, and IPv4's or IPv6's.
  private func wireBits(_ slot: Int, _ node: Int) -> UInt64 {
    let header = addresses[Int(nodes[node].address)].isIPv4 ? 28 : 48
    return UInt64((Int(pool.slots[slot].length) + header) * 8)
  }

  private static func duration(_ bits: UInt64, _ rate: LinkRate) -> UInt64 {
    rate.bitsPerSecond == 0 ? 0 : (bits * 1_000_000_000 + rate.bitsPerSecond - 1) / rate.bitsPerSecond
  }

  /// Lets go what the rates allow at this instant, most urgent first, links in turn among equals.
  mutating func pump(_ node: Int) {
    while true {
      if nodes[node].uplinkFreeAt > now {
        if nodes[node].queued.0 | nodes[node].queued.1 | nodes[node].queued.2 != 0 {
          schedule(pump: node, at: nodes[node].uplinkFreeAt)
        }
        return
      }
      var best = -1
      var bestUrgency = 4
      var bestTurn = Int.max
      var soonest = UInt64.max
      let total = model.maxLinks + 1
      let start = nodes[node].nextLink
      func consider(_ word: UInt64, _ base: Int) {
        var bits = word
        while bits != 0 {
          let link = base + bits.trailingZeroBitCount
          bits &= bits - 1
          if nodes[node].links[link].freeAt > now {
            soonest = min(soonest, nodes[node].links[link].freeAt)
            continue
          }
          for urgency in 0..<4 {
            let first = nodes[node].links[link][urgency].first
            if first < 0 { continue }
            if pool.slots[Int(first)].run == nodes[node].run && nodes[node].busyUntil > now {
              soonest = min(soonest, nodes[node].busyUntil)
              continue
            }
            let turn = link >= start ? link - start : link - start + total
            if (urgency, turn) < (bestUrgency, bestTurn) { (best, bestUrgency, bestTurn) = (link, urgency, turn) }
            break
          }
        }
      }
      consider(nodes[node].queued.0, 0)
      consider(nodes[node].queued.1, 64)
      consider(nodes[node].queued.2, 128)
      if best < 0 {
        if soonest != .max { schedule(pump: node, at: soonest) }
        return
      }
      nodes[node].nextLink = best + 1 == total ? 0 : best + 1
      release(node, best, bestUrgency)
    }
  }

  /// Puts one link's first datagram of an urgency on the wire.
  private mutating func release(_ node: Int, _ link: Int, _ urgency: Int) {
    guard let slot = nodes[node].links[link][urgency].popFirst(pool.slots) else { return }
    let length = Int(pool.slots[slot].length)
    nodes[node].links[link].queuedBytes -= length
    nodes[node].links[link].queuedCount -= 1
    if nodes[node].links[link].queuedCount == 0 { setQueued(node, link, false) }
    announceRoom(node, link)
    let bits = wireBits(slot, node)
    let onLink = Self.duration(bits, nodes[node].links[link].rate)
    let onUplink = Self.duration(bits, nodes[node].uplink)
    nodes[node].links[link].freeAt = now + onLink
    nodes[node].uplinkFreeAt = now + onUplink
    nodes[node].counters.sent += 1
    travel(slot, from: node, leaving: now + max(onLink, onUplink))
  }

  /// The way from one node to another: cut, loss, delay, order, duplication.
  private mutating func travel(_ slot: Int, from node: Int, leaving: UInt64) {
    let destination = Int(pool.slots[slot].destination)
    if destination < 0 {
      nodes[node].counters.nowhere += 1
      pool.give(slot)
      return
    }
    let path = node * nodes.count + destination
    let length = pool.slots[slot].length
    paths[path].counters.datagrams += 1
    paths[path].counters.bytes += UInt64(length)
    if paths[path].isCut {
      paths[path].counters.cut += 1
      pool.give(slot)
      return
    }
    if paths[path].toBad > 0 || paths[path].isBad {
      let draw = paths[path].random.unit()
      paths[path].isBad = paths[path].isBad ? draw >= paths[path].toGood : draw < paths[path].toBad
      if paths[path].isBad {
        paths[path].counters.lost += 1
        note(leaving ^ UInt64(path) << 48)
        pool.give(slot)
        return
      }
    }
    let arrival = arrivalTime(path, leaving)
    if paths[path].model.duplicate > 0, paths[path].random.chance(paths[path].model.duplicate) {
      let copy = pool.take()
      let next = pool.slots[copy].next
      pool.slots[copy] = pool.slots[slot]
      pool.slots[copy].next = next
      pool.bytes(copy).copyMemory(from: pool.bytes(slot), byteCount: Int(length))
      paths[path].counters.duplicated += 1
      arrive(copy, at: arrivalTime(path, leaving), destination)
    }
    arrive(slot, at: arrival, destination)
  }

  mutating func arrive(_ slot: Int, at time: UInt64, _ destination: Int) {
    pool.slots[slot].arrival = time
    heap.push(.arrival, at: time, node: destination, payload: UInt32(slot))
  }

  private mutating func arrivalTime(_ path: Int, _ leaving: UInt64) -> UInt64 {
    var time = leaving + UInt64(max(0, paths[path].model.delay.nanoseconds))
    let jitter = paths[path].model.jitter.nanoseconds
    if jitter > 0 {
      time += UInt64(Self.exponential(&paths[path].random) * Double(jitter))
    }
    if paths[path].model.reorder > 0, paths[path].random.chance(paths[path].model.reorder) {
      paths[path].counters.heldBack += 1
      return time + UInt64(paths[path].random.unit() * Double(max(0, paths[path].model.reorderDelay.nanoseconds)))
    }
    time = max(time, paths[path].lastArrival)
    paths[path].lastArrival = time
    return time
  }

  private static func exponential(_ random: inout SeededRandom) -> Double { -log(1 - random.unit()) }
}
