// No instruction set in particular: every input bit selects the product of that bit, sixteen symbols at a time in
// generic vectors, which any compiler target can lower.
#include "gf16_internal.h"
#include <string.h>

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef struct { bytes16 low[2], high[2]; } block;
typedef struct { uint8_t low[16], high[16]; } table;
#define NAME(x) portable_##x

static inline block load(const uint8_t *p) {
  block b;
  memcpy(&b, p, sizeof b);
  return b;
}
static inline void store(uint8_t *p, block b) { memcpy(p, &b, sizeof b); }
static inline block xor_(block a, block b) {
  for (int i = 0; i < 2; i++) a.low[i] ^= b.low[i], a.high[i] ^= b.high[i];
  return a;
}
static inline block and_(block a, block b) {
  for (int i = 0; i < 2; i++) a.low[i] &= b.low[i], a.high[i] &= b.high[i];
  return a;
}
static inline block both(const uint8_t *p) {
  block b;
  memcpy(b.low, p, 32), memcpy(b.high, p, 32);
  return b;
}
static inline table table_of(uint16_t m) {
  const uint8_t *p = gf16_shared->nibbles[0][m & 255], *q = gf16_shared->nibbles[1][m >> 8];
  table t;
  for (int bit = 0; bit < 16; bit++) {
    int at = bit / 4 * 32 + (1 << bit % 4);
    t.low[bit] = p[at] ^ q[at];
    t.high[bit] = p[at + 16] ^ q[at + 16];
  }
  return t;
}
static inline block times(const table *t, block b) {
  block r = {{{0}, {0}}, {{0}, {0}}};
  for (int bit = 0; bit < 8; bit++)
    for (int i = 0; i < 2; i++) {
      bytes16 low = -(b.low[i] >> bit & 1), high = -(b.high[i] >> bit & 1);
      r.low[i] ^= (low & t->low[bit]) ^ (high & t->low[bit + 8]);
      r.high[i] ^= (low & t->high[bit]) ^ (high & t->high[bit + 8]);
    }
  return r;
}
static inline block split_block(block b) {
  uint8_t in[GF16_BLOCK], out[GF16_BLOCK];
  store(in, b);
  for (int i = 0; i < GF16_SYMBOLS; i++) out[i] = in[2 * i], out[i + GF16_SYMBOLS] = in[2 * i + 1];
  return load(out);
}
static inline block join_block(block b) {
  uint8_t in[GF16_BLOCK], out[GF16_BLOCK];
  store(in, b);
  for (int i = 0; i < GF16_SYMBOLS; i++) out[2 * i] = in[i], out[2 * i + 1] = in[i + GF16_SYMBOLS];
  return load(out);
}

#include "gf16_template.h"
const gf16_ops gf16_portable = KERNELS("portable");
