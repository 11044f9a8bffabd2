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

// Takes the right to exceed the socket buffer sysctls (CAP_NET_ADMIN) from the calling thread. 0 or errno.
int thread_drop_network_administration(void);

// Sends 127.0.0.1 an ICMP answer as if about a datagram from port `from` to port `to` there: type 3 of a code (3 port
// unreachable, 4 too big, with an MTU). 0 or errno.
int forge_unreachable(uint16_t from, uint16_t to, int code, uint16_t mtu);

// Calls of malloc, calloc, realloc and aligned allocation by the calling thread so far; -1 where a sanitizer owns them.
int64_t thread_allocations(void);
