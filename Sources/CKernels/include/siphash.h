// SipHash-2-4 (Aumasson and Bernstein, 2012) of many 32-byte messages under one key: transaction ids into short ids.
// AVX-512 hashes eight at once (it has a 64-bit rotate), AVX2 four; anything else runs the portable twin.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef enum {
  LP_SIPHASH_PORTABLE = 0,
  LP_SIPHASH_AVX2 = 1,
  LP_SIPHASH_AVX512 = 2,
} lp_siphash_kernel;

// The fastest kernel of this CPU. Cheap after the first call.
lp_siphash_kernel lp_siphash_best(void);

// One message.
uint64_t lp_siphash24_32_one(uint64_t k0, uint64_t k1, const uint8_t *message);

// out[i] = hash of the 32 bytes at messages + 32 i, for i < count.
void lp_siphash24_32(
  lp_siphash_kernel kernel, uint64_t k0, uint64_t k1, const uint8_t *messages, size_t count, uint64_t *out);

// Which of the messages numbered slots[count - 1], …, slots[0] (in that order; slots of UINT32_MAX are skipped) hash to
// a value whose low `bits` bits are a set bit of `filter` (2^bits bits). Writes number and hash of each, returns how
// many; `hit_slots` and `hit_hashes` have room for `count`.
size_t lp_siphash24_32_filter(
  lp_siphash_kernel kernel, uint64_t k0, uint64_t k1, const uint8_t *messages, const uint32_t *slots, size_t count,
  const uint64_t *filter, unsigned bits, uint32_t *hit_slots, uint64_t *hit_hashes);

// Brings the cache line at `address` closer. Any address is fine.
static inline void lp_prefetch(const void *address) { __builtin_prefetch(address); }
/// The same for a line that will be written.
static inline void lp_prefetch_write(const void *address) { __builtin_prefetch(address, 1); }
