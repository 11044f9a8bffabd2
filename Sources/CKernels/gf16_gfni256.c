// GFNI without AVX-512 (client cores): a product is four 8x8 bit matrices.
#if defined(__x86_64__)
#include "gf16_internal.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2,gfni"))), apply_to = function)

typedef struct { __m256i low, high; } block;
typedef struct { __m256i low_low, high_high, high_low, low_high; } table;
#define NAME(x) gfni256_##x

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
  const uint64_t *p = gf16_shared->matrices[0][m & 255], *q = gf16_shared->matrices[1][m >> 8];
  return (table){_mm256_set1_epi64x((long long)(p[0] ^ q[0])), _mm256_set1_epi64x((long long)(p[1] ^ q[1])),
                 _mm256_set1_epi64x((long long)(p[2] ^ q[2])), _mm256_set1_epi64x((long long)(p[3] ^ q[3]))};
}
static inline block times(const table *t, block b) {
  return (block){_mm256_xor_si256(_mm256_gf2p8affine_epi64_epi8(b.low, t->low_low, 0),
                                  _mm256_gf2p8affine_epi64_epi8(b.high, t->high_low, 0)),
                 _mm256_xor_si256(_mm256_gf2p8affine_epi64_epi8(b.high, t->high_high, 0),
                                  _mm256_gf2p8affine_epi64_epi8(b.low, t->low_high, 0))};
}
#include "gf16_avx2_order.h"

#include "gf16_template.h"
const gf16_ops gf16_gfni256 = KERNELS("gfni256");
#pragma clang attribute pop
#endif
