import Ground

/// How the engine thread waits.
public enum WaitPolicy: Hashable, Sendable {
  /// Sleeps in the kernel until something happens.
  case sleep
  /// Never sleeps: spends a core to save the wake-up. Pin it to a core of its own.
  case spin
}

/// What an engine is asked for. Every queue is bounded here; all memory is taken at the start.
public struct EngineConfiguration: Sendable {
  /// Where to listen: `[::]:port` takes IPv4 too. Port 0 lets the kernel choose (`EngineHandle.addresses` says which).
  /// A host with several addresses names them one by one, so that replies leave from the address that was asked.
  public var listen: [PeerAddress]
  /// UDP payload bytes of the largest datagram sent, 1…65,507; longer ones are refused and counted (`dropTooLarge`). The
  /// default fills an MTU of 1,500 with IPv6 and UDP headers. Nothing is ever fragmented: on a path with a smaller MTU
  /// the core must send less. Sending is fastest when most datagrams have exactly this length.
  public var maxDatagramBytes = 1_452
  /// Of the whole site, over all links.
  public var uplink = LinkRate.unlimited
  /// Links 0 ..< this may be assigned.
  public var linkCapacity = 1_024
  /// Datagrams that one link may have queued. `control` may use an eighth more; `late` three quarters of it;
  /// `background` half of it.
  public var queueDatagramsPerLink = 2_048
  /// Datagrams queued or on their way to the kernel, all links together.
  public var queueDatagrams = 16_384
  /// How much of a link's rate its queue should hold, as `DatagramSink.room` tells the core.
  public var roomInterval = Interval.microseconds(200)
  /// `room` of a link without rate limit, bytes.
  public var roomUnlimited = 1 << 20
  /// Replies to addresses without link, per second, and how many may come at once. More than a flood can have of the core
  /// (`SessionSettings`: 300, 500 and 1,000 for acts of strangers, with a cookie, and cookies), so that configured peers
  /// get theirs.
  public var repliesPerSecond = 2_000
  public var replyBurst = 128
  /// Takes a whole block at line rate; what the sysctl settings must allow.
  public static let socketBytes = 8 << 20
  /// Asked of the kernel per socket; what it grants is reported.
  public var receiveSocketBytes = EngineConfiguration.socketBytes
  public var sendSocketBytes = EngineConfiguration.socketBytes
  /// Coalesced receives in flight: a power of two. Each holds up to 64 KiB of datagrams.
  public var receiveBuffers = 64
  public var ringEntries = 256
  /// `nil`: the best the kernel has.
  public var ringMode: RingMode?
  /// Trains in the kernel's hands at most.
  public var trainsInFlight = 64
  /// TCP streams 0 ..< this may be opened, and what each may have waiting to be sent.
  public var streamCapacity = 64
  public var streamQueueBytes = 24 << 20
  /// UDP segmentation offload on sending, and coalescing on receiving. Off costs most of the throughput: for
  /// debugging, and for network cards that get it wrong.
  public var segmentation = true
  public var coalescing = true
  /// Core to pin the engine thread to.
  public var cpu: Int?
  /// Real-time priority of the engine thread (SCHED_RR, 1 to 99): it needn't wait until others on its core have used up
  /// their slice. Takes CAP_SYS_NICE or RLIMIT_RTPRIO. Not with `WaitPolicy.spin`, which would never let go of the core.
  public var realtimePriority: Int?
  public var wait = WaitPolicy.sleep
  /// With `WaitPolicy.sleep`: for how long the engine looks for the next datagram before it sleeps, while datagrams come
  /// within that time of each other (`IdleSpin`). Zero: it always sleeps at once.
  public var patience = Interval.microseconds(20)
  /// How long `stop` waits for queued datagrams to leave.
  public var drain = Interval.milliseconds(Int64(500))
  public var threadName = "lightpath-udp"

  public init(listen: [PeerAddress]) { self.listen = listen }

  func validate() throws(RingError) {
    func require(_ holds: Bool, _ text: @autoclosure () -> String) throws(RingError) {
      if !holds { throw .configuration(text()) }
    }
    try require(!listen.isEmpty && listen.count <= 64, "listen: 1 to 64 addresses are needed, got \(listen.count)")
    try require(
      (1...65_507).contains(maxDatagramBytes), "maxDatagramBytes: \(maxDatagramBytes) is not in 1…65507")
    try require((1...65_536).contains(linkCapacity), "linkCapacity: \(linkCapacity) is not in 1…65536")
    try require(
      (16...1 << 22).contains(queueDatagrams), "queueDatagrams: \(queueDatagrams) is not in 16…\(1 << 22)")
    try require(
      (1...queueDatagrams).contains(queueDatagramsPerLink),
      "queueDatagramsPerLink: \(queueDatagramsPerLink) is not in 1…queueDatagrams")
    try require((1...1_024).contains(trainsInFlight), "trainsInFlight: \(trainsInFlight) is not in 1…1024")
    try require((1...32_768).contains(ringEntries), "ringEntries: \(ringEntries) is not in 1…32768")
    try require(repliesPerSecond >= 0 && replyBurst >= 0, "repliesPerSecond and replyBurst must not be negative")
    try require(realtimePriority.map { (1...99).contains($0) } ?? true, "realtimePriority is not in 1…99")
    if case .spin = wait {
      try require(realtimePriority == nil, "realtimePriority: an engine that never sleeps would keep its core for good")
    }
    try require(drain >= .zero && drain <= .seconds(60), "drain: must be 0 to 60 s")
  }
}
