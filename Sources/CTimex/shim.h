#pragma once
/* adjtimex(2) and malloc's figures: Swift's Glibc module leaves <sys/timex.h> and <malloc.h> out. */
#include <features.h>
#include <malloc.h>
#include <sys/timex.h>

/* Bytes in use and bytes held from the kernel, over all arenas and mappings. */
static inline void lightpath_heap(size_t *used, size_t *held) {
  struct mallinfo2 info = mallinfo2();
  *used = info.uordblks + info.hblkhd;
  *held = info.arena + info.hblkhd;
}
