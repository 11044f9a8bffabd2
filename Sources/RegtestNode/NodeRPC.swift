import Foundation

#if canImport(FoundationNetworking)
  import FoundationNetworking
#endif

/// What went wrong with a JSON-RPC call to a node.
public enum NodeRPCError: Error, CustomStringConvertible, Sendable {
  /// No connection, no answer in time, or no HTTP answer.
  case unreachable(String)
  /// 401 or 403: the cookie or the password is not the node's.
  case unauthorised
  /// The node's own error.
  case refused(method: String, code: Int, message: String)
  /// Not JSON, or not a JSON-RPC answer.
  case malformed(String)

  public var description: String {
    switch self {
    case .unreachable(let reason): "the node's RPC can't be reached: \(reason)"
    case .unauthorised: "the node's RPC refused the credentials: check rpcuser/rpcpassword or the cookie file"
    case .refused(let method, let code, let message): "\(method): \(message) (code \(code))"
    case .malformed(let text): "the node's RPC answered with something that is no JSON-RPC: \(text.prefix(200))"
    }
  }
}

/// A node's JSON-RPC over HTTP, one blocking call at a time. Never on the packet path: a call can take a second.
public struct NodeRPC: Sendable {
  /// Where the password comes from. A cookie is read anew for every call, because a restarted node writes a new one.
  public enum Credentials: Sendable {
    case cookie(path: String)
    case password(user: String, password: String)
  }

  public var host: String
  public var port: UInt16
  public var credentials: Credentials
  public var timeoutSeconds: Double

  public init(host: String = "127.0.0.1", port: UInt16, credentials: Credentials, timeoutSeconds: Double = 60) {
    self.host = host
    self.port = port
    self.credentials = credentials
    self.timeoutSeconds = timeoutSeconds
  }

  /// Calls `method` and returns its result as `JSONSerialization` gives it; NSNull for null.
  @discardableResult
  public func call(_ method: String, _ parameters: [Any] = []) throws(NodeRPCError) -> Any {
    let object = try post(request(method, parameters))
    guard let reply = object as? [String: Any] else { throw .malformed("\(object)") }
    return try result(of: method, reply)
  }

  /// Several calls in one request. Throws the first error among the answers.
  @discardableResult
  public func batch(_ calls: [(method: String, parameters: [Any])]) throws(NodeRPCError) -> [Any] {
    let object = try post(calls.map { request($0.method, $0.parameters) })
    guard let replies = object as? [[String: Any]], replies.count == calls.count else { throw .malformed("\(object)") }
    var results: [Any] = []
    for (call, reply) in zip(calls, replies) { results.append(try result(of: call.method, reply)) }
    return results
  }

  private func request(_ method: String, _ parameters: [Any]) -> [String: Any] {
    ["jsonrpc": "1.0", "id": "lightpath", "method": method, "params": parameters]
  }

  private func result(of method: String, _ reply: [String: Any]) throws(NodeRPCError) -> Any {
    if let error = reply["error"] as? [String: Any] {
      throw .refused(
        method: method, code: error["code"] as? Int ?? 0, message: error["message"] as? String ?? "unknown error")
    }
    return reply["result"] ?? NSNull()
  }

  private func post(_ content: Any) throws(NodeRPCError) -> Any {
    let login: String
    switch credentials {
    case .password(let user, let password): login = "\(user):\(password)"
    case .cookie(let path):
      guard let text = try? String(contentsOfFile: path, encoding: .utf8) else {
        throw .unreachable("no cookie at \(path)")
      }
      login = text.trimmingCharacters(in: .whitespacesAndNewlines)
    }
    let authority = host.contains(":") ? "[\(host)]" : host
    guard let url = URL(string: "http://\(authority):\(port)/"),
      let body = try? JSONSerialization.data(withJSONObject: content)
    else { throw .malformed("request") }
    var request = URLRequest(url: url, timeoutInterval: timeoutSeconds)
    request.httpMethod = "POST"
    request.httpBody = body
    request.setValue("Basic " + Data(login.utf8).base64EncodedString(), forHTTPHeaderField: "Authorization")
    request.setValue("application/json", forHTTPHeaderField: "Content-Type")

    let answer = Answer()
    let task = URLSession.shared.dataTask(with: request) { data, response, error in
      answer.set(data, (response as? HTTPURLResponse)?.statusCode, error.map { "\($0.localizedDescription)" })
    }
    task.resume()
    guard let (data, status, failure) = answer.wait(seconds: timeoutSeconds + 1) else {
      task.cancel()
      throw .unreachable("no answer within \(Int(timeoutSeconds)) s")
    }
    if let failure { throw .unreachable(failure) }
    if status == 401 || status == 403 { throw .unauthorised }
    guard let data, let object = try? JSONSerialization.jsonObject(with: data, options: [.fragmentsAllowed]) else {
      throw .malformed(String(decoding: data ?? Data(), as: UTF8.self))
    }
    return object
  }

  /// Hands the result of URLSession's queue to the waiting caller.
  private final class Answer: @unchecked Sendable {
    private let ready = DispatchSemaphore(value: 0)
    private var value: (Data?, Int?, String?) = (nil, nil, nil)

    func set(_ data: Data?, _ status: Int?, _ error: String?) {
      value = (data, status, error)
      ready.signal()
    }
    /// Nil when the session calls back with neither an answer nor its own timeout, as has been seen on a busy machine.
    func wait(seconds: Double) -> (Data?, Int?, String?)? {
      ready.wait(timeout: .now() + seconds) == .success ? value : nil
    }
  }
}
