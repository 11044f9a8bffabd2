// GFNI with AVX-512: a block is one register, low halves in its lower part.
#if defined(__x86_64__)
#include "gf16_internal.h"
#include <immintrin.h>
#pragma clang attribute push(                                                                                    \
    __attribute__((target("avx2,gfni,avx512f,avx512bw,avx512vl,avx512vbmi"))), apply_to = function)

typedef __m512i block;
typedef struct { __m512i straight, crossed; } table;
#define NAME(x) gfni512_##x

static inline block load(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline void store(uint8_t *p, block b) { _mm512_storeu_si512(p, b); }
static inline block xor_(block a, block b) { return _mm512_xor_si512(a, b); }
static inline block and_(block a, block b) { return _mm512_and_si512(a, b); }
static inline block both(const uint8_t *p) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
}
static inline table table_of(uint16_t m) {
  const __m256i *p = (const __m256i *)gf16_shared->matrices[0][m & 255];
  const __m256i *q = (const __m256i *)gf16_shared->matrices[1][m >> 8];
  __m512i all = _mm512_castsi256_si512(_mm256_xor_si256(_mm256_load_si256(p), _mm256_load_si256(q)));
  return (table){_mm512_permutexvar_epi64(_mm512_set_epi64(1, 1, 1, 1, 0, 0, 0, 0), all),
                 _mm512_permutexvar_epi64(_mm512_set_epi64(3, 3, 3, 3, 2, 2, 2, 2), all)};
}
static inline block times(const table *t, block b) {
  block swapped = _mm512_shuffle_i64x2(b, b, 0x4E);
  return _mm512_xor_si512(_mm512_gf2p8affine_epi64_epi8(b, t->straight, 0),
                          _mm512_gf2p8affine_epi64_epi8(swapped, t->crossed, 0));
}
static const uint8_t gfni512_split_order[64] = {
    0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42,
    44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23,
    25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
static const uint8_t gfni512_join_order[64] = {
    0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
    11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53,
    22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
static inline block split_block(block b) { return _mm512_permutexvar_epi8(load(gfni512_split_order), b); }
static inline block join_block(block b) { return _mm512_permutexvar_epi8(load(gfni512_join_order), b); }

#include "gf16_template.h"
const gf16_ops gf16_gfni512 = KERNELS("gfni512");
#pragma clang attribute pop
#endif
