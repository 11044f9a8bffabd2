// SHA-256 (FIPS 180-4) for many independent messages. x86-64 with the SHA extensions runs two messages at once, which
// hides the latency of the round instruction; anything else runs the portable twin.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef enum {
  LP_SHA256_PORTABLE = 0,
  LP_SHA256_NI = 1,
} lp_sha256_kernel;

// The fastest kernel of this CPU. Cheap after the first call.
lp_sha256_kernel lp_sha256_best(void);

// One message: the bytes of its three parts one after another (a length of 0 skips a part), and where the 32 bytes of
// its hash go. `out` may overlap no part of any message of the batch.
typedef struct {
  const uint8_t *part[3];
  size_t length[3];
  uint8_t *out;
} lp_sha256_job;

// out = SHA-256(message), or SHA-256(SHA-256(message)) when `twice`. Jobs are independent; the order is not defined.
void lp_sha256_batch(lp_sha256_kernel kernel, const lp_sha256_job *jobs, size_t count, int twice);

// out[i] = SHA-256(SHA-256(in[64 i ..< 64 i + 64])) for i < count: one level of a Merkle tree. `out` may be `in`.
void lp_sha256d_64(lp_sha256_kernel kernel, uint8_t *out, const uint8_t *in, size_t count);

// A message that comes in pieces.
typedef struct {
  uint32_t state[8];
  uint64_t length;
  uint8_t pending[64];
} lp_sha256_stream;
void lp_sha256_stream_begin(lp_sha256_stream *stream);
void lp_sha256_stream_update(lp_sha256_kernel kernel, lp_sha256_stream *stream, const uint8_t *bytes, size_t count);
void lp_sha256_stream_end(lp_sha256_kernel kernel, const lp_sha256_stream *stream, uint8_t out[32], int twice);

// The bare compression function over two runs of `blocks` 64-byte blocks: what a bench divides by.
void lp_sha256_compress_pair(
  lp_sha256_kernel kernel, uint32_t a[8], const uint8_t *a_blocks, uint32_t b[8], const uint8_t *b_blocks,
  size_t blocks);
