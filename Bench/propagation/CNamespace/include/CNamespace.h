// What Linux offers for network namespaces and TUN devices and Swift's Glibc module does not import: setns and unshare
// (behind _GNU_SOURCE), the ioctls' structures with unions, and ppoll. All return 0 or a value >= 0, or -errno.
#ifndef CNAMESPACE_H
#define CNAMESPACE_H

#include <poll.h>
#include <stdint.h>

// Makes a network namespace with its loopback up and a TUN device `name` at the IPv4 address `address` (host order) with
// `prefix` bits. The calling thread is back in its own namespace afterwards. Writes the namespace's descriptor, which
// keeps it alive, and the device's, which is nonblocking; each read or write of the latter is one IP packet.
int cn_make_site(const char *name, uint32_t address, int prefix, int mtu, int *out_namespace, int *out_tun);

// The descriptor of the calling thread's network namespace.
int cn_current(void);

// Moves the calling thread into a network namespace.
int cn_enter(int namespace_descriptor);

// Waits until a descriptor is ready or `nanoseconds` have passed.
int cn_wait(struct pollfd *descriptors, int count, int64_t nanoseconds);

// Gives the calling thread a real-time priority: its timers then have no slack.
int cn_realtime(int priority);

// Gives all UDP sockets of another process receive buffers of `bytes`: what an operator does with
// net.core.rmem_default for programs that do not ask, but for this process alone. Returns how many sockets.
int cn_widen_udp(int pid, int bytes);

#endif
