// Kernels that need SIMD: chosen at run time by CPU feature, each with a portable twin that tests compare against.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "sha256.h"
#include "gf16.h"
#include "siphash.h"
