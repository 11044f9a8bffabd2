import CKernels

/// A Merkle tree whose leaves become known in any order: every inner node is worked out once, as soon as both its
/// children are there. A block that lacks one transaction in a hundred is hashed to nine tenths before the last comes.
///
/// Memory: 66 bytes a leaf.
public struct MerkleTree: Sendable {
  /// The leaves, then each level up to the root.
  private var nodes: [Hash256]
  private var isKnown: [Bool]
  /// Where each level begins, and where the last one ends.
  private var begins: [Int] = [0]
  /// Where the pass over the levels stands: the level whose pairs are looked at, and the next pair.
  private var level = 0
  private var next = 0
  private let kernel: SHA256.Kernel
  /// True as soon as an identical pair was met (CVE-2012-2459); final when `isDone`.
  public private(set) var isMutated = false

  /// No leaf is known yet.
  public init(leafCount: Int, kernel: SHA256.Kernel = .best) {
    var count = max(leafCount, 0)
    while count > 0 {
      begins.append(begins[begins.count - 1] + count)
      count = count == 1 ? 0 : (count + 1) / 2
    }
    nodes = Array(repeating: .zero, count: begins[begins.count - 1])
    isKnown = Array(repeating: false, count: nodes.count)
    self.kernel = kernel
  }

  public var leafCount: Int { begins.count > 1 ? begins[1] : 0 }
  public var isDone: Bool { isKnown.last ?? true }
  /// Meaningful when `isDone`; zero for a tree without leaves.
  public var root: Hash256 { nodes.last ?? .zero }

  /// States a leaf. One that was stated otherwise before takes all inner nodes with it: they are worked out anew.
  public mutating func set(_ leaf: Int, _ hash: Hash256) {
    precondition(leaf >= 0 && leaf < leafCount)
    if isKnown[leaf] {
      if nodes[leaf] == hash { return }
      for node in leafCount..<nodes.count { isKnown[node] = false }
      isMutated = false
    }
    nodes[leaf] = hash
    isKnown[leaf] = true
    (level, next) = (0, 0)
  }

  /// States all leaves, or all from `first` on.
  public mutating func set(_ leaves: [Hash256], from first: Int = 0) {
    precondition(leaves.count == leafCount)
    for leaf in leaves.indices.dropFirst(first) { set(leaf, leaves[leaf]) }
  }

  /// Works out up to `limit` inner nodes that can be; returns how many. 0: none can, until another leaf is stated.
  @discardableResult
  public mutating func advance(pairs limit: Int) -> Int {
    var (level, next, twins) = (level, next, isMutated)
    var spent = 0
    let kernel = kernel
    let begins = begins
    unsafe nodes.withUnsafeMutableBufferPointer { nodes in
      unsafe isKnown.withUnsafeMutableBufferPointer { isKnown in
        var gather = unsafe Gather(nodes: nodes.baseAddress, isKnown: isKnown.baseAddress, kernel: kernel)
        while level + 2 < begins.count && spent < limit {
          let count = begins[level + 1] - begins[level]
          gather.begin(children: begins[level], count: count, parents: begins[level + 1])
          spent += gather.run(from: &next, limit: limit - spent)
          if next < (count + 1) / 2 { break }
          (level, next) = (level + 1, 0)
        }
        twins = twins || gather.twins
      }
    }
    (self.level, self.next, isMutated) = (level, next, twins)
    return spent
  }

  /// One level's pairs that can be hashed, brought side by side: the kernel hashes two at a time.
  private struct Gather {
    static let batch = 64
    let nodes: UnsafeMutablePointer<Hash256>?
    let isKnown: UnsafeMutablePointer<Bool>?
    let kernel: SHA256.Kernel
    var children = 0
    var count = 0
    var parents = 0
    var twins = false

    mutating func begin(children: Int, count: Int, parents: Int) {
      (self.children, self.count, self.parents) = (children, count, parents)
    }

    mutating func run(from next: inout Int, limit: Int) -> Int {
      guard let nodes, let isKnown else { return 0 }
      let pairs = (count + 1) / 2
      var spent = 0
      unsafe withUnsafeTemporaryAllocation(of: Hash256.self, capacity: 3 * Gather.batch) { memory in
        unsafe withUnsafeTemporaryAllocation(of: Int.self, capacity: Gather.batch) { places in
          let (input, output) = unsafe (memory.baseAddress!, memory.baseAddress! + 2 * Gather.batch)
          while next < pairs && spent < limit {
            var held = 0
            while next < pairs && held < Gather.batch && spent + held < limit {
              let pair = next
              next += 1
              let left = children + 2 * pair
              // The odd one out is paired with itself; that is no mutation.
              let isAlone = 2 * pair + 1 == count
              let right = isAlone ? left : left + 1
              if unsafe isKnown[parents + pair] || !isKnown[left] || !isKnown[right] { continue }
              unsafe (input[2 * held], input[2 * held + 1]) = (nodes[left], nodes[right])
              if unsafe !isAlone && nodes[left] == nodes[right] { twins = true }
              unsafe places[held] = parents + pair
              held += 1
            }
            if held == 0 { break }
            unsafe lp_sha256d_64(
              kernel.code, UnsafeMutableRawPointer(output).assumingMemoryBound(to: UInt8.self),
              UnsafeRawPointer(input).assumingMemoryBound(to: UInt8.self), held)
            for index in 0..<held {
              unsafe nodes[places[index]] = output[index]
              unsafe isKnown[places[index]] = true
            }
            spent += held
          }
        }
      }
      return spent
    }
  }
}
