// What the SHA-256 files share.
#pragma once
#include "sha256.h"

#if defined(__x86_64__)
#define LP_SHA256_HAS_NI 1
#endif

extern const uint32_t lp_sha256_k[64];
extern const uint32_t lp_sha256_initial[8];

// States are eight words A…H for the portable kernel, and (A,B,E,F), (C,D,G,H) reversed in two registers for SHA-NI:
// `load` and `store` translate, so that a lane keeps the kernel's own form between runs.
void lp_sha256_portable_compress(uint32_t state[8], const uint8_t *bytes, size_t blocks);

#if LP_SHA256_HAS_NI
void lp_sha256_ni_load(uint32_t packed[8], const uint32_t state[8]);
void lp_sha256_ni_store_digest(uint8_t out[32], const uint32_t packed[8]);
void lp_sha256_ni_unload(uint32_t state[8], const uint32_t packed[8]);
void lp_sha256_ni_compress(uint32_t packed[8], const uint8_t *bytes, size_t blocks);
void lp_sha256_ni_compress2(
  uint32_t a[8], const uint8_t *a_bytes, uint32_t b[8], const uint8_t *b_bytes, size_t blocks);
void lp_sha256_ni_d64(uint8_t *out, const uint8_t *in, size_t count);
#endif
