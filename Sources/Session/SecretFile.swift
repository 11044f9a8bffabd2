import CLibsodium
import Glibc
import Ground

/// Why a secret file can't be used.
public enum SecretFileError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A system call failed.
  case system(call: String, path: String, errno: Int32)
  /// Not a regular file.
  case notAFile(path: String)
  /// Owned by another user than this process runs as.
  case foreignOwner(path: String)
  /// Others than the owner may read or write it; `mode` are its permission bits.
  case exposed(path: String, mode: UInt32)
  /// The text is not what such a file holds; `line` counts from 1.
  case invalid(path: String, line: Int, reason: String)

  public var description: String {
    switch self {
    case .system(let call, let path, let code): "\(path): \(call): \(String(cString: strerror(code)))"
    case .notAFile(let path): "\(path): not a regular file"
    case .foreignOwner(let path): "\(path): belongs to another user"
    case .exposed(let path, let mode):
      "\(path): permissions \(String(mode, radix: 8)) let others at it; run chmod 600 and consider the secret known"
    case .invalid(let path, let line, let reason): "\(path):\(line): \(reason)"
    }
  }
}

extension Identity {
  /// Writes the secret key as hex to a new file of mode 0600. Never overwrites: an existing file is an error (EEXIST).
  public func write(to path: String) throws(SecretFileError) {
    try SecretFile.create(path) { out in
      out.append("# lightpath relay key; public: \(publicKey)\n")
      out.append(hexOf: secret, count: 32)
      out.append("\n")
    }
  }

  /// Reads a key file; refuses one that others than the owner can read or write.
  public convenience init(contentsOf path: String) throws(SecretFileError) {
    let scratch = GuardedBytes(count: 64)
    let text = GuardedBytes(count: SecretFile.maxBytes)
    let count = try SecretFile.read(path, into: text.pointer)
    var found = false
    try SecretFile.forEachLine(text.pointer, count) { line, number throws(SecretFileError) in
      guard !found, line.count == 64, SecretFile.decodeHex(line, into: scratch.pointer) else {
        throw .invalid(path: path, line: number, reason: "expected one line of 64 hex digits")
      }
      found = true
    }
    guard found else { throw .invalid(path: path, line: 1, reason: "holds no key") }
    guard Curve.isSecretKey(scratch.pointer) else {
      throw .invalid(path: path, line: 1, reason: "is no key of the curve secp256k1")
    }
    self.init(secret: UnsafeRawBufferPointer(start: scratch.pointer, count: 32))!
  }
}

extension OverlaySecret {
  /// Writes one line `epoch N HEX` per epoch to a new file of mode 0600. An existing file is an error (EEXIST), unless
  /// `replacing`: then it is replaced in one step, as a rotation does.
  public func write(to path: String, replacing: Bool = false) throws(SecretFileError) {
    try SecretFile.create(path, replacing: replacing) { out in
      out.append("# lightpath overlay secret: the same file at every site\n")
      for epoch in epochs {
        out.append("epoch \(epoch) ")
        withSecret(ofEpoch: epoch) { out.append(hexOf: $0.baseAddress!, count: 32) }
        out.append("\n")
      }
    }
  }

  /// Reads an overlay secret file; refuses one that others than the owner can read or write.
  public convenience init(contentsOf path: String) throws(SecretFileError) {
    let text = GuardedBytes(count: SecretFile.maxBytes)
    let secrets = GuardedBytes(count: 32 * OverlaySecret.maxEpochs)
    let count = try SecretFile.read(path, into: text.pointer)
    var epochs: [UInt32] = []
    try SecretFile.forEachLine(text.pointer, count) { line, number throws(SecretFileError) in
      func fail(_ reason: String) -> SecretFileError { .invalid(path: path, line: number, reason: reason) }
      guard line.count > 65, let space = line.lastIndex(of: UInt8(ascii: " ")), line.count - space == 65 else {
        throw fail("expected 'epoch NUMBER' and 64 hex digits")
      }
      let head = String(decoding: line[..<space], as: UTF8.self)
      guard head.hasPrefix("epoch "), let epoch = UInt32(head.dropFirst(6)), epoch > 0 else {
        throw fail("expected 'epoch NUMBER' with a number from 1 up")
      }
      guard epoch > epochs.last ?? 0 else { throw fail("epochs must ascend") }
      guard epochs.count < OverlaySecret.maxEpochs else { throw fail("more than \(OverlaySecret.maxEpochs) epochs") }
      let digits = UnsafeRawBufferPointer(rebasing: line[(space + 1)...])
      guard SecretFile.decodeHex(digits, into: secrets.pointer + 32 * epochs.count) else {
        throw fail("not 64 hex digits")
      }
      epochs.append(epoch)
    }
    guard !epochs.isEmpty else { throw .invalid(path: path, line: 1, reason: "holds no epoch") }
    var i = 0
    let from = secrets.pointer
    self.init(epochs: epochs) { _, out in
      out.copyMemory(from: from + 32 * i, byteCount: 32)
      i += 1
    }
  }
}

/// Reading and writing small text files whose bytes never leave guarded memory on this side of the kernel.
enum SecretFile {
  static let maxBytes = 4_096

  /// Collects the text of a file to be written.
  struct Text: ~Copyable {
    private let memory = GuardedBytes(count: maxBytes)
    fileprivate private(set) var count = 0

    mutating func append(_ text: String) { for byte in text.utf8 { append(byte) } }

    mutating func append(hexOf bytes: UnsafeRawPointer, count: Int) {
      for i in 0..<count {
        for nibble in [bytes.u8[i] >> 4, bytes.u8[i] & 15] { append(nibble + (nibble < 10 ? 0x30 : 0x57)) }
      }
    }

    private mutating func append(_ byte: UInt8) {
      memory.pointer.u8[count] = byte
      count += 1
    }

    fileprivate borrowing func write(to descriptor: Int32) -> Bool {
      var done = 0
      while done < count {
        let n = Glibc.write(descriptor, memory.pointer + done, count - done)
        if n < 0 && errno == EINTR { continue }
        if n <= 0 { return false }
        done += n
      }
      return true
    }
  }

  static func create(_ path: String, replacing: Bool = false, _ body: (inout Text) -> Void) throws(SecretFileError) {
    var text = Text()
    body(&text)
    let target = replacing ? path + ".new" : path
    if replacing { unlink(target) }
    // 0600 from the first moment, whatever the umask adds to it.
    let descriptor = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
    if descriptor < 0 { throw .system(call: "open", path: target, errno: errno) }
    let written = text.write(to: descriptor) && fchmod(descriptor, 0o600) == 0 && fsync(descriptor) == 0
    let code = errno
    close(descriptor)
    if !written {
      unlink(target)
      throw .system(call: "write", path: target, errno: code)
    }
    if replacing && rename(target, path) != 0 {
      let code = errno
      unlink(target)
      throw .system(call: "rename", path: path, errno: code)
    }
  }

  /// At most `maxBytes` of a private file; the checks are made on the open file, so nothing can be swapped in between.
  static func read(_ path: String, into out: UnsafeMutableRawPointer) throws(SecretFileError) -> Int {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    if descriptor < 0 { throw .system(call: "open", path: path, errno: errno) }
    defer { close(descriptor) }
    var info = stat()
    if fstat(descriptor, &info) != 0 { throw .system(call: "fstat", path: path, errno: errno) }
    if info.st_mode & S_IFMT != S_IFREG { throw .notAFile(path: path) }
    if info.st_uid != geteuid() { throw .foreignOwner(path: path) }
    if info.st_mode & 0o077 != 0 { throw .exposed(path: path, mode: info.st_mode & 0o777) }
    var count = 0
    while count < maxBytes {
      let n = Glibc.read(descriptor, out + count, maxBytes - count)
      if n < 0 && errno == EINTR { continue }
      if n < 0 { throw .system(call: "read", path: path, errno: errno) }
      if n == 0 { break }
      count += n
    }
    if count == maxBytes { throw .invalid(path: path, line: 1, reason: "longer than \(maxBytes - 1) bytes") }
    return count
  }

  /// Lines without comments (from a leading #), empty ones and trailing blanks.
  static func forEachLine(
    _ text: UnsafeMutableRawPointer, _ count: Int,
    _ body: (UnsafeRawBufferPointer, Int) throws(SecretFileError) -> Void
  ) throws(SecretFileError) {
    var start = 0
    var number = 0
    while start < count {
      var end = start
      while end < count && text.u8[end] != 0x0A { end += 1 }
      number += 1
      var last = end
      while last > start && (text.u8[last - 1] == 0x20 || text.u8[last - 1] == 0x0D) { last -= 1 }
      if last > start && text.u8[start] != UInt8(ascii: "#") {
        try body(UnsafeRawBufferPointer(start: text + start, count: last - start), number)
      }
      start = end + 1
    }
  }

  /// 64 hex digits to 32 bytes.
  static func decodeHex(_ digits: UnsafeRawBufferPointer, into out: UnsafeMutableRawPointer) -> Bool {
    var written = 0
    let ok =
      digits.count == 64
      && sodium_hex2bin(
        out.u8, 32, digits.baseAddress!.assumingMemoryBound(to: CChar.self), 64, nil, &written, nil) == 0
    return ok && written == 32
  }
}
