import Foundation
import Ground

/// A place on the earth, degrees.
public struct SitePosition: Hashable, Sendable {
  public var latitude, longitude: Double
  public init(latitude: Double, longitude: Double) {
    self.latitude = latitude
    self.longitude = longitude
  }
}

/// The least time in which news can travel between two places through fibre.
public enum LightBound {
  /// Mean earth radius (IUGG), metres.
  public static let earthRadius = 6_371_008.8
  /// Metres a second in vacuum.
  public static let lightInVacuum = 299_792_458.0
  /// Group index of standard single-mode fibre (ITU-T G.652) at 1,550 nm.
  public static let fibreIndex = 1.4682

  /// Great-circle distance in metres (haversine; exact to 0.5 % on the real, flattened earth).
  public static func distance(_ a: SitePosition, _ b: SitePosition) -> Double {
    let radians = Double.pi / 180
    let latitude = sin((b.latitude - a.latitude) * radians / 2)
    let longitude = sin((b.longitude - a.longitude) * radians / 2)
    let h =
      latitude * latitude + cos(a.latitude * radians) * cos(b.latitude * radians) * longitude * longitude
    return 2 * earthRadius * asin(min(1, h.squareRoot()))
  }

  /// One-way time along the great circle times `pathFactor`: 1 for a straight cable, which nothing in fibre can beat. Real
  /// paths are 1.1 to 2 times as long, so that with a factor above 1 some are faster than "light".
  public static func oneWay(_ a: SitePosition, _ b: SitePosition, pathFactor: Double = 1) -> Interval {
    .milliseconds(distance(a, b) * pathFactor * fibreIndex / lightInVacuum * 1e3)
  }
}
