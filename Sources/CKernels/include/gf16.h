// GF(2^16) in its Cantor basis: tables, and kernels over planar blocks.
//
// A block is 64 bytes holding 32 symbols: byte k is the low half and byte 32 + k the high half of symbol k. An element
// is written by its coordinates in the Cantor basis b0 = 1, bi^2 + bi = b(i-1), so that the i-th point of the code is
// the integer i, addition is xor, and the twiddle of the additive FFT at level l is the point's index shifted by l.
// Sources/ErasureCode/CODE.md derives all of it.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { GF16_BLOCK = 64, GF16_SYMBOLS = 32, GF16_ORDER = 65535 };

typedef struct {
  // Products of every byte value (plane 0: low byte of the multiplier, plane 1: high byte) with all nibbles of a
  // symbol: eight 16-byte tables, for nibble n and result half h at [(2 * n + h) * 16]. Multiplication is linear in
  // the multiplier too, so the table of any m is nibbles[0][m & 255] ^ nibbles[1][m >> 8].
  uint8_t nibbles[2][256][128] __attribute__((aligned(64)));
  // The same products as 8x8 bit matrices for GF2P8AFFINEQB: low->low, high->high, high->low, low->high.
  uint64_t matrices[2][256][4] __attribute__((aligned(64)));
  uint16_t log[65536];       // log[0] is 0: sums of logs skip a zero factor
  uint16_t exp[2 * 65536];   // exp[i] for i up to 131071
  uint16_t inverse[65536];   // inverse[0] is 0
} gf16_field;

typedef struct {
  const char *name;
  // dst = m * src, dst ^= m * src, dst ^= src, over whole blocks. dst and src are equal or don't overlap.
  void (*mul)(uint8_t *dst, const uint8_t *src, size_t blocks, uint16_t m);
  void (*muladd)(uint8_t *dst, const uint8_t *src, size_t blocks, uint16_t m);
  void (*add)(uint8_t *dst, const uint8_t *src, size_t blocks);
  // Additive FFT over 2^bits rows of one block each, at the points offset ... offset + 2^bits - 1 (offset a multiple
  // of 2^bits), in place. ifft: values to coefficients; rows outside lo ..< hi count as zero and may be garbage.
  // fft: coefficients to values; rows outside lo ..< hi are garbage afterwards.
  void (*ifft)(uint8_t *rows, unsigned bits, uint32_t offset, uint32_t lo, uint32_t hi);
  void (*fft)(uint8_t *rows, unsigned bits, uint32_t offset, uint32_t lo, uint32_t hi);
  // One row cut into segments of columns (symbols), each with a factor of its own: columns begin[i] ..< end[i] of dst
  // become m[i] * src; others stay. Segments are not empty, and apart; dst and src are equal or don't overlap.
  void (*scale_segments)(uint8_t *dst, const uint8_t *src, size_t count, const uint16_t *begin, const uint16_t *end,
                         const uint16_t *m);
  // Natural order (16-bit little-endian symbols side by side) to planar, one block a row.
  void (*split)(uint8_t *dst, size_t dst_stride, const uint8_t *src, size_t src_stride, size_t rows);
  // Planar to natural, xored onto dst where the mask's bit of that byte is set; contiguous blocks, one mask a block.
  void (*join)(uint8_t *dst, const uint8_t *src, const uint64_t *mask, size_t blocks);
} gf16_ops;

// The tables, built on the first call; and their scalar parts, for Swift, which does not import arrays so large.
const gf16_field *gf16_tables(void);
const uint16_t *gf16_log(void);
const uint16_t *gf16_exp(void);
const uint16_t *gf16_inverse(void);
// Kernels this CPU can run, slowest first; the first is the portable one. Ends with NULL.
const gf16_ops *const *gf16_kernels(void);
// Schoolbook product of two elements, through the polynomial basis modulo x^16 + x^5 + x^3 + x^2 + 1; no tables.
uint16_t gf16_multiply_slow(uint16_t a, uint16_t b);
// Walsh-Hadamard transform of 2^bits numbers modulo 65535, in place; |a[i]| <= 65535 going in, any representative out.
void gf16_walsh(int32_t *a, unsigned bits);
// a[i] becomes a[i] * b[i] * scale modulo 65535, in 0 ... 65535.
void gf16_walsh_multiply(int32_t *a, const int32_t *b, size_t count, uint32_t scale);
