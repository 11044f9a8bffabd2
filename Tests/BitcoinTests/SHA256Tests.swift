import Bitcoin
import CKernels
import Ground
import Testing

@Suite struct SHA256Tests {
  /// FIPS 180-2's examples, and the empty message.
  @Test(arguments: SHA256.Kernel.available)
  func standardVectors(kernel: SHA256.Kernel) {
    let vectors: [(String, String)] = [
      ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
      ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
      (
        "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
      ),
      (
        String(repeating: "a", count: 1_000_000), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
      ),
    ]
    for (message, digest) in vectors {
      #expect(Hex.encode(SHA256.hash(Array(message.utf8).span.bytes, kernel: kernel).bytes) == digest)
    }
    let once = SHA256.hash(Array("abc".utf8).span.bytes, kernel: kernel)
    #expect(SHA256.double(Array("abc".utf8).span.bytes, kernel: kernel) == SHA256.hash(once.bytes.span.bytes))
  }

  @Test func theBestKernelIsAvailable() {
    #expect(SHA256.Kernel.available.contains(.best))
  }

  /// Messages of every length around the block boundaries, in one to three parts, must give what the portable kernel
  /// gives alone, whatever else is in the batch.
  @Test(arguments: SHA256.Kernel.available)
  func batchesEqualSingleMessages(kernel: SHA256.Kernel) {
    var random = SeededRandom(seed: 1)
    let bytes = random.bytes(4096)
    for twice in [false, true] {
      for count in [1, 2, 3, 50, 331] {
        var parts: [(Range<Int>, Range<Int>, Range<Int>)] = []
        for index in 0..<count {
          func range(_ length: Int) -> Range<Int> {
            let start = random.below(bytes.count - length)
            return start..<start + length
          }
          let length = index < 260 ? index : random.below(1500)
          let first = random.below(length + 1)
          let second = random.below(length - first + 1)
          parts.append((range(first), range(second), range(length - first - second)))
        }
        var out = [Hash256](repeating: .zero, count: count)
        run(parts, bytes, into: &out, twice: twice, kernel)
        for (index, part) in parts.enumerated() {
          let message = [UInt8](bytes[part.0]) + bytes[part.1] + bytes[part.2]
          let expected =
            twice
            ? SHA256.double(message.span.bytes, kernel: .portable)
            : SHA256.hash(message.span.bytes, kernel: .portable)
          #expect(out[index] == expected, "message \(index) of \(message.count) bytes among \(count)")
        }
      }
    }
  }

  private func run(
    _ parts: [(Range<Int>, Range<Int>, Range<Int>)], _ bytes: [UInt8], into out: inout [Hash256], twice: Bool,
    _ kernel: SHA256.Kernel
  ) {
    bytes.withUnsafeBufferPointer { source in
      out.withUnsafeMutableBytes { target in
        let base = source.baseAddress!
        let hashes = target.baseAddress!.assumingMemoryBound(to: UInt8.self)
        let jobs = parts.enumerated().map { index, part in
          lp_sha256_job(
            part: (base + part.0.lowerBound, base + part.1.lowerBound, base + part.2.lowerBound),
            length: (part.0.count, part.1.count, part.2.count), out: hashes + 32 * index)
        }
        lp_sha256_batch(kernel.code, jobs, jobs.count, twice ? 1 : 0)
      }
    }
  }

  @Test(arguments: SHA256.Kernel.available)
  func streamsEqualWholeMessages(kernel: SHA256.Kernel) {
    var random = SeededRandom(seed: 2)
    for _ in 0..<200 {
      let message = random.bytes(random.below(700))
      var stream = SHA256.Stream(kernel: kernel)
      var at = 0
      while at < message.count {
        let end = min(message.count, at + random.below(150))
        stream.update(message.span.bytes.extracting(at..<end))
        at = end
      }
      #expect(stream.double() == SHA256.double(message.span.bytes, kernel: .portable))
      #expect(stream.hash() == SHA256.hash(message.span.bytes, kernel: .portable))
    }
  }

  @Test(arguments: SHA256.Kernel.available)
  func merkleNodesEqualPlainHashing(kernel: SHA256.Kernel) {
    var random = SeededRandom(seed: 3)
    for count in 0..<20 {
      let leaves = (0..<count).map { _ in Hash256(random.bytes(32).span.bytes) }
      #expect(Merkle.root(leaves, kernel: kernel).root == plainRoot(leaves))
      var copy = leaves
      var span = copy.mutableSpan
      #expect(Merkle.root(inPlace: &span, kernel: kernel).root == plainRoot(leaves))
      // In slices of every size.
      for pairs in 1...5 {
        var reduction = Merkle.Reduction(leaves, kernel: kernel)
        while !reduction.isDone { #expect(reduction.advance(pairs: pairs) > 0) }
        #expect(reduction.root == plainRoot(leaves))
      }
    }
  }

  /// The tree by its definition.
  private func plainRoot(_ leaves: [Hash256]) -> Hash256 {
    if leaves.isEmpty { return .zero }
    var level = leaves
    while level.count > 1 {
      if level.count % 2 == 1 { level.append(level.last!) }
      level = stride(from: 0, to: level.count, by: 2).map {
        SHA256.double((level[$0].bytes + level[$0 + 1].bytes).span.bytes, kernel: .portable)
      }
    }
    return level[0]
  }
}

@Suite struct SipHashTests {
  /// The authors' test vectors for SipHash-2-4: key 00 … 0f, messages 00, 00 01, …
  @Test func referenceVectors() {
    let key = SipHash(k0: 0x0706_0504_0302_0100, k1: 0x0F0E_0D0C_0B0A_0908)
    let message = (0..<64).map { UInt8($0) }
    let vectors: [(Int, UInt64)] = [
      (0, 0x726f_db47_dd0e_0e31), (1, 0x74f8_39c5_93dc_67fd), (2, 0x0d6c_8009_d9a9_4f5a), (7, 0xab02_00f5_8b01_d137),
      (8, 0x93f5_f579_9a93_2462), (15, 0xa129_ca61_49be_45e5),
    ]
    for (length, expected) in vectors {
      #expect(key.hash(message.span.bytes.extracting(0..<length)) == expected, "\(length) bytes")
    }
    #expect(key.hash(Hash256(message.span.bytes)) == key.hash(message.span.bytes.extracting(0..<32)))
    // Bitcoin Core's siphash unit test of 32 bytes with the same key.
    #expect(key.hash(Hash256(message.span.bytes)) == 0x7127_512f_72f2_7cce)
  }
}
