import Foundation
import RegtestNode
import Synchronization

/// The bench's nodes, and their end.
final class Fleet: Sendable {
  private let nodes = Mutex<[RegtestNode]>([])

  func start(_ debug: [String]) throws -> RegtestNode {
    let node = try RegtestNode.temporary(.core, debug.map { "-debug=\($0)" }, endsWithThread: true)
    nodes.withLock { $0.append(node) }
    return node
  }

  /// Kills them and deletes their folders.
  func end() { for node in nodes.withLock({ $0 }) { node.remove() } }

  /// SIGINT, SIGTERM and SIGHUP end the nodes, then the bench.
  static func leaveOnSignals(_ fleet: Fleet) {
    for number in [SIGINT, SIGTERM, SIGHUP] {
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler {
        fleet.end()
        _exit(128 + number)
      }
      source.resume()
      sources.withLock { $0.append(Source(value: source)) }
    }
  }

  private struct Source: @unchecked Sendable { var value: any DispatchSourceSignal }
  private static let sources = Mutex<[Source]>([])
}
