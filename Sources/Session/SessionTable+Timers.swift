import Ground
import Wire

extension SessionTable {
  /// Makes sure that `deadlinePassed` is called by `instant`.
  @inline(__always) mutating func arm(_ instant: Instant) { nextDeadline = min(nextDeadline, instant) }

  /// `nextDeadline` has passed: retransmissions, pings, rekeys, and ends.
  public mutating func deadlinePassed(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    nextDeadline = .never
    if isStopped { return }
    if ticketRotation <= now { rotateTickets(now: now) }
    arm(ticketRotation)
    for i in 0..<capacity where configured[i] {
      expire(i, now: now)
      if links[i].current != LinkRecord.none { keep(i, now: now, into: &sink) }
      if links[i].retryAt <= now { retry(i, now: now, into: &sink) }
      armAll(i)
    }
  }

  /// Wipes keys whose time is over.
  private mutating func expire(_ link: Int, now: Instant) {
    let previous = links[link].previous
    if previous != LinkRecord.none && slots[previous].until <= now {
      wipe(previous)
      links[link].previous = LinkRecord.none
    }
    let oldest = links[link].oldest
    if oldest != LinkRecord.none && slots[oldest].until <= now {
      wipe(oldest)
      links[link].oldest = LinkRecord.none
    }
    let theirs = links[link].theirs
    if theirs != LinkRecord.none && slots[theirs].until <= now {
      wipe(theirs)
      links[link].theirs = LinkRecord.none
    }
    let ours = links[link].ours
    if ours != LinkRecord.none && slots[ours].until <= now {
      // Either it gave in to the peer's, or it was never confirmed.
      let waits = slots[ours].promotable
      wipe(ours)
      links[link].ours = LinkRecord.none
      if waits {
        links[link].phase = .idle
        links[link].retryAt = now
      }
    }
    // With an address but neither session nor handshake: the peer's own came to nothing.
    if links[link].current == LinkRecord.none && links[link].theirs == LinkRecord.none && links[link].phase == .idle
      && links[link].retryAt == .never && links[link].address != nil && links[link].configuredAddress != nil
    {
      links[link].retryAt = now
    }
  }

  /// A running session's own timers.
  private mutating func keep(_ link: Int, now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    let slot = links[link].current
    if now - links[link].lastHeard >= settings.silenceLimit {
      end(link, .silent, retryIn: .zero, now: now, into: &sink)
      return
    }
    if now - slots[slot].born >= settings.expireAfter || slots[slot].sendCounter >= settings.expireAfterPackets {
      end(link, .expired, retryIn: .zero, now: now, into: &sink)
      return
    }
    if links[link].pingAt <= now { sendPing(link, now: now, into: &sink) }
    // Datagrams received count too: the peer may be one that can't begin.
    let worn = slots[slot].receiveNext >= slots[slot].rekeyCount
    if (links[link].rekeyAt <= now || worn) && links[link].phase == .idle && links[link].retryAt == .never {
      // Asked for again if this comes to nothing.
      links[link].rekeyAt = now + .seconds(10)
      if slots[slot].initiated || links[link].configuredAddress != nil {
        beginHandshake(link, now: now, into: &sink)
      } else {
        sendControl(link, into: &sink) { out in
          out.u8[0] = SessionFormat.Control.rekey
          return SessionFormat.rekeyBytes
        }
      }
    }
  }

  private mutating func armAll(_ link: Int) {
    arm(links[link].retryAt)
    let record = links[link]
    if record.previous != LinkRecord.none { arm(slots[record.previous].until) }
    if record.oldest != LinkRecord.none { arm(slots[record.oldest].until) }
    if record.theirs != LinkRecord.none { arm(slots[record.theirs].until) }
    if record.ours != LinkRecord.none { arm(slots[record.ours].until) }
    let slot = links[link].current
    if slot == LinkRecord.none { return }
    arm(links[link].pingAt)
    arm(links[link].lastHeard + settings.silenceLimit)
    arm(links[link].rekeyAt)
    arm(slots[slot].born + settings.expireAfter)
  }

  /// A datagram count has come to where new keys are due.
  mutating func rekeySoon(_ link: Int) {
    links[link].rekeyAt = .zero
    nextDeadline = .zero
  }

  /// A session that was waiting has been confirmed: it is the one to send with from now on.
  mutating func promote(
    _ link: Int, _ slot: Int, from source: PeerAddress, now: Instant, into sink: inout some DatagramSink & ~Copyable
  ) {
    let id = LinkID(UInt16(link))
    let wasEstablished = links[link].current != LinkRecord.none
    wipe(links[link].oldest)
    links[link].oldest = links[link].previous
    links[link].previous = links[link].current
    if wasEstablished { slots[links[link].previous].until = now + settings.previousGrace }
    links[link].current = slot
    if links[link].ours == slot { links[link].ours = LinkRecord.none }
    if links[link].theirs == slot { links[link].theirs = LinkRecord.none }
    // At most one of two simultaneous handshakes gets this far on either side, and it is the same one.
    abandonOurs(link)
    if links[link].theirs != LinkRecord.none { slots[links[link].theirs].promotable = false }

    slots[slot].promotable = false
    slots[slot].until = .never
    let parameters = slots[slot].parameters
    let restarted = wasEstablished && links[link].peerInstance != slots[slot].peerInstance
    links[link].peerInstance = slots[slot].peerInstance
    links[link].lastParameters = parameters
    links[link].lastHeard = now
    if links[link].address != source {
      links[link].address = source
      links[link].cookieUntil = .zero
      sink.assign(id, to: source, rate: links[link].rate)
      if wasEstablished { note(.moved(id, source)) }
    }
    if restarted {
      // Nothing of the peer's earlier life comes after this.
      wipe(links[link].previous)
      wipe(links[link].oldest)
      links[link].previous = LinkRecord.none
      links[link].oldest = LinkRecord.none
      note(.lost(id, .peerRestarted))
    }
    note(wasEstablished && !restarted ? .rekeyed(id, parameters) : .established(id, parameters))

    // The side that began rekeys; the other one only if that doesn't happen.
    let initiated = slots[slot].initiated
    if initiated { counters.initiated += 1 } else { counters.responded += 1 }
    let (wait, count) = (settings.rekeyAfter, settings.rekeyAfterPackets)
    links[link].rekeyAt = slots[slot].born + (initiated ? wait : wait + wait / 4)
    slots[slot].rekeyCount = initiated ? count : max(count, count &+ count / 4)
    links[link].quickPings = 3
    links[link].pingAt = now + settings.pingInterval
    if initiated {
      // The responder waits for a first datagram under the new keys.
      sendPing(link, now: now, into: &sink)
    }
    armAll(link)
  }

  /// Ends the running session and, when there is an address to try, looks for the peer again.
  mutating func end(
    _ link: Int, _ loss: SessionLoss, retryIn wait: Interval, now: Instant,
    into sink: inout some DatagramSink & ~Copyable
  ) {
    let id = LinkID(UInt16(link))
    note(.lost(id, loss))
    wipe(links[link].current)
    wipe(links[link].previous)
    wipe(links[link].oldest)
    links[link].current = LinkRecord.none
    links[link].previous = LinkRecord.none
    links[link].oldest = LinkRecord.none
    links[link].pingAt = .never
    links[link].rekeyAt = .never
    guard let address = links[link].configuredAddress else {
      abandonOurs(link)
      return
    }
    if links[link].address != address {
      links[link].address = address
      links[link].cookieUntil = .zero
      sink.assign(id, to: address, rate: links[link].rate)
    }
    if links[link].phase == .idle {
      links[link].retryAt = now + wait
      arm(links[link].retryAt)
    }
  }
}
