#if defined(__x86_64__)
#include "gf16_internal.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)

typedef struct { __m256i low, high; } block;
typedef struct { __m256i of[8]; } table;
#define NAME(x) avx2_##x

static inline block load(const uint8_t *p) {
  return (block){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
static inline void store(uint8_t *p, block b) {
  _mm256_storeu_si256((__m256i *)p, b.low), _mm256_storeu_si256((__m256i *)(p + 32), b.high);
}
static inline block xor_(block a, block b) {
  return (block){_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}
static inline block and_(block a, block b) {
  return (block){_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
static inline block both(const uint8_t *p) {
  __m256i half = _mm256_loadu_si256((const __m256i *)p);
  return (block){half, half};
}
static inline table table_of(uint16_t m) {
  const __m128i *p = (const __m128i *)gf16_shared->nibbles[0][m & 255];
  const __m128i *q = (const __m128i *)gf16_shared->nibbles[1][m >> 8];
  table t;
  for (int i = 0; i < 8; i++)
    t.of[i] = _mm256_broadcastsi128_si256(_mm_xor_si128(_mm_load_si128(p + i), _mm_load_si128(q + i)));
  return t;
}
static inline block times(const table *t, block b) {
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i n0 = _mm256_and_si256(b.low, nibble), n1 = _mm256_and_si256(_mm256_srli_epi16(b.low, 4), nibble);
  __m256i n2 = _mm256_and_si256(b.high, nibble), n3 = _mm256_and_si256(_mm256_srli_epi16(b.high, 4), nibble);
#define LOOK(h)                                                                                                  \
  _mm256_xor_si256(_mm256_xor_si256(_mm256_shuffle_epi8(t->of[h], n0), _mm256_shuffle_epi8(t->of[2 + h], n1)),   \
                   _mm256_xor_si256(_mm256_shuffle_epi8(t->of[4 + h], n2), _mm256_shuffle_epi8(t->of[6 + h], n3)))
  return (block){LOOK(0), LOOK(1)};
#undef LOOK
}
#include "gf16_avx2_order.h"

#include "gf16_template.h"
const gf16_ops gf16_avx2 = KERNELS("avx2");
#pragma clang attribute pop
#endif
