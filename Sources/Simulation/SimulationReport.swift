import Foundation
import Topology

/// A tally as `simulate --json` prints it.
public struct SimulationReport: Encodable, Sendable {
  public var relays: Int
  public var blocks: Int
  /// Blocks that every relay completed.
  public var completed: Int
  public var overLightMsP50, overLightMsP99, overLightMsMax: Double?
  public var extraRoundShare: Double
  /// UDP payload per link and block, both directions.
  public var bytesPerLinkMean: Double
  public var packetsPerLinkMean: Double
  /// Hexadecimal; two runs with one trace went the same way.
  public var trace: String
  /// By stage (`first_packet` … `verified`), over the light path; only when asked for.
  public var stages: [String: Percentiles]?

  /// Milliseconds; null where nothing came so far.
  public struct Percentiles: Encodable, Sendable {
    public var p50, p99: Double?
  }

  enum CodingKeys: String, CodingKey {
    case relays, blocks, completed, trace, stages
    case overLightMsP50 = "over_light_ms_p50"
    case overLightMsP99 = "over_light_ms_p99"
    case overLightMsMax = "over_light_ms_max"
    case extraRoundShare = "extra_round_share"
    case bytesPerLinkMean = "bytes_per_link_mean"
    case packetsPerLinkMean = "packets_per_link_mean"
  }

  public init(_ tally: SimulationTally, withStages: Bool = false) {
    relays = tally.relays
    blocks = tally.blocks
    completed = tally.completed
    overLightMsP50 = tally.overLightMs(0.5)
    overLightMsP99 = tally.overLightMs(0.99)
    overLightMsMax = tally.overLightMs(1)
    extraRoundShare = tally.extraRoundShare
    bytesPerLinkMean = tally.bytesPerLink.rounded()
    packetsPerLinkMean = (tally.datagramsPerLink * 10).rounded() / 10
    trace = String(tally.trace, radix: 16)
    if withStages {
      stages = [:]
      for stage in StageTimes.Stage.allCases {
        stages![stage.rawValue.replacingOccurrences(of: " ", with: "_")] = Percentiles(
          p50: tally.stages.milliseconds(stage, 0.5), p99: tally.stages.milliseconds(stage, 0.99))
      }
    }
  }

  /// Every named key is there, null where nothing arrived.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(relays, forKey: .relays)
    try container.encode(blocks, forKey: .blocks)
    try container.encode(completed, forKey: .completed)
    try container.encode(overLightMsP50, forKey: .overLightMsP50)
    try container.encode(overLightMsP99, forKey: .overLightMsP99)
    try container.encode(overLightMsMax, forKey: .overLightMsMax)
    try container.encode(extraRoundShare, forKey: .extraRoundShare)
    try container.encode(bytesPerLinkMean, forKey: .bytesPerLinkMean)
    try container.encode(packetsPerLinkMean, forKey: .packetsPerLinkMean)
    try container.encode(trace, forKey: .trace)
    try container.encodeIfPresent(stages, forKey: .stages)
  }
}
