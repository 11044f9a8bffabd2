import Glibc

func pause(milliseconds: Int) { usleep(UInt32(milliseconds) * 1_000) }

/// Runs `body` on a thread of its own and waits for it, for what changes a thread for good.
func onOwnThread(_ body: @escaping @Sendable () -> Void) {
  var id = pthread_t()
  let box = Unmanaged.passRetained(Box(body))
  pthread_create(
    &id, nil,
    {
      Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
      return nil
    }, box.toOpaque())
  pthread_join(id, nil)
}

private final class Box {
  let body: @Sendable () -> Void
  init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}
