#pragma once
#include "include/gf16.h"

extern const gf16_field *const gf16_shared;
extern const gf16_ops gf16_portable;
#if defined(__x86_64__)
extern const gf16_ops gf16_ssse3, gf16_avx2, gf16_gfni256, gf16_gfni512;
#elif defined(__aarch64__)
extern const gf16_ops gf16_neon;
#endif
