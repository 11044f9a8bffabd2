import CKernels
import Ground

extension TransactionLayout {
  /// Double SHA-256 without witnesses.
  public func txid(in message: RawSpan, kernel: SHA256.Kernel = .best) -> Hash256 {
    hashes(in: message, kernel: kernel).txid
  }

  /// Double SHA-256 with witnesses; the txid when there are none.
  public func wtxid(in message: RawSpan, kernel: SHA256.Kernel = .best) -> Hash256 {
    hashes(in: message, kernel: kernel).wtxid
  }

  public func hashes(in message: RawSpan, kernel: SHA256.Kernel = .best) -> (txid: Hash256, wtxid: Hash256) {
    var pair = (Hash256.zero, Hash256.zero)
    unsafe withUnsafeMutablePointer(to: &pair) { pointer in
      let out = UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: Hash256.self)
      unsafe TransactionHashing.hash(1, in: message, kernel) { _ in (self, out, out + 1) }
    }
    return pair
  }
}

/// Txids and wtxids of many transactions at once, two messages at a time.
package enum TransactionHashing {
  private static let batch = 64

  /// Asks `next` for `count` transactions and where their hashes go. Layouts must lie within `message`.
  static func hash(
    _ count: Int, in message: RawSpan, _ kernel: SHA256.Kernel,
    _ next: (Int) -> (TransactionLayout, txid: UnsafeMutablePointer<Hash256>, wtxid: UnsafeMutablePointer<Hash256>)
  ) {
    unsafe message.withUnsafeBytes { buffer in
      guard let base = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
      unsafe withUnsafeTemporaryAllocation(of: lp_sha256_job.self, capacity: 2 * batch) { jobs in
        unsafe withUnsafeTemporaryAllocation(of: Copy.self, capacity: batch) { copies in
          var done = 0
          while done < count {
            let end = min(done + batch, count)
            var jobCount = 0
            var copyCount = 0
            for index in done..<end {
              let (layout, txid, wtxid) = next(index)
              precondition(layout.offset >= 0 && layout.byteCount >= 8 && layout.end <= buffer.count)
              let start = base + layout.offset
              if layout.hasWitness {
                jobs[jobCount] = lp_sha256_job(
                  part: (start, start + 6, start + layout.byteCount - 4), length: (4, layout.coreByteCount, 4),
                  out: UnsafeMutableRawPointer(txid).assumingMemoryBound(to: UInt8.self))
                jobCount += 1
              } else {
                copies[copyCount] = Copy(from: wtxid, to: txid)
                copyCount += 1
              }
              jobs[jobCount] = lp_sha256_job(
                part: (start, start, start), length: (layout.byteCount, 0, 0),
                out: UnsafeMutableRawPointer(wtxid).assumingMemoryBound(to: UInt8.self))
              jobCount += 1
            }
            lp_sha256_batch(kernel.code, jobs.baseAddress!, jobCount, 1)
            for index in 0..<copyCount { copies[index].to.pointee = copies[index].from.pointee }
            done = end
          }
        }
      }
    }
  }

  private struct Copy {
    var from, to: UnsafeMutablePointer<Hash256>
  }
}

/// Txid and wtxid of one large transaction, in slices.
struct SlicedTransactionHash {
  let layout: TransactionLayout
  private var position = 0
  private var stripped: SHA256.Stream
  private var full: SHA256.Stream

  init(_ layout: TransactionLayout, kernel: SHA256.Kernel) {
    self.layout = layout
    stripped = SHA256.Stream(kernel: kernel)
    full = SHA256.Stream(kernel: kernel)
  }

  var isDone: Bool { position == layout.byteCount }

  /// Hashes up to `count` more of the transaction's bytes; returns the bytes that went through SHA-256.
  mutating func advance(_ count: Int, in message: RawSpan) -> Int {
    let end = min(position + max(count, 64), layout.byteCount)
    let slice = layout.offset + position..<layout.offset + end
    full.update(message.extracting(slice))
    var hashed = slice.count
    if layout.hasWitness {
      let core = layout.coreOffset..<layout.coreOffset + layout.coreByteCount
      for part in [layout.offset..<layout.offset + 4, core, layout.end - 4..<layout.end] {
        let common = slice.clamped(to: part)
        if common.isEmpty { continue }
        stripped.update(message.extracting(common))
        hashed += common.count
      }
    }
    position = end
    return hashed
  }

  var result: (txid: Hash256, wtxid: Hash256) {
    let wtxid = full.double()
    return (layout.hasWitness ? stripped.double() : wtxid, wtxid)
  }
}
