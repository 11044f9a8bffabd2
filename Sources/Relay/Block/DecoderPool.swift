import ErasureCode

/// Decoders that wait for the next block with their memory touched and in place, so that no page fault lies between a
/// first packet and its forwarding.
struct DecoderPool: ~Copyable {
  private var small: Decoder?
  private var large: Decoder?
  /// Objects of more chunks than this use the large one.
  private static let boundary = 128

  init() {}

  /// A decoder for `shape`.
  mutating func take(_ shape: ObjectShape) -> Decoder {
    if shape.sourceCount <= DecoderPool.boundary {
      if var decoder = small.take() {
        decoder.reset(shape)
        return decoder
      }
    } else if var decoder = large.take() {
      decoder.reset(shape)
      return decoder
    }
    return Decoder(shape)
  }

  /// Keeps a decoder that is done with, when its place is free.
  mutating func give(_ decoder: consuming Decoder) {
    if decoder.shape.sourceCount <= DecoderPool.boundary {
      if small == nil { small = consume decoder }
    } else if large == nil {
      large = consume decoder
    }
  }

  /// One is missing.
  var needsRefill: Bool {
    let hasSmall = small != nil
    let hasLarge = large != nil
    return !hasSmall || !hasLarge
  }

  /// Makes what is missing, for objects of up to these sizes. True when it made one; call again when there is time.
  mutating func refill(sketchBytes: Int, bodyBytes: Int) -> Bool {
    if small == nil, let shape = try? ObjectShape(byteCount: sketchBytes, chunkSize: 1_024) {
      small = Decoder(shape)
      return true
    }
    if large == nil, let shape = try? ObjectShape(byteCount: bodyBytes, chunkSize: 1_152),
      shape.sourceCount > DecoderPool.boundary
    {
      large = Decoder(shape)
      return true
    }
    return false
  }
}
