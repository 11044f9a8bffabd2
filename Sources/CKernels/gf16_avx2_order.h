// Natural order <-> planar in 256-bit registers, for blocks of two. The packs and unpacks work within 128-bit lanes;
// the permutes put the quarters in order.
static inline block split_block(block b) {
  const __m256i even = _mm256_set1_epi16(255);
  __m256i low = _mm256_packus_epi16(_mm256_and_si256(b.low, even), _mm256_and_si256(b.high, even));
  __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(b.low, 8), _mm256_srli_epi16(b.high, 8));
  return (block){_mm256_permute4x64_epi64(low, 0xD8), _mm256_permute4x64_epi64(high, 0xD8)};
}
static inline block join_block(block b) {
  __m256i low = _mm256_permute4x64_epi64(b.low, 0xD8), high = _mm256_permute4x64_epi64(b.high, 0xD8);
  return (block){_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}
