// The kernels, written once over five primitives that the including file defines for its instruction set:
//   block            64 bytes in registers         table            what multiplying by one element needs
//   load, store      unaligned                     times(table, block)
//   xor_, and_       bitwise                       table_of(m)
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

static void NAME(scale_rows)(uint8_t *dst, size_t dst_stride, const uint8_t *src, size_t src_stride, size_t count,
                             const uint32_t *index, const uint16_t *m, size_t first, size_t last, uint32_t first_mask,
                             uint32_t last_mask) {
  if (first >= last) return;
  if (last - first == 1) first_mask = last_mask = first_mask & last_mask;
  uint8_t bytes[2][GF16_BLOCK];
  for (int i = 0; i < GF16_SYMBOLS; i++) {
    bytes[0][i] = bytes[0][i + GF16_SYMBOLS] = (uint8_t) - (int)(first_mask >> i & 1);
    bytes[1][i] = bytes[1][i + GF16_SYMBOLS] = (uint8_t) - (int)(last_mask >> i & 1);
  }
  block first_bytes = load(bytes[0]), last_bytes = load(bytes[1]);
  for (size_t i = 0; i < count; i++) {
    size_t r = index ? index[i] : i;
    uint8_t *to = dst + r * dst_stride;
    const uint8_t *from = src + r * src_stride;
    table t = table_of(m[i]);
    block old = load(to + first * GF16_BLOCK), new = times(&t, load(from + first * GF16_BLOCK));
    store(to + first * GF16_BLOCK, xor_(old, and_(xor_(old, new), first_bytes)));
    if (last - first == 1) continue;
    for (size_t b = (first + 1) * GF16_BLOCK; b < (last - 1) * GF16_BLOCK; b += GF16_BLOCK)
      store(to + b, times(&t, load(from + b)));
    old = load(to + (last - 1) * GF16_BLOCK), new = times(&t, load(from + (last - 1) * GF16_BLOCK));
    store(to + (last - 1) * GF16_BLOCK, xor_(old, and_(xor_(old, new), last_bytes)));
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
    .scale_rows = NAME(scale_rows), .split = NAME(split), .join = NAME(join)                                       \
  }
