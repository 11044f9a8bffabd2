// The bench's baselines: the same traffic with plain system calls, written the way each is fastest.
#pragma once
#include <stdint.h>

enum baseline_mode {
  BASELINE_SINGLE = 0,  // sendto, recvfrom
  BASELINE_MMSG = 1,    // sendmmsg, recvmmsg, 64 at a time
  BASELINE_GSO = 2,     // sendmsg with UDP_SEGMENT, recvmsg with UDP_GRO
};

// A UDP socket bound to a free port of 127.0.0.1, with 4 MiB buffers; blocking, giving up after 50 ms. -1 on failure.
int baseline_socket(uint16_t *port, int coalescing);
void baseline_close(int fd);

// Sends datagrams of `bytes` bytes to 127.0.0.1:port until *stop; with pause_ns, `group` of them each pause_ns.
// Returns how many.
uint64_t baseline_send(int fd, uint16_t port, int mode, int bytes, long pause_ns, int group, volatile int *stop);

// Receives and reads the first word of each until *stop; counts into *count as it goes. In mode GSO it calls recvmsg
// without blocking for up to look_ns before it sleeps.
void baseline_receive(int fd, int mode, int bytes, long look_ns, volatile uint64_t *count, volatile int *stop);

// Sends back whatever comes, until *stop.
void baseline_echo(int fd, volatile int *stop);

// Round trips of one datagram, ns each; returns how many succeeded.
int baseline_ping(int fd, uint16_t port, int bytes, uint32_t *times, int count);

// CPU time of the process, and of the calling thread, so far, ns.
uint64_t process_cpu_ns(void);
uint64_t thread_cpu_ns(void);
