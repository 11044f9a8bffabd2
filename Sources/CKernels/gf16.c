#include "gf16_internal.h"
#include <pthread.h>

static gf16_field field;
const gf16_field *const gf16_shared = &field;
static uint16_t basis[16];     // Cantor basis in polynomial coordinates
static uint16_t coordinate[16]; // Cantor coordinates of x^i

// Polynomial basis, modulo x^16 + x^5 + x^3 + x^2 + 1 (primitive).
static uint16_t polynomial_product(uint16_t a, uint16_t b) {
  uint32_t product = 0;
  for (int i = 0; i < 16; i++)
    if (b >> i & 1) product ^= (uint32_t)a << i;
  for (int i = 31; i >= 16; i--)
    if (product >> i & 1) product ^= 0x1002Du << (i - 16);
  return (uint16_t)product;
}

static uint16_t to_polynomial(uint16_t a) {
  uint16_t p = 0;
  for (int i = 0; i < 16; i++)
    if (a >> i & 1) p ^= basis[i];
  return p;
}

static uint16_t to_cantor(uint16_t p) {
  uint16_t a = 0;
  for (int i = 0; i < 16; i++)
    if (p >> i & 1) a ^= coordinate[i];
  return a;
}

// b0 = 1; bi is the root of y^2 + y = b(i-1) whose constant term is 0 (the other root is bi + 1).
static void build_basis(void) {
  basis[0] = 1;
  for (int i = 1; i < 16; i++)
    for (uint32_t y = 0; y < 65536; y += 2)
      if ((polynomial_product((uint16_t)y, (uint16_t)y) ^ y) == basis[i - 1]) {
        basis[i] = (uint16_t)y;
        break;
      }
  // Invert the basis by Gauss-Jordan elimination on rows (basis element, which one).
  uint16_t left[16], right[16];
  for (int i = 0; i < 16; i++) left[i] = basis[i], right[i] = (uint16_t)(1u << i);
  for (int bit = 0; bit < 16; bit++) {
    int pivot = bit;
    while (!(left[pivot] >> bit & 1)) pivot++;
    uint16_t l = left[pivot], r = right[pivot];
    left[pivot] = left[bit], right[pivot] = right[bit];
    left[bit] = l, right[bit] = r;
    for (int i = 0; i < 16; i++)
      if (i != bit && (left[i] >> bit & 1)) left[i] ^= l, right[i] ^= r;
  }
  for (int i = 0; i < 16; i++) coordinate[i] = right[i];
}

static void build_tables(void) {
  build_basis();
  uint16_t power = 1;
  for (uint32_t i = 0; i < GF16_ORDER; i++) {
    uint16_t a = to_cantor(power);
    field.exp[i] = field.exp[i + GF16_ORDER] = a;
    field.log[a] = (uint16_t)i;
    power = (uint16_t)(power << 1 ^ (power >> 15 ? 0x002D : 0));
  }
  field.exp[2 * GF16_ORDER] = field.exp[0], field.exp[2 * GF16_ORDER + 1] = field.exp[1];
  field.log[0] = 0;
  for (uint32_t a = 1; a < 65536; a++) field.inverse[a] = field.exp[GF16_ORDER - field.log[a]];

  for (int plane = 0; plane < 2; plane++)
    for (uint32_t byte = 1; byte < 256; byte++) {
      uint32_t log = field.log[byte << (8 * plane)];
      uint16_t products[16];
      for (int bit = 0; bit < 16; bit++) products[bit] = field.exp[log + field.log[1u << bit]];
      uint8_t *table = field.nibbles[plane][byte];
      for (int nibble = 0; nibble < 4; nibble++)
        for (int value = 0; value < 16; value++) {
          uint16_t product = 0;
          for (int bit = 0; bit < 4; bit++)
            if (value >> bit & 1) product ^= products[4 * nibble + bit];
          table[(2 * nibble + 0) * 16 + value] = (uint8_t)product;
          table[(2 * nibble + 1) * 16 + value] = (uint8_t)(product >> 8);
        }
      // Row i of an 8x8 matrix tells which input bits make output bit i; the instruction wants row i in byte 7 - i.
      static const int from[4] = {0, 8, 8, 0}, to[4] = {0, 8, 0, 8};
      for (int part = 0; part < 4; part++) {
        uint64_t matrix = 0;
        for (int out = 0; out < 8; out++)
          for (int in = 0; in < 8; in++)
            if (products[from[part] + in] >> (to[part] + out) & 1) matrix |= 1ull << (8 * (7 - out) + in);
        field.matrices[plane][byte][part] = matrix;
      }
    }
}

const gf16_field *gf16_tables(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, build_tables);
  return &field;
}

const uint16_t *gf16_log(void) { return gf16_tables()->log; }
const uint16_t *gf16_exp(void) { return gf16_tables()->exp; }
const uint16_t *gf16_inverse(void) { return gf16_tables()->inverse; }

uint16_t gf16_multiply_slow(uint16_t a, uint16_t b) {
  gf16_tables();
  return to_cantor(polynomial_product(to_polynomial(a), to_polynomial(b)));
}

static const gf16_ops *available[8];

static void find_kernels(void) {
  int count = 0;
  available[count++] = &gf16_portable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("ssse3")) available[count++] = &gf16_ssse3;
  if (__builtin_cpu_supports("avx2")) available[count++] = &gf16_avx2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("gfni")) available[count++] = &gf16_gfni256;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni"))
    available[count++] = &gf16_gfni512;
#elif defined(__aarch64__)
  available[count++] = &gf16_neon;
#endif
  available[count] = 0;
}

const gf16_ops *const *gf16_kernels(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  gf16_tables();
  pthread_once(&once, find_kernels);
  return available;
}

// Brings any int32 into -1 ... 65536 without changing it modulo 65535: 2^16 is 1.
static inline int32_t fold(int32_t x) {
  x = (x & 0xFFFF) + (x >> 16);
  return (x & 0xFFFF) + (x >> 16);
}

void gf16_walsh(int32_t *a, unsigned bits) {
  size_t count = (size_t)1 << bits;
  for (unsigned level = 0; level < bits; level++) {
    size_t half = (size_t)1 << level;
    // Eight levels add at most eight bits; fold before they could reach the sign.
    if (level == 8)
      for (size_t i = 0; i < count; i++) a[i] = fold(a[i]);
    for (size_t r = 0; r < count; r += 2 * half)
      for (size_t i = r; i < r + half; i++) {
        int32_t x = a[i], y = a[i + half];
        a[i] = x + y;
        a[i + half] = x - y;
      }
  }
}

void gf16_walsh_multiply(int32_t *a, const int32_t *b, size_t count, uint32_t scale) {
  for (size_t i = 0; i < count; i++) {
    uint64_t x = (uint64_t)(fold(a[i]) + GF16_ORDER), y = (uint64_t)(fold(b[i]) + GF16_ORDER);
    a[i] = (int32_t)(x * y % GF16_ORDER * scale % GF16_ORDER);
  }
}
