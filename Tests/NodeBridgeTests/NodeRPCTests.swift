import RegtestNode
import Testing

@Suite struct NodeRPCTests {
  /// An address with colons is a host all the same: nobody is there, and that is what is said.
  @Test(arguments: ["127.0.0.1", "::1"]) func everyAddressIsCalled(_ host: String) {
    let rpc = NodeRPC(host: host, port: 1, credentials: .password(user: "a", password: "b"), timeoutSeconds: 10)
    do throws(NodeRPCError) {
      try rpc.call("getblockcount")
      Issue.record("somebody answered")
    } catch {
      if case .unreachable = error { return }
      Issue.record("\(error)")
    }
  }
}
