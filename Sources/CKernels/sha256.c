// SHA-256: the portable kernel, the choice of kernel, and the scheduler that keeps two lanes busy.
#include "sha256_internal.h"

#include <string.h>

#if LP_SHA256_HAS_NI
#include <cpuid.h>
#endif

const uint32_t lp_sha256_k[64] __attribute__((aligned(64))) = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

const uint32_t lp_sha256_initial[8] = {
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static uint32_t load_be(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_be(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)(v >> 24);
  p[1] = (uint8_t)(v >> 16);
  p[2] = (uint8_t)(v >> 8);
  p[3] = (uint8_t)v;
}

void lp_sha256_portable_compress(uint32_t state[8], const uint8_t *bytes, size_t blocks) {
  for (; blocks; blocks--, bytes += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) w[i] = load_be(bytes + 4 * i);
    for (int i = 16; i < 64; i++) {
      uint32_t s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
      uint32_t s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
      uint32_t t1 = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + lp_sha256_k[i] + w[i];
      uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

lp_sha256_kernel lp_sha256_best(void) {
#if LP_SHA256_HAS_NI
  static int known;  // 0 not asked yet, else 1 + kernel; asking twice gives the same answer
  int answer = __atomic_load_n(&known, __ATOMIC_RELAXED);
  if (!answer) {
    unsigned a, b, c, d, ssse3_sse41 = 0, sha = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) ssse3_sse41 = (c >> 9 & 1) && (c >> 19 & 1);
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) sha = b >> 29 & 1;
    answer = 1 + (ssse3_sse41 && sha ? LP_SHA256_NI : LP_SHA256_PORTABLE);
    __atomic_store_n(&known, answer, __ATOMIC_RELAXED);
  }
  return (lp_sha256_kernel)(answer - 1);
#else
  return LP_SHA256_PORTABLE;
#endif
}

static inline void start(lp_sha256_kernel kernel, uint32_t state[8]) {
#if LP_SHA256_HAS_NI
  if (kernel == LP_SHA256_NI) {
    // lp_sha256_initial in the packed order: F E B A, H G D C from the lowest word up.
    static const uint32_t packed[8] = {0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667,
                                       0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372};
    memcpy(state, packed, 32);
    return;
  }
#endif
  memcpy(state, lp_sha256_initial, 32);
}

static inline void digest(lp_sha256_kernel kernel, uint8_t out[32], const uint32_t state[8]) {
#if LP_SHA256_HAS_NI
  if (kernel == LP_SHA256_NI) {
    lp_sha256_ni_store_digest(out, state);
    return;
  }
#endif
  for (int i = 0; i < 8; i++) store_be(out + 4 * i, state[i]);
}

static inline void compress(lp_sha256_kernel kernel, uint32_t state[8], const uint8_t *bytes, size_t blocks) {
#if LP_SHA256_HAS_NI
  if (kernel == LP_SHA256_NI) {
    lp_sha256_ni_compress(state, bytes, blocks);
    return;
  }
#endif
  lp_sha256_portable_compress(state, bytes, blocks);
}

// Pads `fill` (< 64) bytes at the start of `stage` that end a message of `total` bytes; returns the blocks: 1 or 2.
static inline size_t pad(uint8_t stage[128], size_t fill, uint64_t total) {
  size_t blocks = fill < 56 ? 1 : 2;
  memset(stage + fill, 0, 64);
  if (blocks == 2) memset(stage + 64, 0, 64);
  stage[fill] = 0x80;
  uint64_t bits = __builtin_bswap64(total * 8);
  memcpy(stage + 64 * blocks - 8, &bits, 8);
  return blocks;
}

// ---------------------------------------------------------------------------------------------------------------------
// The scheduler. A lane works on one message at a time and always has a run of whole blocks ready: either bytes of the
// message where they lie, or its `stage`, which holds what spans two parts, the padding, or the second hash's block.

typedef struct {
  uint32_t state[8];
  const uint8_t *run;
  size_t blocks;
  const lp_sha256_job *job;
  size_t position;  // in the current part
  uint64_t total;
  uint8_t part;
  uint8_t phase;
  uint8_t stage[192];
} lane;

enum { DATA, PADDED, SECOND };

static inline void begin(lp_sha256_kernel kernel, lane *l, const lp_sha256_job *job) {
  start(kernel, l->state);
  l->job = job;
  l->position = 0;
  l->part = 0;
  l->phase = DATA;
  l->total = (uint64_t)job->length[0] + job->length[1] + job->length[2];
}

// Gives the lane its next run; 0 when its message is done and its hash is written.
static inline int refill(lp_sha256_kernel kernel, lane *l, int twice) {
  if (l->phase == DATA) {
    const lp_sha256_job *job = l->job;
    size_t fill = 0;
    for (;;) {
      size_t left = job->length[l->part] - l->position;
      const uint8_t *from = job->part[l->part] + l->position;
      if (fill == 0 && left >= 64) {
        l->run = from;
        l->blocks = left / 64;
        l->position += left & ~(size_t)63;
        return 1;
      }
      size_t take = left < 64 - fill ? left : 64 - fill;
      if (take) memcpy(l->stage + fill, from, take);
      l->position += take;
      fill += take;
      if (fill == 64) {
        l->run = l->stage;
        l->blocks = 1;
        return 1;
      }
      if (l->part == 2) break;
      l->part++;
      l->position = 0;
    }
    l->run = l->stage;
    l->blocks = pad(l->stage, fill, l->total);
    l->phase = PADDED;
    return 1;
  }
  if (l->phase == PADDED && twice) {
    static const uint8_t tail[32] = {[0] = 0x80, [30] = 1};  // 256 bits
    digest(kernel, l->stage, l->state);
    memcpy(l->stage + 32, tail, 32);
    start(kernel, l->state);
    l->run = l->stage;
    l->blocks = 1;
    l->phase = SECOND;
    return 1;
  }
  digest(kernel, l->job->out, l->state);
  return 0;
}

static void finish(lp_sha256_kernel kernel, lane *l, int twice) {
  do {
    compress(kernel, l->state, l->run, l->blocks);
  } while (refill(kernel, l, twice));
}

#if LP_SHA256_HAS_NI
static void batch_ni(const lp_sha256_job *jobs, size_t count, int twice) {
  lane a, b;
  const lp_sha256_job *next = jobs, *end = jobs + count;
  begin(LP_SHA256_NI, &a, next++);
  refill(LP_SHA256_NI, &a, twice);
  if (next == end) {
    finish(LP_SHA256_NI, &a, twice);
    return;
  }
  begin(LP_SHA256_NI, &b, next++);
  refill(LP_SHA256_NI, &b, twice);
  for (;;) {
    size_t both = a.blocks < b.blocks ? a.blocks : b.blocks;
    lp_sha256_ni_compress2(a.state, a.run, b.state, b.run, both);
    a.run += 64 * both, a.blocks -= both;
    b.run += 64 * both, b.blocks -= both;
    if (!a.blocks && !refill(LP_SHA256_NI, &a, twice)) {
      if (next == end) {
        if (b.blocks || refill(LP_SHA256_NI, &b, twice)) finish(LP_SHA256_NI, &b, twice);
        return;
      }
      begin(LP_SHA256_NI, &a, next++);
      refill(LP_SHA256_NI, &a, twice);
    }
    if (!b.blocks && !refill(LP_SHA256_NI, &b, twice)) {
      if (next == end) {
        finish(LP_SHA256_NI, &a, twice);
        return;
      }
      begin(LP_SHA256_NI, &b, next++);
      refill(LP_SHA256_NI, &b, twice);
    }
  }
}
#endif

void lp_sha256_batch(lp_sha256_kernel kernel, const lp_sha256_job *jobs, size_t count, int twice) {
  if (!count) return;
#if LP_SHA256_HAS_NI
  if (kernel == LP_SHA256_NI) {
    batch_ni(jobs, count, twice);
    return;
  }
#endif
  lane l;
  for (size_t i = 0; i < count; i++) {
    begin(LP_SHA256_PORTABLE, &l, jobs + i);
    refill(LP_SHA256_PORTABLE, &l, twice);
    finish(LP_SHA256_PORTABLE, &l, twice);
  }
}

void lp_sha256d_64(lp_sha256_kernel kernel, uint8_t *out, const uint8_t *in, size_t count) {
#if LP_SHA256_HAS_NI
  if (kernel == LP_SHA256_NI) {
    lp_sha256_ni_d64(out, in, count);
    return;
  }
#endif
  for (; count; count--, in += 64, out += 32) {
    uint8_t hash[32];
    lp_sha256_job job = {{in, in, in}, {64, 0, 0}, hash};
    lp_sha256_batch(kernel, &job, 1, 1);
    memcpy(out, hash, 32);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

void lp_sha256_stream_begin(lp_sha256_stream *s) {
  memcpy(s->state, lp_sha256_initial, 32);
  s->length = 0;
}

static void compress_words(lp_sha256_kernel kernel, uint32_t state[8], const uint8_t *bytes, size_t blocks) {
#if LP_SHA256_HAS_NI
  if (kernel == LP_SHA256_NI) {
    uint32_t packed[8];
    lp_sha256_ni_load(packed, state);
    lp_sha256_ni_compress(packed, bytes, blocks);
    lp_sha256_ni_unload(state, packed);
    return;
  }
#endif
  lp_sha256_portable_compress(state, bytes, blocks);
}

void lp_sha256_stream_update(lp_sha256_kernel kernel, lp_sha256_stream *s, const uint8_t *bytes, size_t count) {
  size_t fill = s->length & 63;
  s->length += count;
  if (fill) {
    size_t take = count < 64 - fill ? count : 64 - fill;
    if (take) memcpy(s->pending + fill, bytes, take);
    if (fill + take < 64) return;
    compress_words(kernel, s->state, s->pending, 1);
    bytes += take, count -= take;
  }
  if (count >= 64) {
    compress_words(kernel, s->state, bytes, count / 64);
    bytes += count & ~(size_t)63;
    count &= 63;
  }
  if (count) memcpy(s->pending, bytes, count);
}

void lp_sha256_stream_end(lp_sha256_kernel kernel, const lp_sha256_stream *s, uint8_t out[32], int twice) {
  uint8_t stage[192];
  uint32_t state[8];
  size_t fill = s->length & 63;
  memcpy(state, s->state, 32);
  memcpy(stage, s->pending, fill);
  compress_words(kernel, state, stage, pad(stage, fill, s->length));
  uint8_t hash[32];
  for (int i = 0; i < 8; i++) store_be(hash + 4 * i, state[i]);
  if (!twice) {
    memcpy(out, hash, 32);
    return;
  }
  lp_sha256_job job = {{hash, hash, hash}, {32, 0, 0}, out};
  lp_sha256_batch(kernel, &job, 1, 0);
}

void lp_sha256_compress_pair(
  lp_sha256_kernel kernel, uint32_t a[8], const uint8_t *a_blocks, uint32_t b[8], const uint8_t *b_blocks,
  size_t blocks) {
#if LP_SHA256_HAS_NI
  if (kernel == LP_SHA256_NI) {
    lp_sha256_ni_compress2(a, a_blocks, b, b_blocks, blocks);
    return;
  }
#endif
  lp_sha256_portable_compress(a, a_blocks, blocks);
  lp_sha256_portable_compress(b, b_blocks, blocks);
}
