#include "siphash.h"
#include <stdatomic.h>
#include <string.h>

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define ROUND(v0, v1, v2, v3) \
  do { \
    v0 += v1; v2 += v3; v1 = ROTL(v1, 13); v3 = ROTL(v3, 16); v1 ^= v0; v3 ^= v2; v0 = ROTL(v0, 32); \
    v2 += v1; v0 += v3; v1 = ROTL(v1, 17); v3 = ROTL(v3, 21); v1 ^= v2; v3 ^= v0; v2 = ROTL(v2, 32); \
  } while (0)

static const uint64_t C0 = 0x736f6d6570736575, C1 = 0x646f72616e646f6d, C2 = 0x6c7967656e657261,
                      C3 = 0x7465646279746573;
// The last block: the message's length in the top byte, no bytes left over.
static const uint64_t LAST = (uint64_t)32 << 56;

static inline uint64_t load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

uint64_t lp_siphash24_32_one(uint64_t k0, uint64_t k1, const uint8_t *message) {
  uint64_t v0 = C0 ^ k0, v1 = C1 ^ k1, v2 = C2 ^ k0, v3 = C3 ^ k1;
  for (int i = 0; i < 5; i++) {
    uint64_t m = i < 4 ? load64(message + 8 * i) : LAST;
    v3 ^= m;
    ROUND(v0, v1, v2, v3);
    ROUND(v0, v1, v2, v3);
    v0 ^= m;
  }
  v2 ^= 0xff;
  for (int i = 0; i < 4; i++) ROUND(v0, v1, v2, v3);
  return v0 ^ v1 ^ v2 ^ v3;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static inline __m256i rotl13(__m256i x) {
  return _mm256_or_si256(_mm256_slli_epi64(x, 13), _mm256_srli_epi64(x, 51));
}
__attribute__((target("avx2"))) static inline __m256i rotl17(__m256i x) {
  return _mm256_or_si256(_mm256_slli_epi64(x, 17), _mm256_srli_epi64(x, 47));
}
__attribute__((target("avx2"))) static inline __m256i rotl21(__m256i x) {
  return _mm256_or_si256(_mm256_slli_epi64(x, 21), _mm256_srli_epi64(x, 43));
}
__attribute__((target("avx2"))) static inline __m256i rotl16(__m256i x) {
  const __m256i order = _mm256_setr_epi8(
    6, 7, 0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13, 6, 7, 0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13);
  return _mm256_shuffle_epi8(x, order);
}
#define ROUND4(v0, v1, v2, v3) \
  do { \
    v0 = _mm256_add_epi64(v0, v1); v2 = _mm256_add_epi64(v2, v3); \
    v1 = _mm256_xor_si256(rotl13(v1), v0); v3 = _mm256_xor_si256(rotl16(v3), v2); \
    v0 = _mm256_shuffle_epi32(v0, 0xb1); \
    v2 = _mm256_add_epi64(v2, v1); v0 = _mm256_add_epi64(v0, v3); \
    v1 = _mm256_xor_si256(rotl17(v1), v2); v3 = _mm256_xor_si256(rotl21(v3), v0); \
    v2 = _mm256_shuffle_epi32(v2, 0xb1); \
  } while (0)

// Word i of four messages in one vector: a 4 × 4 transpose.
__attribute__((target("avx2"))) static inline void words4(const uint8_t *const p[4], __m256i m[4]) {
  __m256i ra = _mm256_loadu_si256((const __m256i *)p[0]), rb = _mm256_loadu_si256((const __m256i *)p[1]);
  __m256i rc = _mm256_loadu_si256((const __m256i *)p[2]), rd = _mm256_loadu_si256((const __m256i *)p[3]);
  __m256i ab0 = _mm256_unpacklo_epi64(ra, rb), ab1 = _mm256_unpackhi_epi64(ra, rb);
  __m256i cd0 = _mm256_unpacklo_epi64(rc, rd), cd1 = _mm256_unpackhi_epi64(rc, rd);
  m[0] = _mm256_permute2x128_si256(ab0, cd0, 0x20);
  m[1] = _mm256_permute2x128_si256(ab1, cd1, 0x20);
  m[2] = _mm256_permute2x128_si256(ab0, cd0, 0x31);
  m[3] = _mm256_permute2x128_si256(ab1, cd1, 0x31);
}

// Groups of four messages whose rounds alternate: one group alone would wait for its own results most of the time. Three
// are what sixteen registers hold; the words lie in memory.
enum { AVX2_GROUPS = 3, AVX2_STEP = 4 * AVX2_GROUPS };

__attribute__((target("avx2"))) static inline void hash_avx2(
  uint64_t k0, uint64_t k1, const uint8_t *const p[AVX2_STEP], uint64_t *out) {
  __m256i m[AVX2_GROUPS][5], v[AVX2_GROUPS][4];
#pragma clang loop unroll(full)
  for (int g = 0; g < AVX2_GROUPS; g++) {
    words4(p + 4 * g, m[g]);
    m[g][4] = _mm256_set1_epi64x((long long)LAST);
    v[g][0] = _mm256_set1_epi64x((long long)(C0 ^ k0)), v[g][1] = _mm256_set1_epi64x((long long)(C1 ^ k1));
    v[g][2] = _mm256_set1_epi64x((long long)(C2 ^ k0)), v[g][3] = _mm256_set1_epi64x((long long)(C3 ^ k1));
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 5; i++) {
#pragma clang loop unroll(full)
    for (int g = 0; g < AVX2_GROUPS; g++) v[g][3] = _mm256_xor_si256(v[g][3], m[g][i]);
#pragma clang loop unroll(full)
    for (int r = 0; r < 2; r++) {
#pragma clang loop unroll(full)
      for (int g = 0; g < AVX2_GROUPS; g++) ROUND4(v[g][0], v[g][1], v[g][2], v[g][3]);
    }
#pragma clang loop unroll(full)
    for (int g = 0; g < AVX2_GROUPS; g++) v[g][0] = _mm256_xor_si256(v[g][0], m[g][i]);
  }
#pragma clang loop unroll(full)
  for (int g = 0; g < AVX2_GROUPS; g++) v[g][2] = _mm256_xor_si256(v[g][2], _mm256_set1_epi64x(0xff));
#pragma clang loop unroll(full)
  for (int r = 0; r < 4; r++) {
#pragma clang loop unroll(full)
    for (int g = 0; g < AVX2_GROUPS; g++) ROUND4(v[g][0], v[g][1], v[g][2], v[g][3]);
  }
#pragma clang loop unroll(full)
  for (int g = 0; g < AVX2_GROUPS; g++) {
    __m256i hash = _mm256_xor_si256(_mm256_xor_si256(v[g][0], v[g][1]), _mm256_xor_si256(v[g][2], v[g][3]));
    _mm256_storeu_si256((__m256i *)(out + 4 * g), hash);
  }
}

#define ROUND8(v0, v1, v2, v3) \
  do { \
    v0 = _mm512_add_epi64(v0, v1); v2 = _mm512_add_epi64(v2, v3); \
    v1 = _mm512_xor_si512(_mm512_rol_epi64(v1, 13), v0); v3 = _mm512_xor_si512(_mm512_rol_epi64(v3, 16), v2); \
    v0 = _mm512_rol_epi64(v0, 32); \
    v2 = _mm512_add_epi64(v2, v1); v0 = _mm512_add_epi64(v0, v3); \
    v1 = _mm512_xor_si512(_mm512_rol_epi64(v1, 17), v2); v3 = _mm512_xor_si512(_mm512_rol_epi64(v3, 21), v0); \
    v2 = _mm512_rol_epi64(v2, 32); \
  } while (0)

// Word i of eight messages in one vector: p[0], p[1], p[4], p[5] fill the lower halves in the order that two unpacks and
// a lane permutation undo, so that lane i belongs to p[i].
__attribute__((target("avx512f"))) static inline void words8(const uint8_t *const p[8], __m512i m[4]) {
  __m512i r0 = _mm512_inserti64x4(
    _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p[0])), _mm256_loadu_si256((const __m256i *)p[4]), 1);
  __m512i r1 = _mm512_inserti64x4(
    _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p[1])), _mm256_loadu_si256((const __m256i *)p[5]), 1);
  __m512i r2 = _mm512_inserti64x4(
    _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p[2])), _mm256_loadu_si256((const __m256i *)p[6]), 1);
  __m512i r3 = _mm512_inserti64x4(
    _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p[3])), _mm256_loadu_si256((const __m256i *)p[7]), 1);
  // Words 0|2 (lo) and 1|3 (hi) of messages 0,1 | 4,5 and of 2,3 | 6,7.
  __m512i lo01 = _mm512_unpacklo_epi64(r0, r1), hi01 = _mm512_unpackhi_epi64(r0, r1);
  __m512i lo23 = _mm512_unpacklo_epi64(r2, r3), hi23 = _mm512_unpackhi_epi64(r2, r3);
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  m[0] = _mm512_permutex2var_epi64(lo01, first, lo23);
  m[1] = _mm512_permutex2var_epi64(hi01, first, hi23);
  m[2] = _mm512_permutex2var_epi64(lo01, second, lo23);
  m[3] = _mm512_permutex2var_epi64(hi01, second, hi23);
}

// Groups of eight messages, as above. Three of them and their words fill the registers; a fourth spills and is slower.
enum { AVX512_GROUPS = 3, AVX512_STEP = 8 * AVX512_GROUPS };

__attribute__((target("avx512f"))) static inline void hash_avx512(
  uint64_t k0, uint64_t k1, const uint8_t *const p[AVX512_STEP], uint64_t *out) {
  __m512i m[AVX512_GROUPS][5], v[AVX512_GROUPS][4];
#pragma clang loop unroll(full)
  for (int g = 0; g < AVX512_GROUPS; g++) {
    words8(p + 8 * g, m[g]);
    m[g][4] = _mm512_set1_epi64((long long)LAST);
    v[g][0] = _mm512_set1_epi64((long long)(C0 ^ k0)), v[g][1] = _mm512_set1_epi64((long long)(C1 ^ k1));
    v[g][2] = _mm512_set1_epi64((long long)(C2 ^ k0)), v[g][3] = _mm512_set1_epi64((long long)(C3 ^ k1));
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 5; i++) {
#pragma clang loop unroll(full)
    for (int g = 0; g < AVX512_GROUPS; g++) v[g][3] = _mm512_xor_si512(v[g][3], m[g][i]);
#pragma clang loop unroll(full)
    for (int r = 0; r < 2; r++) {
#pragma clang loop unroll(full)
      for (int g = 0; g < AVX512_GROUPS; g++) ROUND8(v[g][0], v[g][1], v[g][2], v[g][3]);
    }
#pragma clang loop unroll(full)
    for (int g = 0; g < AVX512_GROUPS; g++) v[g][0] = _mm512_xor_si512(v[g][0], m[g][i]);
  }
#pragma clang loop unroll(full)
  for (int g = 0; g < AVX512_GROUPS; g++) v[g][2] = _mm512_xor_si512(v[g][2], _mm512_set1_epi64(0xff));
#pragma clang loop unroll(full)
  for (int r = 0; r < 4; r++) {
#pragma clang loop unroll(full)
    for (int g = 0; g < AVX512_GROUPS; g++) ROUND8(v[g][0], v[g][1], v[g][2], v[g][3]);
  }
#pragma clang loop unroll(full)
  for (int g = 0; g < AVX512_GROUPS; g++) {
    __m512i hash = _mm512_xor_si512(_mm512_xor_si512(v[g][0], v[g][1]), _mm512_xor_si512(v[g][2], v[g][3]));
    _mm512_storeu_si512(out + 8 * g, hash);
  }
}

__attribute__((target("avx2"))) static void avx2_run(
  uint64_t k0, uint64_t k1, const uint8_t *messages, size_t count, uint64_t *out) {
  size_t i = 0;
  for (; i + AVX2_STEP <= count; i += AVX2_STEP) {
    const uint8_t *p[AVX2_STEP];
    for (int j = 0; j < AVX2_STEP; j++) p[j] = messages + 32 * (i + j);
    hash_avx2(k0, k1, p, out + i);
  }
  for (; i < count; i++) out[i] = lp_siphash24_32_one(k0, k1, messages + 32 * i);
}

__attribute__((target("avx512f"))) static void avx512_run(
  uint64_t k0, uint64_t k1, const uint8_t *messages, size_t count, uint64_t *out) {
  size_t i = 0;
  for (; i + AVX512_STEP <= count; i += AVX512_STEP) {
    const uint8_t *p[AVX512_STEP];
    for (int j = 0; j < AVX512_STEP; j++) p[j] = messages + 32 * (i + j);
    hash_avx512(k0, k1, p, out + i);
  }
  for (; i < count; i++) out[i] = lp_siphash24_32_one(k0, k1, messages + 32 * i);
}
#endif

lp_siphash_kernel lp_siphash_best(void) {
#if defined(__x86_64__)
  static _Atomic int known = -1;
  int best = atomic_load_explicit(&known, memory_order_relaxed);
  if (best < 0) {
    __builtin_cpu_init();
    best = __builtin_cpu_supports("avx512f") ? LP_SIPHASH_AVX512
      : __builtin_cpu_supports("avx2")       ? LP_SIPHASH_AVX2
                                             : LP_SIPHASH_PORTABLE;
    atomic_store_explicit(&known, best, memory_order_relaxed);
  }
  return (lp_siphash_kernel)best;
#else
  return LP_SIPHASH_PORTABLE;
#endif
}

void lp_siphash24_32(
  lp_siphash_kernel kernel, uint64_t k0, uint64_t k1, const uint8_t *messages, size_t count, uint64_t *out) {
#if defined(__x86_64__)
  if (kernel == LP_SIPHASH_AVX512) return avx512_run(k0, k1, messages, count, out);
  if (kernel == LP_SIPHASH_AVX2) return avx2_run(k0, k1, messages, count, out);
#endif
  (void)kernel;
  for (size_t i = 0; i < count; i++) out[i] = lp_siphash24_32_one(k0, k1, messages + 32 * i);
}

// Messages in the order of their numbers. Kernels go in steps: up to PADDING numbers more are read and hashes written.
static void portable_gather(
  uint64_t k0, uint64_t k1, const uint8_t *messages, const uint32_t *slots, size_t count, uint64_t *out) {
  for (size_t i = 0; i < count; i++) out[i] = lp_siphash24_32_one(k0, k1, messages + 32 * (size_t)slots[i]);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void avx2_gather(
  uint64_t k0, uint64_t k1, const uint8_t *messages, const uint32_t *slots, size_t count, uint64_t *out) {
  for (size_t i = 0; i < count; i += AVX2_STEP) {
    const uint8_t *p[AVX2_STEP];
    for (int j = 0; j < AVX2_STEP; j++) p[j] = messages + 32 * (size_t)slots[i + j];
    hash_avx2(k0, k1, p, out + i);
  }
}

__attribute__((target("avx512f"))) static void avx512_gather(
  uint64_t k0, uint64_t k1, const uint8_t *messages, const uint32_t *slots, size_t count, uint64_t *out) {
  for (size_t i = 0; i < count; i += AVX512_STEP) {
    const uint8_t *p[AVX512_STEP];
    for (int j = 0; j < AVX512_STEP; j++) p[j] = messages + 32 * (size_t)slots[i + j];
    hash_avx512(k0, k1, p, out + i);
  }
}
#endif

// Slots that are hashed at a time, and no fewer than any kernel's step: room behind them.
enum { BLOCK = 192, PADDING = 32 };

// The next up to BLOCK slots that are no holes, from the end; their messages are fetched while the block before is
// being hashed. Copies of the last follow.
static inline size_t next_block(
  const uint8_t *messages, const uint32_t *slots, size_t *left, uint32_t out[BLOCK + PADDING]) {
  size_t n = 0;
  while (n < BLOCK && *left > 0) {
    uint32_t slot = slots[--*left];
    out[n] = slot;
    // Of a hole's address too: a prefetch can't fault.
    __builtin_prefetch(messages + 32 * (size_t)slot);
    n += slot != UINT32_MAX;
  }
  if (n > 0) for (size_t i = n; i < n + PADDING; i++) out[i] = out[n - 1];
  return n;
}

// Copies those of `n` slots and hashes whose bit is set in the filter, and returns how many.
static inline size_t pass(
  const uint32_t *slots, const uint64_t *hash, size_t n, const uint64_t *filter, uint64_t mask, uint32_t *hit_slots,
  uint64_t *hit_hashes) {
  size_t hits = 0, i = 0;
  // Eight at a time, and a branch only on whether any of them passed: few do.
  for (; i < n; i += 8) {
    unsigned found = 0;
    for (unsigned j = 0; j < 8; j++) {
      uint64_t bit = hash[i + j] & mask;
      found |= (unsigned)((filter[bit >> 6] >> (bit & 63)) & 1) << j;
    }
    if (n - i < 8) found &= (1u << (n - i)) - 1;
    for (; found != 0; found &= found - 1) {
      size_t at = i + (size_t)__builtin_ctz(found);
      hit_slots[hits] = slots[at];
      hit_hashes[hits++] = hash[at];
    }
  }
  return hits;
}

size_t lp_siphash24_32_filter(
  lp_siphash_kernel kernel, uint64_t k0, uint64_t k1, const uint8_t *messages, const uint32_t *slots, size_t count,
  const uint64_t *filter, unsigned bits, uint32_t *hit_slots, uint64_t *hit_hashes) {
  const uint64_t mask = ((uint64_t)1 << bits) - 1;
  void (*gather)(uint64_t, uint64_t, const uint8_t *, const uint32_t *, size_t, uint64_t *) = portable_gather;
#if defined(__x86_64__)
  if (kernel == LP_SIPHASH_AVX512) gather = avx512_gather;
  if (kernel == LP_SIPHASH_AVX2) gather = avx2_gather;
#endif
  (void)kernel;
  uint32_t block[2][BLOCK + PADDING];
  uint64_t hash[BLOCK + PADDING];
  size_t hits = 0, left = count;
  unsigned turn = 0;
  size_t n = next_block(messages, slots, &left, block[0]);
  while (n > 0) {
    size_t next = next_block(messages, slots, &left, block[turn ^ 1]);
    gather(k0, k1, messages, block[turn], n, hash);
    hits += pass(block[turn], hash, n, filter, mask, hit_slots + hits, hit_hashes + hits);
    turn ^= 1;
    n = next;
  }
  return hits;
}
