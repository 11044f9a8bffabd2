/// A core that has work too long to do between two packets (100 µs and more: encoding, decoding, verification). It
/// describes the work as a `Job`; its driver performs it elsewhere and hands the outcome back as one more input. So the
/// core stays sans-IO: the engine runs jobs on worker threads, the simulator runs them after a virtual delay.
///
/// Outcomes may come back in any order, and a core must not count on when. A job not yet outcome when the driver stops
/// is lost.
public protocol JobCore: DatagramCore, ~Copyable {
  /// Everything the work needs, moved to another thread: no references to what the core goes on changing.
  associatedtype Job: Sendable
  associatedtype Outcome: Sendable

  /// Asked after each input until it says `nil`; called only while the driver can take one more job, so what is not
  /// asked for waits in the core, in the core's own order of importance.
  mutating func nextJob() -> Job?

  /// The work itself: on any thread, several at a time. Its result depends on the job alone.
  static func perform(_ job: Job) -> Outcome

  /// What `perform` returned.
  mutating func jobFinished(_ outcome: Outcome, now: Instant, into sink: inout some DatagramSink & ~Copyable)
}
