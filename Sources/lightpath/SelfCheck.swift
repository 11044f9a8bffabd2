import Foundation
import Measurement
import Uring

/// What of the machine costs speed or safety, and the command that mends it.
enum SelfCheck {
  struct Finding: Encodable, Sendable {
    var what: String
    var fix: String
  }

  static func run() -> [Finding] {
    var findings: [Finding] = []
    for name in ["rmem_max", "wmem_max"] {
      let wanted = EngineConfiguration.socketBytes
      if let value = integer("/proc/sys/net/core/\(name)"), value < wanted {
        findings.append(
          Finding(
            what: "net.core.\(name) is \(value): a burst of packets overflows the socket buffer",
            fix: "sysctl -w net.core.\(name)=\(wanted)"))
      }
    }
    if let value = integer("/proc/sys/kernel/io_uring_disabled"), value != 0 {
      findings.append(
        Finding(
          what: "kernel.io_uring_disabled is \(value): the engine can't start",
          fix: "sysctl -w kernel.io_uring_disabled=0"))
    }
    if let release = try? String(contentsOfFile: "/proc/sys/kernel/osrelease", encoding: .utf8) {
      let parts = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
      if parts.count == 2 && parts[0] < 6 {
        findings.append(
          Finding(
            what: "Linux \(release.trimmingCharacters(in: .whitespacesAndNewlines)) is older than 6.0",
            fix: "apt-get install linux-image-amd64   # Debian 12 has 6.1"))
      }
    }
    let clock = KernelClock.read()
    if clock == nil {
      findings.append(
        Finding(
          what: "adjtimex is refused: whether the clock is synchronised isn't known",
          fix: "in the systemd unit: no ProtectClock=, and SystemCallFilter=adjtimex clock_adjtime"))
    }
    if let clock, !clock.isSynchronised {
      findings.append(
        Finding(
          what: "the kernel says that the clock is not synchronised: headers may be refused, and delays between sites "
            + "can't be measured", fix: "apt-get install chrony && systemctl enable --now chrony"))
    }
    var files = rlimit()
    if getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &files) == 0, files.rlim_cur < 512 {
      findings.append(
        Finding(what: "only \(files.rlim_cur) descriptors may be open; 512 are needed", fix: "ulimit -n 1024"))
    }
    return findings
  }

  private static func integer(_ path: String) -> Int? {
    (try? String(contentsOfFile: path, encoding: .utf8)).flatMap {
      Int($0.trimmingCharacters(in: .whitespacesAndNewlines))
    }
  }
}
