/// Whether a soak held.
public struct SoakVerdict: Hashable, Sendable {
  public var missed = 0
  public var died: [String] = []
  /// Descriptors more at the end than after the warm-up, of the relay that grew most.
  public var descriptorGrowth = 0.0
  /// Megabytes, likewise; nil when the run was too short to say: caches and tables were still filling.
  public var memoryGrowth: Double?

  public init() {}

  /// What went wrong, a line each.
  /// - Parameter mostGrowth: megabytes that memory may grow by.
  public func faults(mostGrowth: Double) -> [String] {
    var faults: [String] = []
    if missed > 0 { faults.append("\(missed) times a block did not reach a relay") }
    faults += died.map { "\($0) died" }
    if descriptorGrowth > 0 { faults.append("\(descriptorGrowth) more descriptors are open than after the warm-up") }
    if let memoryGrowth, memoryGrowth > mostGrowth {
      faults.append("memory grew by \(memoryGrowth) MB, more than \(mostGrowth)")
    }
    return faults
  }
}
