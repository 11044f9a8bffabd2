// SHA-256 with the x86 SHA extensions. `sha256rnds2` has a latency of 4 cycles and a throughput of 2 or better, and each
// one needs the last one's result: one stream leaves half of the unit idle, two interleaved streams fill it.
#include "sha256_internal.h"

#if LP_SHA256_HAS_NI
#include <immintrin.h>
#include <string.h>

#define NI __attribute__((target("sha,sse4.1,ssse3")))
#define NI_INLINE __attribute__((target("sha,sse4.1,ssse3"), always_inline)) static inline

// Big-endian words from bytes.
#define SWAP _mm_set_epi64x(0x0C0D0E0F08090A0BLL, 0x0405060700010203LL)
#define K4(g) _mm_loadu_si128((const __m128i *)(lp_sha256_k + 4 * (g)))

typedef struct {
  __m128i abef, cdgh;
} state_t;

NI_INLINE state_t load_packed(const uint32_t *p) {
  state_t s = {_mm_loadu_si128((const __m128i *)p), _mm_loadu_si128((const __m128i *)(p + 4))};
  return s;
}

NI_INLINE void store_packed(uint32_t *p, state_t s) {
  _mm_storeu_si128((__m128i *)p, s.abef);
  _mm_storeu_si128((__m128i *)(p + 4), s.cdgh);
}

NI_INLINE state_t pack(__m128i abcd, __m128i efgh) {
  __m128i cdab = _mm_shuffle_epi32(abcd, 0xB1), ghef = _mm_shuffle_epi32(efgh, 0x1B);
  state_t s = {_mm_alignr_epi8(cdab, ghef, 8), _mm_blend_epi16(ghef, cdab, 0xF0)};
  return s;
}

NI_INLINE void unpack(state_t s, __m128i *abcd, __m128i *efgh) {
  __m128i feba = _mm_shuffle_epi32(s.abef, 0x1B), dchg = _mm_shuffle_epi32(s.cdgh, 0xB1);
  *abcd = _mm_blend_epi16(feba, dchg, 0xF0);
  *efgh = _mm_alignr_epi8(dchg, feba, 8);
}

NI_INLINE state_t initial(void) {
  return pack(
    _mm_loadu_si128((const __m128i *)lp_sha256_initial), _mm_loadu_si128((const __m128i *)(lp_sha256_initial + 4)));
}

// Four rounds; `wk` holds message words with the round constants added.
#define ROUNDS(s, wk)                                                       \
  do {                                                                      \
    __m128i wk_ = (wk);                                                     \
    (s).cdgh = _mm_sha256rnds2_epu32((s).cdgh, (s).abef, wk_);              \
    (s).abef = _mm_sha256rnds2_epu32((s).abef, (s).cdgh, _mm_shuffle_epi32(wk_, 0x0E)); \
  } while (0)

// The next four words of the message schedule, replacing the oldest four.
#define SCHEDULE(m0, m1, m2, m3) \
  m0 = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(m0, m1), _mm_alignr_epi8(m3, m2, 4)), m3)

#define STEP1(g, m) ROUNDS(s, _mm_add_epi32(m, K4(g)))
#define STEP2(g, x, y)                    \
  do {                                    \
    __m128i k_ = K4(g);                   \
    ROUNDS(a, _mm_add_epi32(x, k_));      \
    ROUNDS(b, _mm_add_epi32(y, k_));      \
  } while (0)

NI_INLINE state_t rounds1(state_t s, __m128i m0, __m128i m1, __m128i m2, __m128i m3) {
  state_t before = s;
  STEP1(0, m0); STEP1(1, m1); STEP1(2, m2); STEP1(3, m3);
#define TURN(g)                                 \
  SCHEDULE(m0, m1, m2, m3); STEP1(g, m0);       \
  SCHEDULE(m1, m2, m3, m0); STEP1(g + 1, m1);   \
  SCHEDULE(m2, m3, m0, m1); STEP1(g + 2, m2);   \
  SCHEDULE(m3, m0, m1, m2); STEP1(g + 3, m3)
  TURN(4); TURN(8); TURN(12);
#undef TURN
  s.abef = _mm_add_epi32(s.abef, before.abef);
  s.cdgh = _mm_add_epi32(s.cdgh, before.cdgh);
  return s;
}

NI_INLINE void rounds2(
  state_t *sa, state_t *sb, __m128i m0, __m128i m1, __m128i m2, __m128i m3, __m128i n0, __m128i n1, __m128i n2,
  __m128i n3) {
  state_t a = *sa, b = *sb;
  STEP2(0, m0, n0); STEP2(1, m1, n1); STEP2(2, m2, n2); STEP2(3, m3, n3);
#define TURN(g)                                                                \
  SCHEDULE(m0, m1, m2, m3); SCHEDULE(n0, n1, n2, n3); STEP2(g, m0, n0);        \
  SCHEDULE(m1, m2, m3, m0); SCHEDULE(n1, n2, n3, n0); STEP2(g + 1, m1, n1);    \
  SCHEDULE(m2, m3, m0, m1); SCHEDULE(n2, n3, n0, n1); STEP2(g + 2, m2, n2);    \
  SCHEDULE(m3, m0, m1, m2); SCHEDULE(n3, n0, n1, n2); STEP2(g + 3, m3, n3)
  TURN(4); TURN(8); TURN(12);
#undef TURN
  sa->abef = _mm_add_epi32(sa->abef, a.abef);
  sa->cdgh = _mm_add_epi32(sa->cdgh, a.cdgh);
  sb->abef = _mm_add_epi32(sb->abef, b.abef);
  sb->cdgh = _mm_add_epi32(sb->cdgh, b.cdgh);
}

#define WORDS(p, i) _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p) + (i)), SWAP)

NI void lp_sha256_ni_load(uint32_t packed[8], const uint32_t state[8]) {
  store_packed(
    packed, pack(_mm_loadu_si128((const __m128i *)state), _mm_loadu_si128((const __m128i *)(state + 4))));
}

NI void lp_sha256_ni_unload(uint32_t state[8], const uint32_t packed[8]) {
  __m128i abcd, efgh;
  unpack(load_packed(packed), &abcd, &efgh);
  _mm_storeu_si128((__m128i *)state, abcd);
  _mm_storeu_si128((__m128i *)(state + 4), efgh);
}

NI void lp_sha256_ni_store_digest(uint8_t out[32], const uint32_t packed[8]) {
  __m128i abcd, efgh;
  unpack(load_packed(packed), &abcd, &efgh);
  _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(abcd, SWAP));
  _mm_storeu_si128((__m128i *)(out + 16), _mm_shuffle_epi8(efgh, SWAP));
}

NI void lp_sha256_ni_compress(uint32_t packed[8], const uint8_t *bytes, size_t blocks) {
  state_t s = load_packed(packed);
  for (; blocks; blocks--, bytes += 64)
    s = rounds1(s, WORDS(bytes, 0), WORDS(bytes, 1), WORDS(bytes, 2), WORDS(bytes, 3));
  store_packed(packed, s);
}

NI void lp_sha256_ni_compress2(
  uint32_t a[8], const uint8_t *a_bytes, uint32_t b[8], const uint8_t *b_bytes, size_t blocks) {
  state_t s = load_packed(a), t = load_packed(b);
  for (; blocks; blocks--, a_bytes += 64, b_bytes += 64)
    rounds2(
      &s, &t, WORDS(a_bytes, 0), WORDS(a_bytes, 1), WORDS(a_bytes, 2), WORDS(a_bytes, 3), WORDS(b_bytes, 0),
      WORDS(b_bytes, 1), WORDS(b_bytes, 2), WORDS(b_bytes, 3));
  store_packed(a, s);
  store_packed(b, t);
}

// The block that pads a 64-byte message is the same for all: its schedule with constants added is computed once.
static uint32_t pad64_wk[64];

__attribute__((constructor)) static void fill_pad64(void) {
  uint32_t w[64] = {0x80000000u};
  w[15] = 512;
  for (int i = 16; i < 64; i++) {
    uint32_t x = w[i - 15], y = w[i - 2];
    uint32_t s0 = (x >> 7 | x << 25) ^ (x >> 18 | x << 14) ^ x >> 3;
    uint32_t s1 = (y >> 17 | y << 15) ^ (y >> 19 | y << 13) ^ y >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  for (int i = 0; i < 64; i++) pad64_wk[i] = w[i] + lp_sha256_k[i];
}

NI_INLINE void pad64_rounds2(state_t *sa, state_t *sb) {
  state_t a = *sa, b = *sb;
#pragma unroll
  for (int g = 0; g < 16; g++) {
    __m128i wk = _mm_loadu_si128((const __m128i *)(pad64_wk + 4 * g));
    ROUNDS(a, wk);
    ROUNDS(b, wk);
  }
  sa->abef = _mm_add_epi32(sa->abef, a.abef);
  sa->cdgh = _mm_add_epi32(sa->cdgh, a.cdgh);
  sb->abef = _mm_add_epi32(sb->abef, b.abef);
  sb->cdgh = _mm_add_epi32(sb->cdgh, b.cdgh);
}

// Double SHA-256 of two 64-byte messages.
NI_INLINE void d64_pair(uint8_t *out_a, uint8_t *out_b, const uint8_t *a, const uint8_t *b) {
  state_t s = initial(), t = s;
  rounds2(
    &s, &t, WORDS(a, 0), WORDS(a, 1), WORDS(a, 2), WORDS(a, 3), WORDS(b, 0), WORDS(b, 1), WORDS(b, 2), WORDS(b, 3));
  pad64_rounds2(&s, &t);
  // The first hash is already in words: it goes straight into the second one's message.
  __m128i m0, m1, n0, n1;
  unpack(s, &m0, &m1);
  unpack(t, &n0, &n1);
  __m128i m2 = _mm_set_epi32(0, 0, 0, (int)0x80000000u), m3 = _mm_set_epi32(256, 0, 0, 0);
  s = t = initial();
  rounds2(&s, &t, m0, m1, m2, m3, n0, n1, m2, m3);
  __m128i x, y;
  unpack(s, &x, &y);
  _mm_storeu_si128((__m128i *)out_a, _mm_shuffle_epi8(x, SWAP));
  _mm_storeu_si128((__m128i *)(out_a + 16), _mm_shuffle_epi8(y, SWAP));
  unpack(t, &x, &y);
  _mm_storeu_si128((__m128i *)out_b, _mm_shuffle_epi8(x, SWAP));
  _mm_storeu_si128((__m128i *)(out_b + 16), _mm_shuffle_epi8(y, SWAP));
}

NI void lp_sha256_ni_d64(uint8_t *out, const uint8_t *in, size_t count) {
  // In place is safe: the pair's 128 bytes are read before its 64 bytes of hashes are written at or before them.
  for (; count >= 2; count -= 2, in += 128, out += 64) d64_pair(out, out + 32, in, in + 64);
  if (count) {
    uint8_t spare[32];
    d64_pair(out, spare, in, in);
  }
}
#endif
