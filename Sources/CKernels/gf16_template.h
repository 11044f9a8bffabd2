// The kernels, written once over five primitives that the including file defines for its instruction set:
//   block            64 bytes in registers         table            what multiplying by one element needs
//   load, store      unaligned                     times(table, block)
//   xor_, and_       bitwise                       table_of(m)
//   both(p)          32 bytes as low and as high halves
//   split_block, join_block: natural order <-> planar
//   NAME(x)          the functions' names
// Included inside `#pragma clang attribute push(target(...))`, so everything here is compiled for that set.

#define INLINE static inline __attribute__((always_inline))

static void NAME(mul)(uint8_t *dst, const uint8_t *src, size_t blocks, uint16_t m) {
  table t = table_of(m);
  for (size_t i = 0; i < blocks * GF16_BLOCK; i += GF16_BLOCK) store(dst + i, times(&t, load(src + i)));
}

static void NAME(add)(uint8_t *dst, const uint8_t *src, size_t blocks) {
  for (size_t i = 0; i < blocks * GF16_BLOCK; i += GF16_BLOCK) store(dst + i, xor_(load(dst + i), load(src + i)));
}

static void NAME(muladd)(uint8_t *dst, const uint8_t *src, size_t blocks, uint16_t m) {
  if (m == 0) return;
  if (m == 1) {
    NAME(add)(dst, src, blocks);
    return;
  }
  table t = table_of(m);
  for (size_t i = 0; i < blocks * GF16_BLOCK; i += GF16_BLOCK)
    store(dst + i, xor_(load(dst + i), times(&t, load(src + i))));
}

// Are any of the 2^level rows from r among lo ..< hi?
INLINE int NAME(live)(uint32_t r, unsigned level, uint32_t lo, uint32_t hi) {
  return r < hi && r + (1u << level) > lo;
}

// One level of the inverse transform over rows begin ..< end (whole blocks of 2^(level + 1) rows).
INLINE void NAME(ifft_level)(uint8_t *rows, uint32_t begin, uint32_t end, unsigned level, uint32_t offset, uint32_t lo,
                             uint32_t hi) {
  uint32_t half = 1u << level;
  for (uint32_t r = begin; r < end; r += 2 * half) {
    int first = NAME(live)(r, level, lo, hi), second = NAME(live)(r + half, level, lo, hi);
    if (!first && !second) continue;
    uint8_t *x = rows + (size_t)r * GF16_BLOCK, *y = x + (size_t)half * GF16_BLOCK;
    size_t size = (size_t)half * GF16_BLOCK;
    uint16_t w = (uint16_t)((offset + r) >> level);
    if (!second) {  // y was 0: y = x, x += w x
      for (size_t i = 0; i < size; i += GF16_BLOCK) store(y + i, load(x + i));
      if (w) NAME(mul)(x, x, half, w ^ 1);
    } else if (!first) {  // x was 0: y stays, x = w y
      NAME(mul)(x, y, half, w);
    } else if (w == 0) {
      NAME(add)(y, x, half);
    } else {
      table t = table_of(w);
      for (size_t i = 0; i < size; i += GF16_BLOCK) {
        block a = load(x + i), b = xor_(a, load(y + i));
        store(y + i, b);
        store(x + i, xor_(a, times(&t, b)));
      }
    }
  }
}

INLINE void NAME(fft_level)(uint8_t *rows, uint32_t begin, uint32_t end, unsigned level, uint32_t offset, uint32_t lo,
                            uint32_t hi) {
  uint32_t half = 1u << level;
  for (uint32_t r = begin; r < end; r += 2 * half) {
    int first = NAME(live)(r, level, lo, hi), second = NAME(live)(r + half, level, lo, hi);
    if (!first && !second) continue;
    uint8_t *x = rows + (size_t)r * GF16_BLOCK, *y = x + (size_t)half * GF16_BLOCK;
    size_t size = (size_t)half * GF16_BLOCK;
    uint16_t w = (uint16_t)((offset + r) >> level);
    if (!second) {
      NAME(muladd)(x, y, half, w);
    } else if (w == 0) {
      NAME(add)(y, x, half);
    } else {
      table t = table_of(w);
      for (size_t i = 0; i < size; i += GF16_BLOCK) {
        block b = load(y + i), a = xor_(load(x + i), times(&t, b));
        store(x + i, a);
        store(y + i, xor_(a, b));
      }
    }
  }
}

// 256 rows are 16 KB: the eight lowest levels run in the first-level cache.
enum { NAME(near) = 8 };

static void NAME(ifft)(uint8_t *rows, unsigned bits, uint32_t offset, uint32_t lo, uint32_t hi) {
  uint32_t count = 1u << bits;
  unsigned low = bits < NAME(near) ? bits : NAME(near);
  for (uint32_t r = 0; r < count; r += 1u << low)
    for (unsigned level = 0; level < low; level++)
      NAME(ifft_level)(rows, r, r + (1u << low), level, offset, lo, hi);
  for (unsigned level = low; level < bits; level++) NAME(ifft_level)(rows, 0, count, level, offset, lo, hi);
}

static void NAME(fft)(uint8_t *rows, unsigned bits, uint32_t offset, uint32_t lo, uint32_t hi) {
  uint32_t count = 1u << bits;
  unsigned low = bits < NAME(near) ? bits : NAME(near);
  for (unsigned level = bits; level-- > low;) NAME(fft_level)(rows, 0, count, level, offset, lo, hi);
  for (uint32_t r = 0; r < count; r += 1u << low)
    for (unsigned level = low; level-- > 0;)
      NAME(fft_level)(rows, r, r + (1u << low), level, offset, lo, hi);
}

static void NAME(scale_segments)(uint8_t *dst, const uint8_t *src, size_t count, const uint16_t *begin,
                                 const uint16_t *end, const uint16_t *m) {
  // 32 bytes from window + 32 - a are set from byte a on; 32 bytes from window + 64 - b are set below byte b.
  static const uint8_t window[96] = {[32 ... 63] = 0xFF};
  for (size_t i = 0; i < count; i++) {
    table t = table_of(m[i]);
    size_t first = begin[i] / GF16_SYMBOLS, last = (end[i] - 1u) / GF16_SYMBOLS;
    size_t from = begin[i] % GF16_SYMBOLS, to = (end[i] - 1u) % GF16_SYMBOLS + 1;
    for (size_t b = first; b <= last; b++) {
      block new = times(&t, load(src + b * GF16_BLOCK));
      if ((b == first && from > 0) || (b == last && to < GF16_SYMBOLS)) {
        block mask = and_(both(window + 32 - (b == first ? from : 0)),
                          both(window + 64 - (b == last ? to : GF16_SYMBOLS)));
        block old = load(dst + b * GF16_BLOCK);
        new = xor_(old, and_(xor_(old, new), mask));
      }
      store(dst + b * GF16_BLOCK, new);
    }
  }
}

static void NAME(split)(uint8_t *dst, size_t dst_stride, const uint8_t *src, size_t src_stride, size_t rows) {
  for (size_t i = 0; i < rows; i++) store(dst + i * dst_stride, split_block(load(src + i * src_stride)));
}

static void NAME(join)(uint8_t *dst, const uint8_t *src, const uint64_t *mask, size_t blocks) {
  for (size_t i = 0; i < blocks; i++, dst += GF16_BLOCK, src += GF16_BLOCK) {
    if (mask[i] == 0) continue;
    block natural = join_block(load(src));
    if (~mask[i]) {
      uint8_t bytes[GF16_BLOCK];
      for (int k = 0; k < GF16_BLOCK; k++) bytes[k] = (uint8_t) - (int)(mask[i] >> k & 1);
      natural = and_(natural, load(bytes));
    }
    store(dst, xor_(load(dst), natural));
  }
}

#define KERNELS(label)                                                                                             \
  {                                                                                                                \
    .name = label, .mul = NAME(mul), .muladd = NAME(muladd), .add = NAME(add), .ifft = NAME(ifft), .fft = NAME(fft), \
    .scale_segments = NAME(scale_segments), .split = NAME(split), .join = NAME(join)                                       \
  }
