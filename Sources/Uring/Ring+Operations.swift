import CLiburing
import CRing
import Glibc

/// The operations in use. Each returns false when the kernel takes nothing now (see `Ring.submission`). `file` is a
/// descriptor, or an index into the registered files when `fixed`.
extension Ring {
  /// Receives messages into buffers of `group` until it ends (completion without `hasMore`): then arm it again.
  /// `header` gives the room for name and control data and stays put while armed.
  @discardableResult
  public mutating func receiveMessages(
    _ file: Int32, fixed: Bool, header: UnsafeMutablePointer<msghdr>, group: UInt16, tag: UInt64
  ) -> Bool {
    submission(tag: tag) { sqe in
      io_uring_prep_recvmsg_multishot(sqe, file, header, 0)
      sqe.pointee.flags |= UInt8(RING_SQE_BUFFER_SELECT) | Ring.fixedFlag(fixed)
      sqe.pointee.buf_group = group
    }
  }

  /// Completes once the socket has an error pending or queued, at once if it has now. (A receive with MSG_ERRQUEUE would
  /// be tried, in vain, at each datagram: the kernel takes readable for ready.)
  @discardableResult
  public mutating func pollErrors(_ file: Int32, fixed: Bool, tag: UInt64) -> Bool {
    submission(tag: tag) { sqe in
      io_uring_prep_poll_add(sqe, file, UInt32(POLLERR))
      sqe.pointee.flags |= Ring.fixedFlag(fixed)
    }
  }

  @inline(__always) @discardableResult
  public mutating func sendMessage(
    _ file: Int32, fixed: Bool, header: UnsafePointer<msghdr>, tag: UInt64
  ) -> Bool {
    submission(tag: tag) { sqe in
      io_uring_prep_sendmsg(sqe, file, header, UInt32(MSG_NOSIGNAL))
      sqe.pointee.flags |= Ring.fixedFlag(fixed)
    }
  }

  @discardableResult
  public mutating func read(
    _ file: Int32, fixed: Bool, into bytes: UnsafeMutableRawPointer, count: Int, tag: UInt64
  ) -> Bool {
    submission(tag: tag) { sqe in
      io_uring_prep_read(sqe, file, bytes, UInt32(count), UInt64.max)
      sqe.pointee.flags |= Ring.fixedFlag(fixed)
    }
  }

  // MARK: Streams

  /// Accepts connections until it ends; each completion's result is a new descriptor.
  @discardableResult
  public mutating func accept(_ listener: Int32, tag: UInt64) -> Bool {
    submission(tag: tag) { sqe in
      io_uring_prep_multishot_accept(sqe, listener, nil, nil, Int32(SOCK_CLOEXEC.rawValue))
    }
  }

  @discardableResult
  public mutating func connect(
    _ socket: Int32, to address: UnsafePointer<sockaddr>, length: socklen_t, tag: UInt64
  ) -> Bool {
    submission(tag: tag) { sqe in io_uring_prep_connect(sqe, socket, address, length) }
  }

  @discardableResult
  public mutating func receive(
    _ socket: Int32, into bytes: UnsafeMutableRawPointer, count: Int, tag: UInt64
  ) -> Bool {
    submission(tag: tag) { sqe in io_uring_prep_recv(sqe, socket, bytes, count, 0) }
  }

  /// Completes when some bytes were taken; with `all`, when all were (MSG_WAITALL), short only on error.
  @discardableResult
  public mutating func send(
    _ socket: Int32, _ bytes: UnsafeRawPointer, count: Int, all: Bool = true, tag: UInt64
  ) -> Bool {
    let flags = Int32(MSG_NOSIGNAL) | (all ? Int32(MSG_WAITALL) : 0)
    return submission(tag: tag) { sqe in io_uring_prep_send(sqe, socket, bytes, count, flags) }
  }

  @discardableResult
  public mutating func shutdown(_ socket: Int32, tag: UInt64) -> Bool {
    submission(tag: tag) { sqe in io_uring_prep_shutdown(sqe, socket, Int32(SHUT_RDWR)) }
  }

  @discardableResult
  public mutating func close(_ descriptor: Int32, tag: UInt64) -> Bool {
    submission(tag: tag) { sqe in io_uring_prep_close(sqe, descriptor) }
  }

  // MARK: Cancelling

  /// Cancels all operations of a tag; they complete with ECANCELED (or what they had come to).
  @discardableResult
  public mutating func cancel(tagged target: UInt64, tag: UInt64) -> Bool {
    submission(tag: tag) { sqe in io_uring_prep_cancel64(sqe, target, Int32(RING_CANCEL_ALL)) }
  }

  /// Cancels whatever is under way.
  @discardableResult
  public mutating func cancelEverything(tag: UInt64) -> Bool {
    submission(tag: tag) { sqe in io_uring_prep_cancel64(sqe, 0, Int32(RING_CANCEL_ANY)) }
  }

  @inline(__always) static func fixedFlag(_ fixed: Bool) -> UInt8 {
    fixed ? UInt8(RING_SQE_FIXED_FILE) : 0
  }
}
