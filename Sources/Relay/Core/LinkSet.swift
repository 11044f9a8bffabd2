import Ground

/// A set of links in one word. A relay has at most 64 links (PROTOCOL.md, section 7), so membership, union and
/// 'who still lacks this chunk' are single instructions.
public struct LinkSet: Hashable, Sendable {
  public var bits: UInt64

  @inlinable public init(bits: UInt64 = 0) { self.bits = bits }
  @inlinable public init(_ link: LinkID) { bits = 1 &<< UInt64(link.index) }

  public static let none = LinkSet()
  public static let capacity = 64

  @inlinable public var isEmpty: Bool { bits == 0 }
  @inlinable public var count: Int { bits.nonzeroBitCount }
  @inlinable public func contains(_ link: LinkID) -> Bool { bits & (1 &<< UInt64(link.index)) != 0 }
  @inlinable public mutating func insert(_ link: LinkID) { bits |= 1 &<< UInt64(link.index) }
  @inlinable public mutating func remove(_ link: LinkID) { bits &= ~(1 &<< UInt64(link.index)) }

  /// Takes the lowest link out of the set; nil when it is empty. `while let link = set.popFirst()` visits all.
  @inlinable public mutating func popFirst() -> LinkID? {
    if bits == 0 { return nil }
    let index = bits.trailingZeroBitCount
    bits &= bits &- 1
    return LinkID(UInt16(truncatingIfNeeded: index))
  }

  @inlinable public static func & (a: LinkSet, b: LinkSet) -> LinkSet { LinkSet(bits: a.bits & b.bits) }
  @inlinable public static func | (a: LinkSet, b: LinkSet) -> LinkSet { LinkSet(bits: a.bits | b.bits) }
  @inlinable public static func - (a: LinkSet, b: LinkSet) -> LinkSet { LinkSet(bits: a.bits & ~b.bits) }
}
