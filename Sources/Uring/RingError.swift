import CLiburing
import Glibc

/// Why the ring or a socket could not be had. Each case says what an operator can do about it.
public enum RingError: Error, Hashable, Sendable, CustomStringConvertible {
  /// io_uring is switched off. `setting` is the value of the sysctl `kernel.io_uring_disabled` where it could be read
  /// (0 means that something else forbids it: a container's seccomp profile, SELinux).
  case disabled(setting: Int?)
  /// The kernel lacks what the engine can't do without.
  case kernelTooOld(missing: String, release: String)
  /// A system call failed.
  case system(call: String, errno: Int32)
  /// A socket could not be bound.
  case bind(address: String, errno: Int32)
  /// A configured value makes no sense; the text says which and why.
  case configuration(String)

  /// Linux 6.0: the first with multishot `recvmsg` (provided-buffer rings came with 5.19).
  public static let lowestKernel = "6.0"

  public var description: String {
    switch self {
    case .disabled(let setting):
      switch setting {
      case 1?, 2?:
        "io_uring is disabled by the sysctl kernel.io_uring_disabled = \(setting!); set it to 0 "
          + "(sysctl -w kernel.io_uring_disabled=0)\(setting == 1 ? " or add the user to kernel.io_uring_group" : "")"
      default:
        "io_uring is not permitted here (the sysctl kernel.io_uring_disabled is "
          + "\(setting.map(String.init) ?? "absent")): a seccomp profile or security module forbids it"
      }
    case .kernelTooOld(let missing, let release):
      "Linux \(RingError.lowestKernel) or newer is needed: this kernel, \(release), has no \(missing)"
    case .system(let call, let errno): "\(call): \(RingError.name(of: errno))"
    case .bind(let address, let errno):
      "cannot listen on \(address): \(RingError.name(of: errno))"
    case .configuration(let text): text
    }
  }

  static func name(of error: Int32) -> String { String(cString: strerror(error)) }

  /// The error of a failed `io_uring_setup`.
  static func ofSetup(_ error: Int32) -> RingError {
    switch error {
    case EPERM, ENOSYS, EACCES: .disabled(setting: disabledSetting())
    default: .system(call: "io_uring_setup", errno: error)
    }
  }

  static func disabledSetting() -> Int? {
    guard let file = fopen("/proc/sys/kernel/io_uring_disabled", "r") else { return nil }
    defer { fclose(file) }
    let digit = fgetc(file)
    return digit >= 0x30 && digit <= 0x39 ? Int(digit) - 0x30 : nil
  }

  static func kernelRelease() -> String {
    var names = utsname()
    uname(&names)
    return withUnsafeBytes(of: names.release) { raw in
      String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
    }
  }
}
