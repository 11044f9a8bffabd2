// What the tests of Uring need of C: a network of a thread's own, and the count of a thread's allocations.
#pragma once
#include <stdint.h>

#include "baseline.h"

// Moves the calling thread to a network namespace of its own with nothing in it but `lo`, set up with an MTU (0: as it
// comes). The namespace goes with the thread and the sockets opened in it. 0 or errno.
int thread_enter_private_network(int mtu);

// Makes io_uring_setup fail with EPERM for the calling thread and those it starts, as a container's seccomp profile
// does. 0 or errno.
int thread_forbid_io_uring(void);

// Calls of malloc, calloc, realloc and aligned allocation by the calling thread so far; -1 where a sanitizer owns them.
int64_t thread_allocations(void);
