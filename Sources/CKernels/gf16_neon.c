#if defined(__aarch64__)
#include "gf16_internal.h"
#include <arm_neon.h>

typedef struct { uint8x16_t low[2], high[2]; } block;
typedef struct { uint8x16_t of[8]; } table;
#define NAME(x) neon_##x

static inline block load(const uint8_t *p) {
  return (block){{vld1q_u8(p), vld1q_u8(p + 16)}, {vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
static inline void store(uint8_t *p, block b) {
  vst1q_u8(p, b.low[0]), vst1q_u8(p + 16, b.low[1]);
  vst1q_u8(p + 32, b.high[0]), vst1q_u8(p + 48, b.high[1]);
}
static inline block xor_(block a, block b) {
  for (int i = 0; i < 2; i++) a.low[i] = veorq_u8(a.low[i], b.low[i]), a.high[i] = veorq_u8(a.high[i], b.high[i]);
  return a;
}
static inline block and_(block a, block b) {
  for (int i = 0; i < 2; i++) a.low[i] = vandq_u8(a.low[i], b.low[i]), a.high[i] = vandq_u8(a.high[i], b.high[i]);
  return a;
}
static inline block both(const uint8_t *p) {
  return (block){{vld1q_u8(p), vld1q_u8(p + 16)}, {vld1q_u8(p), vld1q_u8(p + 16)}};
}
static inline table table_of(uint16_t m) {
  const uint8_t *p = gf16_shared->nibbles[0][m & 255], *q = gf16_shared->nibbles[1][m >> 8];
  table t;
  for (int i = 0; i < 8; i++) t.of[i] = veorq_u8(vld1q_u8(p + 16 * i), vld1q_u8(q + 16 * i));
  return t;
}
static inline block times(const table *t, block b) {
  const uint8x16_t nibble = vdupq_n_u8(15);
  block r;
  for (int i = 0; i < 2; i++) {
    uint8x16_t n0 = vandq_u8(b.low[i], nibble), n1 = vshrq_n_u8(b.low[i], 4);
    uint8x16_t n2 = vandq_u8(b.high[i], nibble), n3 = vshrq_n_u8(b.high[i], 4);
#define LOOK(h)                                                                                                  \
  veorq_u8(veorq_u8(vqtbl1q_u8(t->of[h], n0), vqtbl1q_u8(t->of[2 + h], n1)),                                     \
           veorq_u8(vqtbl1q_u8(t->of[4 + h], n2), vqtbl1q_u8(t->of[6 + h], n3)))
    r.low[i] = LOOK(0), r.high[i] = LOOK(1);
#undef LOOK
  }
  return r;
}
static inline block split_block(block b) {
  return (block){{vuzp1q_u8(b.low[0], b.low[1]), vuzp1q_u8(b.high[0], b.high[1])},
                 {vuzp2q_u8(b.low[0], b.low[1]), vuzp2q_u8(b.high[0], b.high[1])}};
}
static inline block join_block(block b) {
  return (block){{vzip1q_u8(b.low[0], b.high[0]), vzip2q_u8(b.low[0], b.high[0])},
                 {vzip1q_u8(b.low[1], b.high[1]), vzip2q_u8(b.low[1], b.high[1])}};
}

#include "gf16_template.h"
const gf16_ops gf16_neon = KERNELS("neon");
#endif
