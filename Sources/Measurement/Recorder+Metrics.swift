import Ground

extension Recorder {
  /// Metrics of all this.
  public func metrics(into text: inout MetricsText, now: Instant, kernel: KernelClock?) {
    let sorted = peers.values.sorted { $0.name < $1.name }
    text.family("lightpath_clock_offset_seconds", .gauge, help: "Peer's clock minus ours, middle of the bounds.")
    for peer in sorted {
      if let bounds = peer.clock.bounds(at: now) { text.sample(bounds.estimate.seconds, [("peer", peer.name)]) }
    }
    text.family("lightpath_clock_uncertainty_seconds", .gauge, help: "Half the width of the offset's bounds.")
    for peer in sorted {
      if let bounds = peer.clock.bounds(at: now) { text.sample(bounds.uncertainty.seconds, [("peer", peer.name)]) }
    }
    text.family("lightpath_clock_steps_total", .counter, help: "Steps of a peer's clock against ours.")
    for peer in sorted { text.sample(peer.clock.steps, [("peer", peer.name)]) }
    links(sorted, into: &text)
    text.family("lightpath_journeys_total", .counter, help: "Journeys taken from a peer.")
    for peer in sorted { text.sample(Double(peer.journeys), [("peer", peer.name)]) }
    text.family(
      "lightpath_journeys_relayed_total", .counter, help: "Journeys of other relays taken by way of a peer.")
    for peer in sorted { text.sample(Double(peer.relayed), [("peer", peer.name)]) }
    text.family("lightpath_journeys_passed_on_total", .counter, help: "Journeys handed to other neighbours.")
    text.sample(Double(passedOn))
    text.family("lightpath_journeys_refused_total", .counter, help: "Journeys not taken: malformed or implausible.")
    text.sample(Double(malformed + refused))
    text.family("lightpath_journeys_forged_total", .counter, help: "Of those, signatures that were not the maker's.")
    text.sample(Double(forged))
    if let kernel {
      text.family("lightpath_kernel_clock_synchronised", .gauge, help: "1 when the kernel calls its clock disciplined.")
      text.sample(kernel.isSynchronised ? 1 : 0)
      text.family("lightpath_kernel_clock_max_error_seconds", .gauge, help: "Bound that the kernel states (adjtimex).")
      text.sample(kernel.maxError.seconds)
    }
    text.family("lightpath_block_receive_seconds", .summary, help: "First packet to complete and checked.")
    text.summary(receiving)
    text.family(
      "lightpath_block_arrival_seconds", .summary,
      help: "Announcement at the origin, as it tells, to complete and checked here; middle of the clocks' bounds.")
    text.summary(arrival)
    text.family(
      "lightpath_block_over_light_seconds", .summary, help: "The same less the light bound from the origin to here.")
    text.summary(overLight)
    let standing = leads.standing
    text.family("lightpath_lead_seconds", .summary, help: "Lead over the first public announcement; may be negative.")
    text.summary(standing.distribution)
    text.family("lightpath_lead_wins", .gauge, help: "Of the last blocks with both times, those the overlay had first.")
    text.sample(standing.wins)
    text.family("lightpath_lead_blocks", .gauge, help: "The last blocks with both times.")
    text.sample(standing.blocks)
  }

  private func links(_ sorted: [Peer], into text: inout MetricsText) {
    typealias Direction = (label: String, summary: (Peer) -> LinkMeter.Summary, reordered: (Peer) -> UInt64)
    let directions: [Direction] = [
      ("to", { $0.lastOutward.joined($0.outward.current) }, { $0.reorderedOutward }),
      ("from", { $0.lastInward.joined($0.inward.current) }, { $0.reorderedInward }),
    ]
    func family(
      _ name: String, _ kind: MetricsText.Kind, _ help: String, _ value: (Peer, Direction) -> Double?
    ) {
      text.family(name, kind, help: help)
      for peer in sorted {
        for direction in directions {
          if let value = value(peer, direction) {
            text.sample(value, [("peer", peer.name), ("direction", direction.label)])
          }
        }
      }
    }
    family("lightpath_link_delay_seconds", .gauge, "Least one-way delay of the last minutes, middle of its bounds.") {
      $1.summary($0).delay?.seconds
    }
    family("lightpath_link_delay_uncertainty_seconds", .gauge, "Half the width of that delay's bounds.") {
      $1.summary($0).delayUncertainty?.seconds
    }
    family("lightpath_link_jitter_seconds", .gauge, "Smoothed difference of successive transits (RFC 3550).") {
      $1.summary($0).received == 0 && $1.summary($0).roundTrip == nil ? nil : $1.summary($0).jitter.seconds
    }
    family("lightpath_link_reordered_ratio", .gauge, "Share of packets that came out of order, last minutes.") {
      $1.summary($0).reorderedShare
    }
    family("lightpath_link_reordered_packets_total", .counter, "Packets that came out of order (RFC 4737).") {
      Double($1.reordered($0))
    }
  }
}
