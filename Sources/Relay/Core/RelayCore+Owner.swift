import Bitcoin
import Ground

// For an owner that has a node beside it.
extension RelayCore {
  /// Lends the header chain to be added to: the node's headers. Call `chainChanged` after.
  public mutating func withChain<R>(_ body: (inout HeaderChain) -> R) -> R { body(&chain) }

  /// Headers were added with `withChain`: prepares for the new tip's child and looks again at announcements that waited
  /// for their parent.
  public mutating func chainChanged(now: Instant, into sink: inout some DatagramSink & ~Copyable) {
    if chain.tip.hash != indexedParent { tipChanged(now: now) }
    if pen.count > 0 { releaseAnnouncements(now: now, into: &sink) }
  }

  /// Lends a complete block with its structure, all ids known; nil when it is not (any more) here.
  public func withParsedBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    let parsed = blocks.find(hash).flatMap { blocks[$0].pointee.assembly.check?.block ?? blocks[$0].pointee.parsed }
    return withBlock(hash) { bytes, _ in
      var block = parsed
      if block == nil || block!.byteCount != bytes.byteCount { block = try? ParsedBlock(parsing: bytes) }
      guard var block else { return nil }
      if !block.isFullyHashed { block.hashAll(in: bytes) }
      return body(block, bytes)
    } ?? nil
  }

  /// Lends a block that is put together and not checked yet (`RelayEvent.Kind.assembled`), with its structure and all
  /// ids; nil as soon as it is checked or has failed.
  public func withAssembledBlock<R>(_ hash: Hash256, _ body: (borrowing ParsedBlock, RawSpan) -> R) -> R? {
    guard let slot = blocks.find(hash), blocks[slot].pointee.isAssembled, blocks[slot].pointee.stage == .checking,
      let block = blocks[slot].pointee.assembly.check?.block
    else { return nil }
    return withBodyBytes(slot) { body(block, $0) }
  }

  /// A complete block is here.
  public func hasBlock(_ hash: Hash256) -> Bool { blocks.find(hash).map { blocks[$0].pointee.isComplete } ?? false }

  /// It is, or was among the last 256 that were: nothing of it is news.
  public func hadBlock(_ hash: Hash256) -> Bool { hasBlock(hash) || done.contains(hash) }
}

// For tests.
extension RelayCore {
  /// Whether this relay owes a neighbour the whole budget of a block made by `maker` (key4).
  package func role(for maker: UInt32, to link: LinkID) -> SenderRole { map.role(for: maker, to: link) }
}
