#if defined(__x86_64__)
#include "gf16_internal.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("ssse3"))), apply_to = function)

typedef struct { __m128i low[2], high[2]; } block;
typedef struct { __m128i of[8]; } table;
#define NAME(x) ssse3_##x

static inline block load(const uint8_t *p) {
  const __m128i *v = (const __m128i *)p;
  return (block){{_mm_loadu_si128(v), _mm_loadu_si128(v + 1)}, {_mm_loadu_si128(v + 2), _mm_loadu_si128(v + 3)}};
}
static inline void store(uint8_t *p, block b) {
  __m128i *v = (__m128i *)p;
  _mm_storeu_si128(v, b.low[0]), _mm_storeu_si128(v + 1, b.low[1]);
  _mm_storeu_si128(v + 2, b.high[0]), _mm_storeu_si128(v + 3, b.high[1]);
}
static inline block xor_(block a, block b) {
  for (int i = 0; i < 2; i++)
    a.low[i] = _mm_xor_si128(a.low[i], b.low[i]), a.high[i] = _mm_xor_si128(a.high[i], b.high[i]);
  return a;
}
static inline block and_(block a, block b) {
  for (int i = 0; i < 2; i++)
    a.low[i] = _mm_and_si128(a.low[i], b.low[i]), a.high[i] = _mm_and_si128(a.high[i], b.high[i]);
  return a;
}
static inline block both(const uint8_t *p) {
  __m128i a = _mm_loadu_si128((const __m128i *)p), b = _mm_loadu_si128((const __m128i *)(p + 16));
  return (block){{a, b}, {a, b}};
}
static inline table table_of(uint16_t m) {
  const __m128i *p = (const __m128i *)gf16_shared->nibbles[0][m & 255];
  const __m128i *q = (const __m128i *)gf16_shared->nibbles[1][m >> 8];
  table t;
  for (int i = 0; i < 8; i++) t.of[i] = _mm_xor_si128(_mm_load_si128(p + i), _mm_load_si128(q + i));
  return t;
}
static inline block times(const table *t, block b) {
  const __m128i nibble = _mm_set1_epi8(15);
  block r;
  for (int i = 0; i < 2; i++) {
    __m128i n0 = _mm_and_si128(b.low[i], nibble), n1 = _mm_and_si128(_mm_srli_epi16(b.low[i], 4), nibble);
    __m128i n2 = _mm_and_si128(b.high[i], nibble), n3 = _mm_and_si128(_mm_srli_epi16(b.high[i], 4), nibble);
#define LOOK(h)                                                                                                  \
  _mm_xor_si128(_mm_xor_si128(_mm_shuffle_epi8(t->of[h], n0), _mm_shuffle_epi8(t->of[2 + h], n1)),               \
                _mm_xor_si128(_mm_shuffle_epi8(t->of[4 + h], n2), _mm_shuffle_epi8(t->of[6 + h], n3)))
    r.low[i] = LOOK(0), r.high[i] = LOOK(1);
#undef LOOK
  }
  return r;
}
static inline block split_block(block b) {
  const __m128i even = _mm_set1_epi16(255);
  __m128i v[4] = {b.low[0], b.low[1], b.high[0], b.high[1]};
  for (int i = 0; i < 2; i++) {
    b.low[i] = _mm_packus_epi16(_mm_and_si128(v[2 * i], even), _mm_and_si128(v[2 * i + 1], even));
    b.high[i] = _mm_packus_epi16(_mm_srli_epi16(v[2 * i], 8), _mm_srli_epi16(v[2 * i + 1], 8));
  }
  return b;
}
static inline block join_block(block b) {
  return (block){{_mm_unpacklo_epi8(b.low[0], b.high[0]), _mm_unpackhi_epi8(b.low[0], b.high[0])},
                 {_mm_unpacklo_epi8(b.low[1], b.high[1]), _mm_unpackhi_epi8(b.low[1], b.high[1])}};
}

#include "gf16_template.h"
const gf16_ops gf16_ssse3 = KERNELS("ssse3");
#pragma clang attribute pop
#endif
