/// What a store has to say of a span of time, as numbers: every renderer prints this and computes nothing of weight.
/// Times are in milliseconds unless the name says otherwise. Field names are the JSON's.
public struct Report: Encodable, Sendable {
  /// A cross-site figure: it lies in `low ... high` whatever the clocks do; `value` takes the middle of their bounds.
  public struct Figure: Encodable, Hashable, Sendable {
    public var value, low, high: Double
    public init(value: Double, low: Double, high: Double) { (self.value, self.low, self.high) = (value, low, high) }
    /// ± this much, the larger side.
    public var uncertainty: Double { max(high - value, value - low) }

    enum CodingKeys: String, CodingKey { case value, low, high }
  }

  /// Percentiles of a cross-site figure, each with its bounds.
  public struct Spread: Encodable, Hashable, Sendable {
    public var count: Int
    public var p50, p90, p99, max: Figure
  }

  /// Percentiles of times by one clock.
  public struct Times: Encodable, Hashable, Sendable {
    public var count: Int
    public var p50, p90, p99, max: Double
  }

  public struct Site: Encodable, Sendable {
    public var name: String
    public var latitude, longitude: Double?
    public var isHome: Bool
    /// The neighbour by way of which its last journey came; nil: it told it itself.
    public var via: String?
    /// Blocks of which this site told a journey, and those that entered the overlay here.
    public var blocks, originated: Int
    /// From the origin's announcement to complete and checked here, less the light bound of that pair.
    public var overLight: Spread?
    /// From the origin's announcement to complete and checked here.
    public var arrival: Spread?
    /// First packet to complete, by the site's own clock.
    public var receiving: Times?
    /// Median share of a block's bytes that the mempool had, percent.
    public var matchedPercent: Double?
    /// Share of blocks that needed another round trip, percent.
    public var extraRoundsPercent: Double?
    /// Medians of the stages, in the order of `Report.stages`; null where no block passed both ends.
    public var stageMedians: [Double?]
    /// Cumulative distribution of time over the light bound at 1, 2, ... 100 percent.
    public var overLightPercentiles: [Double]
  }

  public struct Stage: Encodable, Sendable {
    public var name: String
    public var title: String
    /// True for the one that compares two clocks.
    public var isCrossSite: Bool
    public var times: Times?
  }

  public struct Lead: Encodable, Sendable {
    public var blocks, wins: Int
    public var winPercent, winPercentLow, winPercentHigh: Double?
    public var p1, p10, p50, p90, p99: Double?
    /// Blocks by lead: lower edge of each bar, width, counts.
    public var histogramFrom, histogramStep: Double
    public var histogram: [Int]
  }

  public struct LinkPoint: Encodable, Hashable, Sendable {
    public var atUnix: Double
    public var lossPercent: Double?
    public var delay: Figure?
  }

  public struct Link: Encodable, Sendable {
    public var from, to: String
    public var packets: UInt64
    public var lossPercent: Double?
    public var reorderedPercent: Double?
    /// Median of the intervals' least delays.
    public var delay: Figure?
    public var jitter: Double?
    public var lightBound: Double?
    public var series: [LinkPoint]
  }

  public struct Clock: Encodable, Sendable {
    public var site: String
    /// The neighbour by way of which the offset is known: the sum of the bounds on the way; nil: exchanges with it.
    public var via: String?
    public var offset: Figure?
    public var driftLowPPM, driftHighPPM: Double?
    public var steps: Int
    /// The kernel's own statement; the home site only.
    public var kernelState: String?
    public var kernelMaxError: Double?
    public var kernelFrequencyPPM: Double?
  }

  public struct Station: Encodable, Hashable, Sendable {
    public var name: String
    /// After the origin's announcement.
    public var at: Double
  }

  public struct Arrival: Encodable, Sendable {
    public var site: String
    public var isOrigin: Bool
    /// The neighbour that passed its journey on, and how many relays did; nil and 0: the site told it itself.
    public var via: String?
    public var hops: Int
    /// ± on every time of this arrival.
    public var uncertainty: Double
    /// After the first origin's announcement, as all times here: when light could be there from the origin that the block
    /// is taken to have come from.
    public var lightBound: Double?
    public var firstPacket: Double
    public var stations: [Station]
    public var overLight: Figure?
    public var matchedPercent: Double?
    public var transactions, missingTransactions, bodyBytes, packetsIn, packetsOut, bytesIn, bytesOut: Int
    public var packetsUseless, neededChunks, requests: Int
  }

  public struct Block: Encodable, Sendable {
    public var hash: String
    public var height: Int
    public var announcedUnix: Double
    public var origin: String?
    /// The whole, for `--block`; empty in lists.
    public var arrivals: [Arrival]
    public var sites: Int
    /// The last site's.
    public var slowestSite: String?
    public var slowestOverLight: Figure?
    public var lead: Double?
    public var leadSource: String?
  }

  public var home: String
  public var fromUnix, toUnix: Double
  public var pathFactor: Double
  public var blocks: Int
  public var arrivals: Int
  public var overLight: Spread?
  /// Arrivals that would have beaten light even at the far end of their bounds: a clock or a tale is wrong. Left out of
  /// every percentile.
  public var contradictions: Int
  public var sites: [Site]
  public var stages: [Stage]
  public var lead: Lead
  public var links: [Link]
  public var clocks: [Clock]
  /// The last ones, newest first.
  public var recent: [Block]
  /// `--block`, or the last block that most sites told of.
  public var block: Block?
  /// What the reader has to know about the data.
  public var notes: [String]
}
