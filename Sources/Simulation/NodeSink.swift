import Ground

/// A node's sink: the network's side of the port. Datagrams queued here leave when the node's present run has ended.
public struct NodeSink: DatagramSink, ~Copyable {
  let network: UnsafeMutablePointer<NetworkState>
  let node: Int

  private func isLink(_ link: LinkID) -> Bool { Int(link.index) < network.pointee.model.maxLinks }

  public mutating func assign(_ link: LinkID, to address: PeerAddress, rate: LinkRate) {
    guard isLink(link) else { return }
    let destination = network.pointee.nodeOfAddress[address] ?? -1
    let slot = network.pointee.nodes[node].links + Int(link.index)
    slot.pointee.isAssigned = true
    slot.pointee.rate = rate
    if slot.pointee.destination != destination {
      slot.pointee.destination = destination
      for urgency in 0..<4 {
        var next = slot.pointee[urgency].first
        while next >= 0 {
          network.pointee.pool.slots[Int(next)].destination = destination
          next = network.pointee.pool.slots[Int(next)].next
        }
      }
    }
  }

  public mutating func remove(_ link: LinkID) {
    guard isLink(link) else { return }
    _ = network.pointee.drop(flow: nil, node, Int(link.index))
    network.pointee.nodes[node].links[Int(link.index)] = SimulatedLink()
  }

  @discardableResult
  public mutating func send(
    on link: LinkID, urgency: Urgency, flow: FlowID, capacity: Int, _ write: (inout MutableRawSpan) -> Int
  ) -> Bool {
    guard isLink(link) else {
      network.pointee.nodes[node].counters.refused += 1
      return false
    }
    return network.pointee.enqueue(
      node, Int(link.index), urgency: Int(urgency.rawValue), flow: flow.value, capacity: capacity, write)
  }

  @discardableResult
  public mutating func reply(to address: PeerAddress, capacity: Int, _ write: (inout MutableRawSpan) -> Int) -> Bool {
    let second = network.pointee.now / 1_000_000_000
    if network.pointee.nodes[node].replySecond != second {
      network.pointee.nodes[node].replySecond = second
      network.pointee.nodes[node].repliesInSecond = 0
    }
    if network.pointee.nodes[node].repliesInSecond >= network.pointee.model.repliesPerSecond {
      network.pointee.nodes[node].counters.repliesRefused += 1
      return false
    }
    network.pointee.nodes[node].repliesInSecond += 1
    // The queue of replies stands behind the links; each datagram in it has its own destination.
    let queue = network.pointee.model.maxLinks
    network.pointee.nodes[node].links[queue].destination = network.pointee.nodeOfAddress[address] ?? -1
    return network.pointee.enqueue(node, queue, urgency: 0, flow: 0, capacity: capacity, write)
  }

  @discardableResult
  public mutating func drop(flow: FlowID, on link: LinkID) -> Int {
    guard isLink(link), flow != .none else { return 0 }
    return network.pointee.drop(flow: flow.value, node, Int(link.index))
  }

  public func room(on link: LinkID) -> Int {
    guard isLink(link) else { return 0 }
    let slot = network.pointee.nodes[node].links + Int(link.index)
    guard slot.pointee.isAssigned else { return 0 }
    let room = network.pointee.queueTarget(slot.pointee.rate) - slot.pointee.queuedBytes
    // A core that finds no room for one datagram more is told when there is.
    if room < network.pointee.model.maxDatagram { slot.pointee.owesRoom = true }
    return max(0, room)
  }
}
